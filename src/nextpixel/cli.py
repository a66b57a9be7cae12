"""The command line: one function a command, over the same functions as from Python.

Nothing heavy is imported before a command is known, so `nextpixel --help` answers at once.
"""

from __future__ import annotations

import errno
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nextpixel.errors import UserError
from nextpixel.options import (
    Parser,
    images_to_complete,
    images_to_score,
    known_pixels,
    load_data,
    load_model,
    output,
    parse_classes,
    parse_numbers,
    positive,
    progress,
    seed,
    set_threads,
    test_images,
)

if TYPE_CHECKING:
    import argparse

    from torch import Tensor

    from nextpixel.data import Dataset

__all__ = ["main"]

PICTURES = (".png", ".webp", ".jpg", ".jpeg", ".gif", ".bmp")


def main(argv: list[str] | None = None) -> int:
    """Runs a command and returns its exit status: 2 after a mistake of the user's."""
    try:
        run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except UserError as error:
        print(f"nextpixel: {str(error).rstrip('.')}.", file=sys.stderr)
        return 2
    except BrokenPipeError:  # what we print is read no further, as by head
        abandon_output()
        return 0
    except OSError as error:
        print(f"nextpixel: {explain(error)}", file=sys.stderr)
        abandon_output()
        return 2
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):  # torch has no own type
            raise
        print("nextpixel: There is not enough memory: ask for fewer images.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("nextpixel: interrupted.", file=sys.stderr)
        return 130
    return 0


def run(argv: list[str]) -> None:
    """Runs the command that the first argument names."""
    # For the user's own models; last, so that no file here hides a module of somebody else's.
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    commands: dict[str, Callable[[list[str]], None]] = {
        "train": train,
        "eval": evaluate,
        "score": score,
        "sample": sample,
        "complete": complete,
        "compare": compare,
        "see": see,
        "models": models,
        "data": data,
    }
    if not argv or argv[0] in ("-h", "--help"):
        print(overview(commands))
    elif argv[0] == "--version":
        from importlib.metadata import version

        print(version("nextpixel"))
    elif argv[0] in commands:
        commands[argv[0]](argv[1:])
    else:
        raise UserError(
            f"There is no command {argv[0]}: the commands are {', '.join(commands)}; see "
            "nextpixel --help."
        )


def overview(commands: dict[str, Callable[[list[str]], None]]) -> str:
    """Writes the help of the whole program from the commands' first lines."""
    lines = [
        f"  {name:10}{(command.__doc__ or '').splitlines()[0]}"
        for name, command in commands.items()
    ]
    return "\n".join(
        [
            "usage: nextpixel COMMAND ...",
            "",
            "Exact-likelihood pixel models: train, score, sample and complete images.",
            "",
            *lines,
            "",
            "nextpixel COMMAND --help explains a command; nextpixel --version prints the version.",
        ]
    )


def explain(error: OSError) -> str:
    """Says in a sentence what the system refused."""
    what = error.filename or "a file"
    if error.errno == errno.ENOSPC:
        return f"Cannot write {what}, the disk is full: make room; what was saved before is intact."
    return f"Cannot use {what}: {error.strerror or error}."


def abandon_output() -> None:
    """Drops what cannot be printed, or Python would try once more at its end and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# --- the commands ---------------------------------------------------------------------------------


def train(argv: list[str]) -> None:
    """Train a model on images: yours, or a data set known by name."""
    from nextpixel.train_options import make_model, train_settings

    settings = train_settings(argv)

    import torch

    from nextpixel.data import load
    from nextpixel.training import TrainArgs, fit

    options = vars(settings.train)
    TrainArgs(**options)  # refuses what is out of range before anything is read
    set_threads(settings.threads)
    dataset = load(
        settings.data,
        levels=settings.levels,
        data_dir=settings.data_dir,
        size=settings.size,
        channels=settings.channels,
    )
    torch.manual_seed(options["seed"])
    model = make_model(settings, dataset)
    kept = {"data", "data_dir", "size", "channels", "device", "threads"}  # to go on with later
    out = Path(settings.resume or settings.out)
    try:
        fit(
            model,
            dataset,
            out=out,
            resume=settings.resume is not None,
            device=settings.device,
            settings={k: v for k, v in vars(settings).items() if k in kept and v is not None},
            **options,
        )
    except KeyboardInterrupt:
        if (out / "state.pt").exists():
            print(f"Stopped. Go on with: nextpixel train --resume {out}", file=sys.stderr)
        raise
    if os.environ.get("RANK", "0") == "0":  # torchrun starts several of us
        print(f"The trained model is in {out}: try nextpixel eval {out}, nextpixel sample {out}")


def evaluate(argv: list[str]) -> None:
    """Score a data set: test bits/dim and nats, with their standard errors."""
    parser = Parser("eval", evaluate)
    parser.add_argument("model", help="a model that comes with nextpixel, or a run folder")
    parser.add_argument("--data", help="a name or a path; the model's own data by default")
    parser.add_argument("--split", choices=["train", "valid", "test"], default="test")
    parser.add_argument("--limit", type=positive, help="score only so many images, spread evenly")
    parser.add_argument("--batch-size", type=positive, default=100, help="images at a time")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a sentence")
    parser.add_common(data=True)
    args = parser.parse_args(argv)

    from dataclasses import asdict

    from nextpixel.evaluate import evaluate as score_images

    model = load_model(args)
    dataset = load_data(args, model)
    with progress("scoring") as show:
        score = score_images(
            model,
            getattr(dataset, args.split),
            limit=args.limit,
            batch_size=args.batch_size,
            progress=show,
        )
    given = "given the class" if model.classes else "unconditional"
    if args.json:
        what = {"model": args.model, "data": dataset.name, "split": args.split, "given": given}
        # The error of a single image's score is not a number, and JSON has no word for that.
        numbers = {k: v if math.isfinite(v) else None for k, v in asdict(score).items()}
        print(json.dumps(what | numbers))
    else:
        print(f"{args.model} on {dataset.name} ({args.split}, {given}): {score}")


def score(argv: list[str]) -> None:
    """Score images one by one, to find the odd ones.

    Writes a CSV with the bits/dim of each image and, on demand, two corrected scores, because what
    is simple is cheap under any model. In all three, larger is odder. A class-conditional model is
    scored by log p(x) = log sum_c p(c) p(x | c), each class with the same p(c).
    """
    parser = Parser("score", score)
    parser.add_argument("model", help="a model that comes with nextpixel, or a run folder")
    parser.add_argument("data", help="a folder of images, a data set's name or a path to your own")
    parser.add_argument(
        "--split",
        choices=["train", "valid", "test"],
        help="score this split (default: test of a named data set, all of your own images)",
    )
    parser.add_argument("--limit", type=positive, help="score only so many images, spread evenly")
    parser.add_argument(
        "--complexity",
        action="store_true",
        help="also score without the bits of a lossless file (Serra et al., 2020)",
    )
    parser.add_argument(
        "--background",
        metavar="MODEL",
        help="also score without the bits by this one, of --train.mutate (Ren et al., 2019)",
    )
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--against", metavar="DATA", help="images that count as odd: gives an AUROC")
    kinds.add_argument(
        "--labels", type=Path, metavar="CSV", help="lines IMAGE,0 or IMAGE,1 (odd): gives an AUROC"
    )
    parser.add_argument(
        "--out", type=output(".csv"), default=Path("scores.csv"), help="default: scores.csv"
    )
    parser.add_argument("--plot", type=output(".png", ".svg"), help="also draw histograms")
    parser.add_argument("--batch-size", type=positive, default=100, help="images at a time")
    parser.add_common(data=True)
    args = parser.parse_args(argv)
    if args.labels is not None and args.limit is not None:
        raise UserError("With --labels all images are scored: leave --limit out.")

    import numpy as np

    from nextpixel import oddities, plots
    from nextpixel.model import load

    model = load_model(args)
    background = None if args.background is None else load(args.background, device=model.device)
    found = [images_to_score(args, model, args.data)]
    if args.against is not None:
        found.append(images_to_score(args, model, args.against))
    columns = oddities.named(found)
    if args.labels is not None:
        columns["odd"] = oddities.read_labels(args.labels, columns["image"])
    parts = []
    for images, what in ((each.images, what) for each, what in found):
        with progress(f"scoring {what}") as show:
            parts.append(
                oddities.score_images(
                    model,
                    images,
                    complexity=args.complexity,
                    background=background,
                    batch_size=args.batch_size,
                    progress=show,
                )
            )
    scores = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    oddities.write_csv(args.out, {**columns, **scores})
    written = [args.out]
    judged = {name: scores[name] for name in oddities.SCORES if name in scores}
    groups = oddities.groups(columns)
    print(f"Bits/dim by {args.model}; the larger, the odder:")
    print(oddities.table(judged, groups))
    if len(groups) == 1:
        print(oddities.oddest(judged, columns["image"]))
    if args.plot is not None:
        plots.histograms(judged, groups, args.plot)
        written.append(args.plot)
    print(f"Written: {', '.join(map(str, written))}")


def sample(argv: list[str]) -> None:
    """Draw new images."""
    parser = Parser("sample", sample)
    parser.add_argument("model", help="a model that comes with nextpixel, or a run folder")
    parser.add_argument("-n", type=positive, default=64, help="how many (default: 64)")
    parser.add_argument(
        "--class",
        dest="classes",
        metavar="C",
        help="a class (3), several in turn (3,5,8) or a mix (3=0.7,8=0.3); all in turn by default",
    )
    parser.add_argument("--seed", type=seed, default=0, help="the same seed draws the same images")
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1: likelier images")
    parser.add_argument(
        "--guidance",
        type=float,
        default=1.0,
        help="above 1: exaggerate what the class asks for (after training with drop_context)",
    )
    parser.add_argument(
        "--out",
        type=output(*PICTURES),
        default=Path("samples.png"),
        help="a grid, default: samples.png",
    )
    parser.add_argument(
        "--npz", type=output(".npz"), help="also write the integers, as array x (and y)"
    )
    parser.add_argument(
        "--gif", type=output(".gif"), help="also write an animation of the picture growing"
    )
    parser.add_argument("--columns", type=positive, help="columns of the grid")
    parser.add_argument(
        "--all-at-once",
        action="store_true",
        help="show the wrong way, all pixels drawn in one pass, beside the right one",
    )
    parser.add_argument("--batch-size", type=positive, default=256, help="images at a time")
    parser.add_argument(
        "--sampler",
        choices=["auto", "cached", "replayed", "full", "fixed-point"],
        default="auto",
        help="how to draw; the picture is the same (default: auto, the quickest)",
    )
    parser.add_common()
    args = parser.parse_args(argv)

    import numpy as np

    from nextpixel import plots, sampling
    from nextpixel.files import atomic_write

    model = load_model(args)
    c, labels = parse_classes(args.classes, model.classes, args.n)
    frames: list[Tensor] = []
    done: list[int] = []
    options = {"seed": args.seed, "temperature": args.temperature}
    passes: list[int] = []
    with progress("drawing") as show:
        if args.gif is not None:
            frames, done = sampling.film(
                model, args.n, c, **options, guidance=args.guidance, progress=show
            )
            x = frames[-1]
        else:
            x = model.sample(
                args.n,
                c,
                **options,
                guidance=args.guidance,
                batch_size=args.batch_size,
                sampler=args.sampler,
                passes=passes.append,
                progress=show,
            )
    if passes:
        sites = math.prod(model.shape)
        print(f"{max(passes)} passes were enough, where one for each site are {sites}")
    columns = args.columns or (model.classes if labels is not None and not args.classes else None)
    picture = plots.grid(x, model.levels, columns=columns)
    if args.all_at_once:
        wrong = plots.grid(
            sampling.all_at_once(model, args.n, c, **options), model.levels, columns=columns
        )
        picture = plots.beside({"all at once: wrong": wrong, "pixel by pixel: right": picture})
    plots.save_image(picture, args.out)
    written = [args.out]
    if args.gif is not None:
        film = plots.growing(frames, done, model.levels, columns=columns)
        plots.save_gif(film, args.gif)
        written.append(args.gif)
    if args.npz is not None:
        pixels = x.numpy().astype(np.uint8 if model.levels <= 256 else np.int64)
        with atomic_write(args.npz) as file:
            if labels is None:
                np.savez_compressed(file, x=pixels, levels=model.levels)
            else:
                np.savez_compressed(file, x=pixels, y=labels, levels=model.levels)
        written.append(args.npz)
    print(f"Drew {args.n} images: {', '.join(map(str, written))}")


def complete(argv: list[str]) -> None:
    """Complete half-hidden images."""
    parser = Parser("complete", complete)
    parser.add_argument("model", help="a model that comes with nextpixel, or a run folder")
    parser.add_argument(
        "images",
        nargs="*",
        type=Path,
        help="picture files, cut and resized if need be; else test images",
    )
    parser.add_argument("--data", help="take test images from here; the model's data by default")
    parser.add_argument("-n", type=positive, default=8, help="how many test images (default: 8)")
    hidden = parser.add_mutually_exclusive_group()
    halves = ["top", "bottom", "left", "right"]
    hidden.add_argument("--keep", choices=halves, help="keep this half (default: top)")
    hidden.add_argument("--hide", choices=halves, help="hide this half")
    hidden.add_argument("--box", metavar="ROW,COL,HEIGHT,WIDTH", help="hide a box")
    hidden.add_argument("--mask", type=Path, help="hide where this picture is white")
    parser.add_argument("--class", dest="classes", metavar="C", help="class of the picture files")
    parser.add_argument("--draws", type=positive, default=4, help="completions of each image")
    parser.add_argument(
        "--seed", type=seed, default=0, help="the same seed draws the same completions"
    )
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1: likelier images")
    parser.add_argument(
        "--out",
        type=output(*PICTURES),
        default=Path("completions.png"),
        help="default: completions.png",
    )
    parser.add_common(data=True)
    args = parser.parse_args(argv)

    import torch

    from nextpixel import plots, sampling

    model = load_model(args)
    x, c = images_to_complete(args, model)
    known = known_pixels(args, model.shape)
    bits = sampling.hidden_bits(model, x, known, c)
    columns = {
        "original": plots.to_uint8(x, model.levels),
        "given": plots.hide(x, known, model.levels),
    }
    with progress("completing") as show:
        drawn = sampling.complete(
            model,
            x.repeat(args.draws, 1, 1, 1),
            known,
            # A mix of classes is one for all images, and not one for each.
            c if c is None or c.is_floating_point() else c.repeat(args.draws),
            seed=args.seed,
            temperature=args.temperature,
            progress=show,
        )
    for number, completed in enumerate(torch.split(drawn, len(x)), 1):
        columns[f"completion {number}"] = plots.to_uint8(completed, model.levels)
    columns["bits a pixel"] = plots.heat_map(bits.sum(1).masked_fill(known, torch.nan))
    plots.save_image(plots.side_by_side(columns, 256), args.out)
    each = bits.flatten(1).sum(1)
    count = int((~known).sum()) * model.shape[0]
    print(f"The {count} hidden pixels of each image take, given the true pixels before them:")
    for number, value in enumerate(each.tolist()):
        print(f"  image {number}: {value:8.1f} bits, {value / count:.4f} a pixel")
    print(f"  mean:    {each.mean():8.1f} bits, {each.mean() / count:.4f} a pixel")
    print(
        "Pixels are drawn in raster order: each is told only of those in the rows above it and to "
        "its left. Known pixels that come later are kept, but nothing is drawn to fit them."
    )
    print(f"Side by side: {args.out}")


def compare(argv: list[str]) -> None:
    """Compare models on the same data at an equal budget, in one table."""
    parser = Parser("compare", compare)
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="a recipe (YAML) or a kind of model, to be trained, or a trained model; or NAME=MODEL",
    )
    parser.add_argument("--data", required=True, help="a name, or a path to your own images")
    parser.add_argument("--steps", type=positive, help="train each model for so many steps")
    parser.add_argument("--seconds", type=positive, help="or for as many as take so long")
    parser.add_argument("--out", type=Path, required=True, help="the folder of all that is written")
    parser.add_argument("--limit", type=positive, help="score only so many, evenly spread images")
    parser.add_argument(
        "--batch-size", type=positive, default=16, help="images drawn together (default: 16)"
    )
    parser.add_argument("--levels", type=positive, help="requantise pixels to so many levels")
    parser.add_argument("--size", type=positive, help="side that a folder's images are cut to")
    parser.add_argument("--channels", type=int, choices=[1, 3], help="1 for grey, 3 for colour")
    parser.add_common(data=True)
    args = parser.parse_args(argv)

    import shlex

    from nextpixel.compare import Budget, compare_models, table
    from nextpixel.data import load

    budget = Budget(args.steps, args.seconds)
    set_threads(args.threads)
    where = {"data_dir": args.data_dir, "size": args.size, "channels": args.channels}
    dataset = load(args.data, levels=args.levels, **where)
    kept = {"data": args.data, **where, "device": args.device, "threads": args.threads}
    try:
        results = compare_models(
            args.models,
            dataset,
            out=args.out,
            budget=budget,
            limit=args.limit,
            batch_size=args.batch_size,
            device=args.device,
            settings={
                k: str(v) if isinstance(v, Path) else v for k, v in kept.items() if v is not None
            },
            command=shlex.join(["nextpixel", "compare", *argv]),
        )
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from here.", file=sys.stderr)
        raise
    print(table(results))
    print(f"Written: {args.out / 'compare.md'}, with compare.json, compare.png, completions.png")


def see(argv: list[str]) -> None:
    """Draw what a model sees: masks, receptive fields, surprise."""
    parser = Parser("see", see)
    parser.add_argument(
        "model",
        nargs="?",
        help="a kind of model, one that comes with nextpixel, or a run folder; else all kinds",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--image", type=Path, help="a picture for a trained model to look at")
    which.add_argument("--index", type=seed, help="number of a test image instead (default: 0)")
    parser.add_argument("--class", dest="classes", metavar="C", help="class of the picture")
    parser.add_argument("--data", help="take test images from here; the model's data by default")
    parser.add_argument("--seed", type=seed, default=0, help="of random weights and images")
    parser.add_argument("--out", type=Path, default=Path("seen"), help="a folder (default: seen)")
    parser.add_common(data=True)
    args = parser.parse_args(argv)

    from nextpixel import see as seeing

    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"{args.out} is a file: give --out a folder.")
    if args.model is not None and args.model not in seeing.KINDS:
        see_trained(args)
        return
    if any(given is not None for given in (args.image, args.index, args.classes, args.data)):
        raise UserError(
            "A kind of model has random weights and looks at no images: leave --image, --index, "
            "--class and --data out, or give a trained model."
        )
    set_threads(args.threads or 1)  # such small networks make threads wait for each other
    with progress("looking") as show:
        if args.model is None:
            written = seeing.draw_kinds(args.out, seed=args.seed, progress=show)
        else:
            written = seeing.draw_kind(args.model, args.out, seed=args.seed, progress=show)
    print(f"Wrote {', '.join(map(str, written))}")


def see_trained(args: argparse.Namespace) -> None:
    """Draws what a trained model sees, and prints what an image costs it."""
    import numpy as np

    from nextpixel import see as seeing
    from nextpixel.model import find

    try:
        find(args.model)
    except UserError as error:
        raise UserError(f"{error} Kinds of models are {', '.join(seeing.KINDS)}.") from None
    model = load_model(args).double()
    averaged = None
    if args.image is not None:
        args.images = [args.image]
        x, c = images_to_complete(args, model)
        what = str(args.image.name)
    elif args.classes is not None:
        raise UserError("Test images have their classes already: leave --class out.")
    else:
        test, index = load_data(args, model).test, args.index or 0
        if index >= len(test):
            raise UserError(
                f"There are {len(test)} test images: --index goes from 0 to {len(test) - 1}."
            )
        x, c = test_images(model, test, np.array([index]))
        some = test.spread(seeing.AVERAGED)
        averaged = test_images(model, some, np.arange(len(some)))
        what = f"test image {index}"
    if c is not None and not c.is_floating_point():
        what += f", class {c[0]}"
    with progress("looking") as show:
        seen = seeing.draw_model(
            model, x, c, args.out, averaged=averaged, what=what, seed=args.seed, progress=show
        )
    total = seen.surprise.sum().item()
    print(
        f"{what}: {total:.1f} bits, {total / math.prod(model.shape):.4f} bits/dim, "
        f"{total * math.log(2):.1f} nats; the entropies add up to {seen.entropy.sum():.1f} bits"
    )
    print(seeing.sums(seen))
    print(f"Wrote {', '.join(map(str, seen.files))}")


def models(argv: list[str]) -> None:
    """List the models, or explain one."""
    parser = Parser("models", models)
    parser.add_argument("model", nargs="?", help="a kind of model, one that comes along, or a run")
    parser.add_argument("--shape", default="1,28,28", metavar="C,H,W", help="for a kind of model")
    parser.add_argument("--levels", type=positive, default=256, help="for a kind of model")
    parser.add_argument("--classes", type=positive, help="for a kind of model")
    args = parser.parse_args(argv)

    from nextpixel import describe

    if args.model is None:
        print(describe.overview())
    else:
        channels, height, width = parse_numbers(args.shape, 3, "--shape")
        shape = (channels, height, width)
        print(describe.explain(args.model, shape, args.levels, args.classes))


def data(argv: list[str]) -> None:
    """List the data sets, or show one."""
    parser = Parser("data", data)
    parser.add_argument("name", nargs="?", help="a name, or a path to your own images")
    parser.add_argument("--levels", type=positive, help="requantise pixels to so many levels")
    parser.add_argument("--size", type=positive, help="side that a folder's images are cut to")
    parser.add_argument("--channels", type=int, choices=[1, 3], help="1 for grey, 3 for colour")
    parser.add_argument("--data-dir", type=Path, help="where to look first")
    parser.add_argument(
        "--out", type=output(*PICTURES), help="where to write the grid (default: NAME.png)"
    )
    args = parser.parse_args(argv)

    from nextpixel.data import known, load

    if args.name is None:
        for entry in known(args.data_dir):
            print(f"{entry.name:16} {entry.description}")
            where = (
                f"in {entry.present}"
                if entry.present
                else f"not here, downloaded when needed: {', '.join(entry.files)}"
            )
            print(f"{'':16} {where}")
        print("Your own: a path to .npz, .npy, IDX files or a folder of PNG, JPEG or WebP images.")
        return
    dataset = load(
        args.name,
        levels=args.levels,
        data_dir=args.data_dir,
        size=args.size,
        channels=args.channels,
    )
    show_data(dataset, args.out or Path(f"{dataset.name}.png"))


def show_data(dataset: Dataset, out: Path) -> None:
    """Prints what a data set holds and writes a grid of its training images."""
    import numpy as np

    from nextpixel import plots

    channels, height, width = dataset.shape
    print(f"{dataset.name}: {dataset.source}")
    print(f"  images of {channels} x {height} x {width}, {dataset.levels} levels")
    for name in ("train", "valid", "test"):
        images = getattr(dataset, name)
        # A redrawn split holds intensities, whose mean is that of the bits.
        top = 255 if images.redraw else dataset.levels - 1
        mean = images.x.mean() / top
        print(f"  {name:6} {len(images):7,} images, mean {mean:.6f} of the highest level")
    if dataset.class_names and dataset.train.y is not None:
        counts = np.bincount(dataset.train.y, minlength=len(dataset.class_names))
        pairs = zip(dataset.class_names, counts, strict=True)
        print("  classes in train:", ", ".join(f"{name} {count}" for name, count in pairs))
    x, _ = dataset.train.batch(np.arange(min(100, len(dataset.train))))
    plots.save_image(plots.grid(x, dataset.levels), out)
    print(f"  the first of them: {out}")
