"""Exact-likelihood pixel models: PixelCNN and its family, trained, scored and sampled exactly.

Importing this is cheap: a name is imported from its module when it is first used. `__init__.pyi`
lists the names and their modules.

Example:
    >>> import nextpixel as npx
    >>> model = npx.load("mnist")
    >>> x = model.sample(16, c=3, seed=0)  # (16, 1, 28, 28) integers
    >>> nats = -model.log_prob(x, c=3)  # (16,)
"""

import ast
from importlib import import_module
from pathlib import Path
from typing import Any

_MODULES = {
    name.name: line.module
    for line in ast.parse(Path(__file__).with_suffix(".pyi").read_text()).body
    if isinstance(line, ast.ImportFrom) and line.module
    for name in line.names
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'nextpixel' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
