"""Several models on the same data at an equal budget: one table, their curves and completions.

    nextpixel compare a.yaml b.yaml gated=runs/mine --data binarized-mnist --steps 2000 --out runs/c

A recipe or a kind of model is trained, in an ordinary run folder; a trained model is loaded. Then
all are measured in the same way. What is finished is kept: the same command goes on where it was
stopped.
"""

from __future__ import annotations

import copy
import datetime
import itertools
import json
import math
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from nextpixel import models, plots, sampling, see
from nextpixel.autoregressive import AutoregressiveModel, CausalNetwork, autoregressive
from nextpixel.checkpoint import load_state
from nextpixel.data import Dataset, Images
from nextpixel.data.images import spread
from nextpixel.describe import machine
from nextpixel.errors import UserError
from nextpixel.evaluate import Score, evaluate
from nextpixel.files import replace_file
from nextpixel.masks import half_mask
from nextpixel.model import load, read_model
from nextpixel.nn import Cache, Site
from nextpixel.options import progress
from nextpixel.saving import find, model_name
from nextpixel.train_options import make_model, train_settings
from nextpixel.training import Run, TrainArgs, fit, launched, make_fabric

__all__ = ["Budget", "Contender", "Result", "compare_models", "receptive_field", "table"]

VALIDATIONS = 5  # during a training, for its curve
VALID_IMAGES = 1000
NAIVE_SITES = 8  # at which full passes are timed
FIELD_IMAGES = 16  # units that are dead for one image are alive for another
DIGITS = 10  # images to complete
FIRST = ("PixelCNN", "GatedPixelCNN")  # on top of the picture, for the blind spot


@dataclass(frozen=True)
class Budget:
    """What each model may spend on training: optimizer steps, or seconds of them."""

    steps: int | None = None
    seconds: int | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.seconds is not None:
            raise UserError("The budget is a number of steps or of seconds: give one of them.")

    def __str__(self) -> str:
        if self.steps is not None:
            return f"{self.steps:,} steps"
        if self.seconds is not None:
            return f"{self.seconds:,} seconds of steps"
        return "nothing"

    @property
    def given(self) -> bool:
        """Whether there is one."""
        return self.steps is not None or self.seconds is not None


