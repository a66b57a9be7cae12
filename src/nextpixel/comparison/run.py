"""Several models on the same data at an equal budget: one table, their curves and completions.

    nextpixel compare a.yaml b.yaml gated=runs/mine --data binarized-mnist --steps 2000 --out runs/c

A recipe or a kind of model is trained, in an ordinary run folder; a trained model is loaded. Then
all are measured in the same way. What is finished is kept: the same command goes on where it was
stopped.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nextpixel.comparison.contenders import VALID_IMAGES, Budget, Contender, named
from nextpixel.comparison.measure import (
    Result,
    complete,
    measure,
    read_config,
    read_metrics,
    reading,
)
from nextpixel.comparison.page import write
from nextpixel.data import Dataset
from nextpixel.errors import UserError
from nextpixel.models.base.autoregressive import AutoregressiveModel, autoregressive
from nextpixel.models.base.image_model import load, read_model
from nextpixel.saving import model_name
from nextpixel.training.checkpoint import load_state
from nextpixel.training.config import TrainArgs
from nextpixel.training.launch import launched, make_fabric
from nextpixel.training.trainer import Run, fit
from nextpixel.utils.files import replace_file
from nextpixel.utils.progress import progress

__all__ = ["compare_models"]


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
        dataset, valid=dataset.valid.subset(VALID_IMAGES), test=dataset.test.subset(limit)
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
