"""The one exception type whose message is meant for the user."""

from __future__ import annotations


class ScalingError(Exception):
    """An expected failure: bad input, an impossible request, a refusal.

    The message is one sentence that says what is wrong, where (file, line, field,
    value) and what to do. The command line prints it without a traceback and exits
    with `exit_status`.
    """

    exit_status = 1


class UsageError(ScalingError):
    """The request itself is malformed (an unparsable quantity, an unknown name)."""

    exit_status = 2


class Refusal(ScalingError):
    """The data or the request cannot support an honest answer; says why and what would help."""


class Interrupted(ScalingError):
    """A signal ended the work before its end; the same command goes on with it. No failure, and no result."""

    def __init__(self, message: str, signal: int = 15) -> None:
        super().__init__(message)
        self.exit_status = 128 + signal  # what a shell reports of a process that a signal ended
