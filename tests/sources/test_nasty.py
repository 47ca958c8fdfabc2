"""Real files that break other codes: each gives structures or a reason."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from atomlake import sources
from atomlake.errors import SourceError
from atomlake.sources.base import Source
from atomlake.structures import check

#: Files that hold no structure in a format that anybody here reads, and why.
UNREADABLE = {
    "MANIFEST.json": "cannot be read as an ASE database",
    "chemfiles/cif__1ake.cif.gz": "finds no structure",
    "chemfiles/cif__4hhb.cif": "finds no structure",
    "chemfiles/cssr__EDI.cssr": "no format that ase recognises",
    "chemfiles/cssr__water.cssr": "no format that ase recognises",
    "chemfiles/lammps-data__solvated.lmp": "no format that ase recognises",
    "chemfiles/poscar__bad__MnO.misnumbered.poscar": "ase cannot read it as vasp",
    "chemfiles/xyz__helium.xyz.but.not.really": "no format that ase recognises",
    "chemfiles/xyz__topology.xyz.topology": "no format that ase recognises",
}
#: Files of which some structures are set aside.
SET_ASIDE = {
    "chemfiles/xyz__bad__extended-bad-properties.xyz": (5, "malformed"),
    "chemfiles/xyz__bad__extended.xyz": (9, "malformed"),
    "chemfiles/xyz__bad__helium.xyz": (1, "truncated"),
}


def test_every_nasty_file(shared_data, tmp_path):
    folder = shared_data / "nasty"
    manifest = {
        entry["file"].removeprefix("orig/"): entry.get("ase_3_29") or ""
        for entry in json.loads((folder / "MANIFEST.json").read_text())
    }
    source = Source(path=str(folder))
    for location in sources.expand(source):
        name = location.removeprefix(f"{folder}/")
        started = time.monotonic()
        reader = sources.reader(location, source, tmp_path)
        if name in UNREADABLE:
            with pytest.raises(SourceError, match=UNREADABLE[name]):
                reader.index()
            continue
        index = reader.index()
        result = reader.read(index.locations)
        structures = result.structures
        assert sorted([*result.rows, *result.set_aside]) == list(range(len(index)))
        problems = {**result.set_aside, **index.set_aside}
        if name in SET_ASIDE:
            assert len(problems) == SET_ASIDE[name][0]
            assert {problem.code for problem in problems.values()} == {SET_ASIDE[name][1]}
        else:
            assert not problems, name
        assert not any(check(structures)), name
        expected = manifest.get(name, "")
        if expected.startswith("ok:"):
            n_structures, n_atoms = expected.removeprefix("ok: ").split(" frames, atoms ")
            assert len(structures) == int(n_structures), name
            counts = structures.n_atoms_per_structure
            assert f"{counts.min()}..{counts.max()}" == n_atoms, name
        # A generous bound on what takes a tenth of a second, to notice a hang.
        assert time.monotonic() - started < 30


def test_one_content_in_many_compressions(shared_data, look_at):
    folder = shared_data / "nasty" / "chemfiles"
    found = {
        name: look_at(folder / f"xyz__water.{name}")
        for name in ("xyz", "xyz.xz", "6.xyz.gz", "9.xyz.gz", "6.xyz.bz2", "9.xyz.bz2")
    }
    first = found["xyz"]
    assert len(first.structures) == 100
    for name, other in found.items():
        same = np.array_equal(first.structures.positions, other.structures.positions)
        assert (
            same or np.abs(first.structures.positions - other.structures.positions).max() < 1e-2
        ), name
        assert np.array_equal(first.structures.numbers, other.structures.numbers)


@pytest.mark.parametrize(
    ("name", "cell", "pbc"),
    [
        (
            "votca141_methane_in_fcc_box",
            [[29.823, 0, 14.9115], [0, 29.823, 14.9115], [0, 0, 21.0881]],
            True,
        ),
        ("aiidalab97_cc", np.zeros((3, 3)), False),
        ("symmetrix42_isolated_O", np.zeros((3, 3)), False),
    ],
)
def test_cells_that_others_invent_or_turn_over(shared_data, look_at, name, cell, pbc):
    found = look_at(shared_data / "nasty" / "issues" / f"{name}.xyz").structures
    assert np.array_equal(found.cells[0], cell)
    assert (found.pbc == pbc).all()


def test_every_extended_xyz_file(shared_data, tmp_path):
    """All 37,000 structures are read; only one, which has no atoms, is set aside."""
    n_structures = n_problems = 0
    for path in sorted(shared_data.rglob("*.extxyz*")):
        reader = sources.reader(str(path), Source(path=str(path)), tmp_path)
        index = reader.index()
        result = reader.read(index.locations)
        assert not result.set_aside
        assert np.array_equal(index.n_atoms, result.structures.n_atoms_per_structure)
        n_structures += len(index)
        n_problems += sum(problem is not None for problem in check(result.structures))
    assert n_structures > 37_000
    assert n_problems == 1
