"""Symmetry functions against DScribe: the same numbers, and how long they take.

Both run in one process on one core, after a first call, on the same structures. Ours includes
the neighbour list, as DScribe's does; ``whole`` is a call of ``compute`` with ase's structures,
which also checks them, converts them and labels the result.

    python benchmarks/symmetry_functions.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import ase
import numpy as np
from ase.build import bulk, fcc111, molecule
from dscribe.descriptors import ACSF

from atomlake.descriptors import SymmetryFunctions
from atomlake.descriptors.base import Gradients, empty_rows
from atomlake.neighbours import find_neighbours
from atomlake.structures import Structures

CUTOFF = 6.0
RADIAL = [(eta, 0.0) for eta in np.logspace(-2, 0.5, 8)]
ANGULAR = [(eta, zeta, lambda_) for eta in (0.003, 0.03) for zeta in (1, 4) for lambda_ in (1, -1)]
FUNCTIONS: dict[str, dict[str, list[tuple[float, ...]]]] = {
    "g2": {"g2": RADIAL},
    "g2, g4": {"g2": RADIAL, "g4": ANGULAR},
    "g2, g5": {"g2": RADIAL, "g5": ANGULAR},
}


def structures() -> dict[str, list[ase.Atoms]]:
    """Return molecules, a metal, a salt and a slab, as many of each as a small database has."""
    crystal = bulk("Si", cubic=True).repeat(3)
    salt = bulk("NaCl", "rocksalt", 5.64, cubic=True).repeat(3)
    slab = fcc111("Cu", (4, 4, 4), vacuum=8.0)
    slab.symbols[::3] = "Au"
    result = {
        "molecules": [molecule(name) for name in ("CH3CONH2", "C6H6", "C5H5N", "CH3CH2OH")] * 50,
        "Si": [crystal.copy() for _ in range(8)],
        "NaCl": [salt.copy() for _ in range(8)],
        "CuAu slab": [slab.copy() for _ in range(30)],
    }
    for group in result.values():
        for seed, atoms in enumerate(group):
            atoms.rattle(0.05, seed=seed)
    return result


def microseconds(function: Callable[[], object], n_atoms: int, repeat: int = 3) -> float:
    """Least processor time of a call, per atom: other programs do not count."""
    function()
    best = float("inf")
    for _ in range(repeat):
        start = time.process_time()
        function()
        best = min(best, time.process_time() - start)
    return best / n_atoms * 1e6


def main() -> None:
    """Print one line for each kind of structure and set of functions."""
    print("microseconds per atom; ratio of features, neighbour list included")
    print(
        f"{'':24}{'neighbours':>11}{'features':>9}{'dscribe':>9}{'ours':>7}{'ratio':>7}"
        f"{'list':>7}{'whole':>7}{'ratio':>7}{'pairs':>7}{'strain':>8}"
    )
    for name, group in structures().items():
        species = sorted({symbol for atoms in group for symbol in atoms.symbols})
        batch = Structures.from_ase(group)
        neighbours, _ = find_neighbours(batch, CUTOFF)
        n = batch.n_atoms
        for label, functions in FUNCTIONS.items():
            parameters = {f"{key}_params": value for key, value in functions.items()}
            periodic = bool(group[0].pbc.any())
            oracle = ACSF(r_cut=CUTOFF, species=species, periodic=periodic, **parameters)
            ours = SymmetryFunctions.preset("dscribe", species=species, cutoff=CUTOFF, **functions)

            def kernel(gradients: Gradients, ours: SymmetryFunctions = ours) -> None:
                for first, last in ours.blocks(batch, neighbours, gradients):  # noqa: B023
                    rows = empty_rows(ours, batch, neighbours, first, last, gradients)  # noqa: B023
                    ours.compute_rows(batch, neighbours, first, last, gradients, rows)  # noqa: B023

            expected = np.concatenate([oracle.create(atoms) for atoms in group])
            actual = ours.compute(batch).features.values
            np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)
            theirs = microseconds(lambda: [oracle.create(atoms) for atoms in group], n)  # noqa: B023
            listing = microseconds(lambda: find_neighbours(batch, CUTOFF), n)  # noqa: B023
            alone, pairs, strain = (
                microseconds(lambda: kernel(gradients), n)  # noqa: B023
                for gradients in (Gradients(), Gradients("pairs"), Gradients("none", True))
            )
            whole = microseconds(lambda: ours.compute(group), n)  # noqa: B023
            total = listing + alone
            print(
                f"{name + ', ' + label:24}{neighbours.n_pairs / n:11.1f}{ours.n_features:9}"
                f"{theirs:9.1f}{total:7.1f}{theirs / total:7.1f}{listing:7.1f}{whole:7.1f}"
                f"{theirs / whole:7.1f}{pairs:7.1f}{strain:8.1f}"
            )


if __name__ == "__main__":
    main()
