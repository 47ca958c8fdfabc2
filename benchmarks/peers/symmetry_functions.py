"""Symmetry functions: DScribe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ase
import dscribe.descriptors
import numpy as np

from atomlake.descriptors import SymmetryFunctions

from .codes import N_COMPARED, Array, Atomlake, Code, Family
from .structures import species_of

CUTOFF = 6.0
RADIAL = [(eta, 0.0) for eta in np.logspace(-2, 0.5, 8).tolist()]
ANGULAR = [(eta, zeta, sign) for eta in (0.003, 0.03) for zeta in (1, 4) for sign in (1, -1)]


def descriptor(
    structures: list[ase.Atoms], angular: Sequence[tuple[float, float, float]] = ANGULAR
) -> SymmetryFunctions:
    """Return ours, with the conventions of DScribe."""
    return SymmetryFunctions.preset(
        "dscribe", species=species_of(structures), cutoff=CUTOFF, g2=RADIAL, g4=angular
    )


def ours(
    structures: list[ase.Atoms], angular: Sequence[tuple[float, float, float]] = ANGULAR
) -> Atomlake:
    """Set up atomlake as the pipeline calls it."""
    return Atomlake(descriptor(structures, angular), structures)


def ours_radial(structures: list[ase.Atoms]) -> Atomlake:
    """Set up the radial functions alone."""
    return ours(structures, angular=())


class InMemory(Atomlake):
    """One call with structures of ase, which are converted and checked, and labelled results."""

    def compute(self, quantity: str) -> None:
        """Compute features as a user without a lake does."""
        self.descriptor.compute(self.structures)


def ours_in_memory(structures: list[ase.Atoms]) -> InMemory:
    """Set up atomlake as its users without a lake call it."""
    return InMemory(descriptor(structures), structures)


class Dscribe(Code):
    """DScribe's atom-centred symmetry functions."""

    name = "DScribe"
    package = "dscribe"
    quantities = ("features", "positions")
    remark = "DScribe's gradients are finite differences."
    # Its differences are finite, of 1e-4 Å.
    gradient_tolerance = 1e-5

    angular: Sequence[tuple[float, float, float]] = ANGULAR

    def __init__(self, structures: list[ase.Atoms]) -> None:
        super().__init__(structures)
        self.functions = dscribe.descriptors.ACSF(
            r_cut=CUTOFF,
            species=species_of(structures),
            periodic=bool(structures[0].pbc.any()),
            g2_params=RADIAL,
            g4_params=list(self.angular) or None,
        )

    def compute(self, quantity: str) -> Any:
        """Compute structure by structure."""
        for atoms in self.structures:
            if quantity == "features":
                self.functions.create(atoms)
            else:
                self.functions.derivatives(atoms, attach=True)

    def nbytes(self, quantity: str) -> float:
        """Return the size of the dense array of derivatives of one structure."""
        n = max(map(len, self.structures))
        n_features = self.functions.get_number_of_features()
        return 0.0 if quantity == "features" else 8.0 * n * n * 3 * n_features

    def growth(self, quantity: str) -> float:
        """Every displaced atom is a computation of all environments."""
        return 1.0 if quantity == "features" else 2.0

    def effort(self, quantity: str) -> float:
        """Two computations for each coordinate."""
        return 1.0 if quantity == "features" else 6.0 * max(map(len, self.structures))

    def twin(self, quantity: str) -> Code:
        """Return what is timed: it has the conventions of DScribe."""
        return ours(self.structures, self.angular)

    def numbers(self, quantity: str) -> Array:
        """Return what DScribe returns, which is dense."""
        atoms = self.structures[0]
        if quantity == "features":
            return np.asarray(self.functions.create(atoms))
        centres = list(range(min(len(atoms), N_COMPARED)))
        derivatives, _ = self.functions.derivatives(atoms, centers=centres, attach=True)
        return np.asarray(derivatives)


class DscribeRadial(Dscribe):
    """The radial functions alone."""

    quantities = ("features",)
    remark = ""
    angular = ()


FAMILIES = (
    Family(
        "symmetry functions",
        "8 radial (G2) and 8 angular (G4) functions for each element and pair of elements, "
        "cutoff 6 Å",
        {"features": 10.0, "positions": 10.0, "strain": 0.0},
        ours,
        (Dscribe,),
    ),
    Family(
        "symmetry functions, radial alone",
        "8 radial (G2) functions for each element, cutoff 6 Å",
        {"features": 10.0},
        ours_radial,
        (DscribeRadial,),
    ),
    Family(
        "symmetry functions, in memory",
        "as symmetry functions, by one call with structures of ase that checks them and labels "
        "the result",
        {"features": 10.0},
        ours_in_memory,
        (Dscribe,),
    ),
)
