"""Makes the task, the features and the model that a recipe describes."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from nextpixel.errors import UserError

if TYPE_CHECKING:
    from nextpixel.conditioning.conditioner import Conditioner
    from nextpixel.conditioning.degradation import Task
    from nextpixel.conditioning.features import Features
    from nextpixel.data import Dataset
    from nextpixel.models.base.image_model import ImageModel

__all__ = ["make_model"]


def make_conditioner(settings: Any, dataset: Dataset) -> Conditioner | None:
    """Makes the conditioner that the options or the data name.

    Raises:
        UserError: Two are named, or options do not go together.
    """
    from nextpixel.conditioning.conditioner import CoarseCodes

    named = [make_task(settings), make_features(settings)]
    if dataset.coarse_codes is not None:
        if any(named):
            raise UserError(
                f"A prior over the codes of {dataset.name} is conditioned on the top codes: leave "
                "--task and --features out."
            )
        return CoarseCodes()
    if all(named):
        raise UserError("--task and --features condition a model on two things: give one of them.")
    return named[0] or named[1]


def make_task(settings: Any) -> Task | None:
    """Makes the task that the options name, with its own options.

    Raises:
        UserError: An option belongs to another task.
    """
    from nextpixel.conditioning.degradation import Task

    names = [field.name for field in fields(Task) if field.name != "name"]
    given = {name: settings[name] for name in names if settings[name] is not None}
    task = None if settings.task is None else Task(settings.task, **given)
    for name in given:
        if task is None or name not in task.settings():
            what = "goes with a --task" if task is None else f"is no option of --task {task.name}"
            raise UserError(f"--{name} {what}: leave it out, or see nextpixel train --help.")
    return task


def make_features(settings: Any) -> Features | None:
    """Makes the features that the options name, of a classifier's layer.

    Raises:
        UserError: The options do not go together, or there is no such classifier or layer.
    """
    if settings.features is None:
        if settings.layer is not None:
            raise UserError("--layer is one of a classifier's: name its folder with --features.")
        return None
    from nextpixel.conditioning.classifier import load_classifier
    from nextpixel.conditioning.features import Features

    classifier = load_classifier(settings.features)
    if settings.layer is None:
        raise UserError(f"Say which --layer of the classifier: {', '.join(classifier.layers)}.")
    return Features(classifier, settings.layer)


def make_model(settings: Any, dataset: Dataset) -> ImageModel:
    """Makes the model to train, for the shape, the levels and the classes of the data.

    Raises:
        UserError: The model cannot be made like this, or does not fit the data.
    """
    from nextpixel.models.base.image_model import find_class

    cls = find_class(settings.model.class_path)
    options = settings.model.get("init_args")  # not there where a model has none
    arguments = dict(options.as_dict()) if options else {}
    arguments |= arguments_of_data(cls, settings.conditional, dataset)
    conditioner = make_conditioner(settings, dataset)
    if conditioner is not None:
        size = conditioner.context_size(dataset)
        check_takes(cls, conditioner.part, f"conditioned on {conditioner.in_words()}")
        arguments[conditioner.part] = size
    try:
        model = cls(shape=dataset.shape, levels=dataset.levels, **arguments)
    except UserError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:  # a user's own class may refuse, too
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{cls.__name__} cannot be made like this: {reason}.") from None
    if conditioner is not None:  # a user's own network under this name is refused later
        model.conditioner = conditioner
    return model


def arguments_of_data(cls: type[ImageModel], conditional: bool, dataset: Dataset) -> dict[str, Any]:
    """Returns the arguments of a model that its data decide.

    Raises:
        UserError: The model cannot be trained on such data.
    """
    from nextpixel.saving import arguments_of

    arguments: dict[str, Any] = {}
    if conditional and dataset.classes:
        check_takes(
            cls,
            "classes",
            f"conditioned on the classes of {dataset.name}",
            "add --conditional false",
        )
        arguments["classes"] = dataset.classes
    if dataset.codes_of is not None:
        if not cls.fits_codes:
            raise UserError(
                f"A prior over codes is an autoregressive model, and {cls.__name__} is none: give "
                "another one (see nextpixel models)."
            )
        if "inputs" in arguments_of(cls):
            arguments["inputs"] = "embedded"  # codes are categories, without an order
    return arguments


def check_takes(
    cls: type[ImageModel],
    argument: str,
    what: str,
    instead: str = "give another model (see nextpixel models)",
) -> None:
    """Checks that a model has the argument that it takes to be conditioned on something.

    Raises:
        UserError: It has not.
    """
    from nextpixel.saving import arguments_of

    if argument not in arguments_of(cls):
        raise UserError(
            f"{cls.__name__} cannot be {what}, because it takes no {argument}: {instead}."
        )
