"""Recipes: which model to train, on what kind of data, and how; in plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nextpixel.errors import UserError
from nextpixel.utils.reading import memory

if TYPE_CHECKING:
    from nextpixel.conditioning.conditioner import Conditioner
    from nextpixel.conditioning.degradation import Task, TaskName
    from nextpixel.conditioning.features import Features
    from nextpixel.data import Dataset
    from nextpixel.models.base.image_model import ImageModel

__all__ = ["Recipe", "make_conditioner", "make_features", "make_of_class", "make_task"]

TRAINED_BYTES = 16  # a parameter's value, gradient and two moments


@dataclass(frozen=True)
class Recipe:
    """Describes a model to train, without its data.

    Attributes:
        model: The model's name or dotted path, see `find_class`.
        arguments: Arguments of its `__init__` but those that the data decide.
        levels: The levels that pixels are requantised to, or None.
        conditional: Whether the model is conditioned on the classes, if the data have any. None for
            yes, but not with a task: an image to restore seldom comes with its class.
        task: The restoration task that it is trained for, or None.
        task_options: Fields of `Task`; None where they are not set.
        classifier: The classifier whose features it is conditioned on, or None.
        layer: The classifier's layer.
        train: Fields of `TrainArgs`.
    """

    model: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    levels: int | None = None
    conditional: bool | None = None
    task: TaskName | None = None
    task_options: Mapping[str, Any] = field(default_factory=dict)
    classifier: str | None = None
    layer: str | None = None
    train: Mapping[str, Any] = field(default_factory=dict)

    def make_model(self, dataset: Dataset) -> ImageModel:
        """Makes the model for the shape, the levels and the classes of a data set.

        Raises:
            UserError: The arguments are wrong, or the model does not fit the data.
        """
        from nextpixel.models.base.image_model import find_class

        cls = find_class(self.model)
        conditional = self.task is None if self.conditional is None else self.conditional
        arguments = {**self.arguments, **data_arguments(cls, dataset, conditional)}
        conditioner = make_conditioner(
            dataset,
            make_task(self.task, self.task_options),
            make_features(self.classifier, self.layer),
        )
        if conditioner is not None:
            size = conditioner.context_size(dataset)
            what = f"conditioned on {conditioner.in_words()}"
            leave_out = {"restore": "leave --task out, or ", "vary": "leave --features out, or "}
            instead = leave_out.get(conditioner.role, "") + "give another model"
            check_argument(cls, conditioner.part, what, f"{instead} (see nextpixel models)")
            arguments[conditioner.part] = size
        model = make_of_class(cls, shape=dataset.shape, levels=dataset.levels, **arguments)
        if conditioner is not None:  # `check_dataset` refuses a user's own module of this name
            model.conditioner = conditioner
        return model


def make_of_class(cls: type[ImageModel], **arguments: Any) -> ImageModel:
    """Makes a model, maybe of the user's own class.

    Raises:
        UserError: The class does not accept these arguments, or the model is too large to be
            trained in this machine's memory.
    """
    import torch

    from nextpixel.utils.limits import at_most, check_sizes

    largest = memory() // TRAINED_BYTES
    try:
        check_sizes(arguments, cls.__name__)
        if cls.__module__.startswith("nextpixel."):  # a user's class may not bear to be made twice
            with at_most(largest, cls.__name__), torch.device("meta"):  # takes no memory
                cls(**arguments)
        with at_most(largest, cls.__name__):
            return cls(**arguments)
    except UserError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{cls.__name__} cannot be made like this: {reason}.") from None


def data_arguments(cls: type[ImageModel], dataset: Dataset, conditional: bool) -> dict[str, Any]:
    """Returns the arguments of a model that follow from its data set, but for shape and levels.

    Raises:
        UserError: The model cannot be trained on this data set.
    """
    from nextpixel.saving import arguments_of

    arguments: dict[str, Any] = {}
    if conditional and dataset.classes:
        what = f"conditioned on the classes of {dataset.name}"
        check_argument(cls, "classes", what, "add --conditional false")
        arguments["classes"] = dataset.classes
    if dataset.codes_of is not None:
        if not cls.fits_codes:
            raise UserError(
                f"{cls.__name__} cannot be a prior over codes, because it is not autoregressive: "
                "give another model (see nextpixel models)."
            )
        if "inputs" in arguments_of(cls):
            arguments["inputs"] = "embedded"  # codes are categories, without an order
    return arguments


def check_argument(cls: type[ImageModel], argument: str, what: str, instead: str) -> None:
    """Checks that a model has the argument by which it is conditioned on something.

    Raises:
        UserError: It does not.
    """
    from nextpixel.saving import arguments_of

    if argument not in arguments_of(cls):
        raise UserError(
            f"{cls.__name__} cannot be {what}, because it takes no {argument}: {instead}."
        )


def make_conditioner(
    dataset: Dataset, task: Task | None, features: Features | None
) -> Conditioner | None:
    """Chooses the conditioner: the task, the features, or the data set's coarse codes.

    Raises:
        UserError: There is more than one.
    """
    from nextpixel.conditioning.conditioner import CoarseCodes

    if dataset.coarse_codes is not None:
        if task or features:
            raise UserError(
                f"A prior over the codes of {dataset.name} is conditioned on the top codes: leave "
                "--task and --features out."
            )
        return CoarseCodes()
    if task and features:
        raise UserError("A model is conditioned on a --task or on --features: give one of them.")
    return task or features


def make_task(name: TaskName | None, options: Mapping[str, Any]) -> Task | None:
    """Makes a restoration task with its own options.

    Args:
        name: The task, or None.
        options: Fields of `Task`; those that are None keep their defaults.

    Raises:
        UserError: An option belongs to another task.
    """
    from nextpixel.conditioning.degradation import Task

    options = {key: value for key, value in options.items() if value is not None}
    task = None if name is None else Task(name, **options)
    for key in options:
        if task is None or key not in task.settings():
            what = "goes with a --task" if task is None else f"is no option of --task {task.name}"
            raise UserError(
                f"--{key.replace('_', '-')} {what}: leave it out, or see nextpixel train --help."
            )
    return task


def make_features(classifier: str | None, layer: str | None) -> Features | None:
    """Loads a classifier, to condition a model on one of its layers.

    Raises:
        UserError: One of the two is missing, or there is no such classifier or layer.
    """
    if classifier is None:
        if layer is not None:
            raise UserError("--layer needs a classifier: name its folder with --features.")
        return None
    from nextpixel.conditioning.classifier import load_classifier
    from nextpixel.conditioning.features import Features

    loaded = load_classifier(classifier)
    if layer is None:
        raise UserError(f"Give --layer, a layer of the classifier: {', '.join(loaded.layers)}.")
    return Features(loaded, layer)
