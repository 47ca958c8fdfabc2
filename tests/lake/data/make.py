"""Makes the stored lake of the present version: run it once, when FORMAT_VERSION is raised."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from atomlake.engine.run import run
from atomlake.lake import layout
from atomlake.recipe import Recipe


def main() -> None:
    """Four structures, the third of which changes after the first run."""
    target = Path(__file__).parent.resolve() / f"version_{layout.FORMAT_VERSION}"
    structures = [molecule(name) for name in ("H2O", "NH3", "CH4")] + [bulk("Cu", cubic=True)]
    for i, atoms in enumerate(structures):
        forces = np.full((len(atoms), 3), 0.1 * i)
        atoms.calc = SinglePointCalculator(atoms, energy=-float(i), forces=forces)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        g2 = {"g2": [[0.05, 0.0], [0.5, 1.0]], "species": ["H", "C", "N", "O", "Cu"]}
        descriptor = {
            "kind": "symmetry_functions",
            "gradients": "pairs",
            "parameters": {**g2, "cutoff": 3.0, "dtype": "float32"},
        }
        recipe = Recipe.model_validate(
            {
                "lake": "lake",
                "sources": [{"path": "structures.xyz", "name": "db"}],
                "descriptors": [descriptor],
            }
        )
        write("structures.xyz", structures, format="extxyz")
        run(recipe, executor="synchronous")
        structures[2].positions[0, 0] += 0.1
        write("structures.xyz", structures, format="extxyz")
        run(recipe, executor="synchronous")
        shutil.rmtree("lake/scratch")
        shutil.rmtree("lake/logs", ignore_errors=True)
        shutil.copytree("lake", target)


if __name__ == "__main__":
    main()
