"""What can go wrong, and with which exit code.

ClosedbookError
├── RequestError   the request was wrong: exit code 2
│   ├── SourceError    a benchmark's source is missing, malformed or changed
│   └── ManifestError  a manifest is missing, malformed or does not fit its source
└── WorkError      the request was right but the work failed: exit code 1
    └── Unfinished     the same, and a rerun goes on from what is done

Every message is one line that says what, where, and what to do. The command line prints it without a traceback.
"""

from __future__ import annotations

import logging
from functools import cache

__all__ = ["ClosedbookError", "ManifestError", "RequestError", "SourceError", "Unfinished", "WorkError"]

log = logging.getLogger(__name__)


class ClosedbookError(Exception):
    """Base of all errors that a person can act on."""

    exit_code = 1


class RequestError(ClosedbookError):
    """The request cannot be carried out as it stands: a wrong name, a missing file, an unset key."""

    exit_code = 2


class SourceError(RequestError):
    """A benchmark's source is missing, malformed, or not the one that its manifest pins."""


class ManifestError(RequestError):
    """A manifest is missing, malformed, or does not fit its source."""


class WorkError(ClosedbookError):
    """The work itself failed: a full disk, an unreachable server, a model that cannot be loaded."""


class Unfinished(WorkError):
    """Work that ended early and can go on from what is done; how to ask for that is for the command to say."""


def one_line(error: BaseException, longest: int = 300) -> str:
    """What an error says, on one line, with its type where it says nothing else."""
    return (" ".join(str(error).split()) or type(error).__name__)[:longest]


@cache
def warn_once(message: str) -> None:
    """Log a warning that concerns the whole run; lm-eval builds a task more than once."""
    log.warning(message)
