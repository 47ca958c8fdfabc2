"""ASE databases in SQLite: equal to ase row by row, in every schema, and nothing trusted."""

from __future__ import annotations

import pickle
import sqlite3
import struct
from contextlib import closing

import ase.db
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from atomlake import sources
from atomlake.errors import SourceError
from atomlake.sources.base import Guard, Source


def crystals():
    """Structures with everything that a row can hold."""
    for k, symbol in enumerate(["Cu", "Si", "Fe", "Mg", "Po"]):
        atoms = bulk(symbol) * (1, 1, k + 1)
        atoms.rattle(0.1, seed=k)
        atoms.pbc = [True, k % 2 == 0, k != 1]
        atoms.set_initial_charges(np.arange(len(atoms)) + 0.5)
        atoms.set_tags(range(len(atoms)))
        atoms.set_constraint(FixAtoms([0]))
        if k != 2:
            forces = np.random.default_rng(k).normal(size=(len(atoms), 3))
            atoms.calc = SinglePointCalculator(
                atoms, energy=-1.0 - k, forces=forces, stress=np.arange(6.0) + k
            )
        yield atoms


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "crystals.db"
    with ase.db.connect(path) as connection:
        for k, atoms in enumerate(crystals()):
            data = {"gap": k / 2, "hessian": np.arange(3.0 * len(atoms)).reshape(-1, 3)}
            connection.write(atoms, key_value_pairs={"hull": 0.1 * k, "kind": f"c{k}"}, data=data)
        connection.write(molecule("H2O"))
    return path


def execute(path, *statements):
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(*([statement] if isinstance(statement, str) else statement))


