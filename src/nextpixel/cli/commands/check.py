"""Check that a model is causal and normalised, and that gradients and the cache are right.

A line for each check, in seconds. A model that is not causal sees pixels that it has to predict:
its scores are too good and its samples are noise. The exit status is 1 if a check fails.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextpixel.cli.options import MODEL, Parser, add_trust, parse_numbers, positive, seed
from nextpixel.errors import UserError
from nextpixel.utils.progress import progress

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from nextpixel.evaluation.model_checks import Finding
    from nextpixel.models.base.autoregressive import AutoregressiveModel

__all__ = ["EXAMPLES", "arguments", "report", "run"]

EXAMPLES = [
    "nextpixel check mnist",
    "nextpixel check my_file.MyNet --out leak.png",
    "nextpixel check my_file.MyNet width=16 --shape 3,16,16 --levels 256 --classes 10",
]
SHAPE, LEVELS = "1,14,14", 4
SECONDS = 5  # that the search for a leak may take, about


def arguments(parser: Parser) -> None:
    """Adds the options."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help=f"{MODEL}, or the dotted path of a class of your own, as my_file.MyNet",
    )
    parser.add_argument(
        "arguments", nargs="*", metavar="NAME=VALUE", help="arguments of the class, as width=16"
    )
    group = parser.add_argument_group("images of a class")
    group.add_argument("--shape", metavar="C,H,W", help=f"their shape (default: {SHAPE})")
    group.add_argument("--levels", type=positive, help=f"their levels (default: {LEVELS})")
    group.add_argument("--classes", type=positive, help="number of classes (default: none)")
    parser.add_argument("--seed", type=seed, default=0, help="seed of random weights and images")
    parser.add_output(
        "--out", (".png",), "draw a heat map of what a pixel depends on, and of a leak"
    )
    group = parser.add_argument_group("machine")
    group.add_argument("--threads", type=positive, help="number of processor threads")
    add_trust(group)


def run(args: argparse.Namespace) -> int:
    """Checks the model; returns 1 if a check fails."""
    from nextpixel.evaluation import dependence as depends
    from nextpixel.evaluation import model_checks as checks
    from nextpixel.utils.devices import set_threads

    set_threads(args.threads)
    model = load_or_make(args)
    findings: list[Finding] = []
    with progress("checking") as show:
        leak = checks.find_leak(model, seconds=SECONDS, seed=args.seed)
        findings.append(checks.check_causal(model, leak))
        show(0.3)
        findings.append(checks.check_sum(model))
        findings.append(checks.check_cache(model))
        show(0.5)
        findings.append(checks.check_gradients(model))
        show(0.6)
        site = depends.viewpoint(model.shape, leak)
        strength = depends.dependence(
            model, site, leak, progress=lambda done: show(0.6 + 0.4 * done)
        )
        findings.append(depends.view(model, site, strength))
    written = []
    if args.out is not None:
        from nextpixel.viz.dependence import dependence
        from nextpixel.viz.field_figures import save_figure

        title = f"{type(model).__name__}: what row {site.row}, column {site.col} depends on"
        save_figure(dependence(strength, site[:2], title), args.out)
        written.append(args.out)
    report(findings, written)
    return int(any(finding.passed is False for finding in findings))


def report(findings: Sequence[Finding], written: Sequence[Path]) -> None:
    """Prints a line for each check, and the files."""
    words = {True: "pass", False: "FAIL", None: "-"}
    for name, passed, reason in findings:
        print(f"{name:10}  {words[passed]:4}  {reason}")
    if written:
        print(f"Written: {', '.join(map(str, written))}")


def load_or_make(args: argparse.Namespace) -> AutoregressiveModel:
    """Loads a saved model, or makes one of a class.

    Raises:
        UserError: There is no such model or class, or it is not autoregressive.
    """
    from nextpixel.cli.loading import load_model
    from nextpixel.evaluation import receptive_field
    from nextpixel.models.base.autoregressive import autoregressive
    from nextpixel.models.base.image_model import find_class
    from nextpixel.training.recipes import make_of_class

    path, is_kind = args.model, args.model in receptive_field.KINDS
    dotted = "." in path and "/" not in path and not Path(path).exists()
    if not (dotted or is_kind):
        given = (args.shape, args.levels, args.classes)
        if args.arguments or any(each is not None for each in given):
            raise UserError(
                "A saved model has its own shape: leave --shape, --levels, --classes and "
                "NAME=VALUE out, or name a class."
            )
        return load_model(path, conditioned=True, trust=args.trust)
    options: dict[str, Any] = dict(receptive_field.SMALL[path]) if is_kind else {}
    options |= read_arguments(args.arguments)
    options["shape"] = parse_numbers(args.shape or SHAPE, 3, "--shape")
    options["levels"] = args.levels or LEVELS
    if args.classes is not None:
        options["classes"] = args.classes
    return autoregressive(make_of_class(find_class(path), **options), path)


def read_arguments(words: Sequence[str]) -> dict[str, Any]:
    """Reads NAME=VALUE; values are those of YAML."""
    import yaml

    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"Arguments of the class are given as width=16, not {word}.")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"{word} cannot be read: give a value as in width=16.") from None
    return found
