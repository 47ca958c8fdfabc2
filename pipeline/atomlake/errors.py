"""The errors atomlake raises, and what each one stops.

A bad structure is no exception: it is set aside (:class:`SetAside`) and the rest
of the run goes on. A bad recipe stops before any work, a bad source file is set
aside as a whole, a bad lake stops everything.
"""

from __future__ import annotations

from typing import NamedTuple


class AtomlakeError(Exception):
    """Base of every error raised on purpose by atomlake."""


class RecipeError(AtomlakeError):
    """The recipe cannot be run as written; nothing was started."""


class SourceError(AtomlakeError):
    """A source or one of its files cannot be read at all."""


class StructureError(AtomlakeError):
    """One structure cannot be used; raised only where a single structure was asked for."""


class LakeError(AtomlakeError):
    """The lake cannot be read or written, or its content contradicts its catalogue."""


class ClusterError(AtomlakeError):
    """The cluster of a recipe cannot be started or reached; the lake is as it was."""


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
