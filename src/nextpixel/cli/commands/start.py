"""Go from a folder of pictures to a trained model and one page about it, in a few minutes."""

from __future__ import annotations

import shlex
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nextpixel.cli.options import Parser, add_common, add_data_dir, minutes, positive
from nextpixel.errors import UserError
from nextpixel.utils.progress import progress

if TYPE_CHECKING:
    import argparse

    import numpy as np
    from numpy.typing import NDArray

    from nextpixel.data import Dataset
    from nextpixel.evaluation.likelihood import Score
    from nextpixel.models.base.autoregressive import AutoregressiveModel
    from nextpixel.training.choosing import Plan
    from nextpixel.viz.report import Section

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel start my-pictures",
    "nextpixel start my-pictures --minutes 30 --resize 64 --out runs/mine",
]

LARGEST = 40  # side in pixels; larger pictures are resized
RESIZED = 32  # to this side
TRAINING_SHARE = 0.8  # of the time; the rest is for measuring, scoring and sampling
SCORED = 1000  # test images, at most
ROWS = 4  # of new pictures, at most


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument("data", metavar="FOLDER", help="a folder of pictures, or other data")
    parser.add_argument(
        "--minutes", type=minutes, metavar="M", default=10.0, help="how long it may take"
    )
    parser.add_argument("--out", type=Path, metavar="RUN", help="the run folder (runs/FOLDER)")
    parser.add_argument(
        "--resize",
        type=positive,
        metavar="N",
        help=f"crop and resize the pictures to N x N (default: {RESIZED}, or as they are if all "
        f"have one size of at most {LARGEST} pixels)",
    )
    parser.add_argument("--channels", type=int, choices=[1, 3], help="1 for grey, 3 for colour")
    add_data_dir(parser)
    add_common(parser)


def run(args: argparse.Namespace) -> None:
    """Looks at the pictures, chooses a model, trains it, and writes the page."""
    import torch

    from nextpixel.data.catalogue import refuse_inside
    from nextpixel.latents.codes import load_data
    from nextpixel.training.choosing import choose, choose_threads
    from nextpixel.training.estimate import ONE_THREAD
    from nextpixel.training.fitting import fit
    from nextpixel.training.launch import keep_freed_memory
    from nextpixel.utils.devices import set_up

    began = time.monotonic()
    device = set_up(args.device, args.threads)
    keep_freed_memory()
    out = args.out or Path("runs") / Path(args.data).resolve().name
    resuming = f"nextpixel train --resume {shlex.quote(str(out))}"
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: name another folder by --out.")
    if (out / "state.pt").exists():
        raise UserError(
            f"{out} already holds a run: resume it by {resuming}, or name another folder by --out."
        )
    refuse_inside(out, args.data)
    resize = args.resize or side_for(args.data)
    options = {"resize": resize, "channels": args.channels}
    dataset = load_data(args.data, data_dir=args.data_dir, trust=args.trust, **options)
    out.mkdir(parents=True, exist_ok=True)
    sections = look(args.data, dataset, out)
    print("Which model? Measuring ...", flush=True)
    if args.threads is None and device.type == "cpu":
        every = torch.get_num_threads()
        if (fastest := choose_threads(dataset, args.minutes)) < every:
            args.threads = fastest
            print(ONE_THREAD.format(every))
    left = args.minutes - (time.monotonic() - began) / 60
    plan = choose(dataset, TRAINING_SHARE * left, args.device, say_now)
    print(f"Training {plan.reason}.", flush=True)
    print(f"The same by hand:\n  {by_hand(args, plan, resize, out)}", flush=True)
    settings = {"data": str(args.data), "data_dir": args.data_dir, **options}
    settings |= {"threads": args.threads, "device": args.device, "from": plan.start}
    try:
        fit(
            plan.model,
            dataset,
            out=out,
            device=args.device,
            settings={name: value for name, value in settings.items() if value is not None},
            **plan.options,
        )
        report(args, dataset, out, sections, plan, began + 60 * args.minutes)
    except KeyboardInterrupt:
        if (out / "state.pt").exists():
            print(f"Stopped. Continue with: {resuming}", file=sys.stderr)
        raise


