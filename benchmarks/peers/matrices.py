"""Coulomb, sine and Ewald sum matrices: DScribe."""

from __future__ import annotations

from functools import partial
from typing import Any

import ase
import dscribe.descriptors
import numpy as np

from atomlake.descriptors import CoulombMatrix, EwaldMatrix, SineMatrix

from .codes import Array, Atomlake, Code, Family, Impossible

KINDS: dict[str, tuple[type[Any], str, dict[str, Any]]] = {
    "Coulomb matrix": (CoulombMatrix, "CoulombMatrix", {"ignore_periodicity": True}),
    "sine matrix": (SineMatrix, "SineMatrix", {}),
    "Ewald sum matrix": (EwaldMatrix, "EwaldSumMatrix", {}),
}


def ours(structures: list[ase.Atoms], kind: str) -> Atomlake:
    """Set up atomlake for the largest of the structures."""
    matrix, _, options = KINDS[kind]
    descriptor = matrix(n_atoms_max=max(map(len, structures)), **options)
    return Atomlake(descriptor, structures, growth=3.0)


class _Dscribe(Code):
    name = "DScribe"
    package = "dscribe"
    # Its differences are finite, of 1e-4 Å: eigenvalues that are nearly equal bend in it.
    gradient_tolerance = 1e-3
    remark = "DScribe's gradients are finite differences."

    kind: str

    def __init__(self, structures: list[ase.Atoms]) -> None:
        super().__init__(structures)
        if self.kind != "Coulomb matrix" and not all(atoms.pbc.all() for atoms in structures):
            raise Impossible("for crystals")
        self.matrix = getattr(dscribe.descriptors, KINDS[self.kind][1])(
            n_atoms_max=max(map(len, structures)), permutation="eigenspectrum"
        )

    def compute(self, quantity: str) -> Any:
        """Compute structure by structure."""
        for atoms in self.structures:
            if quantity == "features":
                self.matrix.create(atoms)
            else:
                self.matrix.derivatives(atoms)

    def growth(self, quantity: str) -> float:
        """Eigenvalues of a matrix over atoms, again for every displaced atom."""
        return 3.0 if quantity == "features" else 4.0

    def effort(self, quantity: str) -> float:
        """Two matrices for each coordinate."""
        return 1.0 if quantity == "features" else 6.0 * max(map(len, self.structures))

    def twin(self, quantity: str) -> Code:
        """Return what is timed: it has the conventions of DScribe."""
        return ours(self.structures, self.kind)

    def numbers(self, quantity: str) -> Array:
        """Return what DScribe returns, which is dense."""
        atoms = self.structures[0]
        if quantity == "features":
            return np.atleast_2d(self.matrix.create(atoms))
        return np.asarray(self.matrix.derivatives(atoms)[0])[np.newaxis]


class Coulomb(_Dscribe):
    """Of molecules, and of the atoms of one cell."""

    kind = "Coulomb matrix"
    quantities = ("features", "positions")


class Sine(_Dscribe):
    """Of crystals."""

    kind = "sine matrix"


class Ewald(_Dscribe):
    """Of crystals."""

    kind = "Ewald sum matrix"


FAMILIES = tuple(
    Family(
        peer.kind,
        "eigenvalues by magnitude",
        {"features": 0.0, "positions": 0.0, "strain": 0.0},
        partial(ours, kind=peer.kind),
        (peer,),
    )
    for peer in (Coulomb, Sine, Ewald)
)
