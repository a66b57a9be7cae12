"""Sample new sounds: WAV files, their spectrograms, and a page to play them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextpixel.cli.options import Parser, add_common, add_noise, positive
from nextpixel.errors import UserError
from nextpixel.utils.progress import progress
from nextpixel.utils.reading import mapping, read_json, refusing_damage
from nextpixel.utils.words import count

if TYPE_CHECKING:
    import argparse

    from torch import Tensor

    from nextpixel.latents.generator import LatentGenerator

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel synthesize --word 3 --speaker theo -n 8 --out three",
    "nextpixel synthesize spoken-digits -n 60",
]

NAMED = 6  # classes in the report
UNNAMED = "sound"  # where the model has no classes


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument(
        "model",
        nargs="?",
        default="spoken-digits",
        metavar="MODEL",
        help="the name of a pretrained model, or a folder written by bundle",
    )
    parser.add_argument("--word", help="the spoken word, as 3 (default: all in turn)")
    parser.add_argument("--speaker", help="the speaker, as theo (default: all in turn)")
    parser.add_argument("-n", type=positive, default=8, help="sample N sounds")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("sounds"),
        metavar="FOLDER",
        help="the folder to write",
    )
    add_noise(parser, "sounds")
    parser.add_argument(
        "--iterations",
        type=positive,
        default=60,
        help="iterations of Griffin-Lim, which estimates the phases",
    )
    add_common(parser)


def run(args: argparse.Namespace) -> None:
    """Samples the sounds and writes them."""
    import numpy as np

    from nextpixel.cli.contexts import in_turn
    from nextpixel.latents.generator import LatentGenerator, find_bundle
    from nextpixel.utils.devices import set_up

    device = set_up(args.device, args.threads)
    generator = LatentGenerator.load(args.model, device=device, trust=args.trust)
    if generator.data_record.spectrogram is None:
        raise UserError(f"{args.model} models images, not sounds: use nextpixel sample.")
    asked = " ".join(filter(None, (args.word, args.speaker))).split()
    ids = find_classes(generator.data_record.class_names, asked)
    if ids is not None:
        ids = [i for i in ids if i not in generator.data_record.untrained]
        if not ids:
            raise UserError(f"{args.model} was trained on no sounds of {' '.join(asked)}.")
    c = in_turn(None if ids is None else np.array(ids), args.n)
    with progress("sampling") as show:
        x = generator.sample(args.n, c, seed=args.seed, temperature=args.temperature, progress=show)
    names = [UNNAMED] * args.n
    if c is not None and generator.data_record.class_names is not None:
        names = [generator.data_record.class_names[i] for i in c.tolist()]
    card = find_bundle(args.model) / "card.json"
    source = ""
    if card.is_file():
        with refusing_damage(card, "card", "take another copy"):
            source = str(mapping(read_json(card))["source"])
    write_sounds(generator, x, names, args.out, args.iterations, source)
    report(names, args.out)


def report(names: Sequence[str], out: Path) -> None:
    """Prints how many sounds were sampled, their classes, and the page."""
    classes = [name for name in dict.fromkeys(names) if name != UNNAMED]
    more = ", ..." if len(classes) > NAMED else ""
    listed = f" ({', '.join(classes[:NAMED])}{more})" if classes else ""
    print(f"Sampled {count(len(names), 'sound')}{listed}: {out}/index.html")


def find_classes(names: Sequence[str] | None, asked: Sequence[str]) -> list[int] | None:
    """Finds the classes whose names contain all words; returns None for a model without classes.

    Raises:
        UserError: There is no such class.
    """
    if names is None:
        if asked:
            raise UserError(f"This model is unconditional: leave {' and '.join(asked)} out.")
        return None
    found = [i for i, name in enumerate(names) if set(asked) <= set(name.split())]
    if not found:
        words = sorted({word for name in names for word in name.split()})
        raise UserError(
            f"There are no sounds of {' '.join(asked)}: choose from {', '.join(words)}."
        )
    return found


def labels_of(names: Sequence[str]) -> dict[str, Any]:
    """Returns options of the grid: a row for each word and a column for each speaker.

    Empty where the sounds are not those of all words by all speakers, in turn.
    """
    pairs = [name.split() for name in names]
    if any(len(pair) != 2 for pair in pairs):
        return {}
    words = list(dict.fromkeys(word for word, _ in pairs))
    speakers = list(dict.fromkeys(speaker for _, speaker in pairs))
    if pairs != [[word, speaker] for word in words for speaker in speakers]:
        return {}
    return {"columns": len(speakers), "row_labels": words, "column_labels": speakers}


def write_sounds(
    generator: LatentGenerator,
    x: Tensor,
    names: Sequence[str],
    out: Path,
    iterations: int,
    source: str,
) -> None:
    """Writes sounds, the grid of their spectrograms, and a page with all of them.

    Args:
        generator: The model.
        x: The spectrograms, integers `(N, 1, frames, bands)`.
        names: The class of each.
        out: The folder to write.
        iterations: Of Griffin-Lim.
        source: The recordings that the model was trained on, for the page.
    """
    from nextpixel.data.sound_files import write_wav
    from nextpixel.viz import images as plots
    from nextpixel.viz.report import Section, Sound, write_report

    spectrogram = generator.data_record.spectrogram
    assert spectrogram is not None
    audible = (x > 0).any(3).any(1).any(0).nonzero()
    longest = int(audible.max()) + 1 if len(audible) else 1
    # The loudest place of all sounds is white; otherwise most pictures are dark.
    bright = x[:, :, :longest] * (generator.levels - 1) // x.max().clamp_min(1)
    pictures = plots.upright(bright)
    sounds = []
    with progress("estimating phases") as show:
        for i, name in enumerate(names):
            (wave,) = generator.sounds(x[i : i + 1], iterations)
            file = out / f"{name.replace(' ', '-')}-{i}.wav"
            write_wav(file, wave, spectrogram.rate)
            picture = plots.grid(pictures[i : i + 1], generator.levels, scale=6, gap=0)
            sounds.append(Sound(f"{name}, {len(wave) / spectrogram.rate:.2f} s", file, picture))
            show((i + 1) / len(names))
    sheet = plots.grid(pictures, generator.levels, **labels_of(names))
    plots.save_image(sheet, out / "spectrograms.png")
    text = (
        "Sampled by a pixel model of the codes of a VQ-VAE. In the pictures time runs to the "
        f"right, {longest * spectrogram.hop / spectrogram.rate:.2f} s, and frequency upward on "
        f"the mel scale, from {spectrogram.lowest:g} to {spectrogram.highest:g} Hz. The phases, "
        "which a spectrogram does not contain, are estimated by Griffin-Lim."
    )
    if source:
        text += f"\n\nThe models were trained on: {source}"
    write_report(out / "index.html", "New sounds", [Section("Sounds", text, sounds=sounds)])
