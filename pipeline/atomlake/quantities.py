"""Numbers as people read them."""

from __future__ import annotations


def size(nbytes: float) -> str:
    """Return bytes with a unit, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if nbytes < 1000 or unit == "TB":
            break
        nbytes /= 1000
    return f"{nbytes:,.0f} {unit}" if unit == "B" else f"{nbytes:,.2f} {unit}"


def duration(seconds: float) -> str:
    """Return a time with a unit, to about two digits."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h"
