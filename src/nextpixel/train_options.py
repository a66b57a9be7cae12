"""The options of `nextpixel train`: those of the models come from their own signatures."""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from nextpixel.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from nextpixel.data import Dataset
    from nextpixel.features import Features
    from nextpixel.model import ImageModel
    from nextpixel.restoration import Task

__all__ = ["make_model", "train_settings"]

SEE = "see nextpixel train --help"


def train_settings(argv: list[str]) -> Any:
    """Reads the options of `nextpixel train`: those of a resumed run, a YAML file, the arguments.

    Raises:
        UserError: An option is unknown or has a wrong value, or one is missing.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--resume")
    try:
        resumed = first.parse_known_args(argv)[0].resume
        if resumed is not None:
            saved = Path(resumed) / "config.yaml"
            if not saved.is_file():
                raise UserError(f"There is no run in {resumed}: it has no config.yaml.")
            argv = ["--config", str(saved), *argv]
        settings = train_parser().parse_args(argv)
    except (argparse.ArgumentError, UnicodeDecodeError) as error:
        refuse(argv)
        # Whatever it is that we do not find ourselves, told in the parser's own words.
        raise UserError(f"{' '.join(str(error).split()).rstrip('.')}; {SEE}") from None
    if (settings.resume is None) == (settings.out is None):
        raise UserError("Name a folder for the run with --out, or one to go on with by --resume.")
    if settings.model is None:
        raise UserError("Say which model to train, for example --model GatedPixelCNN.")
    return settings


# --- what is wrong with options that could not be parsed ------------------------------------------


def refuse(argv: list[str]) -> None:
    """Finds the first option that is unknown or has a wrong value, and refuses it.

    Each option is looked at by itself, in the order given: in the files named by --config, too.

    Raises:
        UserError: There is such an option.
    """
    from nextpixel import models
    from nextpixel.model import find_class

    types = option_types()
    model: type[ImageModel] | None = None
    for option, value in flattened(argv):
        name = option.replace(".init_args.", ".").removesuffix(".class_path")
        name = name if "." in name else name.replace("_", "-")  # as written in a file
        if name == "model" and value:
            try:
                model = find_class(str(value))
            except UserError as error:
                guess = did_you_mean(str(value), models.__all__)
                raise UserError(f"{str(error).rstrip('.')}{guess}") from None
            types |= {f"model.{own}": kind for own, kind in model_options(model).items()}
        elif name == "model" or (name.startswith("model.") and model is None):
            raise UserError(
                "Say which model to train before its options, for example --model GatedPixelCNN; "
                f"{SEE}"
            )
        elif name not in types:
            raise UserError(f"{unknown(name, types, model)}; {SEE}")
        elif not accepts(types[name], value):
            given = "nothing" if value == "" else value
            raise UserError(f"--{name} takes {described(types[name])}, not {given}; {SEE}")


def flattened(argv: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Lists the options given, with the values as they are: text of arguments, or from a file.

    Raises:
        UserError: A file given as --config cannot be read, or an argument is no option.
    """
    words = deque(argv)
    while words:
        word = words.popleft()
        option, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            raise UserError(f"Cannot tell what {word} is for: options begin with --; {SEE}")
        if not equals and words and not words[0].startswith("--"):
            value = words.popleft()
        if option == "config" and value:
            yield from leaves("", read_yaml(Path(value)))
        else:
            yield option, value  # "" where there is none


def leaves(prefix: str, options: Any) -> Iterator[tuple[str, Any]]:
    """Lists the options of nested mappings, with dots between the names."""
    if not isinstance(options, Mapping):
        yield prefix, options
        return
    # A model comes before its options, in whatever order they are written.
    for name, value in sorted(options.items(), key=lambda item: item[0] != "class_path"):
        yield from leaves(f"{prefix}.{name}" if prefix else str(name), value)


