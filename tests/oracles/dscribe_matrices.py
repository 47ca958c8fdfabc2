"""Write DScribe's Coulomb, sine and Ewald sum matrices of a few structures.

Run with an ase that SineMatrix works with: ``python dscribe_matrices.py OUTPUT``.
"""

import json
import sys

import numpy as np
from ase import Atoms
from dscribe.descriptors import CoulombMatrix, EwaldSumMatrix, SineMatrix

N_ATOMS_MAX = 7
KINDS = {"coulomb": CoulombMatrix, "sine": SineMatrix, "ewald": EwaldSumMatrix}
EWALD = {
    "ewald": {},
    "ewald_accurate": {"accuracy": 1e-11},
    "ewald_split": {"a": 0.7, "r_cut": 5.0, "g_cut": 4.0},
}


def structures():
    """Crystals that nothing is symmetric in; atoms may lie outside of the cell."""
    rng = np.random.default_rng(7)
    cells = {
        "cubic": 3.9 * np.eye(3),
        "triclinic": [[4.1, 0.2, -0.3], [1.2, 3.8, 0.4], [-0.7, 0.9, 5.2]],
        "left-handed": [[0.1, 4.4, 0.0], [3.6, 0.2, 0.3], [0.2, 0.5, 5.0]],
        "skewed": [[2.6, 0.1, 0.0], [5.3, 2.9, 0.2], [-2.5, 3.1, 2.8]],
    }
    counts = {"cubic": 1, "triclinic": 5, "left-handed": 7, "skewed": 2}
    for name, cell in cells.items():
        n = counts[name]
        fractional = (np.arange(n)[:, None] / n + 0.15 * rng.random((n, 3))) * [1, 2, -1]
        numbers = rng.choice([1, 6, 8, 14, 29, 55], n)
        yield name, Atoms(numbers, scaled_positions=fractional, cell=cell, pbc=True)


def matrices(atoms):
    """Return every matrix in every form, padded to N_ATOMS_MAX."""
    result = {}
    for name, options in {"coulomb": {}, "sine": {}, **EWALD}.items():
        for permutation in ("none", "sorted_l2", "eigenspectrum"):
            kind = KINDS[name.partition("_")[0]]
            descriptor = kind(n_atoms_max=N_ATOMS_MAX, permutation=permutation)
            values = descriptor.create(atoms, **options)
            result[f"{name} {permutation}"] = values.tolist()
    return result


def main(output):
    """Write all structures and their matrices."""
    content = {
        name: {
            "numbers": atoms.numbers.tolist(),
            "positions": atoms.positions.tolist(),
            "cell": atoms.cell.array.tolist(),
            "matrices": matrices(atoms),
        }
        for name, atoms in structures()
    }
    with open(output, "w") as file:
        json.dump(content, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
