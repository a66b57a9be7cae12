"""Exceptions: a mistake of the user, and a signal that stops the process."""

import difflib
from collections.abc import Iterable

__all__ = ["MIX_ERROR", "Stopped", "UserError", "did_you_mean"]

LONGEST = 1000  # characters of a message
MIX_ERROR = 0.005  # weights of classes in decimals, as 0.333, need not sum to 1 exactly


class UserError(ValueError):
    """A mistake of the user; the message is one clear sentence.

    It says what was wrong, what was expected and what to do. The command line prints it without a
    traceback and exits with status 2. A message that quotes too much of a damaged file is cut.
    """

    def __init__(self, message: object = "") -> None:
        text = str(message)
        if len(text) > LONGEST:
            text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 3 :]}"
        super().__init__(text)


class Stopped(KeyboardInterrupt):
    """A signal (SIGINT, SIGTERM or SIGHUP) has stopped the work, after what was done was saved.

    Attributes:
        signal: The number of the signal.
    """

    def __init__(self, signal: int) -> None:
        super().__init__()
        self.signal = signal


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Returns a suggestion to end a message with: the known name nearest to a wrong one, or "".

    Args:
        name: The wrong name.
        known: The right names.
        prefix: What to put before the suggested name.
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {prefix}{near[0]}?)" if near else ""
