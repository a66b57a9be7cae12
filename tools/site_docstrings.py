"""Makes the examples of docstrings code on the documentation site; an extension of Griffe.

Google's style has "Example:" as well as "Examples:", and Griffe reads only the second as code.
"""

from __future__ import annotations

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Renames the sections."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Renames the sections of one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE
            )
