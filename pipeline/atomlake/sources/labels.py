"""Labels: which values of a record travel with its structure, and in which shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from atomlake.sources.base import LabelKeys, Unreadable
from atomlake.structures import Floats

#: Finds the value of a key in a record, None where there is none.
Lookup = Callable[[str], Any]


def structure_labels(keys: LabelKeys, lookup: Lookup) -> dict[str, Floats]:
    """Take the labels of a whole structure from its record.

    Parameters
    ----------
    keys : LabelKeys
        Keys that the recipe names.
    lookup : callable
        Returns the value of a key: a number, a sequence of numbers or None.

    Returns
    -------
    dict of str to float64 array
        ``energy`` (), ``stress`` (3, 3) and what the recipe names, flat.

    Raises
    ------
    Unreadable
        If a key that the recipe names holds something else than is wanted of it. Under
        the default keys ``energy`` and ``stress`` such a value is no label.
    """
    labels = {}
    if (energy := _find(keys.energy, "energy", lookup, _scalar)) is not None:
        labels["energy"] = energy
    if (stress := _find(keys.stress, "stress", lookup, _stress)) is not None:
        labels["stress"] = stress
    for key in keys.structure:
        if (value := _find(key, key, lookup, _flat)) is not None:
            labels[key] = value
    return labels


def atom_labels(keys: LabelKeys, n_atoms: int, lookup: Lookup) -> dict[str, Floats]:
    """Take the labels of atoms from a record, as :func:`structure_labels` does.

    Returns
    -------
    dict of str to float64 array
        ``forces`` (n_atoms, 3) and what the recipe names, (n_atoms, ...).
    """

    def vectors(value: Any) -> Floats | None:
        found = _numbers(value)
        return found if found is not None and found.shape == (n_atoms, 3) else None

    def rows(value: Any) -> Floats | None:
        found = _numbers(value)
        return found if found is not None and found.shape[:1] == (n_atoms,) else None

    labels = {}
    if (forces := _find(keys.forces, "forces", lookup, vectors)) is not None:
        labels["forces"] = forces
    for key in keys.atom:
        if (value := _find(key, key, lookup, rows)) is not None:
            labels[key] = value
    return labels


def _find(
    key: str | None, default: str, lookup: Lookup, shaped: Callable[[Any], Floats | None]
) -> Floats | None:
    value = lookup(key or default)
    if value is None:
        return None
    result = shaped(value)
    if result is None and key is not None:
        raise Unreadable(
            "malformed_label",
            f"the recipe takes a label from {key!r}, but that holds {str(value)[:60]!r}, which "
            "has not the type or the shape of it; name another key or correct the value",
        )
    return result


def _numbers(value: Any) -> Floats | None:
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None


def _scalar(value: Any) -> Floats | None:
    found = _numbers(value)
    return found.reshape(()) if found is not None and found.size == 1 else None


def _flat(value: Any) -> Floats | None:
    found = _numbers(value)
    if found is None or found.size == 0:
        return None
    return found.reshape(()) if found.size == 1 else found.reshape(-1)


def _stress(value: Any) -> Floats | None:
    """Six numbers in the order xx yy zz yz xz xy, or nine."""
    found = _numbers(value)
    if found is None or found.size not in (6, 9):
        return None
    if found.size == 6:
        return found.reshape(6)[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3)
    return found.reshape(3, 3)