@dataclass(frozen=True)
class Contender:
    """A model to compare.

    Attributes:
        label: Its name in the table.
        source: What the user gave: a recipe, a kind of model, a trained model.
        folder: Its run folder, or the saved model.
        settings: How to make and train it, as `train_settings` reads them; None if it is loaded.
    """

    label: str
    source: str
    folder: Path
    settings: Any = None

    @classmethod
    def read(cls, text: str, out: Path) -> Contender:
        """Reads MODEL or label=MODEL.

        Raises:
            UserError: There is no such model, or the label is no name for a folder.
        """
        label, equals, source = text.partition("=")
        if not equals or Path(text).exists():
            source, path = text, Path(text)
            label = path.stem if path.suffix in (".yaml", ".yml") else path.name
        if not re.fullmatch(r"\w[\w.+-]*", label):
            raise UserError(f"{label!r} cannot name a folder: give {source} as NAME={source}.")
        if (option := how_to_make(source)) is None:
            return cls(label, source, find_trained(source))
        with named(source):
            settings = train_settings([option, source, "--out", "-"])
        return cls(label, source, out / label, settings)

    def make(self, dataset: Dataset) -> AutoregressiveModel:
        """Makes the untrained model for a data set; the seed decides its first weights."""
        torch.manual_seed(self.settings.train.seed)
        return autoregressive(make_model(self.settings, dataset), self.source)

    def options(self, steps: int) -> dict[str, Any]:
        """Sets the budget in place of the recipe's, and validates all models alike."""
        options = dict(vars(self.settings.train))
        options["steps"] = steps
        options["warmup"] = min(options["warmup"], steps // 4)  # a short training still peaks
        options["valid_every"] = math.ceil(steps / VALIDATIONS)
        options["valid_images"] = VALID_IMAGES
        return options

    def run(self) -> Path | None:
        """Finds the folder of the training run, if it is there."""
        places = (self.folder, self.folder.parent)  # what `find` finds may be in its best/
        return next((place for place in places if (place / "metrics.jsonl").is_file()), None)


@dataclass(frozen=True)
class Result:
    """What a model is, what it took, and what it can do.

    Attributes:
        label: Its name in the table.
        source: What it was made from.
        model: The class.
        conditional: Whether it is given the class.
        loaded: Whether it was loaded and not trained.
        parameters: Number of parameters.
        batch_size: Images a training step, on each device; None where it is not known, as the next
            three.
        steps: Training steps.
        seconds: Wall time of training: steps, validations and saving.
        images_per_second: Median over the training steps.
        score: On the test images.
        naive: Seconds a sample by full passes.
        cached: Seconds a sample by the cached path; None where the model has none.
        seen: Earlier sites that influence the central one; None where it cannot be told.
        earlier: All sites before the central one.
    """

    label: str
    source: str
    model: str
    conditional: bool
    loaded: bool
    parameters: int
    batch_size: int | None
    steps: int | None
    seconds: float | None
    images_per_second: float | None
    score: Score
    naive: float
    cached: float | None
    seen: int | None
    earlier: int

    @property
    def images_seen(self) -> int | None:
        """How many images it was trained on, each counted as often as it came."""
        if self.steps is None or self.batch_size is None:
            return None
        return self.steps * self.batch_size


@contextmanager
def named(source: str) -> Iterator[None]:
    """Tells which of the models a mistake is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def how_to_make(source: str) -> str | None:
    """Gives the option of `nextpixel train` that a source is for; None if it is trained already."""
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UserError(f"There is no recipe {source}: give the path of a YAML file.")
        return "--config"
    dotted = re.fullmatch(r"\w+(\.\w+)+", source) and not path.exists()
    return "--model" if source in models.__all__ or dotted else None


def find_trained(source: str) -> Path:
    """Finds the folder of a trained model."""
    try:
        return find(source)
    except UserError as error:
        raise UserError(
            f"{str(error).rstrip('.')}; or give a recipe (a YAML file), or a kind of model "
            f"({', '.join(models.__all__)})."
        ) from None


def compare_models(
    sources: Sequence[str],
    dataset: Dataset,
    *,
    out: Path,
    budget: Budget,
    limit: int | None = None,
    batch_size: int = 16,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
    command: str = "",
    trust: bool = False,
) -> list[Result]:
    """Trains or loads models, measures them, and writes the comparison into a folder.

    Args:
        sources: Recipes, kinds of models or trained models, each alone or as label=MODEL.
        dataset: What to train on and to score.
        out: The folder; a model called LABEL is trained in its subfolder LABEL.
        budget: What each model that is not loaded may spend on training.
        limit: Score only so many test images, spread evenly over all of them.
        batch_size: Images drawn together when sampling is timed.
        device: "auto", "cpu", "cuda" or "cuda:N".
        settings: What else each run's `config.yaml` needs to go on, see `fit`.
        command: The command line, for the record.
        trust: Of models that are loaded, see `nextpixel.load`.

    Returns:
        A result a model, in the order given. `compare.md`, `compare.json`, `compare.png` and
        `completions.png` are written into the folder.

    Raises:
        UserError: A model is unknown or does not fit the data, there is no budget, or the folder
            holds other runs.
    """
    settings = {"data": dataset.name, **(settings or {})}
    where = make_fabric(device, "float32").device  # refuses what is not here
    contenders = [Contender.read(source, out) for source in sources]
    check(contenders, dataset, budget, settings["data"], trust)
    # Files may be sorted by class, so that the first images are of one kind.
    dataset = replace(
        dataset, valid=dataset.valid.spread(VALID_IMAGES), test=dataset.test.spread(limit)
    )
    steps = plan(contenders, dataset, budget, out, device)
    for contender in contenders:
        if contender.settings is not None:
            check_options(contender, steps[contender.label])
    for number, contender in enumerate(contenders, 1):
        if contender.settings is not None:
            say(f"[{number}/{len(contenders)}] {contender.label}: {steps[contender.label]:,} steps")
            train(contender, dataset, steps[contender.label], device, settings)
    results, completed = [], {}
    for number, contender in enumerate(contenders, 1):
        say(f"[{number}/{len(contenders)}] {contender.label}: scoring, drawing, completing")
        # A path in full, or it might be taken for the name of a model that comes along.
        model = autoregressive(
            load(
                contender.folder.absolute(),
                device=where,
                trust=trust or contender.settings is not None,
            ),
            contender.source,
        )
        results.append(measure(contender, model, dataset, batch_size))
        completed[contender.label] = complete(model, dataset.test)
    write(results, contenders, completed, dataset, budget, batch_size, out, command)
    return results


def say(text: str) -> None:
    """Tells how far things are, beside what a command prints."""
    print(text, file=sys.stderr, flush=True)


# --- before anything is trained -------------------------------------------------------------------


def check(
    contenders: Sequence[Contender], dataset: Dataset, budget: Budget, data: str, trust: bool
) -> None:
    """Checks everything that can be wrong, so that it is not told after an hour of training."""
    dataset.test.refuse_padding("A comparison")
    if dataset.coarse_codes is not None:
        raise UserError(
            f"A comparison draws images, and the codes of {dataset.name} are drawn given those of "
            "the top grid: compare priors over the top codes."
        )
    labels = [contender.label for contender in contenders]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise UserError(f"Two models are called {twice[0]}: give one of them as OTHER=MODEL.")
    for contender in contenders:
        if contender.settings is None:
            with named(contender.source):
                model = read_model(contender.folder, trust=trust)
                model.check_dataset(dataset)
            autoregressive(model, contender.source)
            if (run := contender.run()) is not None:  # both are read again when it is measured
                read_config(run)
                read_metrics(run)
            continue
        if not budget.given:
            raise UserError(
                f"{contender.label} is to be trained: give every model the same budget, by "
                "--steps or --seconds."
            )
        levels = contender.settings.levels
        if levels not in (None, dataset.levels):
            raise UserError(
                f"{contender.source} is for {levels} levels, but {dataset.name} has "
                f"{dataset.levels} here: give --levels {levels}."
            )
        with named(contender.source):
            model = contender.make(dataset)
        check_run(contender, model, data)


def check_run(contender: Contender, model: AutoregressiveModel, data: str) -> None:
    """Checks that a folder that is there already holds the training of this model on these data."""
    if not (contender.folder / "state.pt").exists():
        return
    with reading(contender.folder / "last" / "config.json") as text:
        config = json.loads(text)
        saved = (config["model"], config["hyperparameters"])
    saved_data = read_config(contender.folder).get("data")
    if (model_name(type(model)), model.hyperparameters, data) != (*saved, saved_data):
        raise UserError(
            f"{contender.folder} holds another model than {contender.source} or other data than "
            f"{data}: give another --out or another label."
        )


def check_options(contender: Contender, steps: int) -> None:
    """Checks that a training that was begun already is the one that is wanted."""
    if not (contender.folder / "state.pt").exists():
        return
    saved = read_config(contender.folder)["train"]
    for name, value in contender.options(steps).items():
        if saved.get(name) != value:
            raise UserError(
                f"{contender.folder} was trained with {name}={saved.get(name)}, not {value}: give "
                "another --out or another label."
            )


@contextmanager
def reading(file: Path) -> Iterator[str]:
    """Yields the text of a file, and says in a sentence where it is not what was written."""
    try:
        yield file.read_text()
    except (ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
        raise UserError(
            f"{file} is damaged: take another copy of it, or give another --out."
        ) from None


def read_config(run: Path) -> dict[str, Any]:
    """Reads the configuration of a run."""
    with reading(run / "config.yaml") as text:
        config = dict(yaml.safe_load(text))
        config["train"] = dict(config["train"])
        int(config["train"]["batch_size"])
    return config


def read_steps(file: Path) -> dict[str, dict[str, int]]:
    """Reads what `plan` has written: label -> the budget in seconds, and its steps."""
    if not file.is_file():
        return {}
    with reading(file) as text:
        known = json.loads(text)
        return {
            label: {key: int(planned[key]) for key in ("seconds", "steps")}
            for label, planned in known.items()
        }


def plan(
    contenders: Sequence[Contender], dataset: Dataset, budget: Budget, out: Path, device: str
) -> dict[str, int]:
    """Gives every model that is to be trained its number of steps.

    A budget in seconds becomes steps by the speed of a few of them; the learning rate falls over a
    number of steps that must be known beforehand. The numbers are kept in `steps.json`, as a second
    measurement would find others.
    """
    to_train = [contender for contender in contenders if contender.settings is not None]
    if budget.steps is not None:
        return {contender.label: budget.steps for contender in to_train}
    file = out / "steps.json"
    known: dict[str, dict[str, Any]] = read_steps(file)
    for contender in to_train:
        found = known.get(contender.label)
        begun = (contender.folder / "state.pt").exists()
        if begun and found is not None and found["seconds"] == budget.seconds:
            continue
        seconds = seconds_a_step(contender, dataset, device)
        steps = max(1, int((budget.seconds or 0) / seconds))
        known[contender.label] = {"seconds": budget.seconds, "steps": steps}
        say(
            f"{contender.label}: {seconds:.3g} s a step, so {budget.seconds:,} seconds are "
            f"{steps:,} steps"
        )
        replace_file(file, (json.dumps(known, indent=2) + "\n").encode())
    return {contender.label: known[contender.label]["steps"] for contender in to_train}


def seconds_a_step(contender: Contender, dataset: Dataset, device: str) -> float:
    """Measures the speed of training, with a model that is thrown away."""
    args = TrainArgs(**contender.options(20))
    fabric = make_fabric(device, args.precision)
    times: list[float] = []
    with launched(fabric), progress(f"measuring the speed of {contender.label}") as show:
        run = Run(fabric, contender.make(dataset), dataset, args, contender.folder, {})
        began = time.perf_counter()
        # The first steps are slower than the rest: they are not counted.
        while len(times) < 5 or (len(times) < 20 and time.perf_counter() - began < 5):
            start = time.perf_counter()
            run.train_step()
            run.step += 1
            times.append(time.perf_counter() - start)
            show(len(times) / 20)
    return statistics.median(times[2:])


# --- training -------------------------------------------------------------------------------------


def train(
    contender: Contender,
    dataset: Dataset,
    steps: int,
    device: str,
    settings: Mapping[str, Any],
) -> None:
    """Trains a model from the start, or from where it was stopped, or not if it is finished."""
    folder = contender.folder
    begun = (folder / "state.pt").exists()
    if begun and load_state(folder / "state.pt")["step"] >= steps:
        say(f"{contender.label} is trained already: {folder}")
        return
    fit(
        contender.make(dataset),
        dataset,
        out=folder,
        resume=begun,
        device=device,
        settings=settings,
        **contender.options(steps),
    )


def read_metrics(run: Path | None) -> list[dict[str, float]]:
    """Reads a run's metrics; a line that is being written is left out."""
    if run is None:
        return []
    with reading(run / "metrics.jsonl") as text:
        lines = text.splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]