def say_now(line: str) -> None:
    """Prints a line at once."""
    print(line, flush=True)


def side_for(data: str) -> int | None:
    """Chooses the side to resize a folder's pictures to; None to leave them as they are."""
    from nextpixel.data.files import find_files
    from nextpixel.data.folders import PICTURE_FILES, UnreadableError, picture_size

    folder = Path(data)
    if not folder.is_dir() or any(folder.glob("*-ubyte*")):
        return None
    sizes = set()
    for file in find_files(folder, PICTURE_FILES):
        with suppress(UnreadableError):  # loading the folder names it
            sizes.add(picture_size(folder / file.name))
    if len(sizes) == 1 and max(next(iter(sizes))) <= LARGEST:
        return None
    return RESIZED


def look(name: str, dataset: Dataset, out: Path) -> list[Section]:
    """Prints and pictures what is in the data set."""
    import numpy as np

    from nextpixel.data.catalogue import own_folder
    from nextpixel.data.duplicates import find_duplicates
    from nextpixel.data.folders import left_out
    from nextpixel.data.sampler import evenly_spaced
    from nextpixel.viz import images as pictures
    from nextpixel.viz.report import Section

    counts = {split: len(getattr(dataset, split)) for split in ("train", "valid", "test")}
    channels, height, width = dataset.shape
    rows = [
        ("Pictures", ", ".join(f"{n:,} {split}" for split, n in counts.items())),
        ("Size", f"{width} x {height}, {'grey' if channels == 1 else 'colour'}"),
    ]
    if dataset.class_names and dataset.train.y is not None:
        numbers = np.bincount(dataset.train.y, minlength=len(dataset.class_names))
        shown = [f"{label} ({n})" for label, n in zip(dataset.class_names, numbers, strict=True)]
        more = f" and {len(shown) - 12} more" if len(shown) > 12 else ""
        rows.append(("Classes", f"{len(shown)}: {', '.join(shown[:12])}{more}"))
    folder = None if dataset.spectrogram is not None else own_folder(name)
    if folder is not None and (missing := left_out(folder, dataset.skipped)):
        rows.append(("Left out", missing))
    doubles = find_duplicates(dataset, folder)
    across = f", {doubles.across_splits} of them across splits" if doubles.across_splits else ""
    rows.append(("Duplicates", f"{doubles.count}{across}" if doubles.count else "none"))
    for key, value in rows:
        print(f"{key + ':':11} {value}", flush=True)
    x, _ = dataset.train.batch(evenly_spaced(len(dataset.train), 100))
    sheet = pictures.grid(pictures.for_display(x, dataset.spectrogram), dataset.levels)
    pictures.save_image(sheet, out / "pictures.png")
    return [Section("The pictures", table=rows, image=sheet, caption="Some to train on.")]


def by_hand(args: argparse.Namespace, plan: Plan, resize: int | None, out: Path) -> str:
    """Returns the `nextpixel train` command that does the same."""
    words = ["nextpixel", "train", "--data", str(args.data), "--out", str(out)]
    device = None if args.device == "auto" else args.device
    given = {"data-dir": args.data_dir, "resize": resize, "channels": args.channels}
    given |= {"device": device, "threads": args.threads, "from": plan.start}
    for name, value in given.items():
        words += [f"--{name}", str(value)] if value is not None else []
    if plan.start is None:
        words += ["--model", type(plan.model).__name__]
        for name in ("width", "blocks", "components", "dropout"):
            words += [f"--model.{name}", str(plan.model.hyperparameters[name])]
    for name, value in plan.options.items():
        words += [f"--train.{name}", f"{value:.6g}" if isinstance(value, float) else str(value)]
    return shlex.join(words)


