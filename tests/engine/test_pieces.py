"""A part that is larger than a worker's memory is computed piece by piece, to the same bits."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from ase.build import molecule

from atomlake.descriptors.symmetry_functions import SymmetryFunctions
from atomlake.engine import memory, plan, tasks
from atomlake.engine.run import preview
from atomlake.engine.units import ATOM_NBYTES
from atomlake.lake.verify import verify

PARAMETERS = {"species": ["H", "C", "N", "O", "Cu"], "g2": [[0.05, 0.0]]}


def everything(database):
    """Features and gradients of all descriptors."""
    lake = database.open()
    found = {}
    for row in lake.descriptors().iter_rows(named=True):
        name = row["descriptor_id"]
        found[name] = lake.features(name).load()
        if row["gradients"] != "none":
            found[name, "gradients"] = lake.gradients(name).load()
    return found


@pytest.fixture
def recipes(database):
    """A database in the lake, and what to ask for of the part that it became."""
    database.structures += [molecule(name) for name in ("C2H6", "CH3OH", "H2O2")]
    database.save()
    database.descriptors = []
    database.run()
    database.descriptors = [
        {"kind": "symmetry_functions", "gradients": form, "parameters": {**PARAMETERS, **cutoff}}
        for form, cutoff in (("pairs", {"cutoff": 4.0}), ("summed", {"cutoff": 3.0}))
    ]
    return database


@pytest.fixture
def pieces(monkeypatch):
    """The numbers of structures that had neighbour lists at once."""
    found = []
    real = tasks.find_neighbours

    def find_neighbours(structures, cutoff, **options):
        if cutoff:
            found.append(structures.n_structures)
        return real(structures, cutoff, **options)

    monkeypatch.setattr(tasks, "find_neighbours", find_neighbours)
    return found


def test_a_part_larger_than_the_memory(recipes, pieces, monkeypatch):
    (unit,) = preview(recipes.recipe).units
    atoms_nbytes = ATOM_NBYTES * unit.estimate.n_atoms
    list_nbytes = unit.estimate.input_nbytes - atoms_nbytes
    recipes.run()
    expected = everything(recipes)
    assert max(pieces) == 8

    shutil.rmtree(recipes.lake)
    descriptors, recipes.descriptors = recipes.descriptors, []
    recipes.run()
    recipes.descriptors = descriptors
    available = unit.estimate.working_nbytes + atoms_nbytes + list_nbytes // 2
    monkeypatch.setattr(memory, "available", lambda memory_nbytes: available)
    (small,) = preview(recipes.recipe).units
    assert small.list_nbytes == list_nbytes // 2
    assert small.estimate.input_nbytes == atoms_nbytes + list_nbytes // 2
    pieces.clear()
    recipes.run()
    assert len(pieces) > 2
    assert max(pieces) < 8
    found = everything(recipes)
    assert found.keys() == expected.keys()
    for name, data in expected.items():
        assert found[name].drop_vars("structure_id").equals(data.drop_vars("structure_id")), name
    assert not verify(recipes.open(), deep=True).problems


def test_what_fails_in_one_piece_is_left_out_of_that(recipes, monkeypatch):
    real = SymmetryFunctions.compute_rows

    def compute_rows(self, structures, neighbours, first, last, gradients, rows, held=None):
        real(self, structures, neighbours, first, last, gradients, rows, held)
        if (structures.numbers == 7).any():
            rows.features[...] = np.nan

    monkeypatch.setattr(SymmetryFunctions, "compute_rows", compute_rows)
    monkeypatch.setattr(plan, "_in_pieces", lambda unit, cost, memory_nbytes: unit)
    outcome = recipes.run()
    assert outcome.totals.set_aside == {"non_finite_feature": 2}
    assert recipes.features(recipes.open().descriptors()["descriptor_id"][0]).keys() == {
        "H2O", "CH4", "CO2", "Cu4", "C2H6", "CH4O", "H2O2",
    }  # fmt: skip
    assert not verify(recipes.open(), deep=True).problems


def test_what_does_not_fit_in_any_pieces_is_refused_with_the_bytes(recipes):
    recipes.cluster = {"kind": "local", "workers": 1, "memory": "700MB"}
    (refusal,) = preview(recipes.recipe).refusals
    assert "raise cluster.memory to at least" in refusal
