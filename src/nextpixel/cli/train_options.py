"""The options of `nextpixel train`; those of a model come from its signature."""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from nextpixel.cli.options import DATA
from nextpixel.errors import UserError, did_you_mean
from nextpixel.utils.reading import (
    dump_yaml,
    is_utf8,
    mapping,
    parse_yaml,
    read_json,
    read_yaml,
    refusing_damage,
)

if TYPE_CHECKING:
    from nextpixel.models.base.image_model import ImageModel
    from nextpixel.training.recipes import Recipe

__all__ = ["options", "read_recipe", "recipe_of", "train_settings"]

SEE = "see nextpixel train --help"
SWITCHES = ("trust", "yes", "accept-changed-data")  # options without a value


def read_recipe(option: str, source: str) -> Recipe:
    """Reads a recipe from a YAML file (option "--config") or a kind of model ("--model").

    Raises:
        UserError: An option in it is unknown or has a wrong value, or one is missing.
    """
    return recipe_of(train_settings([option, source, "--out", "-"]))


def recipe_of(settings: Any) -> Recipe:
    """Turns the parsed options of `nextpixel train` into a recipe.

    Args:
        settings: What `train_settings` returns.
    """
    from nextpixel.conditioning.degradation import Task
    from nextpixel.training.recipes import Recipe

    arguments = settings.model.get("init_args")  # missing where a model has none
    task_options = [field.name for field in fields(Task) if field.name != "name"]
    return Recipe(
        model=settings.model.class_path,
        arguments=dict(arguments.as_dict()) if arguments else {},
        levels=settings.levels,
        conditional=settings.conditional,
        task=settings.task,
        task_options={name: settings[name] for name in task_options},
        classifier=settings.features,
        layer=settings.layer,
        train=dict(vars(settings.train)),
    )


