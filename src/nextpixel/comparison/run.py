"""Compares several models on the same data at an equal budget: a table, curves and completions.

    nextpixel compare a.yaml b.yaml gated=runs/mine --data binarized-mnist --steps 2000 --out runs/c

A recipe or a kind of model is trained, in an ordinary run folder; a trained model is loaded. Then
all are measured in the same way. If it is stopped, the same command continues: finished models are
not trained again.
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

from nextpixel.comparison.contenders import VALID_IMAGES, Budget, Contender, error_prefix
from nextpixel.comparison.measure import (
    Result,
    complete,
    measure,
    read_config,
    read_metrics,
    refusing_damaged,
)
from nextpixel.comparison.page import write
from nextpixel.data import Dataset
from nextpixel.errors import UserError
from nextpixel.latents.codes import absolute_name
from nextpixel.models.base.autoregressive import AutoregressiveModel, autoregressive
from nextpixel.models.base.image_model import load, read_model
from nextpixel.saving import model_name
from nextpixel.training.begun import with_absolute_paths
from nextpixel.training.checkpoint import load_state
from nextpixel.training.config import TrainArgs
from nextpixel.training.fitting import fit
from nextpixel.training.launch import launched, make_fabric
from nextpixel.training.trainer import Run
from nextpixel.utils.files import replace_file
from nextpixel.utils.progress import progress
from nextpixel.utils.reading import mapping, read_json
from nextpixel.utils.words import count

__all__ = ["compare_models"]


def compare_models(
    contenders: Sequence[Contender],
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
        contenders: The models.
        dataset: The data to train on and to score.
        out: The folder to write `compare.md`, `compare.json`, `compare.png`, `completions.png` to.
        budget: The budget of each model that is trained.
        limit: The number of test images to score, spread evenly over all of them; all by default.
        batch_size: Images sampled together when sampling is timed.
        device: "auto", "cpu", "cuda" or "cuda:N".
        settings: Other options to save in each run's `config.yaml`, see `fit`.
        command: The command line, for the record.
        trust: For the models that are loaded, see `nextpixel.load`.

    Returns:
        A result for each model, in the order given.

    Raises:
        UserError: A model does not fit the data, there is no budget, or the folder holds other
            runs.
    """
    settings = with_absolute_paths({"data": dataset.name, **(settings or {})})
    torch_device = make_fabric(device, "float32").device  # refuses a device that is not there
    check(contenders, dataset, budget, settings["data"], trust)
    # Spread, because files may be sorted by class.
    dataset = replace(
        dataset, valid=dataset.valid.subset(VALID_IMAGES), test=dataset.test.subset(limit)
    )
    steps = plan(contenders, dataset, budget, out, device)
    for contender in contenders:
        if contender.recipe is not None:
            check_options(contender, steps[contender.label])
    for number, contender in enumerate(contenders, 1):
        if contender.recipe is not None:
            report(
                f"[{number}/{len(contenders)}] {contender.label}: "
                f"{count(steps[contender.label], 'step')}"
            )
            train(contender, dataset, steps[contender.label], device, settings)
    results, completed = [], {}
    for number, contender in enumerate(contenders, 1):
        report(f"[{number}/{len(contenders)}] {contender.label}: scoring, sampling, completing")
        trusted = trust or contender.recipe is not None
        # An absolute path cannot be mistaken for the name of a pretrained model.
        model = load(contender.folder.absolute(), device=torch_device, trust=trusted)
        model = autoregressive(model, contender.source)
        results.append(measure(contender, model, dataset, batch_size))
        completed[contender.label] = complete(model, dataset.test)
    write(results, contenders, completed, dataset, budget, batch_size, out, command)
    return results


def report(text: str) -> None:
    """Prints the state of the comparison to stderr."""
    print(text, file=sys.stderr, flush=True)


# --- before anything is trained -------------------------------------------------------------------


def check(
    contenders: Sequence[Contender], dataset: Dataset, budget: Budget, data: str, trust: bool
) -> None:
    """Checks everything that can be checked before training.

    Raises:
        UserError: A model does not fit the data, there is no budget, or a folder holds another run.
    """
    dataset.test.refuse_padding("A comparison")
    if dataset.coarse_codes is not None:
        raise UserError(
            f"A comparison draws images, and {dataset.name} can be drawn only given the codes of "
            "the top grid: compare priors over the top codes."
        )
    labels = [contender.label for contender in contenders]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise UserError(f"Two models are called {twice[0]}: give one of them as OTHER=MODEL.")
    for contender in contenders:
        if contender.recipe is None:
            check_trained(contender, dataset, trust)
        else:
            check_untrained(contender, contender.recipe.levels, dataset, budget, data)