def test_equal_to_ase(look_at, database):
    found = look_at(database)
    with ase.db.connect(database) as connection:
        rows = list(connection.select())
    assert found.index.keys.to_list() == [str(row.id) for row in rows]
    assert len(found.structures) == len(rows)
    for s, row in enumerate(rows):
        one = found.structures.take([s])
        assert np.array_equal(one.numbers, row.numbers)
        assert np.array_equal(one.positions, row.positions)
        assert np.array_equal(one.cells[0], row.cell)
        assert np.array_equal(one.pbc[0], row.pbc)
        assert found.index.n_atoms[s] == len(row.numbers)
        energy = one.structure_labels["energy"][0]
        assert np.array_equal(energy, row.get("energy", np.nan), equal_nan=True)
        if "forces" in row:
            voigt = one.structure_labels["stress"][0][[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
            assert np.array_equal(one.atom_labels["forces"], row.forces)
            assert np.array_equal(voigt, row.stress)
        else:
            assert np.isnan(one.atom_labels["forces"]).all()
    volumes = [row.toatoms().cell.volume for row in rows[:-1]]
    # The index holds volumes in single precision.
    assert found.index.volumes[:-1] == pytest.approx(volumes, rel=1e-6)
    assert np.isnan(found.index.volumes[-1])


def test_labels_that_the_recipe_names(look_at, database):
    found = look_at(
        database,
        energy="hull",
        structure=("gap", "free_energy"),
        atom=("hessian", "initial_charges", "tags"),
    ).structures
    assert found.structure_labels["energy"][:5] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert found.structure_labels["gap"][:5].tolist() == [0, 0.5, 1, 1.5, 2]
    assert np.isnan(found.structure_labels["gap"][5])
    assert "free_energy" not in found.structure_labels
    first = slice(*found.structure_offsets[1:3])
    n_atoms = first.stop - first.start
    hessian = np.arange(3.0 * n_atoms).reshape(-1, 3)
    assert np.array_equal(found.atom_labels["hessian"][first], hessian)
    assert found.atom_labels["initial_charges"][first].tolist() == [k + 0.5 for k in range(n_atoms)]
    assert found.atom_labels["tags"][first].tolist() == list(range(n_atoms))
    assert look_at(database, energy="kind").codes == dict.fromkeys(range(5), "malformed_label")


@pytest.mark.parametrize(
    "select",
    [
        "natoms<4",
        "Si",
        "energy<-2",
        "hull>0.15,hull<0.35",
        "kind=c3",
        "H=0",
        "Cu>0",
        "kind!=c1",
        "hull",
    ],
)
def test_selections_are_those_of_ase(look_at, database, select):
    with ase.db.connect(database) as connection:
        expected = sorted(row.id for row in connection.select(select))
    assert expected
    assert [int(key) for key in look_at(database, select=select).index.keys] == expected


@pytest.mark.parametrize("select", ["a==b==c", "energy<low", "age<x", "formula>H2O", "pbc<TTT"])
def test_a_selection_that_is_not_understood(look_at, database, select):
    with pytest.raises(SourceError, match=r"select .* is not understood .* expected the like of"):
        look_at(database, select=select)


def test_a_selection_without_rows(look_at, database):
    with pytest.raises(SourceError, match="has no row that fits 'natoms>99'"):
        look_at(database, select="natoms>99")


def test_a_changed_row_has_another_hash(look_at, database):
    before = look_at(database).index
    with ase.db.connect(database) as connection:
        atoms = connection.get_atoms(2)
        atoms.positions[0, 0] += 1
        connection.update(2, atoms=atoms)
        connection.update(3, hull=7.0)
        del connection[4]
    after = look_at(database).index
    assert after.keys.to_list() == ["1", "2", "3", "5", "6"]
    kept = before.record_hashes[[0, 1, 2, 4, 5]]
    changed = (after.record_hashes != kept).any(axis=1)
    assert changed.tolist() == [False, True, False, False, False]
    assert look_at(database).reader.read(before.locations).set_aside[3].code == "missing"


OLD_SCHEMAS = {
    8: ["UPDATE systems SET data = '{\"gap\": 4.5}'"],
    5: ["UPDATE systems SET data = 'null'", "UPDATE systems SET magmom = x'0000000000000000'"],
    4: [f"ALTER TABLE systems DROP COLUMN {name}" for name in ("natoms", "fmax", "mass")],
    1: [
        "DROP INDEX username_index",
        "ALTER TABLE systems RENAME COLUMN username TO user",
        "CREATE INDEX user_index ON systems(user)",
        "DROP TABLE information",
    ],
}


@pytest.mark.parametrize("version", OLD_SCHEMAS)
def test_older_schemas(look_at, database, version):
    new = look_at(database)
    execute(database, f"UPDATE information SET value = '{version}' WHERE name = 'version'")
    execute(database, *OLD_SCHEMAS[version])
    old = look_at(database, structure=("gap",) if version == 8 else ())
    assert np.array_equal(old.structures.positions, new.structures.positions)
    assert np.array_equal(old.structures.cells, new.structures.cells)
    assert look_at(database, select="Si").index.keys.to_list() == ["2"]
    if version == 8:
        assert old.structures.structure_labels["gap"].tolist() == [4.5] * 6


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("positions = x'00'", "column 'positions' holds no array"),
        ("positions = zeroblob(24)", "expected as many positions"),
        ("positions = NULL", "expected as many positions"),
        ("numbers = NULL", "expected as many positions"),
        ("numbers = x'0000'", "column 'numbers' holds no array"),
        ("numbers = 'Cu'", "column 'numbers' holds no array"),
        ("cell = zeroblob(48)", "expected a 3x3 cell"),
        ("pbc = 'TTT'", "expected a 3x3 cell"),
    ],
)
def test_a_damaged_row_takes_no_other_with_it(look_at, database, change, reason):
    execute(database, f"UPDATE systems SET {change} WHERE id = 3")
    found = look_at(database)
    assert found.rows == [0, 1, 3, 4, 5]
    assert found.codes == {2: "malformed"}
    assert reason in found.reasons[2]


@pytest.mark.parametrize("column", ["forces", "stress", "energy"])
def test_a_label_that_is_none(look_at, database, column):
    execute(database, f"UPDATE systems SET {column} = 'high' WHERE id = 1")
    code = {} if column == "energy" else {0: "malformed"}
    assert look_at(database).codes == code
    assert list(look_at(database, **{column: column}).codes) == [0]


def test_nothing_is_unpickled_or_executed(look_at, database, tmp_path):
    marker = tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    bomb = pickle.dumps(Bomb())
    execute(
        database,
        ("UPDATE systems SET data = ?, constraints = ? WHERE id = 1", (bomb, bomb)),
        ("UPDATE systems SET key_value_pairs = ? WHERE id = 2", ("__import__('os')",)),
    )
    assert not look_at(database).codes
    found = look_at(database, energy="hull")
    assert found.codes == {0: "malformed_label", 1: "malformed_label"}
    assert not marker.exists()


def test_a_view_instead_of_the_table_is_refused(look_at, tmp_path):
    path = tmp_path / "endless.db"
    execute(
        path,
        "CREATE VIEW systems AS WITH RECURSIVE endless(id) AS "
        "(SELECT 1 UNION ALL SELECT id + 1 FROM endless) SELECT id FROM endless",
    )
    with pytest.raises(SourceError, match="no table 'systems'"):
        look_at(path)


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0" + bytes(500), b"3\nwater\n"])
def test_what_is_no_database_is_refused(look_at, write, content):
    with pytest.raises(SourceError, match=r"other\.db"):
        look_at(write(content, "other.db"))
    with pytest.raises(SourceError, match="is missing"):
        look_at("nowhere.db")