def train_settings(argv: list[str]) -> Any:
    """Reads the options of `nextpixel train` from a run to resume, a YAML file and arguments.

    Args:
        argv: The arguments.

    Returns:
        A jsonargparse namespace, see `recipe_of`.

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
            argv = [*resumed_arguments(saved, "--trust" in argv), *argv]
        else:
            argv = with_model(argv)
        settings = train_parser().parse_args(argv)
    except (argparse.ArgumentError, UnicodeDecodeError, OverflowError) as error:
        refuse(argv)
        # `refuse` found nothing: show the parser's own message.
        raise UserError(f"{' '.join(str(error).split()).rstrip('.')}; {SEE}") from None
    if (settings.resume is None) == (settings.out is None):
        raise UserError("Name a new run folder with --out, or a run to resume with --resume.")
    if settings.model is None:
        raise UserError(f"Name the model to train, for example --model GatedPixelCNN; {SEE}")
    if not hasattr(settings.train, "steps"):
        given = "nothing" if settings.train is None else f"{settings.train!r:.60}"
        raise UserError(f"train holds {given}, not options as in steps: 100; {SEE}")
    if settings.data is None:  # in the configuration of a run
        raise UserError("That run was trained on data made in Python: name its data with --data.")
    return settings


def with_model(argv: list[str]) -> list[str]:
    """Puts the model first, with the arguments of its size; the user's own follow.

    Without a model it is a PixelCNN++, for codes a Gated PixelCNN, for --from that model's class.
    A file given as --config has its own arguments.

    Raises:
        UserError: --size or --from does not go with the other options.
    """
    from nextpixel.training.sizes import SIZES, size_arguments

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("model", "size", "from", "config", "data"):
        parser.add_argument(f"--{name}", action="append" if name == "config" else "store")
    given = parser.parse_known_args(argv)[0]
    start = getattr(given, "from")
    if start is not None:
        for word in argv:
            if word.startswith(("--model", "--size", "--config")):
                raise UserError(f"--from takes the model of {start} as it is: leave {word} out.")
        return ["--model", kind_of(start, "--trust" in argv), *argv]
    if given.config:
        if given.size is not None:
            raise UserError("--size is for a new model, and --config describes one: leave it out.")
        for file in given.config:
            read_options(file)  # what is nested deeply would take the parser's time and memory
        return argv
    codes = (given.data or "").startswith("codes:")
    model = given.model or ("GatedPixelCNN" if codes else "PixelCNNPP")
    if given.size is not None and model not in SIZES:
        raise UserError(f"--size is for {', '.join(SIZES)}: leave it out for {model}.")
    arguments = size_arguments(model, given.size or "small")
    sized = [word for name, value in arguments.items() for word in (f"--model.{name}", str(value))]
    if given.model is None:
        return ["--model", model, *sized, *argv]
    at = next(i for i, word in enumerate(argv) if word.partition("=")[0] == "--model")
    after = at + (1 if "=" in argv[at] else 2)
    return [*argv[:after], *sized, *argv[after:]]


def kind_of(name: str, trust: bool) -> str:
    """Reads the class of a saved model, see `saving.model_name`, without loading it.

    Raises:
        UserError: There is no such model, or its class is not trusted.
    """
    from nextpixel.model_folders import check_trusted, find

    file = find(name) / "config.json"
    with refusing_damage(file, "configuration of a model", "take another copy of the model"):
        kind = str(mapping(read_json(file))["model"])
    check_trusted(kind, file, trust)
    return kind


def resumed_arguments(file: Path, trust: bool) -> list[str]:
    """Reads the configuration of a run to resume, with the current names of hyperparameters.

    Args:
        file: The run's `config.yaml`.
        trust: Whether a class outside nextpixel may be imported, see `saving.check_trusted`.

    Returns:
        `--config` with YAML, and the options that YAML cannot hold.

    Raises:
        UserError: The file is damaged, or names a class that is not trusted.
    """
    from nextpixel.model_folders import check_trusted, renamed_options, up_to_date

    with refusing_damage(file, "configuration of a run", "take another copy of the run"):
        config = renamed_options(mapping(read_yaml(file)))
        config["model"] = model = mapping(config["model"])
        name = str(model["class_path"])
        model["init_args"] = up_to_date(name, model.get("init_args") or {})
        check_run_options(config, file)
    check_trusted(name, file, trust)
    apart = {option: value for option, value in config.items() if not is_utf8(value)}
    rest = {option: value for option, value in config.items() if option not in apart}
    words = [f"--{option.replace('_', '-')}={value}" for option, value in apart.items()]
    return ["--config", dump_yaml(rest).decode(), *words]


def check_run_options(config: Mapping[str, Any], file: Path) -> None:
    """Refuses options that no run saves, since they could name another class to import.

    Raises:
        UserError: There is such an option.
    """
    names = {name.replace("-", "_") for name in options()}
    found = [option for option, _ in leaves("", config)]
    if "model.class_path" in found:
        found.remove("model.class_path")  # a second one, written with a dot, is left
    for option in found:
        known = option in names or option.startswith(("model.init_args.", "train."))
        if not known or "class_path" in option:
            raise UserError(f"{file} is not the configuration of a run: no run has {option}.")


# --- options that cannot be parsed ----------------------------------------------------------------


def refuse(argv: list[str]) -> None:
    """Refuses the first option that is unknown or has a wrong value, if there is one.

    Options are checked one by one in their order, including those in files given as --config.

    Raises:
        UserError: There is such an option.
    """
    from nextpixel import models
    from nextpixel.models.base.image_model import find_class

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
                "Name the model to train before its options, for example --model GatedPixelCNN; "
                f"{SEE}"
            )
        elif name not in types:
            raise UserError(f"{unknown(name, types, model)}; {SEE}")
        elif not accepts(types[name], value):
            given = "nothing" if value == "" else f"{value!s:.60}"
            raise UserError(f"--{name} takes {described(types[name])}, not {given}; {SEE}")


def flattened(argv: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Lists options and their values: text from arguments, YAML values from a file.

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
            yield from leaves("", read_options(value))
        elif option not in SWITCHES:
            yield option, value  # "" where there is none


def leaves(prefix: str, options: Any) -> Iterator[tuple[str, Any]]:
    """Lists the options of nested mappings, with dots between the names."""
    if not isinstance(options, Mapping):
        yield prefix, options
        return
    # A model comes before its options, in whatever order they are written.
    for name, value in sorted(options.items(), key=lambda item: item[0] != "class_path"):
        yield from leaves(f"{prefix}.{name}" if prefix else str(name), value)


def read_options(value: str) -> Mapping[str, Any]:
    """Reads options from a YAML file, or from YAML itself.

    Raises:
        UserError: There is no such file, or it holds something else.
    """
    file = "The configuration" if "\n" in value else value
    with refusing_damage(file, "YAML", "correct it"):
        options = parse_yaml(value) if "\n" in value else read_yaml(value)
    if not isinstance(options, Mapping):
        raise UserError(f"{file} holds {options!r:.60}, not options as in name: value.")
    return options


def option_types() -> dict[str, Any]:
    """Lists the options of `nextpixel train` except those of a model, with their types."""
    from nextpixel.training.config import TrainArgs

    types = {name: kind for name, (kind, _, _) in options().items()}
    trained = get_type_hints(TrainArgs)
    types |= {"model": str, "config": str}
    return types | {f"train.{field.name}": trained[field.name] for field in fields(TrainArgs)}


def model_options(cls: type[ImageModel]) -> dict[str, Any]:
    """Lists a model's own options, with their types."""
    from nextpixel.saving import arguments_of

    types = get_type_hints(cls.__init__)
    return {name: types.get(name, Any) for name in arguments_of(cls) - given_by_data()}


