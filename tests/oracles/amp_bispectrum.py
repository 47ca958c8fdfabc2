"""Write AMP's bispectrum of a molecule and of a crystal.

AMP builds with Python 3.11 and numpy 1 at the latest, so its environment is made by hand:

    python3.11 -m venv amp
    amp/bin/pip install "setuptools<60" wheel "numpy<2" scipy "ase<3.23"
    amp/bin/pip install --no-deps --no-build-isolation amp-atomistics==1.0.1
    amp/bin/python -W ignore amp_bispectrum.py OUTPUT

It takes minutes. Its Fortran modules are not needed.
"""

import json
import sys

from amp.descriptor.bispectrum import (
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
        "cutoff": 2.6,
        "jmax": 3.0,
        "weights": None,
    },
    "crystal": {
        "atoms": Atoms(
            "CuPd",
            positions=[[0.1, 0.0, 0.2], [1.4, 1.7, 1.3]],
            cell=[[2.9, 0.1, 0.0], [0.3, 3.1, 0.2], [-0.4, 0.2, 3.3]],
            pbc=True,
        ),
        "cutoff": 3.4,
        "jmax": 1.5,
        "weights": {"Cu": {"Cu": 1.5, "Pd": -0.8}, "Pd": {"Cu": 2.0, "Pd": 0.6}},
    },
}


def fingerprints(atoms, cutoff, jmax, weights):
    """Return AMP's numbers, one list per atom."""
    weights = weights or generate_coefficients(sorted(set(atoms.get_chemical_symbols())))
    neighbours = NeighborlistCalculator(cutoff).calculate(atoms, "key")
    calculator = FingerprintCalculator(
        neighborlist={"key": neighbours},
        Gs=weights,
        jmax=jmax,
        cutoff={"name": "Cosine", "kwargs": {"Rc": cutoff}},
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
            "parameters": {key: case[key] for key in ("cutoff", "jmax", "weights")},
            "features": fingerprints(**case),
        }
        for name, case in CASES.items()
    }
    with open(output, "w") as file:
        json.dump(content, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
