"""Typed errors: a stable code, what happened, what to do.

Every failure that a user can meet is a `RivetError`. Its `code` is stable over releases; `advice` is a sentence
that tells what to do next. Two flags steer the engine: `retryable` (the same call may succeed a moment later) and
`fatal` (no other window of the export can succeed either, so stop asking the database).

    RivetError
    ├── ConfigError         the user's configuration
    ├── SourceError         the database: reach, rights, tables, keys, values
    ├── PlanError           the frozen plan and what is asked of it
    ├── StoreError          the destination
    ├── IntegrityError      what is in the destination is not what its manifests say
    └── InterruptedExport   a stop was asked for
"""

from __future__ import annotations


class RivetError(Exception):
    """A failure with a stable code, a description and advice.

    Args:
        code: stable identifier, `RIVET_...`.
        what: what happened, in one sentence, with the names of the things concerned and without secrets.
        advice: what to do about it.
        retryable: trying the same again soon may succeed.
        fatal: every other window of the export would fail in the same way.
    """

    exit_code = 1

    def __init__(self, code: str, what: str, advice: str, *, retryable: bool = False, fatal: bool = False) -> None:
        super().__init__(code, what, advice)
        self.code = code
        self.what = what
        self.advice = advice
        self.retryable = retryable
        self.fatal = fatal

    def __str__(self) -> str:
        return f"{self.code}: {self.what} {self.advice}"

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.code, self.what, self.advice, self.retryable, self.fatal))

    @property
    def process_exit_code(self) -> int:
        """Exit code of the command line for this error: 2 where trying again may help."""
        return 2 if self.retryable else self.exit_code

    def to_json(self) -> dict[str, object]:
        """The error as the command line prints it with `--json`."""
        return {"code": self.code, "what": self.what, "advice": self.advice, "retryable": self.retryable}


def _rebuild(cls: type[RivetError], code: str, what: str, advice: str, retryable: bool, fatal: bool) -> RivetError:
    return cls(code, what, advice, retryable=retryable, fatal=fatal)


class ConfigError(RivetError):
    """The configuration cannot be used as it is."""


class SourceError(RivetError):
    """The source database refused, failed or holds something that cannot be exported exactly."""


class PlanError(RivetError):
    """The plan in the destination and what is asked for do not fit."""


class DriftError(PlanError):
    """The source's columns are no longer those that the plan froze."""

    exit_code = 4


class StoreError(RivetError):
    """The destination cannot be read or written."""


class IntegrityError(RivetError):
    """What is stored is not what its manifests say."""

    exit_code = 3


class InterruptedExport(RivetError):  # noqa: N818 (an interruption is not an error of anybody)
    """The export was asked to stop; finished windows are kept."""