def read_yaml(file: Path) -> Mapping[str, Any]:
    """Reads options from a YAML file.

    Raises:
        UserError: There is no such file, or it holds something else.
    """
    import yaml

    try:
        options = yaml.safe_load(file.read_text())
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"Cannot read {file} ({reason}): give --config a YAML file.") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}, given as --config, is not text: give a YAML file.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)  # most errors tell where they are
        where = f" (line {mark.line + 1})" if mark else ""
        raise UserError(f"{file} is not YAML{where}: correct it.") from None
    if not isinstance(options, Mapping):
        raise UserError(f"{file} holds {options!r}, not options as in name: value.")
    return options


def option_types() -> dict[str, Any]:
    """Lists the options of `nextpixel train` but those of a model, with their types."""
    from nextpixel.training import TrainArgs

    types = {name: kind for name, (kind, _, _) in options().items()}
    trained = get_type_hints(TrainArgs)
    types |= {"model": str, "config": str}
    return types | {f"train.{field.name}": trained[field.name] for field in fields(TrainArgs)}


def model_options(cls: type[ImageModel]) -> dict[str, Any]:
    """Lists the options that a model has of its own, with their types."""
    from nextpixel.model import arguments_of

    types = get_type_hints(cls.__init__)
    return {name: types.get(name, Any) for name in arguments_of(cls) - given_by_data()}


def accepts(kind: Any, value: Any) -> bool:
    """Tells whether a value can be read as a type, by parsing nothing but this option."""
    import jsonargparse

    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--option", type=kind)
    try:
        if isinstance(value, str):
            parser.parse_args([f"--option={value}"])
        else:
            parser.parse_object({"option": value})
    except (argparse.ArgumentError, TypeError, ValueError):
        return False
    return True


def described(kind: Any) -> str:
    """Says in words which values a type has."""
    if isinstance(kind, UnionType) or get_origin(kind) is Union:
        return " or ".join(described(each) for each in get_args(kind) if each is not NoneType)
    if get_origin(kind) is Literal:
        return f"one of {list(get_args(kind))}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return words.get(kind, f"a value like {kind}")


def unknown(name: str, types: Iterable[str], model: type[ImageModel] | None) -> str:
    """Says that there is no such option, and names the one that is likely meant."""
    where, dot, last = name.rpartition(".")
    from nextpixel.model import model_name

    siblings = [kind.removeprefix(where + dot) for kind in types if kind.startswith(where + dot)]
    guess = did_you_mean(last, siblings)
    if where == "model" and model is not None:
        return f"Option {last!r} is not accepted by {model_name(model)}{guess}"
    return f"There is no option --{name}{guess}"


def make_task(settings: Any) -> Task | None:
    """Makes the task that the options name, with its own options.

    Raises:
        UserError: An option belongs to another task.
    """
    from nextpixel.restoration import Task

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
    if settings.task is not None:
        raise UserError("--task and --features tell a model different things: give one of them.")
    from nextpixel.classifier import load_classifier
    from nextpixel.features import Features

    classifier = load_classifier(settings.features)
    if settings.layer is None:
        raise UserError(f"Say which --layer of the classifier: {', '.join(classifier.layers)}.")
    return Features(classifier, settings.layer)


