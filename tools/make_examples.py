"""Puts some test pictures beside a pretrained model, for its page.

    python tools/make_examples.py mnist mnist
    python tools/make_examples.py binarized-mnist binarized-mnist

writes examples.png into the folder of the model: the first test picture of each class, or the first
ten, beside each other.
"""

from __future__ import annotations

import argparse

import numpy as np

import nextpixel as npx
from nextpixel.codec.pictures import picture_of
from nextpixel.model_folders import shipped
from nextpixel.web.export import EXAMPLES

COUNT = 10


def main() -> None:
    """Writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=list(shipped()), help="a pretrained model")
    parser.add_argument("data", help="its data set")
    args = parser.parse_args()
    test = npx.load_data(args.data).test
    numbers = np.arange(COUNT)
    if test.y is not None:
        numbers = np.array([np.flatnonzero(test.y == c)[0] for c in np.unique(test.y)])
    x, _ = test.batch(numbers)
    out = shipped()[args.model] / EXAMPLES
    picture_of(np.concatenate(list(x), axis=-1), "", test.levels).save(out, optimize=True)
    print(f"Wrote {out}, {out.stat().st_size:,} bytes.")


if __name__ == "__main__":
    main()
