"""Atomlake: features of atoms, computed once, kept in a lake."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomlake.lake import Lake, open
    from atomlake.structures import Structures

__version__ = version("atomlake")
__all__ = ["Lake", "Structures", "__version__", "open"]


def __getattr__(name: str) -> Any:
    if name in ("Lake", "open"):
        from atomlake import lake

        return getattr(lake, name)
    if name == "Structures":
        from atomlake.structures import Structures

        return Structures
    raise AttributeError(f"module 'atomlake' has no attribute {name!r}")
