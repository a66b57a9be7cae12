"""Train a model on your own images, or on a data set of the catalogue."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextpixel.cli.options import data_options
from nextpixel.errors import UserError

if TYPE_CHECKING:
    from nextpixel.data import Dataset
    from nextpixel.models.base.image_model import ImageModel
    from nextpixel.training.config import TrainArgs

__all__ = ["arguments", "report", "run"]

# The options that a run saves for resuming, besides those of the model and of training.
SAVED = (
    "data",
    "data_dir",
    "resize",
    "channels",
    "features",
    "layer",
    "from",
    "device",
    "threads",
)


def arguments(argv: list[str]) -> Any:
    """Reads the options; those of a model come from the signature of its class."""
    from nextpixel.cli.train_options import train_settings

    return train_settings(argv)


def run(settings: Any) -> None:
    """Trains the model, or resumes a run."""
    from nextpixel.cli.loading import refuse_moved
    from nextpixel.data.catalogue import refuse_inside
    from nextpixel.latents.codes import load_data
    from nextpixel.training.begun import begun_record
    from nextpixel.training.config import TrainArgs
    from nextpixel.training.fitting import fit
    from nextpixel.training.launch import keep_freed_memory
    from nextpixel.utils.devices import set_threads

    options = vars(settings.train)
    args = TrainArgs(**options)  # raises a UserError for values out of range before data are read
    set_threads(settings.threads)
    keep_freed_memory()
    if settings.resume is None:
        refuse_inside(Path(settings.out), settings.data)
    else:
        refuse_moved(settings.resume, settings.data)
    dataset = load_data(settings.data, **data_options(settings))
    names = begun_record(Path(settings.resume)).class_names if settings.resume else None
    model = make_model(settings, dataset.with_class_names(names) if names else dataset)
    out = Path(settings.resume or settings.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: name another folder by --out.")
    if settings.resume is None and not (out / "state.pt").exists():
        announce(model, dataset, args, settings)
    try:
        fit(
            model,
            dataset,
            out=out,
            resume=settings.resume is not None,
            device=settings.device,
            accept_changed_data=settings.accept_changed_data,
            settings={k: v for k, v in vars(settings).items() if k in SAVED and v is not None},
            **options,
        )
    except KeyboardInterrupt:
        if (out / "state.pt").exists():
            command = f"nextpixel train --resume {shlex.quote(str(out))}{trust_option(model)}"
            print(f"Stopped. Continue with: {command}", file=sys.stderr)
        raise
    if is_main_process():
        report(model, dataset, out, settings.data)


def is_main_process() -> bool:
    """Checks whether this is the first of the processes that torchrun started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def make_model(settings: Any, dataset: Dataset) -> ImageModel:
    """Makes the model to train, with the weights of --from."""
    import torch

    from nextpixel.cli.loading import load_any_model
    from nextpixel.cli.train_options import given_by_data, recipe_of
    from nextpixel.training.fine_tuning import copy_weights

    torch.manual_seed(settings.train.seed)
    recipe, start = recipe_of(settings), settings["from"]
    if start is None or settings.resume is not None:  # a resumed run has its weights
        return recipe.make_model(dataset)
    source = load_any_model(start, trust=settings.trust)
    decided = given_by_data()
    arguments = {k: v for k, v in source.hyperparameters.items() if k not in decided}
    model = replace(recipe, arguments=arguments).make_model(dataset)
    names = None if dataset.unnamed else dataset.class_names
    new = copy_weights(model, source, names)
    if is_main_process():
        but = f", but for {', '.join(new)}, which start anew" if new else ""
        print(f"Starting from the weights of {start}{but}.", flush=True)
    return model


def announce(model: ImageModel, dataset: Dataset, args: TrainArgs, settings: Any) -> None:
    """Prints what a new run will need, and chooses its number of threads if none is given.

    Raises:
        UserError: It takes more than an hour, and nobody at the terminal has said --yes.
    """
    import torch

    from nextpixel.training.estimate import ONE_THREAD, duration, measure, measure_threads
    from nextpixel.training.fitting import prepare

    if "RANK" in os.environ:  # the processes of torchrun share a machine, so one measures nothing
        return
    prepared, every = prepare(model, dataset, args), torch.get_num_threads()
    if settings.threads is None:
        estimate = measure_threads(model, prepared, args, settings.device)
        if (fastest := torch.get_num_threads()) < every:
            settings.threads = fastest  # kept with the run, which resumes with as many
            print(ONE_THREAD.format(every), flush=True)
    else:
        estimate = measure(model, prepared, args, settings.device)
    print(f"{type(model).__name__}: {estimate}.", flush=True)
    if estimate.seconds > 3600 and sys.stderr.isatty() and not settings.yes:
        raise UserError(
            f"This would take about {duration(estimate.seconds)}: add --yes to start, or give "
            "--train.minutes, fewer --train.steps or another --size."
        )


def report(model: ImageModel, dataset: Dataset, out: Path, data: str) -> None:
    """Prints where the score stands, where the trained model is and what to do next."""
    from nextpixel.latents.codes import parse_name
    from nextpixel.training.report import best_score, on_a_scale

    score = best_score(out)
    for line in [] if score is None else on_a_scale(score, model, dataset):
        print(line)

    name = shlex.quote(str(out))
    use = f"{model.role} {name}"
    if model.role == "prior":
        folder, bottom = parse_name(data)
        two_grids = "/" in (model.data_record.codes_of or "")
        priors = f"TOP_PRIOR {name}" if bottom else f"{name}{' BOTTOM_PRIOR' * two_grids}"
        use = f"bundle {shlex.quote(folder)} {priors} --out {shlex.quote(f'{out}-bundle')}"
    trust = trust_option(model)
    print(f"Open {out / 'report.html'} to see how it went.")
    try_next = f"nextpixel eval {name}{trust}, nextpixel {use}{trust}"
    print(f"The trained model is in {out}: try {try_next}")


def trust_option(model: ImageModel) -> str:
    """Returns " --trust" if the model is of a user's own class, which needs it to be loaded."""
    from nextpixel.saving import model_name

    return " --trust" if "." in model_name(type(model)) else ""
