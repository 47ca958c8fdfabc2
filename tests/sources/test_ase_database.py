"""Databases in files that go through ase.db: JSON and LMDB."""

from __future__ import annotations

import ase.db
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from atomlake.errors import SourceError
from atomlake.sources.ase_database import AseDatabase
from atomlake.sources.base import Source


@pytest.fixture(params=["json", "aselmdb"])
def database(request, tmp_path):
    if request.param == "aselmdb":
        pytest.importorskip("ase_db_backends")
    path = tmp_path / f"some.{request.param}"
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


def test_a_row_that_holds_no_structure(look_at, tmp_path):
    path = tmp_path / "one.json"
    ase.db.connect(path).write(bulk("Cu"))
    path.write_text(path.read_text().replace('"positions"', '"nonsense"', 1))
    assert look_at(path).codes == {0: "malformed"}


def test_a_row_of_lmdb_that_is_gone(look_at, tmp_path):
    pytest.importorskip("ase_db_backends")
    path = tmp_path / "some.aselmdb"
    connection = ase.db.connect(path)
    for name in ("H2O", "CH4", "NH3"):
        connection.write(molecule(name))
    found = look_at(path)
    connection.delete([2])
    assert found.reader.read(found.index.locations).set_aside[1].code == "missing"
    assert look_at(path).index.keys.to_list() == ["1", "3"]


def test_a_writer_of_lmdb_is_not_held_up(tmp_path):
    """Opened for writing, the file would be locked for as long as it is read."""
    pytest.importorskip("ase_db_backends")
    path = tmp_path / "some.aselmdb"
    connection = ase.db.connect(path)
    connection.write(bulk("Cu"))
    connection.write(bulk("Si"))
    rows = AseDatabase(str(path), Source(path=str(path)), tmp_path)._rows(None)
    assert next(rows)[0] == 1
    connection.write(bulk("Ag"))
    assert [row_id for row_id, _ in rows] == [2]


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
