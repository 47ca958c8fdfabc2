"""λ-SOAP and the bispectrum: featomic's products of spherical expansions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import ase
import numpy as np
from featomic import SphericalExpansion
from featomic.clebsch_gordan import DensityCorrelations, EquivariantPowerSpectrum
from metatensor import Labels

from atomlake.descriptors import Bispectrum, LambdaSoap

from .codes import Array, Atomlake, Code, Family
from .soap import featomic_expansion, featomic_structures
from .structures import species_of

LAMBDA_SOAP: dict[str, Any] = {"cutoff": 5.0, "n_max": 4, "l_max": 4, "sigma": 0.5}
BISPECTRUM: dict[str, Any] = {"cutoff": 5.0, "n_max": 3, "l_max": 3, "sigma": 0.5}


def lambda_soap(structures: list[ase.Atoms], degree: int) -> Atomlake:
    """Set up atomlake with the conventions of featomic."""
    species = species_of(structures)
    descriptor = LambdaSoap.preset("featomic", species=species, degree=degree, **LAMBDA_SOAP)
    return Atomlake(descriptor, structures)


def bispectrum(structures: list[ase.Atoms]) -> Atomlake:
    """Set up atomlake with featomic's radial functions."""
    species = species_of(structures)
    parameters = {"radial_basis": "gto_monomial", **BISPECTRUM}
    return Atomlake(Bispectrum.model_validate({"species": species, **parameters}), structures)


class _Correlations(Code):
    name = "featomic"
    package = "featomic"
    # Its splines of radial integrals are right to 1e-8 of the largest coefficient.
    tolerance = 1e-7

    def __init__(self, structures: list[ase.Atoms]) -> None:
        super().__init__(featomic_structures(structures))
        self.species = species_of(structures)
        self.types = [int(z) for z in ase.Atoms(list(self.species)).numbers]

    def matched(self, blocks: Any, n_factors: int, labels: Any) -> Array:
        """Return the columns of featomic's blocks in the order of our labels."""
        place = {}
        for key, block in blocks:
            names = [(f"l_{k}", f"neighbor_{k}_type", f"n_{k}") for k in range(1, n_factors + 1)]
            columns = [
                [key[name] if name in key.names else block.properties[name] for name in factor]
                for factor in names
            ]
            n = len(block.properties)
            table = np.stack(
                [[np.broadcast_to(c, n) for c in factor] for factor in columns]
            ).transpose(2, 0, 1)
            values = block.values[np.argsort(block.samples["atom"])]
            sign = int(key["o3_sigma"])
            for f, factors in enumerate(table.tolist()):
                place[sign, *map(tuple, factors)] = values[..., f]
        ours = zip(
            labels.parity.values.tolist(),
            *(
                zip(
                    *(labels[f"{name}_{k}"].values.tolist() for name in ("l", "species", "n")),
                    strict=True,
                )
                for k in range(1, n_factors + 1)
            ),
            strict=True,
        )
        return np.stack([place[feature] for feature in ours], axis=-1)


class FeatomicLambdaSoap(_Correlations):
    """featomic's equivariant power spectrum of the one degree."""

    remark = "featomic has no gradients of these."

    degree: int

    def __init__(self, structures: list[ase.Atoms]) -> None:
        super().__init__(structures)
        expansion = SphericalExpansion(**featomic_expansion(**LAMBDA_SOAP))
        self.calculator = EquivariantPowerSpectrum(expansion, neighbor_types=self.types)

    def compute(self, quantity: str) -> Any:
        """Compute the degree that is wanted, of both parities."""
        return self._compute(self.structures)

    def _compute(self, structures: Sequence[ase.Atoms]) -> Any:
        return self.calculator.compute(
            structures,
            selected_keys=Labels(["o3_lambda"], np.array([[self.degree]])),
            neighbors_to_properties=True,
        )

    def nbytes(self, quantity: str) -> float:
        """Return the size of the features, which hold every pair twice."""
        n_values = lambda_soap(self.structures[:1], self.degree).descriptor.n_values
        return 16.0 * sum(map(len, self.structures)) * n_values

    def twin(self, quantity: str) -> Code:
        """Return the preset of its name."""
        return lambda_soap(self.structures, self.degree)

    def numbers(self, quantity: str) -> Array:
        """Return featomic's columns that atomlake keeps."""
        result = self._compute(self.structures[:1]).keys_to_samples("center_type")
        labels = lambda_soap(self.structures, self.degree).descriptor.labels()
        matched = self.matched(result.items(), 2, labels)
        return matched.reshape(len(matched), -1)


class Vectors(FeatomicLambdaSoap):
    """Of degree 1."""

    degree = 1


class Tensors(FeatomicLambdaSoap):
    """Of degree 2."""

    degree = 2


class FeatomicBispectrum(_Correlations):
    """featomic's density correlations of three densities."""

    remark = "featomic has no gradients of these."

    def __init__(self, structures: list[ase.Atoms]) -> None:
        super().__init__(structures)
        self.expansion = SphericalExpansion(**featomic_expansion(**BISPECTRUM))
        self.fast, self.complete = (
            DensityCorrelations(
                n_correlations=2,
                max_angular=2 * BISPECTRUM["l_max"],
                skip_redundant=skip_redundant,
            )
            for skip_redundant in (True, False)
        )

    def compute(self, quantity: str) -> Any:
        """Compute the invariants, each once."""
        return self._compute(self.structures, self.fast)

    def _compute(self, structures: Sequence[ase.Atoms], calculator: Any) -> Any:
        density = self.expansion.compute(structures).keys_to_samples("center_type")
        types = Labels(["neighbor_type"], np.array(self.types).reshape(-1, 1))
        return calculator.compute(
            density.keys_to_properties(types),
            angular_cutoff=BISPECTRUM["l_max"],
            selected_keys=Labels(["o3_lambda", "o3_sigma"], np.array([[0, 1]])),
        )

    def nbytes(self, quantity: str) -> float:
        """Return the size of the features, which hold every permutation."""
        n_values = bispectrum(self.structures).descriptor.n_values
        return 8.0 * 6 * sum(map(len, self.structures)) * n_values

    def twin(self, quantity: str) -> Code:
        """Return what is timed."""
        return bispectrum(self.structures)

    def numbers(self, quantity: str) -> Array:
        """Return featomic's columns that atomlake keeps, weighted by their permutations."""
        result = self._compute(self.structures[:1], self.complete)
        labels = bispectrum(self.structures).descriptor.labels()
        factors = np.stack(
            [[labels[f"{name}_{k}"].values for name in ("l", "species", "n")] for k in (1, 2, 3)]
        )
        n_distinct = [len(np.unique(factors[..., f], axis=0)) for f in range(factors.shape[-1])]
        n_orderings = np.array([1, 3, 6])[np.array(n_distinct) - 1]
        matched = self.matched(result.items(), 3, labels)
        return matched[:, 0] * np.sqrt(n_orderings)


FAMILIES = (
    *(
        Family(
            f"λ-SOAP, λ {peer.degree}",
            "both parities, n_max 4, l_max 4, cutoff 5 Å, σ 0.5 Å",
            {"features": 10.0, "positions": 0.0, "strain": 0.0},
            partial(lambda_soap, degree=peer.degree),
            (peer,),
        )
        for peer in (Vectors, Tensors)
    ),
    Family(
        "bispectrum",
        "proper scalars, n_max 3, l_max 3, cutoff 5 Å, σ 0.5 Å",
        {"features": 10.0, "positions": 0.0, "strain": 0.0},
        bispectrum,
        (FeatomicBispectrum,),
    ),
)
