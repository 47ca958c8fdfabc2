"""λ-SOAP and bispectrum against featomic: the same numbers, and how long they take.

Both run in one process with one thread, after a first call, on the same structures, and make
their own neighbour list and expansion. featomic is asked for the degree and parity that is
compared and nothing else, and to leave out what differs in the order of the degrees; it
still keeps both orders of factors of equal degree, which are the same numbers. It
has no gradients of these, so ours stand alone.

    python benchmarks/correlations.py
"""

from __future__ import annotations

import os
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from math import factorial, prod
from typing import Any

import ase
import numpy as np
from ase.build import bulk
from ase.collections import g2

from atomlake.descriptors import Bispectrum, LambdaSoap
from atomlake.descriptors.base import Gradients, empty_rows
from atomlake.descriptors.correlations import DensityCorrelation
from atomlake.neighbours import find_neighbours
from atomlake.structures import Structures

# featomic passes on what others have deprecated.
warnings.simplefilter("ignore")
import featomic  # noqa: E402
from featomic import clebsch_gordan  # noqa: E402
from metatensor import Labels, TensorMap  # noqa: E402

CUTOFF, SIGMA = 5.0, 0.5
FAMILIES: dict[str, dict[str, Any]] = {
    "λ-SOAP, λ = 1": {"n_max": 4, "l_max": 4, "degree": 1},
    "λ-SOAP, λ = 2": {"n_max": 4, "l_max": 4, "degree": 2},
    "bispectrum": {"n_max": 3, "l_max": 3},
}


def systems() -> dict[str, list[ase.Atoms]]:
    """Return molecules, a metal and an alloy of five elements."""
    alloy = bulk("Ni", "fcc", a=3.56, cubic=True).repeat(3)
    alloy.numbers = np.random.default_rng(0).choice([24, 25, 26, 27, 28], len(alloy))
    molecules = [g2[name] for name in g2.names if set(g2[name].symbols) <= set("HCNO")]
    result = {
        "H C N O molecules": [atoms for atoms in molecules if len(atoms) > 1],
        "Cu": [bulk("Cu", cubic=True).repeat(4)],
        "CrMnFeCoNi": [alloy],
    }
    for group in result.values():
        for seed, atoms in enumerate(group):
            atoms.rattle(0.05, seed=seed)
    return result


def descriptor(species: list[str], size: dict[str, Any]) -> DensityCorrelation:
    """Return ours, in featomic's basis and with its factors."""
    common = {**size, "species": species, "cutoff": CUTOFF, "sigma": SIGMA}
    common["radial_basis"] = "gto_monomial"
    if "degree" in size:
        return LambdaSoap(**common, normalisation="coupling")
    return Bispectrum(**common)


def peer(
    size: dict[str, Any], species: list[str], spline_accuracy: float | None = 1e-8
) -> Callable[[list[ase.Atoms]], TensorMap]:
    """Return featomic's calculation from structures to coupled products."""
    expansion = featomic.SphericalExpansion(
        cutoff={"radius": CUTOFF, "smoothing": {"type": "ShiftedCosine", "width": 0.5}},
        density={"type": "Gaussian", "width": SIGMA},
        basis={
            "type": "TensorProduct",
            "max_angular": size["l_max"],
            "radial": {"type": "Gto", "max_radial": size["n_max"] - 1},
            "spline_accuracy": spline_accuracy,
        },
    )
    numbers = [int(ase.data.atomic_numbers[symbol]) for symbol in species]
    if "degree" in size:
        spectrum = clebsch_gordan.EquivariantPowerSpectrum(expansion, neighbor_types=numbers)
        keys = Labels(["o3_lambda"], np.array([[size["degree"]]]))
        return partial(spectrum.compute, selected_keys=keys, neighbors_to_properties=True)
    products = clebsch_gordan.DensityCorrelations(n_correlations=2, max_angular=3 * size["l_max"])
    keys = Labels(["o3_lambda", "o3_sigma"], np.array([[0, 1]]))
    neighbours = Labels(["neighbor_type"], np.array(numbers).reshape(-1, 1))

    def correlations(group: list[ase.Atoms]) -> TensorMap:
        density = expansion.compute(group).keys_to_samples("center_type")
        density = density.keys_to_properties(neighbours)
        return products.compute(density, angular_cutoff=size["l_max"], selected_keys=keys)

    return correlations