# --- measuring ------------------------------------------------------------------------------------


def measure(
    contender: Contender,
    model: AutoregressiveModel,
    dataset: Dataset,
    batch_size: int,
) -> Result:
    """Measures a trained model."""
    label, run = contender.label, contender.run()
    metrics = read_metrics(run)
    with progress(f"{label}: scoring") as show:
        score = evaluate(model, dataset.test, progress=show)
    with progress(f"{label}: drawing by full passes") as show:
        naive = naive_seconds(model, batch_size, show)
    with progress(f"{label}: drawing by the cached path") as show:
        cached = cached_seconds(model, batch_size, show)
    x, given = model.inputs(dataset.test, spread(len(dataset.test), FIELD_IMAGES))
    seen, earlier = receptive_field(model, x, given.context)
    last = metrics[-1] if metrics else {}
    return Result(
        label=label,
        source=contender.source,
        model=model_name(type(model)),
        conditional=model.classes is not None,
        loaded=contender.settings is None,
        parameters=sum(p.numel() for p in model.parameters()),
        batch_size=read_config(run)["train"]["batch_size"] if run else None,
        steps=int(last["step"]) if last else None,
        seconds=last.get("seconds"),
        images_per_second=(
            statistics.median(line["images_per_second"] for line in metrics) if metrics else None
        ),
        score=score,
        naive=naive,
        cached=cached,
        seen=seen,
        earlier=earlier,
    )


