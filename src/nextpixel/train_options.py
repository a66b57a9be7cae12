"""The options of `nextpixel train`: those of the models come from their own signatures."""

from __future__ import annotations

import argparse
import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextpixel.errors import UserError

if TYPE_CHECKING:
    from nextpixel.conditioning.conditioner import Conditioner
    from nextpixel.data import Dataset
    from nextpixel.features import Features
    from nextpixel.model import ImageModel
    from nextpixel.restoration import Task

__all__ = ["make_model", "train_settings"]


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
            argv = ["--config", resumed_config(saved, "--trust" in argv), *argv]
        settings = train_parser().parse_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(refusal(str(error))) from None
    except UnicodeDecodeError:
        raise UserError("The file given as --config is not text: give a YAML file.") from None
    if (settings.resume is None) == (settings.out is None):
        raise UserError("Name a folder for the run with --out, or one to go on with by --resume.")
    if settings.model is None:
        raise UserError("Say which model to train, for example --model GatedPixelCNN.")
    return settings


def resumed_config(file: Path, trust: bool) -> str:
    """Reads the configuration of a run to resume, with today's names of hyperparameters.

    Returns:
        YAML, for `--config`.

    Raises:
        UserError: It is damaged, or names a class outside nextpixel and is not trusted, see
            `saving.check_trusted`.
    """
    import yaml

    from nextpixel.saving import check_trusted, with_new_names

    try:
        config = yaml.safe_load(file.read_text())
        model = config["model"]
        name = str(model["class_path"])
        model["init_args"] = with_new_names(model.get("init_args") or {})
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file} is not the configuration of a run: {reason}.") from None
    check_trusted(name, file, trust)
    return yaml.safe_dump(config, sort_keys=False)


def refusal(message: str) -> str:
    """Makes a sentence of the many lines in which jsonargparse says what is wrong.

    Raises:
        UserError: The name of a model is wrong.
    """
    keys = re.findall(r'Parser key "([^"]+)"', message)
    named = re.search(r"(?:class_path'?:? '|Given value: )(?!NestedArg)([\w.]+)", message)
    model = named[1].removeprefix("nextpixel.") if named and keys[:1] == ["model"] else None
    option = re.search(r"Option '(.+)' is not accepted$", message, re.MULTILINE)
    kind = re.search(
        r"Expected an? (?:<class '(int|float|bool|str)'>|typing.Literal(\[.*?\]))", message
    )
    value = re.search(r"(?:Got value: |val='|Given value: )(.*?)(?:'\)|$)", message, re.MULTILINE)
    if option:
        sentence = f"Option '{option[1]}' is not accepted" + (f" by {model}" if model else "")
    elif kind and value:
        words = {"int": "a whole number", "float": "a number", "bool": "true or false"}
        what = f"one of {kind[2]}" if kind[2] else words.get(kind[1], "a text")
        sentence = f"--{'.'.join(keys)} takes {what}, not {value[1]}"
    elif keys == ["model"] and model is None:
        sentence = "Say which model to train before its options, for example --model GatedPixelCNN"
    else:
        if model is not None:
            from nextpixel.model import find_class

            find_class(model)  # says it better, where the name is wrong
        sentence = essence(message)
    return f"{sentence[:1].upper()}{sentence[1:]}; see nextpixel train --help."


def essence(message: str) -> str:
    """Keeps of an error's lines those that say what is wrong."""
    text = re.sub(r'Parser key "[^"]+":|"<unicode string>", ', "", message)
    noise = ("Expected a path", "Does not validate", "Subtypes:", "Errors:", "Given value")
    lines = [line.strip(" -") for line in text.splitlines()]
    return " ".join(line for line in lines if not line.startswith((*noise, "Expected a <class")))


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
    from nextpixel.classifier import load_classifier
    from nextpixel.features import Features

    classifier = load_classifier(settings.features)
    if settings.layer is None:
        raise UserError(f"Say which --layer of the classifier: {', '.join(classifier.layers)}.")
    return Features(classifier, settings.layer)


def make_model(settings: Any, dataset: Dataset) -> ImageModel:
    """Makes the model to train, for the shape, the levels and the classes of the data.

    Raises:
        UserError: The model cannot be made like this, or does not fit the data.
    """
    from nextpixel.model import find_class

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


def train_parser() -> Any:
    """Makes the parser of `nextpixel train`; models' options come from their signatures."""
    import jsonargparse

    import nextpixel.models  # noqa: F401  (their bare names are known once they are imported)
    from nextpixel.context import ContextSpec
    from nextpixel.model import ImageModel
    from nextpixel.restoration import Holes, NoiseKind, TaskName
    from nextpixel.training import TrainArgs

    parser = jsonargparse.ArgumentParser(
        prog="nextpixel train",
        description="Train a model by maximum likelihood; a stopped run can be resumed exactly.",
        epilog="The options of a kind of model: nextpixel train --model.help GatedPixelCNN",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="a YAML file with these options")
    parser.add_argument("--out", type=str | None, help="the run folder")
    parser.add_argument("--resume", type=str | None, help="a run folder to go on with, exactly")
    parser.add_argument(
        "--data",
        type=str,
        default="mnist",
        help="a name, a path to your own, wavs:FOLDER, codes:RUN, or codes:RUN#bottom",
    )
    parser.add_argument("--levels", type=int | None, help="requantise pixels to so many levels")
    parser.add_argument("--size", type=int | None, help="side that a folder's images are cut to")
    parser.add_argument("--channels", type=int | None, help="1 for grey, 3 for colour")
    parser.add_argument("--conditional", type=bool, default=True, help="on the classes, if any")
    parser.add_argument(
        "--task", type=TaskName | None, help="learn to undo this, done to the images"
    )
    parser.add_argument("--factor", type=int | None, help="of super-resolution (4)")
    parser.add_argument("--noise", type=float | None, help="of denoise: how much (0.3)")
    parser.add_argument("--noise-kind", type=NoiseKind | None, help="of denoise (gaussian)")
    parser.add_argument("--sigma", type=float | None, help="of deblur, in pixels (2)")
    parser.add_argument("--holes", type=Holes | None, help="of inpaint (mixed)")
    parser.add_argument(
        "--features", type=str | None, help="tell it what this classifier says of an image"
    )
    parser.add_argument(
        "--layer", type=str | None, help="the classifier's layer: embedding, conv2, ..."
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="with --resume: go on with a model that is not nextpixel's; this runs its code",
    )
    parser.add_argument("--data-dir", type=str | None, help="where to look for data first")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int | None, help="processor threads to use")
    parser.add_subclass_arguments(
        ImageModel,
        "model",
        skip={"shape", "levels", *ContextSpec._fields},
        required=False,
        help="GatedPixelCNN, PixelCNNPP, ... (see nextpixel models), or your own's dotted path",
    )
    parser.add_class_arguments(TrainArgs, "train")
    return parser
