"""Databases that go through ase.db: JSON files, and servers as far as there is none here."""

from __future__ import annotations

import ase.db
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from atomlake.errors import SourceError
from atomlake.sources.ase_database import AseDatabase
from atomlake.sources.base import LabelKeys, Source


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "some.json"
    connection = ase.db.connect(path)
    for k, atoms in enumerate([bulk("Cu"), molecule("CH4"), bulk("Si")]):
        forces = np.full((len(atoms), 3), float(k))
        atoms.calc = SinglePointCalculator(atoms, energy=-k, forces=forces, stress=np.arange(6.0))
        connection.write(atoms, hull=k / 2, data={"gap": k + 1, "charges": np.ones(len(atoms))})
    return path


def test_equal_to_ase(look_at, database):
    found = look_at(database, structure=("gap", "hull"), atom=("charges",))
    assert found.index.keys.to_list() == ["1", "2", "3"]
    for s, row in enumerate(ase.db.connect(database).select()):
        one = found.structures.take([s])
        assert np.array_equal(one.numbers, row.numbers)
        assert np.array_equal(one.positions, row.positions)
        assert np.array_equal(one.cells[0], row.cell)
        assert np.array_equal(one.pbc[0], row.pbc)
        assert one.structure_labels["energy"][0] == row.energy
        assert np.array_equal(one.atom_labels["forces"], row.forces)
    assert found.structures.structure_labels["gap"].tolist() == [1, 2, 3]
    assert found.structures.structure_labels["hull"].tolist() == [0, 0.5, 1]
    assert (found.structures.atom_labels["charges"] == 1).all()
    assert found.index.n_atoms.tolist() == [1, 5, 2]
    assert np.isnan(found.index.volumes).tolist() == [False, True, False]


def test_select_and_rows_in_any_order(look_at, database):
    found = look_at(database, select="hull>0.2")
    assert found.index.keys.to_list() == ["2", "3"]
    again = found.reader.read(found.index.locations[[1, 0]])
    assert again.structures.n_atoms_per_structure.tolist() == [2, 5]
    missing = found.reader.read(np.array([[2, 0], [9, 0]]))
    assert missing.rows.tolist() == [0]
    assert missing.set_aside[1].code == "missing"
    with pytest.raises(SourceError, match="no row that fits"):
        look_at(database, select="hull>99")
    with pytest.raises(SourceError, match="cannot be read as an ASE database"):
        look_at(database, select="a==b==c")


def test_a_row_that_holds_no_structure(look_at, database):
    text = database.read_text().replace('"positions"', '"nonsense"', 1)
    database.write_text(text)
    assert look_at(database).codes == {0: "malformed"}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"a": 1}',
        '{"ids": [1], "nextid": 2}',
        '{"ids": [1], "nextid": 2, "1": 7}',
        "[" * 100_000,
        '{"ids": [1], "nextid": 2, "1": {"__ndarray__": [[99999999999], "float64", []]}}',
        '{"ids": [1], "nextid": 2, "1": {"__ase_objtype__": "os.system"}}',
    ],
)
def test_what_is_no_database_is_refused(look_at, write, content):
    with pytest.raises(SourceError, match="cannot be read as an ASE database"):
        look_at(write(content, "other.json"))


def test_a_server_without_its_driver_says_what_to_install(tmp_path):
    url = "postgresql://user:secret@nowhere:5432/name"
    reader = AseDatabase(url, Source(path=url), tmp_path)
    with pytest.raises(SourceError, match=r"user:\*\*\*@nowhere.*ase-db-backends") as caught:
        reader.index()
    assert "secret" not in str(caught.value)


def test_a_server_goes_the_same_way(tmp_path, monkeypatch, unguarded):
    """An SQLite file stands for the server, whose driver has the same interface."""
    server = ase.db.connect(tmp_path / "server.db")
    with server:
        server.write(bulk("Cu"), hull=1.0)
        server.write(molecule("H2O"), hull=2.0)
    monkeypatch.setattr(ase.db, "connect", lambda url, use_lock_file: server)
    url = "mysql://user:secret@host/name"
    source = Source(path=url, select="hull>0", labels=LabelKeys(energy="hull"))
    reader = AseDatabase(url, source, tmp_path)
    index = reader.index()
    assert index.keys.to_list() == ["1", "2"]
    result = reader.read(index.locations[1:])
    assert result.structures.numbers.tolist() == [8, 1, 1]
    assert result.structures.structure_labels["energy"].tolist() == [2.0]
    state = reader.fingerprint()
    assert state[:2] == (0, 0)
    assert reader.fingerprint(state) == state
    with server:
        server.update(1, hull=3.0)
    assert reader.fingerprint(state) != state
