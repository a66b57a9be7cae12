"""Reads the models that `nextpixel compare` names: recipes, kinds of models, trained models."""

from __future__ import annotations

import re
from pathlib import Path

from nextpixel import models
from nextpixel.cli.describe import is_kind
from nextpixel.cli.train_options import read_recipe
from nextpixel.comparison.contenders import Contender, error_prefix
from nextpixel.errors import UserError
from nextpixel.model_folders import find

__all__ = ["read_contender"]


def read_contender(text: str, out: Path) -> Contender:
    """Reads MODEL or LABEL=MODEL.

    Args:
        text: The argument.
        out: The folder of the comparison; a model is trained in its subfolder LABEL.

    Raises:
        UserError: There is no such model, or the label is no name for a folder.
    """
    label, equals, source = text.partition("=")
    if not equals or Path(text).exists():
        source, path = text, Path(text)
        label = path.stem if path.suffix in (".yaml", ".yml") else path.name
    if not re.fullmatch(r"\w[\w.+-]*", label):
        raise UserError(f"{label!r} cannot name a folder: give {source} as NAME={source}.")
    option = train_option(source)
    if option is None:
        return Contender(label, source, find_trained(source))
    with error_prefix(source):
        return Contender(label, source, out / label, read_recipe(option, source))


def train_option(source: str) -> str | None:
    """Returns the option of `nextpixel train` that takes a source; None for a trained model."""
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UserError(f"There is no recipe {source}: give the path of a YAML file.")
        return "--config"
    return "--model" if is_kind(source) else None


def find_trained(source: str) -> Path:
    """Finds the folder of a trained model."""
    try:
        return find(source)
    except UserError as error:
        raise UserError(
            f"{str(error).rstrip('.')}; or give a recipe (a YAML file), or a kind of model "
            f"({', '.join(models.__all__)})."
        ) from None
