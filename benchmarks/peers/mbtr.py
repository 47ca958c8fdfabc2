"""MBTR and LMBTR: DScribe."""

from __future__ import annotations

from functools import partial
from typing import Any

import ase
import dscribe.descriptors
import numpy as np

from atomlake.descriptors import Lmbtr, Mbtr
from atomlake.structures import CHEMICAL_SYMBOLS

from .codes import Array, Atomlake, Code, Family
from .structures import species_of

WEIGHTING = {"function": "exp", "scale": 0.5, "threshold": 1e-3}
GRIDS: dict[str, tuple[str, dict[str, float]]] = {
    "k2": ("inverse_distance", {"min": 0.0, "max": 1.0, "n": 100, "sigma": 0.02}),
    "k3": ("cosine", {"min": -1.0, "max": 1.0, "n": 100, "sigma": 0.05}),
}


def ours(structures: list[ase.Atoms], kind: type[Mbtr | Lmbtr], term: str) -> Atomlake:
    """Set up atomlake with DScribe's parameters."""
    geometry, grid = GRIDS[term]
    parameters = {
        "geometry": geometry,
        "grid": {
            "start": grid["min"],
            "stop": grid["max"],
            "n_bins": grid["n"],
            "sigma": grid["sigma"],
        },
        "weighting": WEIGHTING,
    }
    descriptor = kind.model_validate({"species": species_of(structures), "terms": [parameters]})
    return Atomlake(descriptor, structures)


class _Dscribe(Code):
    name = "DScribe"
    package = "dscribe"

    kind: type[Mbtr | Lmbtr]
    term: str

    def __init__(self, structures: list[ase.Atoms]) -> None:
        super().__init__(structures)
        geometry, grid = GRIDS[self.term]
        self.descriptor = getattr(dscribe.descriptors, self.kind.__name__.upper())(
            species=species_of(structures),
            geometry={"function": geometry},
            grid=grid,
            weighting=WEIGHTING,
            periodic=bool(structures[0].pbc.any()),
        )

    def compute(self, quantity: str) -> Any:
        """Compute structure by structure."""
        for atoms in self.structures:
            if quantity == "features":
                self.descriptor.create(atoms)
            else:
                self.descriptor.derivatives(atoms)

    def growth(self, quantity: str) -> float:
        """Every pair or triple of the structure is visited."""
        return 2.0 if self.term == "k2" else 3.0

    def twin(self, quantity: str) -> Code:
        """Return what is timed: it has the conventions of DScribe."""
        return ours(self.structures, self.kind, self.term)


class DscribeMbtr(_Dscribe):
    """DScribe's MBTR, which has analytic gradients."""

    quantities = ("features", "positions")
    kind = Mbtr

    def numbers(self, quantity: str) -> Array:
        """Return what DScribe returns, which is dense."""
        atoms = self.structures[0]
        if quantity == "features":
            return np.atleast_2d(self.descriptor.create(atoms))
        return np.asarray(self.descriptor.derivatives(atoms)[0])[np.newaxis]


class DscribeLmbtr(_Dscribe):
    """DScribe's LMBTR, whose gradients are finite differences and are left out."""

    remark = "DScribe's gradients of LMBTR are finite differences and were left out."
    kind = Lmbtr

    def numbers(self, quantity: str) -> Array:
        """Return DScribe's columns that are not zero for every structure."""
        labels = ours(self.structures, self.kind, self.term).descriptor.labels()
        values = self.descriptor.create(self.structures[0])
        species = np.stack([labels[f"species_{k}"].values for k in (1, 2, 3)], axis=1)
        columns: list[int] = []
        n_bins = GRIDS[self.term][1]["n"]
        for numbers in species[:: int(n_bins)].tolist():
            symbols = [CHEMICAL_SYMBOLS[z] for z in numbers if z >= 0]
            found = self.descriptor.get_location(tuple(symbols))
            columns += range(found.start, found.stop)
        return np.asarray(values)[:, columns]


class MbtrPairs(DscribeMbtr):
    """Pairs."""

    term = "k2"


class MbtrTriples(DscribeMbtr):
    """Triples."""

    term = "k3"


class LmbtrPairs(DscribeLmbtr):
    """Pairs."""

    term = "k2"


class LmbtrTriples(DscribeLmbtr):
    """Triples."""

    term = "k3"


_TEXT = {
    "k2": "inverse distances on 100 bins, σ 0.02, exponential weights to 13.8 Å",
    "k3": "cosines on 100 bins, σ 0.05, exponential weights of perimeters to 13.8 Å",
}
FAMILIES = tuple(
    Family(
        f"{peer.kind.__name__.upper()} {peer.term}",
        _TEXT[peer.term],
        {"features": 10.0, "positions": 10.0, "strain": 0.0},
        partial(ours, kind=peer.kind, term=peer.term),
        (peer,),
        {"features": 100.0, "positions": 100.0},
    )
    for peer in (MbtrPairs, MbtrTriples, LmbtrPairs, LmbtrTriples)
)