def accepts(kind: Any, value: Any) -> bool:
    """Checks whether a value can be read as a type, by parsing this option alone."""
    import jsonargparse

    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--option", type=kind)
    try:
        if isinstance(value, str):
            parser.parse_args([f"--option={value}"])
        else:
            parser.parse_object({"option": value})
    except (argparse.ArgumentError, TypeError, ValueError, OverflowError):
        return False
    return True


def described(kind: Any) -> str:
    """Describes the values of a type in words."""
    if isinstance(kind, UnionType) or get_origin(kind) is Union:
        return " or ".join(described(each) for each in get_args(kind) if each is not NoneType)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return words.get(kind, f"a value like {kind}")


def unknown(name: str, types: Iterable[str], model: type[ImageModel] | None) -> str:
    """Writes that there is no such option, and suggests the one that is likely meant."""
    from nextpixel.saving import model_name

    where, dot, last = name.rpartition(".")
    siblings = [kind.removeprefix(where + dot) for kind in types if kind.startswith(where + dot)]
    guess = did_you_mean(last, siblings, f"--{where}{dot}")
    if where == "model" and model is not None:
        return f"{model_name(model)} takes no --{name}{guess}"
    return f"There is no option --{name}{guess}"


def options() -> dict[str, tuple[Any, Any, str]]:
    """Lists the options of `nextpixel train` itself: their types, defaults and help."""
    from nextpixel.conditioning.degradation import Holes, NoiseKind, TaskName
    from nextpixel.training.sizes import Size

    return {
        "out": (str | None, None, "the run folder"),
        "resume": (str | None, None, "a run folder to resume, exactly"),
        "data": (
            str,
            "mnist",
            f"{DATA}; codes:RUN#bottom for the bottom codes of a VQ-VAE-2",
        ),
        "size": (Size | None, None, "size of a new model (small); see docs/do/choosing.md"),
        "from": (str | None, None, "start from the weights of this model, pretrained or a run"),
        "levels": (int | None, None, "requantise pixels to N levels"),
        "resize": (int | None, None, "crop and resize a folder's images to N x N"),
        "channels": (int | None, None, "1 for grey, 3 for colour"),
        "conditional": (
            bool | None,
            None,
            "condition it on the classes, if any (default: true, but false with --task)",
        ),
        "task": (TaskName | None, None, "learn to restore images degraded in this way"),
        "factor": (int | None, None, "super-resolution: side of the blocks (4)"),
        "noise": (float | None, None, "denoise: amount of noise (0.3)"),
        "noise-kind": (NoiseKind | None, None, "denoise: kind of noise (gaussian)"),
        "sigma": (float | None, None, "deblur: width of the blur in pixels (2)"),
        "holes": (Holes | None, None, "inpaint: shape of the holes (mixed)"),
        "features": (str | None, None, "condition it on this classifier's features"),
        "layer": (str | None, None, "the classifier's layer: embedding, conv2, ..."),
        "data-dir": (str | None, None, "folder to search for data sets first"),
        "device": (str, "auto", "auto, cpu, cuda or cuda:N"),
        "threads": (int | None, None, "number of processor threads"),
    }