def test_another_table_of_that_name_is_refused(look_at, tmp_path):
    execute(tmp_path / "a.db", "CREATE TABLE systems (id INTEGER PRIMARY KEY, planet TEXT)")
    with pytest.raises(SourceError, match="'systems' lacks"):
        look_at(tmp_path / "a.db")


def test_a_schema_whose_names_are_no_text_is_a_reason(look_at, database):
    """SQLite repeats the name in its message, which Python then cannot decode."""
    index = b"ON systems(unique_id)"
    content = database.read_bytes()
    assert index in content
    database.write_bytes(content.replace(index, b"ON systems(unique\xffid)"))
    with pytest.raises(SourceError, match=r"crystals\.db cannot be read: .*can't decode byte 0xff"):
        look_at(database)


def test_damaged_pages_never_raise_anything_else(look_at, tmp_path, rng):
    path = tmp_path / "many.db"
    with ase.db.connect(path) as connection:
        for k in range(60):
            connection.write(bulk("Cu") * (1, 2, 2), k=k)
    content = path.read_bytes()
    n_good = []
    for _ in range(60):
        damaged = bytearray(content)
        for position in rng.integers(100, len(content), size=4):
            damaged[position : position + 64] = rng.bytes(64)
        path.write_bytes(damaged[: len(content)])
        try:
            n_good.append(len(look_at(path).structures))
        except SourceError:
            n_good.append(0)
    assert max(n_good) > 50
    assert min(n_good) < 60


def test_rows_that_are_still_in_the_log_are_seen(look_at, tmp_path):
    path = tmp_path / "log.db"
    with ase.db.connect(path) as connection:
        connection.write(bulk("Cu"))
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        reader = look_at(path).reader
        state = reader.fingerprint()
        columns = "numbers, positions, cell, pbc, key_value_pairs"
        writer.execute(f"INSERT INTO systems ({columns}) SELECT {columns} FROM systems")
        writer.commit()
        assert len(look_at(path).structures) == 2
        assert reader.fingerprint(state) != state


def test_the_database_is_left_as_it_is(look_at, database):
    content, folder = database.read_bytes(), sorted(database.parent.glob("crystals*"))
    look_at(database)
    assert database.read_bytes() == content
    assert sorted(database.parent.glob("crystals*")) == folder


def test_many_rows_in_any_order(look_at, tmp_path):
    path = tmp_path / "many.db"
    with ase.db.connect(path) as connection:
        for k in range(1, 1203):
            connection.write(Atoms("H", positions=[[k, 0, 0]]))
    found = look_at(path)
    assert found.structures.positions[:, 0].tolist() == list(range(1, 1203))
    rows = [1100, 3, 700]
    again = found.reader.read(found.index.locations[rows])
    assert again.structures.positions[:, 0].tolist() == [1101, 4, 701]


def endless(path):
    """Let each of 8 pages refer 41 times to the next: trillions of rows in a small file."""
    with closing(sqlite3.connect(path)) as connection:
        ((root,),) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name='systems'")
        ((size,),) = connection.execute("PRAGMA page_size")
    content = bytearray(path.read_bytes())
    place = slice((root - 1) * size, root * size)
    leaf, n_pages = content[place], len(content) // size

    def referring_to(page):
        header = struct.pack(">BxxHHxI", 5, 40, size - 5, page)
        cells = struct.pack(">H", size - 5) * 40
        return (header + cells).ljust(size - 5, b"\0") + struct.pack(">Ix", page)

    content[place] = referring_to(n_pages + 1)
    for k in range(2, 9):
        content += referring_to(n_pages + k)
    content += leaf
    content[28:32] = struct.pack(">I", n_pages + 8)
    path.write_bytes(content)


def test_pages_that_never_end(database, tmp_path):
    # Without a key every row is searched for among all.
    execute(database, "CREATE TABLE copy AS SELECT * FROM systems", "DROP TABLE systems")
    execute(database, "ALTER TABLE copy RENAME TO systems")
    endless(database)
    guard = Guard(seconds=0.2)
    reader = sources.reader(str(database), Source(path=str(database)), tmp_path, guard)
    with pytest.raises(SourceError, match=r"limits\.seconds_per_structure"):
        reader.index()
    result = reader.read(np.array([[1, 0], [2, 0], [3, 0]]))
    assert [problem.code for problem in result.set_aside.values()] == ["too_slow"] * 3
