"""Train a model on your own images, or on a data set of the catalogue."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextpixel.cli.options import data_options

if TYPE_CHECKING:
    from nextpixel.models.base.image_model import ImageModel

__all__ = ["arguments", "report", "run"]


def arguments(argv: list[str]) -> Any:
    """Reads the options; those of a model come from the signature of its class."""
    from nextpixel.cli.train_options import train_settings

    return train_settings(argv)


def run(settings: Any) -> None:
    """Trains the model, or resumes a run."""
    import torch

    from nextpixel.cli.train_options import recipe_of
    from nextpixel.latents.codes import load_data
    from nextpixel.training.begun import begun_record
    from nextpixel.training.config import TrainArgs
    from nextpixel.training.fitting import fit
    from nextpixel.training.launch import keep_freed_memory
    from nextpixel.utils.devices import set_threads

    options = vars(settings.train)
    TrainArgs(**options)  # raises a UserError for values out of range before data are read
    set_threads(settings.threads)
    keep_freed_memory()
    dataset = load_data(settings.data, **data_options(settings))
    if settings.resume and (names := begun_record(Path(settings.resume)).class_names):
        dataset = dataset.with_class_names(names)
    torch.manual_seed(options["seed"])
    model = recipe_of(settings).make_model(dataset)
    saved = {"data", "data_dir", "resize", "channels", "features", "layer", "device", "threads"}
    out = Path(settings.resume or settings.out)
    try:
        fit(
            model,
            dataset,
            out=out,
            resume=settings.resume is not None,
            device=settings.device,
            accept_changed_data=settings.accept_changed_data,
            settings={k: v for k, v in vars(settings).items() if k in saved and v is not None},
            **options,
        )
    except KeyboardInterrupt:
        if (out / "state.pt").exists():
            command = f"nextpixel train --resume {out}{trust_option(model)}"
            print(f"Stopped. Continue with: {command}", file=sys.stderr)
        raise
    if os.environ.get("RANK", "0") == "0":  # torchrun starts several processes
        report(model, out, settings.data)


def report(model: ImageModel, out: Path, data: str) -> None:
    """Prints where the trained model is and what to do next."""
    from nextpixel.latents.codes import parse_name

    use = f"{model.role} {out}"
    if model.role == "prior":
        folder, bottom = parse_name(data)
        two_grids = "/" in (model.data_record.codes_of or "")
        priors = f"TOP_PRIOR {out}" if bottom else f"{out}{' BOTTOM_PRIOR' * two_grids}"
        use = f"bundle {folder} {priors} --out {out}-bundle"
    trust = trust_option(model)
    print(f"The trained model is in {out}: try nextpixel eval {out}{trust}, nextpixel {use}{trust}")


def trust_option(model: ImageModel) -> str:
    """Returns " --trust" if the model is of a user's own class, which needs it to be loaded."""
    from nextpixel.saving import model_name

    return " --trust" if "." in model_name(type(model)) else ""
