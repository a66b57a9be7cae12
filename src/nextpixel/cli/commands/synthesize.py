"""Draw new sounds: files, their spectrograms, and a page to hear and see them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nextpixel.cli.options import Parser, add_common, add_noise, in_turn, positive
from nextpixel.errors import UserError
from nextpixel.utils.progress import progress

if TYPE_CHECKING:
    import argparse

    from torch import Tensor

    from nextpixel.latents.generator import LatentGenerator

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel synthesize --word 3 --speaker theo -n 8 --out three",
    "nextpixel synthesize spoken-digits -n 60",
]

NAMED = 6  # classes in the sentence about what was said


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument(
        "model",
        nargs="?",
        default="spoken-digits",
        help="one that comes with nextpixel, or that bundle wrote (default: spoken-digits)",
    )
    parser.add_argument("--word", help="what is said, a class as 3; all in turn by default")
    parser.add_argument("--speaker", help="who says it, as theo; all in turn by default")
    parser.add_argument("-n", type=positive, default=8, help="draw so many sounds")
    parser.add_argument("--out", type=Path, default=Path("sounds"), help="the folder to write")
    add_noise(parser, "sounds")
    parser.add_argument(
        "--iterations",
        type=positive,
        default=60,
        help="of Griffin-Lim, which finds the phases",
    )
    add_common(parser)


def run(args: argparse.Namespace) -> None:
    """Draws the sounds, and writes them."""
    import torch

    from nextpixel.latents.generator import LatentGenerator, find_bundle
    from nextpixel.utils.devices import set_up

    device = set_up(args.device, args.threads)
    generator = LatentGenerator.load(args.model, device=device, trust=args.trust)
    if generator.data_record.spectrogram is None:
        raise UserError(f"{args.model} draws images, not sounds: use nextpixel sample.")
    asked = " ".join(filter(None, (args.word, args.speaker))).split()
    ids = find_classes(generator.data_record.class_names, asked)
    c = in_turn(None if ids is None else torch.tensor(ids), args.n)
    with progress("drawing") as show:
        x = generator.sample(args.n, c, seed=args.seed, temperature=args.temperature, progress=show)
    names = ["sound"] * args.n
    if c is not None and generator.data_record.class_names is not None:
        names = [generator.data_record.class_names[i] for i in c.tolist()]
    card = find_bundle(args.model) / "card.json"
    source = json.loads(card.read_text())["source"] if card.is_file() else ""
    files = write_sounds(generator, x, names, args.out, args.iterations, source)
    report(names, len(files), args.out)


def report(names: Sequence[str], count: int, out: Path) -> None:
    """Says what was drawn, and where the page is."""
    said = list(dict.fromkeys(names))
    more = ", ..." if len(said) > NAMED else ""
    print(f"Said {', '.join(said[:NAMED])}{more}: {count} sounds, {out}/index.html")


def find_classes(names: Sequence[str] | None, asked: Sequence[str]) -> list[int] | None:
    """Finds the classes whose names hold all the words asked for; None without classes.

    Raises:
        UserError: There is none.
    """
    if names is None:
        if asked:
            raise UserError(
                f"This model was not told what a sound says: leave {' and '.join(asked)} out."
            )
        return None
    found = [i for i, name in enumerate(names) if set(asked) <= set(name.split())]
    if not found:
        words = dict.fromkeys(word for name in names for word in name.split())
        raise UserError(f"Nobody says {' '.join(asked)} here: known are {', '.join(words)}.")
    return found


def write_sounds(
    generator: LatentGenerator,
    x: Tensor,
    names: Sequence[str],
    out: Path,
    iterations: int,
    source: str,
) -> list[Path]:
    """Writes sounds, the grid of their spectrograms, and a page that holds all of them.

    The page names the source of the recordings that the models were trained on.
    """
    from nextpixel.data.spectrogram import write_wav
    from nextpixel.viz import images as plots
    from nextpixel.viz.report import Section, Sound, write_report

    spectrogram = generator.data_record.spectrogram
    assert spectrogram is not None
    heard = (x > 0).any(3).any(1).any(0).nonzero()
    longest = int(heard.max()) + 1 if len(heard) else 1
    # As bright as can be: few sounds are so loud that their picture would reach white.
    bright = x[:, :, :longest] * (generator.levels - 1) // x.max().clamp_min(1)
    pictures = plots.upright(bright)
    sounds = []
    with progress("finding phases") as show:
        for i, name in enumerate(names):
            (wave,) = generator.sounds(x[i : i + 1], iterations)
            file = out / f"{name.replace(' ', '-')}-{i}.wav"
            write_wav(file, wave, spectrogram.rate)
            picture = plots.grid(pictures[i : i + 1], generator.levels, scale=6, gap=0)
            sounds.append(Sound(f"{name}, {len(wave) / spectrogram.rate:.2f} s", file, picture))
            show((i + 1) / len(names))
    plots.save_image(plots.grid(pictures, generator.levels), out / "spectrograms.png")
    text = (
        "Drawn by a pixel model over the codes of a VQ-VAE. In the pictures time runs to the "
        f"right, {longest * spectrogram.hop / spectrogram.rate:.2f} s, and frequency upward on "
        f"the mel scale, from {spectrogram.lowest:g} to {spectrogram.highest:g} Hz. The phases, "
        "which a spectrogram does not hold, are found by Griffin-Lim."
    )
    if source:
        text += f"\n\nThe models were trained on: {source}"
    write_report(out / "index.html", "New sounds", [Section("Sounds", text, sounds=sounds)])
    return [sound.file for sound in sounds]