def report(
    args: argparse.Namespace,
    dataset: Dataset,
    out: Path,
    sections: list[Section],
    plan: Plan,
    end: float,
) -> None:
    """Scores and samples the best model, and writes the page.

    Args:
        args: The options.
        dataset: The data set.
        out: The run folder.
        sections: The first sections of the page.
        plan: What was trained.
        end: When to be done, by `time.monotonic`; fewer pictures are scored and sampled if need be.
    """
    from nextpixel.evaluation.scale import SCALE_IMAGES, bits_on_scale, scale_in_words
    from nextpixel.models.base.autoregressive import autoregressive
    from nextpixel.models.base.image_model import load
    from nextpixel.training.report import run_sections, scale_section
    from nextpixel.viz.report import Section, write_report

    model = autoregressive(load(out, device=args.device), out)
    left = max(0.0, end - time.monotonic())
    numbers, score, bits = score_each(model, dataset, 0.4 * left)
    scale = bits_on_scale(dataset.test, dataset.train)
    measured = min(len(dataset.test), SCALE_IMAGES)
    words = scale_in_words(score.bits_per_dim, scale, measured)
    print(f"Test pictures: {score}\n{words}", flush=True)
    total = score.bits_per_dim * dataset.test.sites().sum() / 8
    rows = [
        ("Test score", str(score)),
        ("All test pictures", f"{total:,.0f} bytes under the model"),
    ]
    if "png" in scale:
        png = scale["png"] * dataset.test.sites().sum() / 8
        rows.append(("", f"{png:,.0f} bytes as PNG files, {png / total:.2f} times as many"))
    page = [*sections, scale_section(out, score.bits_per_dim, scale, measured, rows)]
    page += pictures_of(model, dataset, out, max(0.0, end - time.monotonic()))
    page.insert(-1, extremes(model, dataset, numbers, bits))
    page += run_sections(out, plan.model, dataset)
    following = next_commands(model, out, args.minutes, plan.options["steps"])
    page.append(Section("What next", code=following))
    write_report(out / "report.html", f"{dataset.name}: what was learned", page)
    print(f"Open {out / 'report.html'}. What next:\n{following}")