def check_trained(contender: Contender, dataset: Dataset, trust: bool) -> None:
    """Checks a model that is loaded, and the files of its run."""
    with error_prefix(contender.source):
        model = read_model(contender.folder, trust=trust)
        model.check_dataset(dataset)
    autoregressive(model, contender.source)
    if (run := contender.run_folder()) is not None:  # both are read again by `measure`
        read_config(run)
        read_metrics(run)


def check_untrained(
    contender: Contender, levels: int | None, dataset: Dataset, budget: Budget, data: str
) -> None:
    """Checks a model that is trained: its budget, its levels, its arguments, its folder."""
    if not budget.given:
        raise UserError(
            f"{contender.label} is to be trained: give every model the same budget, by --steps or "
            "--seconds."
        )
    if levels not in (None, dataset.levels):
        raise UserError(
            f"{contender.source} is for {levels} levels, but {dataset.name} has {dataset.levels} "
            f"here: give --levels {levels}."
        )
    with error_prefix(contender.source):
        model = contender.make(dataset)
    check_run(contender, model, data)


def check_run(contender: Contender, model: AutoregressiveModel, data: str) -> None:
    """Checks that an existing run folder belongs to this model and these data."""
    if not (contender.folder / "state.pt").exists():
        return
    file = contender.folder / "last" / "config.json"
    with refusing_damaged(file):
        config = mapping(read_json(file))
        saved = (config["model"], config["hyperparameters"])
    saved_data = absolute_name(str(read_config(contender.folder).get("data")))
    if (model_name(type(model)), model.hyperparameters, data) != (*saved, saved_data):
        raise UserError(
            f"{contender.folder} holds another model than {contender.source} or other data than "
            f"{data}: give another --out or another label."
        )


def check_options(contender: Contender, steps: int) -> None:
    """Checks that an existing run has the same training options."""
    if not (contender.folder / "state.pt").exists():
        return
    saved = read_config(contender.folder)["train"]
    for name, value in contender.train_options(steps).items():
        if saved.get(name) != value:
            raise UserError(
                f"{contender.folder} was trained with {name}={saved.get(name)}, not {value}: give "
                "another --out or another label."
            )


def read_steps(file: Path) -> dict[str, dict[str, int]]:
    """Reads the file that `plan` writes: label -> the budget in seconds, and its steps."""
    if not file.is_file():
        return {}
    with refusing_damaged(file):
        return {
            label: {key: int(entry[key]) for key in ("seconds", "steps")}
            for label, entry in mapping(read_json(file)).items()
        }


def plan(
    contenders: Sequence[Contender], dataset: Dataset, budget: Budget, out: Path, device: str
) -> dict[str, int]:
    """Computes the number of steps of every model that is trained, by label.

    A budget in seconds is turned into steps by timing a few of them, because the learning rate's
    schedule needs their number. They are saved in `steps.json`: timing again would differ.
    """
    to_train = [contender for contender in contenders if contender.recipe is not None]
    if budget.steps is not None:
        return {contender.label: budget.steps for contender in to_train}
    file = out / "steps.json"
    planned: dict[str, dict[str, Any]] = read_steps(file)
    for contender in to_train:
        entry = planned.get(contender.label)
        started = (contender.folder / "state.pt").exists()
        if started and entry is not None and entry["seconds"] == budget.seconds:
            continue
        seconds = seconds_per_step(contender, dataset, device)
        steps = max(1, int((budget.seconds or 0) / seconds))
        planned[contender.label] = {"seconds": budget.seconds, "steps": steps}
        report(
            f"{contender.label}: {seconds:.3g} s a step, so a budget of {budget.seconds:,} s is "
            f"{count(steps, 'step')}"
        )
        replace_file(file, (json.dumps(planned, indent=2) + "\n").encode())
    return {contender.label: planned[contender.label]["steps"] for contender in to_train}


def seconds_per_step(contender: Contender, dataset: Dataset, device: str) -> float:
    """Measures the median time of a training step, with a model that is discarded."""
    args = TrainArgs(**contender.train_options(20))
    fabric = make_fabric(device, args.precision)
    times: list[float] = []
    with launched(fabric), progress(f"measuring the speed of {contender.label}") as show:
        run = Run(fabric, contender.make(dataset), dataset, args, contender.folder, {})
        began = time.perf_counter()
        # The first two steps are slower and are left out of the median.
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
    """Trains a model, resumes its training, or does nothing if it is finished."""
    folder = contender.folder
    started = (folder / "state.pt").exists()
    if started and load_state(folder / "state.pt")["step"] >= steps:
        report(f"{contender.label} is trained already: {folder}")
        return
    fit(
        contender.make(dataset),
        dataset,
        out=folder,
        resume=started,
        device=device,
        settings=settings,
        **contender.train_options(steps),
    )