def classes_in_turn(model: AutoregressiveModel, n: int) -> Tensor | None:
    """Makes the context to draw n images with."""
    return None if model.classes is None else torch.arange(n) % model.classes


@torch.inference_mode()
def naive_seconds(model: AutoregressiveModel, n: int, show: Callable[[float], None]) -> float:
    """Times sampling by a full pass for every site, in seconds a sample of n drawn together.

    A full pass costs the same at every site, so a few of them are timed, and the mean is scaled up.
    """
    every = list(sampling.sites(model.shape))
    chosen = every[:: math.ceil(len(every) / NAIVE_SITES)]
    x = torch.zeros(n, *model.shape, dtype=torch.int64, device=model.device)
    noise = sampling.site_noise(model.shape, 0, range(n)).to(model.device)
    cache = Cache(context=model.context(classes_in_turn(model, n), n))
    began = 0.0
    for done, site in enumerate([every[0], *chosen]):  # the first one is not counted
        at_site = (slice(None), site.channel, site.row, site.col)
        drawn = AutoregressiveModel.step(model, x, site, cache).sample(noise[at_site])
        x[at_site] = drawn
        drawn.cpu()  # waits for the device
        began = began or time.perf_counter()
        show(done / len(chosen))
    return (time.perf_counter() - began) / len(chosen) * len(every) / n