def score_each(
    model: AutoregressiveModel, dataset: Dataset, seconds: float
) -> tuple[NDArray[np.int64], Score, NDArray[np.float64]]:
    """Scores test pictures, spread evenly, until the time is over, but one batch at least.

    Returns:
        Their indices, their mean score, and the bits/dim of each.
    """
    import math

    import numpy as np
    import torch

    from nextpixel.data.sampler import evenly_spaced
    from nextpixel.evaluation.likelihood import Score
    from nextpixel.utils.inference import evaluation_mode

    end = time.monotonic() + seconds
    chosen = evenly_spaced(len(dataset.test), SCORED)
    rounds = -(-len(chosen) // 25)
    done, parts = [], []
    with (
        progress("scoring test pictures") as show,
        evaluation_mode(model) as network,
        torch.inference_mode(),
    ):
        for first in range(rounds):
            batch = chosen[first::rounds]  # so that each batch is spread over all pictures
            x, conditioning = network.inputs(dataset.test, batch)
            nats = -network.score(x.to(model.device), conditioning.context, conditioning.mask)
            parts.append(nats.double().cpu())
            done.append(batch)
            show((first + 1) / rounds)
            if time.monotonic() > end:
                break
    numbers, nats = np.concatenate(done), torch.cat(parts)
    sites = dataset.test.sites()[numbers]
    return numbers, Score.of(nats, sites), nats.numpy() / (sites * math.log(2))


def extremes(
    model: AutoregressiveModel,
    dataset: Dataset,
    numbers: NDArray[np.int64],
    bits: NDArray[np.float64],
) -> Section:
    """Shows the test pictures with the fewest and with the most bits/dim."""
    import numpy as np

    from nextpixel.viz import images as plots
    from nextpixel.viz.report import Section

    order, k = numbers[np.argsort(bits)], max(1, min(8, len(bits) // 2))
    both = {
        name: plots.grid(dataset.test.x[chosen], model.levels, columns=4)
        for name, chosen in (("most likely", order[:k]), ("least likely", order[-k:][::-1]))
    }
    text = "Few bits: typical or simple pictures. Many bits: rare, detailed or odd ones."
    sheet = plots.captioned_row(both)
    return Section("Most and least likely test pictures", text, image=sheet)


def pictures_of(
    model: AutoregressiveModel, dataset: Dataset, out: Path, seconds: float
) -> list[Section]:
    """Draws new pictures and completions, one row of each at least, more while there is time."""
    import torch

    from nextpixel.viz import images as plots
    from nextpixel.viz.report import Section

    end = time.monotonic() + 0.6 * seconds
    ids = model.data_record.trained(model.classes)[:10]
    columns = len(ids) or 8
    classes = torch.tensor(ids) if ids else None
    rows: list[torch.Tensor] = []
    with progress("sampling") as show:
        while len(rows) < ROWS and not (rows and time.monotonic() > end):
            numbers = range(columns * len(rows), columns * (len(rows) + 1))
            rows.append(model.sample(columns, classes, seed=1, numbers=numbers))
            show(len(rows) / ROWS)
    names = dataset.class_names
    labels = [names[i] for i in ids] if names and ids else None
    sheet = plots.grid(torch.cat(rows), model.levels, columns=columns, column_labels=labels)
    plots.save_image(sheet, out / "samples.png")
    caption = "A class in each column." if labels else ""
    new = Section("New pictures", image=sheet, caption=caption)
    return [new, hidden_halves(model, dataset, 0.4 * seconds)]


def hidden_halves(model: AutoregressiveModel, dataset: Dataset, seconds: float) -> Section:
    """Completes the lower halves of a few test pictures."""
    from nextpixel.conditioning.regions import half_mask
    from nextpixel.data.sampler import evenly_spaced
    from nextpixel.sampling import complete
    from nextpixel.viz import images as plots
    from nextpixel.viz.report import Section

    end = time.monotonic() + seconds
    shown = evenly_spaced(len(dataset.test), 4)
    pixels, conditioning = model.inputs(dataset.test, shown)
    known = half_mask("top", *dataset.shape[1:])
    stacks = {
        "original": plots.to_uint8(pixels, model.levels),
        "given": plots.tint_unknown(pixels, known, model.levels),
    }
    with progress("completing hidden halves") as show:
        for draw in range(3):
            numbers = range(len(shown) * draw, len(shown) * (draw + 1))
            done = complete(model, pixels, known, conditioning.context, seed=2, numbers=numbers)
            stacks[f"completion {draw + 1}"] = plots.to_uint8(done, model.levels)
            show((draw + 1) / 3)
            if time.monotonic() > end:
                break
    sheet = plots.side_by_side(stacks, 256)
    return Section("Hidden halves", "The lower half is sampled.", image=sheet)


def next_commands(model: AutoregressiveModel, out: Path, minutes: float, steps: int) -> str:
    """Returns commands to go on with, after a run of this length at most."""
    name, ids = shlex.quote(str(out)), model.data_record.trained(model.classes)
    by_class = ""
    if ids:
        names = model.data_record.class_names
        label = names[ids[0]] if names else ""
        # By its id, where the name might be taken for several classes or for another id.
        clear = label[:1].isalpha() and not set(label) & set(",=")
        by_class = f" --class {shlex.quote(label) if clear else ids[0]}"
    return "\n".join(
        [
            f"nextpixel sample {name} -n 64{by_class} --out new.png",
            f"nextpixel complete {name} --keep top --out completed.png",
            f"nextpixel score {name} MY_OTHER_PICTURES --out scores.csv",
            f"nextpixel eval {name}",
            f"nextpixel train --resume {name} --train.minutes {6 * minutes:g} "
            f"--train.steps {10 * steps} --train.patience 20",
        ]
    )
