"""Sources that change, or go away, while a run is at work: never one taken for the other."""

from __future__ import annotations

import os
import sqlite3

import ase.db
import pytest
from ase.build import molecule
from ase.io import write

from atomlake import sources
from atomlake.engine.run import preview, run
from atomlake.errors import SourceError
from atomlake.lake.verify import verify
from atomlake.sources import ase_sqlite
from atomlake.sources.base import Reader, Source

FORMATS = ["structures.xyz", "structures.xyz.gz", "structures.db", "structures.json", "a.traj"]


def save(path, structures):
    """Replace a database, as a program that writes it does."""
    other = path.with_name(f"new-{path.name}")
    if path.suffix in (".db", ".json"):
        with ase.db.connect(other) as rows:
            for atoms in structures:
                rows.write(atoms)
    else:
        write(other, structures)
    os.replace(other, path)


@pytest.fixture
def at_reading(monkeypatch):
    """Do something once, at the moment when a task begins to read, or when it has read."""

    def arrange(action, path, when="before"):
        kind = sources.reader(str(path), Source(path=str(path)), path.parent).__class__
        read, waiting = kind.read, [action]

        def read_meanwhile(self, locations):
            if when == "before" and waiting:
                waiting.pop()()
            result = read(self, locations)
            if waiting:
                waiting.pop()()
            return result

        monkeypatch.setattr(kind, "read", read_meanwhile)

    return arrange


@pytest.fixture(params=FORMATS)
def changing(database, request):
    """The small database in one format, which contains the first structures only."""
    database.file = database.file.with_name(request.param)
    database.save = lambda: save(database.file, database.structures)
    database.save()
    return database


def other_structures(database):
    structures = [atoms.copy() for atoms in database.structures]
    for atoms in structures:
        atoms.positions *= 1.01
    return structures


def formulas(database):
    return sorted(database.features())


def assert_converges(database, expected):
    """The same command again brings the lake up to date, and then there is nothing to do."""
    outcome = database.run()
    assert outcome.is_complete
    assert not outcome.totals.set_aside
    assert formulas(database) == sorted(expected)
    assert preview(database.recipe).is_empty
    assert not verify(database.open()).problems


ALL = ["H2O", "H3N", "CH4", "CO2", "Cu4"]


def test_what_changed_since_it_was_indexed_is_left_for_the_next_run(changing, at_reading):
    changed = other_structures(changing)
    at_reading(lambda: save(changing.file, changed), changing.file)
    outcome = changing.run()
    assert not outcome.is_complete
    assert "changed while it was being read" in outcome.totals.failures[0]
    assert len(changing.open().catalogue.structures().collect()) == 0
    changing.structures = changed
    assert_converges(changing, ALL)
    descriptor = changing.recipe.descriptors[0].build()
    expected = descriptor.compute(changed[0]).features.values
    assert changing.features()["H2O"] == pytest.approx(expected, abs=1e-7)


def test_what_changed_after_it_was_read_is_taken_up_by_the_next_run(changing, at_reading):
    changed = other_structures(changing)
    at_reading(lambda: save(changing.file, changed), changing.file, when="after")
    changing.run()
    before = changing.features()["H2O"]
    assert_converges(changing, ALL)
    assert changing.features()["H2O"] != pytest.approx(before, abs=1e-7)


def test_what_disappears_is_left_for_the_next_run(changing, at_reading):
    hidden = changing.file.with_name("hidden")
    at_reading(lambda: changing.file.rename(hidden), changing.file)
    outcome = changing.run()
    assert not outcome.is_complete
    assert str(changing.file) in outcome.totals.failures[0]
    hidden.rename(changing.file)
    assert_converges(changing, ALL)


def test_what_is_cut_while_it_is_read_is_not_taken_for_damage(changing, at_reading):
    content = changing.file.read_bytes()
    at_reading(lambda: changing.file.write_bytes(content[: len(content) // 2]), changing.file)
    outcome = changing.run()
    assert not outcome.is_complete
    assert not outcome.totals.set_aside
    changing.file.write_bytes(content)
    assert_converges(changing, ALL)


def test_a_file_that_grows_all_the_time_is_read_as_far_as_it_was(database, at_reading):
    def grow():
        with database.file.open("a") as stream:
            write(stream, molecule("C2H6"), format="extxyz")

    at_reading(grow, database.file)
    assert database.run().is_complete
    assert formulas(database) == sorted(ALL)
    assert_converges(database, [*ALL, "C2H6"])


def test_what_changes_while_it_is_indexed_is_looked_at_again(changing, monkeypatch):
    changed = other_structures(changing)
    kind = type(sources.reader(str(changing.file), Source(path="a"), changing.file.parent))
    index = kind.index

    def index_meanwhile(self):
        monkeypatch.undo()
        result = index(self)
        save(changing.file, changed)
        return result

    monkeypatch.setattr(kind, "index", index_meanwhile)
    outcome = changing.run()
    assert outcome.totals.set_aside == {"unreadable": 1}
    changing.structures = changed
    assert_converges(changing, ALL)


def test_a_change_that_the_clock_does_not_show(database):
    """Same size, earlier time: a file from a backup, or a clock that was put back."""
    database.run()
    text = database.file.read_text()
    state = database.file.stat()
    database.file.write_text(text.replace("0.11926200", "0.11926300"))
    os.utime(database.file, ns=(state.st_atime_ns, state.st_mtime_ns - 10**12))
    assert database.file.stat().st_size == state.st_size
    assert run(database.recipe, executor="synchronous").totals.n_structures == 1
    assert_converges(database, ALL)


def test_every_reader_tells_a_changed_record_by_its_hash(changing, tmp_path):
    """The check of a run rests on this: the same hash from reading as from indexing."""
    source = Source(path=str(changing.file))
    reader: Reader = sources.reader(str(changing.file), source, tmp_path / "scratch")
    index = reader.index()
    found = reader.read(index.locations[[3, 1]])
    assert (found.record_hashes == index.record_hashes[[3, 1]]).all()


def test_a_database_that_is_locked_for_long(database, monkeypatch):
    """Readers of a journal in rollback mode wait for its writer, and give up with a reason."""
    database.file = database.file.with_name("structures.db")
    save(database.file, database.structures)
    monkeypatch.setattr(ase_sqlite, "LOCK_SECONDS", 0.1)
    writer = sqlite3.connect(database.file)
    writer.execute("BEGIN EXCLUSIVE")
    reader = sources.reader(str(database.file), Source(path="a"), database.file.parent)
    with pytest.raises(SourceError, match="locked"):
        reader.index()
    writer.rollback()
    writer.close()
    assert len(reader.index()) == 5