def cached_seconds(
    model: AutoregressiveModel, n: int, show: Callable[[float], None]
) -> float | None:
    """Times the model's own sampling, in seconds a sample of n drawn together."""
    if not model.has_cached_path:
        return None  # it draws by full passes
    c = classes_in_turn(model, n)
    for _ in itertools.islice(sampling.trace(model, n, c), 2):
        pass  # the first steps are slower than the rest
    began = time.perf_counter()
    model.sample(n, c, batch_size=n, progress=show)
    return (time.perf_counter() - began) / n


def receptive_field(
    model: AutoregressiveModel, x: Tensor, c: object = None
) -> tuple[int | None, int]:
    """Counts the earlier sites that influence the central one, by the Jacobian in float64.

    Where a derivative is exactly zero for all images given, the site is outside of the field.

    Args:
        model: The model.
        x: Images, integers `(N, C, H, W)`; the union over them counts.
        c: Their context.

    Returns:
        The number of sites seen, None where the model has no `encode`, and that of all sites
        before the central one.
    """
    channels, height, width = model.shape
    row, col, channel = height // 2, width // 2, channels // 2
    earlier = (row * width + col) * channels + channel
    if not isinstance(model, CausalNetwork):
        return None, earlier
    network = copy.deepcopy(model).double().requires_grad_(False)
    seen = see.receptive_field(network, Site(row, col, channel), x, c)
    return int(seen.movedim(0, 2).flatten()[:earlier].sum()), earlier


def complete(model: AutoregressiveModel, test: Images) -> Tensor:
    """Completes test images of which the lower half is hidden."""
    x, given = model.inputs(test, shown(test))
    with progress("completing") as show:
        known = half_mask("top", *model.shape[1:])
        return sampling.complete(model, x, known, given.context, seed=1, progress=show)


def shown(test: Images) -> np.ndarray:
    """Picks the images to complete: the first of each class, or evenly among all."""
    if test.y is None:
        return np.linspace(0, len(test) - 1, min(DIGITS, len(test))).round().astype(np.int64)
    return np.unique(test.y, return_index=True)[1][:DIGITS]


# --- writing --------------------------------------------------------------------------------------


def write(
    results: Sequence[Result],
    contenders: Sequence[Contender],
    completed: Mapping[str, Tensor],
    dataset: Dataset,
    budget: Budget,
    batch_size: int,
    out: Path,
    command: str,
) -> None:
    """Writes the table, the numbers and the pictures."""
    plots.comparison(
        {contender.label: read_metrics(contender.run()) for contender in contenders},
        {r.label: (r.score.bits_per_dim, r.score.bits_per_dim_error) for r in results},
        out / "compare.png",
        nats=math.prod(dataset.shape) * math.log(2),
    )
    plots.save_image(completions(results, completed, dataset), out / "completions.png")
    about = {
        "command": command,
        "data": dataset.name,
        "levels": dataset.levels,
        "source": dataset.source,
        "budget": asdict(budget),
        "sampling_batch_size": batch_size,
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "date": datetime.date.today().isoformat(),
    }
    numbers = json.dumps({**about, "models": [asdict(r) for r in results]}, indent=2)
    # The error of a single image's score is not a number, and JSON has no word for that.
    replace_file(out / "compare.json", (re.sub(r"\bNaN\b", "null", numbers) + "\n").encode())
    page = markdown(results, about, str(budget))
    replace_file(out / "compare.md", page.encode())


