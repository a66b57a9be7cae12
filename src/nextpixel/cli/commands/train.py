"""Train a model on images: yours, or a data set known by name."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nextpixel.models.base.image_model import ImageModel

__all__ = ["arguments", "report", "run"]


def arguments(argv: list[str]) -> Any:
    """Reads the options, which come from the models' signatures and make a parser of their own."""
    from nextpixel.cli.train_options import train_settings

    return train_settings(argv)


def run(settings: Any) -> None:
    """Trains the model; a stopped run goes on where it was."""
    import torch

    from nextpixel.cli.train_options import recipe_of
    from nextpixel.latents.codes import load_data
    from nextpixel.training.config import TrainArgs
    from nextpixel.training.launch import keep_freed_memory
    from nextpixel.training.trainer import fit
    from nextpixel.utils.devices import set_threads

    options = vars(settings.train)
    TrainArgs(**options)  # refuses what is out of range before anything is read
    set_threads(settings.threads)
    keep_freed_memory()
    dataset = load_data(
        settings.data,
        levels=settings.levels,
        data_dir=settings.data_dir,
        size=settings.size,
        channels=settings.channels,
    )
    torch.manual_seed(options["seed"])
    model = recipe_of(settings).make_model(dataset)
    kept = {"data", "data_dir", "size", "channels", "features", "layer", "device", "threads"}
    out = Path(settings.resume or settings.out)
    try:
        fit(
            model,
            dataset,
            out=out,
            resume=settings.resume is not None,
            device=settings.device,
            # To go on with later.
            settings={k: v for k, v in vars(settings).items() if k in kept and v is not None},
            **options,
        )
    except KeyboardInterrupt:
        if (out / "state.pt").exists():
            go_on = f"nextpixel train --resume {out}{trust_option(model)}"
            print(f"Stopped. Go on with: {go_on}", file=sys.stderr)
        raise
    if os.environ.get("RANK", "0") == "0":  # torchrun starts several of us
        report(model, out, settings.data)


def report(model: ImageModel, out: Path, data: str) -> None:
    """Says what to do with the trained model."""
    from nextpixel.latents.codes import parse_name

    use = f"{model.role} {out}"
    if model.role == "prior":
        folder, bottom = parse_name(data)
        two_grids = "/" in (model.data_record.codes_of or "")
        priors = f"TOP_PRIOR {out}" if bottom else f"{out}{' BOTTOM_PRIOR' * two_grids}"
        use = f"bundle {folder} {priors}"
    trust = trust_option(model)
    print(f"The trained model is in {out}: try nextpixel eval {out}{trust}, nextpixel {use}{trust}")


def trust_option(model: ImageModel) -> str:
    """Returns the option that it takes to load a model of the user's own class."""
    from nextpixel.saving import model_name

    return " --trust" if "." in model_name(type(model)) else ""
