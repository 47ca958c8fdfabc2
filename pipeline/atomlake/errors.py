"""The errors atomlake raises, and what each one stops.

A bad structure is no exception: it is set aside (:class:`SetAside`) and the rest
of the run goes on. A bad recipe stops before any work, a bad source file is set
aside as a whole, a bad lake stops everything.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import ClassVar, NamedTuple

_PASSWORDS = re.compile(r"(?<=://)([^/@:\s]*):\S*@|(?<=password=)[^&\s]+")


class ExitCode(IntEnum):
    """What the command line ends with; schedulers and scripts decide by it."""

    DONE = 0
    UNEXPECTED = 1
    RECIPE = 2
    SOURCE = 3
    LAKE = 4
    REFUSED = 5
    INCOMPLETE = 6
    DAMAGED = 7
    CLUSTER = 8
    BUSY = 9
    CHECKS = 10
    INTERRUPTED = 130


class AtomlakeError(Exception):
    """Base of every error raised on purpose by atomlake."""

    exit_code: ClassVar[ExitCode] = ExitCode.UNEXPECTED


class RecipeError(AtomlakeError):
    """The recipe cannot be run as written; nothing was started."""

    exit_code = ExitCode.RECIPE


class SourceError(AtomlakeError):
    """A source or one of its files cannot be read at all."""

    exit_code = ExitCode.SOURCE


class StructureError(AtomlakeError):
    """One structure cannot be used; raised only where a single structure was asked for."""


class LakeError(AtomlakeError):
    """The lake cannot be read or written, or its content contradicts its catalogue."""

    exit_code = ExitCode.LAKE


class BusyError(LakeError):
    """Another run is at work in the lake."""

    exit_code = ExitCode.BUSY


class RefusedError(AtomlakeError):
    """The plan does not fit the limits, the disk or the memory; nothing was started."""

    exit_code = ExitCode.REFUSED


class ClusterError(AtomlakeError):
    """The cluster of a recipe cannot be started or reached; the lake is as it was."""

    exit_code = ExitCode.CLUSTER


class KernelCacheError(AtomlakeError):
    """The folder of compiled kernels cannot be trusted; no machine code was loaded from it."""


class SetAside(NamedTuple):
    """Why one structure is not computed.

    Attributes
    ----------
    code : str
        Stable machine-readable reason, e.g. ``"non_finite_position"``.
    reason : str
        One sentence: what was expected, what was found, what to do.
    """

    code: str
    reason: str


def without_passwords(text: str) -> str:
    """Blot out the passwords of the URLs in a message."""
    return _PASSWORDS.sub(lambda found: "***" if found[1] is None else f"{found[1]}:***@", text)
