"""Every array that atomlake hands out or stores: its name, dimensions, unit and meaning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Variable:
    """What one named array is.

    Attributes
    ----------
    dims : tuple of str
        Dimension names. ``atom_bound`` and ``structure_bound`` are one longer than
        ``atom`` and ``structure``.
    dtype : str
        Numpy dtype; ``"feature"`` stands for the dtype of the descriptor.
    units : str
        Unit; ``"1"`` for plain numbers. Features are dimensionless unless their
        descriptor says otherwise.
    long_name : str
        One line for people and plots.
    """

    dims: tuple[str, ...]
    dtype: str
    units: str
    long_name: str

    @property
    def attributes(self) -> dict[str, str]:
        """Attributes that travel with the array."""
        return {"units": self.units, "long_name": self.long_name}


STRUCTURE_VARIABLES: Mapping[str, Variable] = {
    "numbers": Variable(("atom",), "int32", "1", "atomic number"),
    "positions": Variable(("atom", "xyz"), "float64", "Å", "Cartesian position"),
    "cells": Variable(("structure", "cell_vector", "xyz"), "float64", "Å", "cell vectors, as rows"),
    "pbc": Variable(("structure", "cell_vector"), "bool", "1", "periodic along the cell vector"),
    "structure_offsets": Variable(
        ("structure_bound",), "int64", "1", "atoms of structure s are offsets[s]:offsets[s+1]"
    ),
    "energy": Variable(("structure",), "float64", "eV", "energy"),
    "stress": Variable(("structure", "xyz", "xyz2"), "float64", "eV/Å^3", "stress"),
    "forces": Variable(("atom", "xyz"), "float64", "eV/Å", "force"),
}

PAIR_VARIABLES: Mapping[str, Variable] = {
    "pair_offsets": Variable(
        ("atom_bound",), "int64", "1", "pairs of centre i are offsets[i]:offsets[i+1]"
    ),
    "neighbour_index": Variable(("pair",), "int64", "1", "atom that is the neighbour"),
    "cell_shift": Variable(
        ("pair", "cell_vector"), "int32", "1", "cell vectors added to the neighbour's position"
    ),
}


def feature_variables(per: str, positions: str, component: bool = False) -> dict[str, Variable]:
    """Arrays that a descriptor produces.

    Parameters
    ----------
    per : {"atom", "structure"}
        What one row of features describes.
    positions : {"none", "summed", "pairs"}
        Form of the gradients (see :class:`atomlake.descriptors.base.Gradients`).
    component : bool
        Whether features carry an equivariant component.
    """
    tail = ("component", "feature") if component else ("feature",)
    rows: tuple[str, ...]
    strain: tuple[str, ...]
    if per == "structure":
        rows, strain = ("atom",), ("structure",)
    elif positions == "summed":
        rows, strain = ("atom", "centre_species"), ("structure", "centre_species")
    else:
        rows, strain = ("pair",), ("atom",)
    return {
        "features": Variable((per, *tail), "feature", "1", "feature"),
        "gradient_positions": Variable(
            (*rows, "xyz", *tail), "feature", "1/Å", "derivative of the feature by a position"
        ),
        "gradient_strain": Variable(
            (*strain, "xyz", "xyz2", *tail),
            "feature",
            "1",
            "derivative of the feature by strain, where r becomes (1 + strain) r",
        ),
    }
