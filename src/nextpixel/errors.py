"""The one exception for mistakes a user can make."""

import difflib
from collections.abc import Iterable

__all__ = ["UserError", "did_you_mean"]


class UserError(ValueError):
    """Something the user asked for cannot be done; the message is one clear sentence that says why.

    The sentence says what was wrong, what was expected and what to do. The command line prints it
    without a traceback and exits with status 2.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Writes the known name nearest to a wrong one, to end a sentence with; "" if none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""
