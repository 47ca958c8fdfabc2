"""Flat arrays of structures: cutting, joining, ase and back, hashes, and what is refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from atomlake.structures import (
    ATOMIC_NUMBERS,
    CHEMICAL_SYMBOLS,
    MAX_COORDINATE,
    MIN_PLANE_SPACING,
    Structures,
    check,
    completed_cells,
    plane_spacings,
    species_numbers,
)


def labelled(n_atoms: int, seed: int, **missing: bool) -> Structures:
    """One structure with every label of a fixed meaning and one of each other kind."""
    rng = np.random.default_rng(seed)
    structure_labels = {
        "energy": rng.normal(),
        "stress": rng.normal(size=(3, 3)),
        "dipole": rng.normal(size=3),
    }
    atom_labels = {"forces": rng.normal(size=(n_atoms, 3)), "charge": rng.normal(size=n_atoms)}
    return Structures.single(
        rng.integers(1, 90, n_atoms),
        rng.normal(size=(n_atoms, 3)),
        rng.normal(size=(3, 3)),
        rng.random(3) < 0.5,
        structure_labels={k: v for k, v in structure_labels.items() if not missing.get(k)},
        atom_labels={k: v for k, v in atom_labels.items() if not missing.get(k)},
    )


@pytest.fixture
def batch() -> Structures:
    return Structures.concatenate([labelled(n, seed=n) for n in (3, 1, 5, 2)])


def assert_equal(one: Structures, other: Structures) -> None:
    for name in ("numbers", "positions", "cells", "pbc", "structure_offsets"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert getattr(one, name).dtype == getattr(other, name).dtype
    for name in ("structure_labels", "atom_labels"):
        assert list(getattr(one, name)) == list(getattr(other, name))
        for label, value in getattr(one, name).items():
            np.testing.assert_array_equal(value, getattr(other, name)[label])


# ----- Cutting and joining


def test_sizes_agree_with_the_offsets(batch):
    assert (batch.n_atoms, batch.n_structures, len(batch)) == (11, 4, 4)
    np.testing.assert_array_equal(batch.n_atoms_per_structure, [3, 1, 5, 2])
    np.testing.assert_array_equal(batch.structure_index, [0, 0, 0, 1, 2, 2, 2, 2, 2, 3, 3])


@given(st.lists(st.integers(-4, 3), max_size=8))
def test_take_returns_whole_structures_in_the_order_asked_for(rows):
    parts = [labelled(n, seed=n) for n in (3, 1, 5, 2)]
    taken = Structures.concatenate(parts).take(rows)
    if rows:
        assert_equal(taken, Structures.concatenate([parts[row] for row in rows]))
    assert taken.n_structures == len(rows)
    assert taken.structure_offsets[-1] == taken.n_atoms == sum(parts[r].n_atoms for r in rows)


def test_parts_join_to_the_whole(batch):
    parts = [batch.take([0]), batch.take([]), batch.take([1, 2, 3])]
    assert_equal(Structures.concatenate(parts), batch)
    assert_equal(Structures.concatenate([batch]), batch)
    assert_equal(Structures.concatenate([]), Structures.empty())


def test_labels_that_a_part_lacks_are_nan():
    joined = Structures.concatenate(
        [labelled(2, 0), labelled(3, 1, energy=True, stress=True, forces=True)]
    )
    assert np.isnan(joined.structure_labels["energy"]).tolist() == [False, True]
    assert joined.structure_labels["stress"].shape == (2, 3, 3)
    assert np.isnan(joined.structure_labels["stress"][1]).all()
    assert np.isnan(joined.atom_labels["forces"]).all(axis=1).tolist() == [False] * 2 + [True] * 3
    assert not np.isnan(joined.atom_labels["charge"]).any()


def test_a_structure_shares_no_memory_with_what_it_was_made_of():
    arguments = {
        "numbers": np.array([1, 8], dtype=np.int32),
        "positions": np.zeros((2, 3)),
        "cell": np.eye(3),
        "pbc": np.array([True, False, True]),
    }
    forces = np.zeros((2, 3))
    structure = Structures.single(**arguments, atom_labels={"forces": forces})
    untouched = structure.take([0])
    for array in (*arguments.values(), forces):
        array[...] = 1
    assert_equal(structure, untouched)


def test_arrays_are_contiguous_whatever_they_were_made_of():
    positions = np.asfortranarray(np.arange(12.0).reshape(4, 3))
    structure = Structures.single([1] * 4, positions, np.asfortranarray(np.eye(3) * 2))
    assert structure.positions.flags.c_contiguous
    np.testing.assert_array_equal(structure.positions, positions)


# ----- ase


def test_geometry_survives_the_way_to_ase_and_back():
    atoms = [bulk("NaCl", "rocksalt", 5.6), molecule("H2O"), fcc111("Cu", (1, 1, 2), vacuum=5)]
    structures = Structures.from_ase(atoms)
    assert_equal(Structures.from_ase(structures.to_ase()), structures)
    assert_equal(Structures.from_ase(atoms[1]), structures.take([1]))
    assert_equal(Structures.from_ase([]), Structures.empty())
    for one, other in zip(structures.to_ase(), atoms, strict=True):
        assert one == other


def test_labels_of_fixed_meaning_go_to_ase_if_they_are_known(batch):
    lacking = labelled(2, 9, energy=True, stress=True)
    *complete, last = Structures.concatenate([batch, lacking]).to_ase()
    for s, atoms in enumerate(complete):
        forces = batch.atom_labels["forces"][batch.structure_index == s]
        stress = batch.structure_labels["stress"][s]
        assert atoms.get_potential_energy() == batch.structure_labels["energy"][s]
        np.testing.assert_array_equal(atoms.get_forces(), forces)
        # ase keeps the symmetric part; addition in another order may round the last digit.
        np.testing.assert_allclose(
            atoms.get_stress(voigt=False), (stress + stress.T) / 2, rtol=1e-15
        )
    assert set(last.calc.results) == {"forces"}
    assert batch.take([0]).to_ase()[0].calc.results.keys() == {"energy", "forces", "stress"}
    unlabelled = Structures.from_ase(molecule("H2O")).to_ase()[0]
    assert unlabelled.calc is None


def test_labels_of_ase_are_left_to_the_sources():
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=1.0)
    assert Structures.from_ase(atoms).structure_labels == {}


# ----- Names


def test_formulas_are_in_alphabetical_order():
    atoms = [molecule("CH3CH2OH"), bulk("NaCl", "rocksalt", 5.6), Atoms("XH"), Atoms()]
    assert Structures.from_ase(atoms).formulas() == ["C2H6O", "ClNa", "HX", ""]


def test_species_are_symbols_or_numbers_in_the_order_given():
    np.testing.assert_array_equal(species_numbers(["O", 1, "C"]), [8, 1, 6])
    assert species_numbers([]).dtype == np.int32
    assert CHEMICAL_SYMBOLS[ATOMIC_NUMBERS["W"]] == "W"


@pytest.mark.parametrize(
    ("species", "message"),
    [
        (["H", "Xx"], "unknown chemical symbol 'Xx'"),
        ([119], "119 is not between 0 and 118"),
        ([-1], "-1 is not between"),
        (["H", 1], "listed twice"),
    ],
)
def test_species_that_cannot_be_are_refused(species, message):
    with pytest.raises(ValueError, match=message):
        species_numbers(species)


# ----- Hashes


def test_hashes_depend_on_the_structure_alone(batch):
    hashes = batch.content_hashes()
    assert all(len(h) == 16 for h in hashes)
    assert len(set(hashes)) == len(batch)
    assert batch.take([2, 0]).content_hashes() == [hashes[2], hashes[0]]
    # A label that another structure brings in is NaN here, and no label.
    wider = Structures.concatenate(
        [batch, Structures.single([1], [[0, 0, 0]], atom_labels={"x": [1]})]
    )
    assert wider.content_hashes()[:-1] == hashes


def test_the_hash_of_a_structure_stays_what_lakes_have_stored():
    water = Structures.single(
        [8, 1, 1],
        [[0, 0, 0.25], [0, 0.75, -0.5], [0, -0.75, -0.5]],
        2 * np.eye(3),
        [True, True, False],
        structure_labels={"energy": -1.5},
        atom_labels={"forces": np.arange(9.0).reshape(3, 3)},
    )
    assert [h.hex() for h in water.content_hashes()] == ["2900ea52abc37612d985c7adac61f718"]


def changed(structures: Structures, name: str) -> Structures:
    """The same structures with the smallest change of one array."""
    arrays = {
        "numbers": structures.numbers.copy(),
        "positions": structures.positions.copy(),
        "cells": structures.cells.copy(),
        "pbc": structures.pbc.copy(),
        "structure_offsets": structures.structure_offsets,
        "structure_labels": {k: v.copy() for k, v in structures.structure_labels.items()},
        "atom_labels": {k: v.copy() for k, v in structures.atom_labels.items()},
    }
    array = arrays.get(name)
    if array is None:
        array = {**arrays["structure_labels"], **arrays["atom_labels"]}[name]
    first = (0,) * array.ndim
    if array.dtype == bool:
        array[first] ^= True
    elif array.dtype == np.int32:
        array[first] += 1
    else:
        array[first] = np.nextafter(array[first], np.inf)
    return Structures(**arrays)


@pytest.mark.parametrize(
    "name",
    ["numbers", "positions", "cells", "pbc", "energy", "stress", "dipole", "forces", "charge"],
)
def test_hashes_notice_the_last_bit_of_everything(batch, name):
    before, after = batch.content_hashes(), changed(batch, name).content_hashes()
    assert before[0] != after[0]
    assert before[1:] == after[1:]


def test_hashes_tell_labels_of_structures_from_labels_of_atoms():
    of_structure = Structures.single([1], [[0, 0, 0]], structure_labels={"x": [1.0]})
    of_atom = Structures.single([1], [[0, 0, 0]], atom_labels={"x": [1.0]})
    assert of_structure.content_hashes() != of_atom.content_hashes()


# ----- Cells

CELLS = hnp.arrays(np.float64, (3, 3), elements=st.floats(-9, 9))
PBC = st.tuples(st.booleans(), st.booleans(), st.booleans())


@given(CELLS, PBC)
def test_free_vectors_are_completed_by_normals(cell, pbc):
    pbc = np.array(pbc)
    (full,) = completed_cells(cell[None], pbc[None])
    np.testing.assert_array_equal(full[pbc], cell[pbc])
    if np.linalg.matrix_rank(cell[pbc], tol=1e-3) == pbc.sum():
        gram = full @ full.T
        # Unit vectors are normalised products of vectors up to 16 Å long.
        np.testing.assert_allclose(gram[~pbc], np.eye(3)[~pbc], atol=1e-9)
        other = np.where(pbc[:, None], cell, 7e5)
        np.testing.assert_array_equal(completed_cells(other[None], pbc[None])[0], full)


def test_plane_spacings_of_known_cells():
    cells = np.array(
        [
            np.diag([2.0, 3.0, 4.0]),
            [[2, 0, 0], [2, 3, 0], [0, 0, 4]],
            np.diag([2.0, 3.0, 0.0]),
            np.diag([2.0, 3.0, 0.0]),
            [[1, 2, 3], [2, 4, 6], [0, 0, 1]],
            np.zeros((3, 3)),
        ]
    )
    pbc = np.array([[1, 1, 1]] * 2 + [[1, 1, 0], [1, 1, 1], [1, 1, 0], [0, 0, 0]], dtype=bool)
    skewed = 6 / np.sqrt(13)
    expected = [[2, 3, 4], [skewed, 3, 4], [2, 3, 1], [0, 0, 0], [0, 0, 0], [1, 1, 1]]
    np.testing.assert_allclose(plane_spacings(cells, pbc), expected, atol=1e-12)


# ----- What is refused

FINE = {
    "a crystal": bulk("Si"),
    "a molecule": molecule("H2O"),
    "a molecule with a cell": Atoms("H", cell=[0.01, 0.01, 0.01], pbc=False),
    "a slab": fcc111("Cu", (1, 1, 3), vacuum=5),
    "a slab without a third vector": Atoms(
        "C", cell=[[3, 0, 0], [1, 3, 0], [0, 0, 0]], pbc=(1, 1, 0)
    ),
    "a wire": Atoms("C", cell=[[0, 0, 0], [0, 0, 0], [0, 0, 3]], pbc=(0, 0, 1)),
    "a left-handed cell": Atoms("C", cell=[[0, 3, 0], [3, 0, 0], [0, 0, 3]], pbc=True),
    "a dummy atom": Atoms("X"),
    "the largest number": Atoms([118]),
    "a thin cell": Atoms("C", cell=[5, 5, MIN_PLANE_SPACING * 1.001], pbc=True),
    "far from the origin": Atoms("C", positions=[[0, -0.999 * MAX_COORDINATE, 0]]),
}
REFUSED = {
    "nothing": (Atoms(), "empty", "has no atoms"),
    "unknown number": (
        Atoms([1, 300, 119]),
        "unknown_species",
        r"atom 1 is 300 \(2 of 3 atoms\)",
    ),
    "negative number": (Atoms([-1]), "unknown_species", "atom 0 is -1"),
    "nan": (
        Atoms("H3", positions=[[0, 0, 0], [0, np.nan, 0], [1, 1, 1]]),
        "non_finite_position",
        r"atom 1 is \[0.0, nan, 0.0\] \(1 of 3 atoms\)",
    ),
    "infinity": (Atoms("H", positions=[[np.inf, 0, 0]]), "non_finite_position", "atom 0"),
    "cell with nan": (Atoms("H", cell=[1, np.nan, 1]), "non_finite_cell", "must be finite"),
    "very far": (
        Atoms("H", positions=[[0, 0, -1.1 * MAX_COORDINATE]]),
        "position_out_of_range",
        "check the unit of length",
    ),
    "periodic without a cell": (
        Atoms("H", pbc=True),
        "degenerate_cell",
        r"\[0.0, 0.0, 0.0\] Å apart; set pbc to false",
    ),
    "flat": (Atoms("H", cell=[5, 5, 1e-3], pbc=True), "degenerate_cell", "0.001"),
    "parallel vectors": (
        Atoms("H", cell=[[1, 2, 3], [2, 4, 6], [0, 0, 1]], pbc=(1, 1, 0)),
        "degenerate_cell",
        "set pbc to false or give the cell",
    ),
    "one vector short of a slab": (
        Atoms("H", cell=[[1, 0, 0], [0, 0, 0], [0, 0, 9]], pbc=(1, 1, 0)),
        "degenerate_cell",
        r"\[0.0, 0.0\]",
    ),
    "endless": (Atoms("H", cell=np.eye(3) * 1e200, pbc=True), "degenerate_cell", "Å apart"),
}


@pytest.mark.parametrize("name", FINE)
def test_structures_that_can_be_used_pass(name):
    assert check(Structures.from_ase(FINE[name])) == [None]


@pytest.mark.parametrize("name", REFUSED)
def test_structures_that_cannot_be_used_are_refused_with_the_reason(name):
    atoms, code, reason = REFUSED[name]
    (problem,) = check(Structures.from_ase(atoms))
    assert problem.code == code
    assert re.search(reason, problem.reason), problem.reason


def test_each_structure_of_a_batch_is_judged_by_itself():
    systems = [*FINE.values(), *(atoms for atoms, *_ in REFUSED.values()), *FINE.values()]
    alone = [check(Structures.from_ase(atoms))[0] for atoms in systems]
    assert check(Structures.from_ase(systems)) == alone
    assert check(Structures.empty()) == []
