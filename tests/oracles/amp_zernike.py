"""Write AMP's Zernike descriptors of a molecule and of a crystal.

AMP builds with Python 3.11 and numpy 1 at the latest, so its environment is made by hand:

    python3.11 -m venv amp
    amp/bin/pip install "setuptools<60" wheel "numpy<2" "scipy<1.17" "ase<3.23"
    amp/bin/pip install --no-deps --no-build-isolation amp-atomistics==1.0.1
    amp/bin/python -W ignore amp_zernike.py OUTPUT

Its Fortran modules are not needed. Without them its polynomial cutoff function raises a
TypeError, so both cases have the cosine.
"""

import json
import sys

from amp.descriptor.zernike import (
    FingerprintCalculator,
    NeighborlistCalculator,
    generate_coefficients,
)
from ase import Atoms

CASES = {
    "molecule": {
        "atoms": Atoms(
            "OCH2",
            positions=[
                [0.1, 0.05, 1.23],
                [0.0, 0.0, 0.0],
                [0.02, 0.96, -0.55],
                [0.07, -0.91, -0.6],
            ],
        ),
        "cutoff": 6.5,
        "n_max": 5,
        "weights": None,
    },
    "crystal": {
        "atoms": Atoms(
            "CuPd",
            positions=[[0.1, 0.0, 0.2], [1.4, 1.7, 1.3]],
            cell=[[2.9, 0.1, 0.0], [0.3, 3.1, 0.2], [-0.4, 0.2, 3.3]],
            pbc=True,
        ),
        "cutoff": 4.4,
        "n_max": 4,
        "weights": {"Cu": 1.5, "Pd": -0.8},
    },
}


def fingerprints(atoms, cutoff, n_max, weights):
    """Return AMP's numbers, one list per atom."""
    elements = sorted(set(atoms.get_chemical_symbols()))
    of_neighbours = dict.fromkeys(elements, weights) if weights else generate_coefficients(elements)
    neighbours = NeighborlistCalculator(cutoff).calculate(atoms, "key")
    calculator = FingerprintCalculator(
        neighborlist={"key": neighbours},
        Gs=of_neighbours,
        nmax=n_max,
        cutoff={"name": "Cosine", "kwargs": {"Rc": cutoff}},
        fortran=False,
    )
    return [[float(x) for x in values] for _, values in calculator.calculate(atoms, "key")]


def main(output):
    """Write all cases."""
    content = {
        name: {
            "numbers": case["atoms"].numbers.tolist(),
            "positions": case["atoms"].positions.tolist(),
            "cell": case["atoms"].cell.array.tolist(),
            "pbc": case["atoms"].pbc.tolist(),
            "parameters": {key: value for key, value in case.items() if key != "atoms"},
            "features": fingerprints(**case),
        }
        for name, case in CASES.items()
    }
    with open(output, "w") as file:
        json.dump(content, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