def completions(
    results: Sequence[Result], completed: Mapping[str, Tensor], dataset: Dataset
) -> Image.Image:
    """Lays the completions out, a row a model, below what was given."""
    x = torch.from_numpy(dataset.test.batch(shown(dataset.test))[0])
    known = half_mask("top", *dataset.shape[1:])
    rows = {
        "original": plots.to_uint8(x, dataset.levels),
        "given": plots.hide(x, known, dataset.levels),
    }
    order = sorted(results, key=lambda r: FIRST.index(r.model) if r.model in FIRST else len(FIRST))
    for result in order:
        rows[result.label] = plots.to_uint8(completed[result.label], dataset.levels)
    pixels = [np.broadcast_to(row, (len(x), 3, *x.shape[2:])) for row in rows.values()]
    return plots.grid(np.concatenate(pixels), 256, columns=len(x), row_labels=list(rows))


COLUMNS = (
    "model",
    "kind",
    "parameters",
    "training images/s",
    "steps",
    "images seen",
    "wall s",
    "test nats",
    "bits/dim",
    "naive s/sample",
    "cached s/sample",
    "ratio",
    "field",
)


def table(results: Sequence[Result]) -> str:
    """Writes the results as a table in Markdown, aligned to be read as it is."""
    rows = [COLUMNS, *map(cells, results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    left = 2  # columns of words; numbers are aligned on the right
    rule = ["-" * width if i < left else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    lines = [
        [cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(pairs)]
        for pairs in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def cells(result: Result) -> tuple[str, ...]:
    """Writes a result as a row of the table."""
    r, score = result, result.score
    steps = "" if r.steps is None else f"{r.steps:,} x {r.batch_size}"
    return (
        r.label,
        r.model + (", given class" if r.conditional else ""),
        f"{r.parameters:,}",
        number(r.images_per_second),
        f"{steps} (loaded)".strip() if r.loaded else steps,
        "-" if r.images_seen is None else f"{r.images_seen:,}",
        number(r.seconds),
        f"{score.nats:.2f} ± {score.nats_error:.2f}",
        f"{score.bits_per_dim:.4f} ± {score.bits_per_dim_error:.4f}",
        number(r.naive),
        number(r.cached),
        "-" if r.cached is None else f"{number(r.naive / r.cached)}x",
        "-" if r.seen is None else f"{r.seen / max(1, r.earlier):.1%}",
    )


def number(value: float | None) -> str:
    """Writes a number with three digits or more, and a dash for none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def markdown(results: Sequence[Result], about: Mapping[str, Any], budget: str) -> str:
    """Writes the page: the table, what its columns mean, the pictures and how it was made."""
    images = results[0].score.images
    all_loaded = all(result.loaded for result in results)
    how = "Trained before" if all_loaded else f"Trained for an equal budget each ({budget})"
    return f"""# Comparison on {about["data"]}

{how}, scored on {images:,} test images.

{table(results)}

- **steps**: optimizer steps x images a step; **images seen** is the product. A budget in steps is
  not one in images: recipes with a larger batch see more of them in as many steps. A model marked
  as loaded was trained before, with a budget of its own, which is counted here for one device. A
  budget in seconds is turned into steps by the speed of the first few; it is
  for the steps alone, and **wall s** counts validation and saving too.
- **test nats**, **bits/dim**: mean of -log p and its standard error over the images. They are the
  same images for every model, so differences are surer than these errors. What is scored is the
  best of a training's {VALIDATIONS} validations, on up to {VALID_IMAGES:,} images.
- **naive**: drawing with a full pass for every site, timed at {NAIVE_SITES} sites spread over the
  image and scaled up to all of them. **cached**: drawing by the cached path. Both in seconds a
  sample, {about["sampling_batch_size"]} drawn together.
- **field**: of the sites before the one at the centre of the image, those whose change can
  influence it: the non-zero entries of the trained network's Jacobian in float64, the union over
  {FIELD_IMAGES} test images.

![Training and validation over time and over steps, and the test scores](compare.png)

The lower halves of test images, drawn by each model with the same noise:

![Completions](completions.png)

| | |
| --- | --- |
| command | `{about["command"]}` |
| data | {about["data"]}, {about["levels"]} levels; {about["source"]} |
| machine | {about["machine"]}; processor threads used: {about["threads"]} |
| date | {about["date"]} |
"""
