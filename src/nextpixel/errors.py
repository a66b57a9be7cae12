"""The one exception for mistakes a user can make."""

__all__ = ["UserError"]


class UserError(ValueError):
    """Something the user asked for cannot be done; the message is one clear sentence that says why.

    The sentence says what was wrong, what was expected and what to do. The command line prints it
    without a traceback and exits with status 2.
    """
