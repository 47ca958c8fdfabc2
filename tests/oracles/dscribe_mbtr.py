"""Write DScribe's MBTR and LMBTR of a few structures.

Run with an ase that they work with: ``python dscribe_mbtr.py OUTPUT`` writes a selection of
options, ``python dscribe_mbtr.py OUTPUT all`` every combination.
"""

import json
import sys
from itertools import product

import numpy as np
from ase import Atoms
from dscribe.descriptors import LMBTR, MBTR

GRIDS = {
    "atomic_number": {"min": 0, "max": 9, "n": 12, "sigma": 0.3},
    "distance": {"min": 0.4, "max": 3.7, "n": 12, "sigma": 0.2},
    "inverse_distance": {"min": 0.1, "max": 1.1, "n": 12, "sigma": 0.03},
    "angle": {"min": 10, "max": 170, "n": 12, "sigma": 9.0},
    "cosine": {"min": -1, "max": 1, "n": 12, "sigma": 0.1},
}
K = {"atomic_number": 1, "distance": 2, "inverse_distance": 2, "angle": 3, "cosine": 3}
WEIGHTINGS = {
    "unity": {"function": "unity"},
    "exp": {"function": "exp", "scale": 0.6, "threshold": 1e-2},
    "inverse_square": {"function": "inverse_square", "r_cut": 3.9},
    "smooth_cutoff": {"function": "smooth_cutoff", "r_cut": 2.9, "sharpness": 3},
}
#: Weightings that exist for k atoms, of structures and of environments.
EXISTING = {
    MBTR: {
        1: ["unity"],
        2: ["unity", "exp", "inverse_square"],
        3: ["unity", "exp", "smooth_cutoff"],
    },
    LMBTR: {2: ["unity", "exp"], 3: ["unity", "exp"]},
}
SELECTION = [
    (MBTR, "atomic_number", "unity", "n_atoms", True),
    (MBTR, "inverse_distance", "unity", "none", True),
    (MBTR, "distance", "exp", "l2", True),
    (MBTR, "distance", "inverse_square", "valle_oganov", True),
    (MBTR, "inverse_distance", "inverse_square", "n_atoms", True),
    (MBTR, "cosine", "unity", "none", True),
    (MBTR, "cosine", "exp", "l2", True),
    (MBTR, "cosine", "smooth_cutoff", "valle_oganov", True),
    (MBTR, "angle", "exp", "none", False),
    (LMBTR, "inverse_distance", "unity", "none", False),
    (LMBTR, "distance", "exp", "l2", True),
    (LMBTR, "angle", "unity", "none", True),
    (LMBTR, "cosine", "exp", "none", True),
]


def structures():
    """Structures that nothing is symmetric in.

    Atoms lie inside of the cell: of atoms outside, DScribe 2.1.2 misses periodic images.
    """
    rng = np.random.default_rng(5)
    cell = np.array([[3.1, 0.2, -0.3], [0.9, 3.4, 0.4], [-0.7, 0.5, 3.6]])
    fractional = np.array([[0.1, 0.05, 0.1], [0.4, 0.5, 0.9], [0.7, 0.2, 0.6]])
    positions = (fractional + rng.uniform(-0.05, 0.05, size=(3, 3))) @ cell
    yield (
        "molecule",
        Atoms(
            "OCHH",
            [[0.05, 0.1, 1.2], [0.0, 0.0, 0.0], [0.9, 0.2, -0.6], [-0.95, 0.1, -0.55]],
        ),
    )
    yield "crystal", Atoms("HCC", positions, cell=cell, pbc=True)
    yield "slab", Atoms("HCC", positions, cell=cell, pbc=(True, True, False))
    yield "one atom", Atoms("C", [[0.3, 0.2, 0.1]], cell=0.65 * cell, pbc=True)


def options(is_complete):
    """Yield kind, geometry, weighting, normalisation and whether Gaussians are normalised."""
    if not is_complete:
        yield from SELECTION
        return
    for kind, geometry, weighting, normalisation, normalise in product(
        (MBTR, LMBTR), GRIDS, WEIGHTINGS, ("none", "l2", "n_atoms", "valle_oganov"), (True, False)
    ):
        if weighting not in EXISTING[kind].get(K[geometry], ()):
            continue
        if kind is LMBTR and normalisation in ("n_atoms", "valle_oganov"):
            continue
        yield kind, geometry, weighting, normalisation, normalise


def rounded(values):
    """Twelve digits, as nested lists."""
    values = np.asarray(values, dtype=float)
    digits = [float(f"{value:.12g}") for value in values.reshape(-1)]
    return np.array(digits).reshape(values.shape).tolist()


def case(atoms, kind, geometry, weighting, normalisation, normalise):
    """Return the numbers of one descriptor, and the parameters of DScribe that give them."""
    k = K[geometry]
    parameters = {
        "geometry": {"function": geometry},
        "grid": GRIDS[geometry],
        "weighting": WEIGHTINGS[weighting],
        "normalization": normalisation,
        "normalize_gaussians": normalise,
        "species": sorted({"H", *atoms.symbols}),
    }
    descriptor = kind(**parameters, periodic=bool(atoms.pbc.any()))
    result = {"kind": kind.__name__, "parameters": parameters}
    result["features"] = rounded(descriptor.create(atoms))
    if kind is MBTR and geometry != "angle" and normalisation != "l2":
        gradients = descriptor.derivatives(atoms, method="analytical", return_descriptor=False)
        result["gradients"] = rounded(gradients)
    result["first_columns"] = {
        " ".join(symbols): descriptor.get_location(symbols).start
        for symbols in product(("X", *parameters["species"]), repeat=k)
        if symbols.count("X") == (kind is LMBTR)
    }
    return result


def exists(atoms, kind, geometry, weighting, normalisation):
    """Say whether DScribe has these numbers, and they are finite."""
    if atoms.pbc.any() and K[geometry] > 1 and weighting == "unity":
        return False
    return normalisation != "valle_oganov" or bool(atoms.pbc.all())


def main(output, is_complete):
    """Write all structures and their numbers."""
    content = {}
    for name, atoms in structures():
        content[name] = {
            "numbers": atoms.numbers.tolist(),
            "positions": atoms.positions.tolist(),
            "cell": atoms.cell.array.tolist(),
            "pbc": atoms.pbc.tolist(),
            "cases": [
                case(atoms, *option)
                for option in options(is_complete)
                if exists(atoms, *option[:4])
            ],
        }
    with open(output, "w") as file:
        json.dump(content, file)
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:] == ["all"])
