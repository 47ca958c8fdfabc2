"""Databases on servers, as far as there is no server here; tests/services has real ones."""

from __future__ import annotations

import pickle
import sqlite3
import sys

import ase.db
import numpy as np
import pytest
from ase.build import bulk, molecule

from atomlake.errors import SourceError
from atomlake.sources import ase_server
from atomlake.sources.ase_server import AseServer
from atomlake.sources.base import LabelKeys, Source


@pytest.fixture
def server(tmp_path, monkeypatch, unguarded):
    """An SQLite file stands for the server: ase gives it the same tables."""
    database = ase.db.connect(tmp_path / "server.db")
    with database:
        database.write(bulk("Cu"), hull=1.0)
        database.write(molecule("H2O"), hull=2.0)
    monkeypatch.setitem(ase_server._BEGIN, "db", "BEGIN")
    monkeypatch.setattr(
        ase_server, "_database", lambda location, password: ase.db.connect(tmp_path / "server.db")
    )
    return database


def reader(tmp_path, **source):
    entry = Source(path="mysql://user:secret@host/name", **source)
    return AseServer(entry.path, entry, tmp_path)


def test_rows_are_read(server, tmp_path):
    one = reader(tmp_path, select="hull>0", labels=LabelKeys(energy="hull"))
    index = one.index()
    assert index.keys.to_list() == ["1", "2"]
    result = one.read(index.locations[1:])
    assert result.structures.numbers.tolist() == [8, 1, 1]
    assert result.structures.structure_labels["energy"].tolist() == [2.0]
    assert one.read(np.array([[2, 0], [9, 0]])).set_aside[1].code == "missing"


def test_the_state_moves_with_every_change(server, tmp_path):
    one = reader(tmp_path)
    state = one.fingerprint()
    assert state[:2] == (0, 0)
    assert one.fingerprint(state) == state
    with server:
        server.update(1, hull=3.0)
    changed = one.fingerprint(state)
    assert changed != state
    with server:
        server.delete([1])
    assert one.fingerprint(changed) not in (state, changed)


def test_which_rows_are_selected_is_found_out_from_the_rows(server, tmp_path):
    with sqlite3.connect(tmp_path / "server.db") as database:
        database.execute("DELETE FROM number_key_values")
        database.execute("DELETE FROM species")
    database.close()
    for select, expected in {
        "hull>1.5": ["2"],
        "O": ["2"],
        "pbc=TTT": ["1"],
        "hull": ["1", "2"],
    }.items():
        assert reader(tmp_path, select=select).index().keys.to_list() == expected
    with pytest.raises(SourceError, match="no row that fits 'hull>9'"):
        reader(tmp_path, select="hull>9").index()


def test_a_row_that_cannot_be_decoded_is_set_aside(server, tmp_path):
    with sqlite3.connect(tmp_path / "server.db") as database:
        database.execute("UPDATE systems SET positions = x'00' WHERE id = 1")
    database.close()
    index = reader(tmp_path).index()
    assert {row: problem.code for row, problem in index.set_aside.items()} == {0: "malformed"}


def test_without_the_driver_it_says_what_to_install(tmp_path, monkeypatch, unguarded):
    monkeypatch.setitem(sys.modules, "ase_db_backends", None)
    with pytest.raises(SourceError, match=r"mysql://user@host/name needs .*atomlake\[databases\]"):
        reader(tmp_path).index()


@pytest.mark.parametrize(
    ("path", "kept", "password"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://me@host:5432/db", "secret"),
        ("mysql://me:se%40cr%2Fet@host/db", "mysql://me@host/db", "se@cr/et"),
        ("mysql://me:se@cr/et@host/db", "mysql://me@host/db", "se@cr/et"),
        ("postgresql://:secret@host/db", "postgresql://host/db", "secret"),
        ("postgresql://me@host/db", "postgresql://me@host/db", None),
        ("postgresql:///db", "postgresql:///db", None),
        ("folder/a:b@c.xyz", "folder/a:b@c.xyz", None),
    ],
)
def test_a_password_is_kept_apart(path, kept, password):
    source = Source(path=path)
    assert source.path == source.label == kept
    assert pickle.loads(pickle.dumps(source)).password == source.password == password
    assert password is None or not any(
        password in text for text in (repr(source), str(source), source.model_dump_json())
    )


def test_a_password_in_the_environment_is_looked_up_when_it_is_used(monkeypatch):
    source = Source(path="postgresql://me:${SECRET_OF_THE_TEST}@host/db")
    with pytest.raises(SourceError, match="SECRET_OF_THE_TEST"):
        _ = source.password
    monkeypatch.setenv("SECRET_OF_THE_TEST", "a/b%40")
    assert source.password == "a/b%40"
    assert source == Source(path="postgresql://me:${SECRET_OF_THE_TEST}@host/db")


def test_passwords_among_the_parameters_are_refused():
    with pytest.raises(ValueError, match="would be stored") as caught:
        Source(path="postgresql://host/db?user=me&password=topsecret")
    assert "would be stored" in caught.value.errors()[0]["msg"]


def test_the_address_of_a_server_reaches_the_drivers_whole():
    pytest.importorskip("ase_db_backends")
    postgres = ase_server._database("postgresql://me@host:1/db?sslmode=require", "a/b@c")
    assert postgres.filename == "postgresql://me:a%2Fb%40c@host:1/db?sslmode=require"
    assert ase_server._database("postgresql:///db", None).filename == "postgresql:///db"
    mysql = ase_server._database("mariadb://m%40e@host/db", "a/b@c")
    assert (mysql.username, mysql.passwd, mysql.host, mysql.port, mysql.db_name) == (
        "m@e",
        "a/b@c",
        "host",
        3306,
        "db",
    )
    with pytest.raises(SourceError, match="expected mysql://"):
        ase_server._database("mysql://host/db", None)