def make_model(settings: Any, dataset: Dataset) -> ImageModel:
    """Makes the model to train, for the shape, the levels and the classes of the data."""
    from nextpixel.autoregressive import AutoregressiveModel
    from nextpixel.model import arguments_of, find_class

    cls = find_class(settings.model.class_path)
    options = settings.model.get("init_args")  # not there where a model has none
    arguments = dict(options.as_dict()) if options else {}
    if settings.conditional and dataset.classes:
        if "classes" not in arguments_of(cls):
            raise UserError(
                f"{cls.__name__} cannot be given the classes of {dataset.name}: add "
                "--conditional false."
            )
        arguments["classes"] = dataset.classes
    if dataset.codes_of is not None:
        if not issubclass(cls, AutoregressiveModel):
            raise UserError(
                f"A prior over codes is an autoregressive model, and {cls.__name__} is none: give "
                "another one (see nextpixel models)."
            )
        if "inputs" in arguments_of(cls):
            arguments["inputs"] = "embedded"  # codes are categories, without an order
    task = make_task(settings)
    if task is not None:
        if "image" not in arguments_of(cls):
            raise UserError(f"{cls.__name__} cannot be given an image, so it has no --task.")
        arguments["image"] = task.context_shape(dataset.shape)
    features = make_features(settings)
    if features is not None:
        features.check(dataset.shape, dataset.levels)
        if features.part not in arguments_of(cls):
            raise UserError(
                f"{cls.__name__} cannot be given {'an' if features.part == 'image' else 'a'} "
                f"{features.part}, so it has no --features of the layer {features.layer}."
            )
        dense = features.part == "vector"
        arguments[features.part] = features.shape[0] if dense else features.shape
    if dataset.beside is not None:
        if task is not None or features is not None or "image" not in arguments_of(cls):
            raise UserError(
                f"A prior over the codes of {dataset.name} is told the codes of the top grid, and "
                "nothing else but the class: give a model that can be (see nextpixel models), "
                "without --task or --features."
            )
        arguments["image"] = dataset.beside
    try:
        model = cls(shape=dataset.shape, levels=dataset.levels, **arguments)
        model.task = task
        if features is not None:  # a user's own network under this name is refused later
            model.features = features
        return model
    except UserError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:  # a user's own class may refuse, too
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{cls.__name__} cannot be made like this: {reason}.") from None


def options() -> dict[str, tuple[Any, Any, str]]:
    """Lists the options of `nextpixel train` itself: their types, defaults and explanations."""
    from nextpixel.restoration import Holes, NoiseKind, TaskName

    return {
        "out": (str | None, None, "the run folder"),
        "resume": (str | None, None, "a run folder to go on with, exactly"),
        "data": (
            str,
            "mnist",
            "a name, a path to your own, wavs:FOLDER, codes:RUN, or codes:RUN#bottom",
        ),
        "levels": (int | None, None, "requantise pixels to so many levels"),
        "size": (int | None, None, "side that a folder's images are cut to"),
        "channels": (int | None, None, "1 for grey, 3 for colour"),
        "conditional": (bool, True, "on the classes, if any"),
        "task": (TaskName | None, None, "learn to undo this, done to the images"),
        "factor": (int | None, None, "of super-resolution (4)"),
        "noise": (float | None, None, "of denoise: how much (0.3)"),
        "noise-kind": (NoiseKind | None, None, "of denoise (gaussian)"),
        "sigma": (float | None, None, "of deblur, in pixels (2)"),
        "holes": (Holes | None, None, "of inpaint (mixed)"),
        "features": (str | None, None, "tell it what this classifier says of an image"),
        "layer": (str | None, None, "the classifier's layer: embedding, conv2, ..."),
        "data-dir": (str | None, None, "where to look for data first"),
        "device": (str, "auto", "auto, cpu, cuda or cuda:N"),
        "threads": (int | None, None, "processor threads to use"),
    }


def given_by_data() -> set[str]:
    """Names the arguments of models that are no options, because the data decide them."""
    from nextpixel.context import Takes

    return {"shape", "levels", *Takes._fields}


def train_parser() -> Any:
    """Makes the parser of `nextpixel train`; models' options come from their signatures."""
    import jsonargparse

    import nextpixel.models  # noqa: F401  (their bare names are known once they are imported)
    from nextpixel.model import ImageModel
    from nextpixel.training import TrainArgs

    parser = jsonargparse.ArgumentParser(
        prog="nextpixel train",
        description="Train a model by maximum likelihood; a stopped run can be resumed exactly.",
        epilog="For example: nextpixel train --model GatedPixelCNN --model.width 32 --data mnist "
        "--levels 4 --train.steps 300 --out runs/mine. The options of a kind of model: "
        "nextpixel train --model.help GatedPixelCNN",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="a YAML file with these options")
    for name, (kind, default, explanation) in options().items():
        parser.add_argument(f"--{name}", type=kind, default=default, help=explanation)
    parser.add_subclass_arguments(
        ImageModel,
        "model",
        skip=given_by_data(),
        required=False,
        help="GatedPixelCNN, PixelCNNPP, ... (see nextpixel models), or your own's dotted path",
    )
    parser.add_class_arguments(TrainArgs, "train")
    return parser
