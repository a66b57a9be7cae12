"""The exception for mistakes that a user can make."""

import difflib
from collections.abc import Iterable

__all__ = ["UserError", "did_you_mean"]


class UserError(ValueError):
    """A mistake of the user; the message is one clear sentence.

    It says what was wrong, what was expected and what to do. The command line prints it without a
    traceback and exits with status 2.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns a suggestion to end a message with: the known name nearest to a wrong one, or ""."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""