def check(atoms: ase.Atoms, species: list[str], size: dict[str, Any]) -> None:
    """Refuse to time codes that do not compute the same thing.

    Compares what does not depend on the order of features, the sum of their squares. Ours
    have the weight of all orders of their factors, which featomic has for equal degrees only.
    """
    ours = descriptor(species, size).compute(atoms)
    theirs = peer(size, species, None)([atoms])
    if "center_type" in theirs.keys.names:
        theirs = theirs.keys_to_samples("center_type")
    n_factors = 2 if "degree" in size else 3
    degrees = np.stack([ours[f"l_{k + 1}"].values for k in range(n_factors)], axis=1)
    n_orders = [prod(map(factorial, Counter(row).values())) for row in degrees.tolist()]
    squares = ours.features.values.reshape(len(atoms), -1, len(n_orders)) ** 2
    actual = (squares * n_orders).sum(axis=(1, 2)) / factorial(n_factors)
    expected = sum(
        (block.values[np.argsort(block.samples["atom"])] ** 2).reshape(len(atoms), -1).sum(axis=1)
        for block in theirs.blocks()
    )
    # Both tabulate radial integrals, with errors of 1e-8.
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def microseconds(function: Callable[[], object], n_atoms: int, at_least: float = 0.3) -> float:
    """Least processor time of a call, per atom: other programs do not count."""
    function()
    times: list[float] = []
    while len(times) < 2 or sum(times) < at_least:
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times) / n_atoms * 1e6


def compute(ours: DensityCorrelation, batch: Structures, gradients: Gradients) -> None:
    """Neighbours and all rows, block by block."""
    neighbours, _ = find_neighbours(batch, ours.cutoff)
    for first, last in ours.blocks(batch, neighbours, gradients):
        rows = empty_rows(ours, batch, neighbours, first, last, gradients)
        ours.compute_rows(batch, neighbours, first, last, gradients, rows)


def main() -> None:
    """Print one line for each kind of structure and family."""
    # featomic starts its threads on its first call.
    os.environ["RAYON_NUM_THREADS"] = "1"
    print("microseconds per atom, neighbour list included")
    print(
        f"{'':34}{'neighbours':>11}{'values':>8}{'featomic':>10}{'values':>8}{'ours':>8}"
        f"{'ratio':>7}{'positions':>11}{'strain':>8}"
    )
    for name, group in systems().items():
        species = sorted({symbol for atoms in group for symbol in atoms.symbols})
        batch = Structures.from_ase(group)
        for label, size in FAMILIES.items():
            check(group[-1], species, size)
            ours = descriptor(species, size)
            n_pairs = find_neighbours(batch, CUTOFF)[0].n_pairs
            features = microseconds(partial(compute, ours, batch, Gradients()), batch.n_atoms)
            few = group[:40]
            small = Structures.from_ase(few)
            positions, strain = (
                microseconds(partial(compute, ours, small, wanted), small.n_atoms, 0.0)
                for wanted in (Gradients("pairs"), Gradients("none", True))
            )
            calculate = peer(size, species)
            theirs = microseconds(partial(calculate, few), sum(map(len, few)), 0.0)
            n_values = sum(
                int(np.prod(block.values.shape[1:]))
                for key, block in calculate(few[:1]).items()
                if "center_type" not in key.names or key["center_type"] == few[0].numbers[0]
            )
            print(
                f"{name + ', ' + label:34}{n_pairs / batch.n_atoms:11.1f}{n_values:8}{theirs:10.1f}"
                f"{ours.n_values:8}{features:8.1f}{theirs / features:7.1f}{positions:11.1f}"
                f"{strain:8.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
