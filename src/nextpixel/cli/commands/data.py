"""List the data sets, or describe one and show some of its images."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from nextpixel.cli.options import PICTURES, Parser, add_data, add_trust, data_options
from nextpixel.errors import UserError
from nextpixel.utils.words import count

if TYPE_CHECKING:
    import argparse

    from nextpixel.data import Dataset, Images

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel data",
    "nextpixel data mnist",
    "nextpixel data my-pictures --resize 64 --out some.png",
    "nextpixel data codes:runs/vq-vae",
]


def arguments(parser: Parser) -> None:
    """Adds the options."""
    add_data(parser, positional=True)
    add_trust(parser)
    parser.add_output(
        "--out",
        PICTURES,
        "the picture to write (default: DATA.png, or DATA-2.png and so on if that exists)",
    )


def run(args: argparse.Namespace) -> None:
    """Lists the data sets, or describes one."""
    from nextpixel.data.catalogue import own_folder, refuse_inside
    from nextpixel.data.folders import left_out
    from nextpixel.latents.codes import load_data
    from nextpixel.utils.files import unused

    if args.data is None:
        if any((args.levels, args.resize, args.channels, args.out)):
            raise UserError(
                "--levels, --resize, --channels and --out are for one data set: name it, or leave "
                "them out."
            )
        list_data(args.data_dir)
        return
    if args.out is not None:
        refuse_inside(args.out, args.data)
    dataset = load_data(args.data, **data_options(args))
    name = re.sub(r"[^\w.-]+", "-", dataset.name)  # no folders, as in codes:runs/mine#bottom
    out = args.out or unused(Path(f"{name}.png"))
    refuse_inside(out, args.data)
    report(dataset, out)
    if dataset.own:
        pictures = None if dataset.spectrogram is not None else own_folder(args.data)
        if pictures is not None and (missing := left_out(pictures, dataset.skipped)):
            print(f"  left out: {missing}")
        report_duplicates(dataset, pictures)


def list_data(data_dir: Path | None) -> None:
    """Prints the names of the data sets, and the other kinds of data that can be given."""
    from nextpixel.data import list_datasets

    for entry in list_datasets(data_dir):
        print(f"{entry.name:16} {entry.description}")
        where = (
            f"in {entry.present}"
            if entry.present
            else f"downloaded when needed: {', '.join(entry.files)}"
        )
        print(f"{'':16} {where}")
    print("Your own: a path to .npz, .npy, IDX files or a folder of pictures.")
    print("Your own sounds: wavs:FOLDER, a folder of WAV, FLAC or Ogg files.")
    print("Codes: codes:RUN, the run folder of a VQ-VAE; codes:RUN#bottom of a VQ-VAE-2.")


def report(dataset: Dataset, out: Path) -> None:
    """Prints a description of a data set, and writes a grid of its training images."""
    import numpy as np

    from nextpixel.data.sampler import evenly_spaced
    from nextpixel.viz import images as plots

    channels, height, width = dataset.shape
    print(f"{dataset.name}: {dataset.source}")
    kind = "images" if dataset.codes_of is None else "grids of codes"
    print(f"  {kind} of {channels} x {height} x {width}, {dataset.levels} levels")
    if (how := dataset.spectrogram) is not None:
        print(
            f"  spectrograms: up to {how.longest / how.rate:.2f} s of sound at {how.rate} Hz, "
            f"{how.bands} bands of {how.lowest:g} to {how.highest:g} Hz, {how.floor:g} to 0 dB"
        )
    for name in ("train", "valid", "test"):
        images = getattr(dataset, name)
        real = "" if images.rows is None else f", {images.rows.mean():.1f} rows real on average"
        noun = "image" if len(images) == 1 else "images"
        print(f"  {name:6} {len(images):7,} {noun}, {summary(dataset, images)}{real}")
    if dataset.class_names and dataset.train.y is not None:
        counts = np.bincount(dataset.train.y, minlength=len(dataset.class_names))
        pairs = zip(dataset.class_names, counts, strict=True)
        print("  classes in train:", ", ".join(f"{name} ({count})" for name, count in pairs))
    if untrained := dataset.classes_without_images():
        names = [(dataset.class_names or ())[i] for i in untrained]
        print(f"  classes without training images, which are not learned: {', '.join(names)}")
    shown = evenly_spaced(len(dataset.train), 100)  # files may be sorted by class
    x, _ = dataset.train.batch(shown)
    if dataset.train.rows is not None:
        x = x[:, :, : dataset.train.rows[shown].max()]
    plots.save_image(plots.grid(plots.for_display(x, dataset.spectrogram), dataset.levels), out)
    print(f"  some of them: {out}")


def report_duplicates(dataset: Dataset, folder: Path | None) -> None:
    """Prints how many images occur more than once, and names a few."""
    from nextpixel.data.duplicates import find_duplicates

    found = find_duplicates(dataset, folder)
    if not found.count:
        print("  no image occurs twice")
        return
    places = [
        f"{number} {place}"
        for number, place in (
            (found.across_splits, "in another split"),
            (found.across_classes, "in another class"),
        )
        if number
    ]
    examples = ", ".join(f"{one} = {other}" for one, other in found.examples)
    where = f" ({', '.join(places)})" if places else ""
    print(f"  doubles of earlier images: {found.count:,}{where}: {examples}")


def summary(dataset: Dataset, images: Images) -> str:
    """Returns the mean of a split's pixels, or the number of different codes in it."""
    if dataset.codes_of is not None:
        import numpy as np

        return f"{count(len(np.unique(images.x)), 'code occurs', 'different codes occur')}"
    # A redrawn split holds intensities, whose mean is that of the bits.
    top = 255 if images.redraw else dataset.levels - 1
    return f"mean {images.x.mean() / top:.6f} of the highest level"
