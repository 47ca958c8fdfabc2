"""A small database and a recipe for it."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.io import write

from atomlake.engine.run import run
from atomlake.lake import Lake
from atomlake.recipe import Recipe

FUNCTIONS = {"g2": [[0.05, 0.0], [0.5, 1.0]], "cutoff": 4.0}


class Database:
    """A folder with one extended XYZ file that tests edit, and a lake made from it."""

    def __init__(self, folder):
        self.file = folder / "structures.xyz"
        self.lake = folder / "lake"
        self.structures = [molecule(name) for name in ("H2O", "NH3", "CH4", "CO2")]
        self.structures.append(bulk("Cu", cubic=True))
        self.descriptors = [
            {
                "kind": "symmetry_functions",
                "parameters": {"species": ["H", "C", "N", "O", "Cu"], **FUNCTIONS},
            }
        ]
        self.limits = {}
        self.cluster = {}
        self.save()

    def save(self):
        write(self.file, self.structures, format="extxyz")

    @property
    def recipe(self):
        return Recipe.model_validate(
            {
                "lake": str(self.lake),
                "sources": [{"path": str(self.file), "name": "db"}],
                "descriptors": self.descriptors,
                "limits": self.limits,
                "cluster": self.cluster,
            }
        )

    def run(self, **options):
        return run(self.recipe, executor="synchronous", **options)

    def open(self, **options):
        return Lake.open(self.lake, **options)

    def features(self, name="symmetry_functions"):
        """Features of every structure, by its formula."""
        lake = self.open()
        formulas = lake.catalogue.structures(["structure_id", "formula"]).collect()
        by_id = dict(formulas.iter_rows())
        data = lake.features(name)
        offsets = data.structure_offsets.values
        return {
            by_id[str(structure_id)]: np.array(data.features.values[first:last])
            for structure_id, first, last in zip(
                data.structure_id.values, offsets[:-1], offsets[1:], strict=True
            )
        }


@pytest.fixture
def database(tmp_path):
    return Database(tmp_path)