def metavar(kind: Any) -> str | None:
    """Returns what stands for an option's value in the help; None for the option's name."""
    if isinstance(kind, UnionType) or get_origin(kind) is Union:
        return next(filter(None, map(metavar, get_args(kind))), None)
    if get_origin(kind) is Literal:
        return f"{{{','.join(get_args(kind))}}}"
    return {int: "N", float: "X", bool: "{true,false}"}.get(kind)


def given_by_data() -> set[str]:
    """Returns the names of the models' arguments that the data decide; they are no options."""
    from nextpixel.context import PARTS

    return {"shape", "levels", *PARTS}


def train_parser() -> Any:
    """Makes the parser of `nextpixel train`; models' options come from their signatures."""
    import jsonargparse

    import nextpixel.models  # noqa: F401  (their bare names are known once they are imported)
    from nextpixel.models.base.image_model import ImageModel
    from nextpixel.training.config import TrainArgs

    class Help(jsonargparse.DefaultHelpFormatter):
        """Formats help as other commands do: without types, and without defaults that are None."""

        def _get_help_string(self, action: argparse.Action) -> str:
            return super()._get_help_string(action).replace("type: %(type)s, ", "")

        def _expand_help(self, action: argparse.Action) -> str:
            text = super()._expand_help(action)
            return text.replace(" (default: null)", "").replace("default: null, ", "")

        def _fill_text(self, text: str, width: int, indent: str) -> str:
            lines = text.startswith("examples:")
            return text if lines else super()._fill_text(text, width, indent)

    parser = jsonargparse.ArgumentParser(
        prog="nextpixel train",
        usage="nextpixel train [OPTIONS]",
        description="Train a model on your own images, or on a data set of the catalogue, by "
        "maximum likelihood; a stopped run can be resumed exactly.",
        formatter_class=Help,
        epilog="examples:\n\n"
        "  nextpixel train --model GatedPixelCNN --model.width 32 --levels 4 --train.steps 300\n"
        "  nextpixel train --data my-pictures --resize 32 --train.minutes 30 --out runs/mine\n"
        "  nextpixel train --resume runs/mine\n"
        "  nextpixel train --model.help GatedPixelCNN  # the options of a kind of model",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="a YAML file with these options")
    for name, (kind, default, explanation) in options().items():
        parser.add_argument(
            f"--{name}", type=kind, default=default, help=explanation, metavar=metavar(kind)
        )
    parser.add_argument(
        "--yes", action="store_true", help="start even if it takes more than an hour"
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="with --resume, --from or codes:RUN: also load models of other classes than "
        "nextpixel's, which runs their code",
    )
    parser.add_argument(
        "--accept-changed-data",
        action="store_true",
        help="with --resume: train on with own data that have changed since the run was begun",
    )
    parser.add_subclass_arguments(
        ImageModel,
        "model",
        skip=given_by_data(),
        required=False,
        help="GatedPixelCNN, PixelCNNPP, ... (see nextpixel models), or your own dotted path",
    )
    parser.add_class_arguments(TrainArgs, "train")
    return parser
