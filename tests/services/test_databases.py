"""Real PostgreSQL and MariaDB, with other writers at work, read by a role that may only read."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import quote

import numpy as np
import polars as pl
import pytest
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from servers import stopped_by

from atomlake import sources
from atomlake.engine.run import preview, run
from atomlake.errors import SourceError
from atomlake.lake import Lake
from atomlake.recipe import Recipe
from atomlake.sources.base import Guard, LabelKeys, Source
from conftest import HERE

pytest.importorskip("ase_db_backends")

SECRET = "r/e@d:%2F"
SERVERS = {"postgresql": 15432, "mysql": 13306}
DESCRIPTOR = {
    "kind": "symmetry_functions",
    "parameters": {"species": ["H", "O", "Cu"], "g2": [[0.05, 0.0]], "cutoff": 4.0},
}

#: Writes so many rows as fast as it can, as other programs of other people do.
WRITER = """
import sys, ase.db
from ase.build import molecule
for k in range(int(sys.argv[2])):
    try:
        ase.db.connect(sys.argv[1]).write(molecule("H2O"), hull=float(k), writer=sys.argv[3])
    except Exception:
        pass  # ase's own, of which the reference has the numbers
"""


@pytest.fixture(scope="module")
def servers():
    # The servers' own users do not reach the folders of pytest.
    folder = Path(tempfile.mkdtemp(prefix="atomlake-databases-"))
    script = HERE / "databases.sh"
    with stopped_by(script, "stop", folder):
        subprocess.run([script, "start", folder], check=True, timeout=300)
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


class Server:
    """A database on one of the servers: its URLs, and a connection that writes."""

    def __init__(self, kind, folder):
        self.kind, self.folder = kind, folder
        place = f"127.0.0.1:{SERVERS[kind]}/ase"
        self.as_writer = f"{kind}://writer:writer@{place}"
        self.as_reader = f"{kind}://reader:{quote(SECRET, safe='')}@{place}"
        self.location = f"{kind}://reader@{place}"

    @property
    def database(self):
        import ase.db

        return ase.db.connect(self.as_writer)

    def execute(self, statement):
        with self.database as database:
            cursor = database.connection.cursor()
            cursor.execute(statement)

    def fill(self):
        """Start anew, with six rows."""
        tables = ("keys", "text_key_values", "number_key_values", "species", "information")
        for table in (*tables, "systems"):
            name = "attribute_keys" if (self.kind, table) == ("mysql", "keys") else table
            self.execute(f"DROP TABLE IF EXISTS {name} CASCADE")
        with self.database as database:
            for k, atoms in enumerate([bulk("Cu", cubic=True), *[molecule("H2O")] * 5]):
                forces = np.full((len(atoms), 3), k + 0.25)
                atoms.positions[0] += 0.01 * k
                atoms.calc = SinglePointCalculator(
                    atoms, energy=-k, forces=forces, stress=np.arange(6.0)
                )
                database.write(atoms, hull=k / 2, data={"gap": k + 1.0})
        self.grant()

    def grant(self):
        subprocess.run([HERE / "databases.sh", "grant", self.folder], check=True)

    def recipe(self, folder, **source):
        return Recipe.model_validate(
            {
                "lake": str(folder / "lake"),
                "sources": [{"path": self.as_reader, "name": "server", **source}],
                "descriptors": [DESCRIPTOR],
            }
        )

    def reader(self, folder, guard=None, **source):
        entry = Source(path=self.as_reader, **source)
        (location,) = sources.expand(entry)
        return sources.reader(location, entry, folder, guard)

    def writers(self, n_writers, n_rows):
        command = [sys.executable, "-W", "ignore", "-c", WRITER, self.as_writer, str(n_rows)]
        return [subprocess.Popen([*command, f"w{i}"]) for i in range(n_writers)]


@pytest.fixture(params=SERVERS)
def server(request, servers):
    server = Server(request.param, servers)
    server.fill()
    return server


def live(recipe):
    return Lake.open(recipe.lake).catalogue.structures().collect()


def test_rows_are_what_ase_wrote(server, tmp_path):
    reader = server.reader(tmp_path, labels=LabelKeys(structure=("hull", "gap")))
    index = reader.index()
    result = reader.read(index.locations)
    assert not index.set_aside
    assert not result.set_aside
    for s, row in enumerate(server.database.select()):
        one = result.structures.take([s])
        assert index.keys[s] == str(row.id)
        np.testing.assert_array_equal(one.numbers, row.numbers)
        np.testing.assert_array_equal(one.positions, row.positions)
        np.testing.assert_array_equal(one.cells[0], row.cell)
        np.testing.assert_array_equal(one.pbc[0], row.pbc)
        np.testing.assert_array_equal(one.atom_labels["forces"], row.forces)
        assert one.structure_labels["energy"][0] == row.energy
        assert one.structure_labels["hull"][0] == row.hull
        assert one.structure_labels["gap"][0] == row.data.gap


def test_a_run_follows_the_rows(server, tmp_path):
    recipe = server.recipe(tmp_path)
    assert run(recipe, executor="synchronous").totals.n_structures == 6
    assert preview(recipe).is_empty
    before = live(recipe)
    database = server.database
    added = database.write(molecule("H2O"), hull=9.0)
    database.update(2, atoms=bulk("Cu"))
    database.delete([4])
    outcome = run(recipe, executor="synchronous")
    assert outcome.totals.n_structures == 2
    after = live(recipe)
    assert set(after["key"]) == {"1", "2", "3", "5", "6", str(added)}
    kept = ["1", "3", "5", "6"]
    column = pl.col("key")
    assert (
        after.filter(column.is_in(kept))["structure_id"]
        .sort()
        .equals(before.filter(column.is_in(kept))["structure_id"].sort())
    )
    assert after.filter(column == "2")["formula"].item() == "Cu"
    assert preview(recipe).is_empty


def test_an_older_change_by_a_clock_that_is_behind_is_seen(server, tmp_path):
    reader = server.reader(tmp_path)
    before = reader.fingerprint()
    server.execute("UPDATE systems SET energy = 7, mtime = mtime - 0.001 WHERE id = 3")
    assert reader.fingerprint().digest != before.digest


def test_selections_are_found_out_from_the_rows(server, tmp_path):
    """Another writer's row at the wrong moment, as ase's index tables get it in PostgreSQL."""
    server.execute("UPDATE number_key_values SET id = 1 WHERE value > 1.9")
    server.execute("DELETE FROM species WHERE id = 2")
    for select, expected in {
        "hull>1.9": ["5", "6"],
        "hull": ["1", "2", "3", "4", "5", "6"],
        "hull<1,O=1": ["2"],
        "natoms=4": ["1"],
        "pbc=FFF,energy>=-2": ["2", "3"],
    }.items():
        assert server.reader(tmp_path, select=select).index().keys.to_list() == expected


def test_writers_at_work_disturb_nothing(server, tmp_path):
    recipe = server.recipe(tmp_path)
    writers = server.writers(3, 40)
    try:
        n_runs = 0
        while n_runs == 0 or any(writer.poll() is None for writer in writers):
            run(recipe, executor="synchronous")
            n_runs += 1
    finally:
        for writer in writers:
            writer.wait(60)
    outcome = run(recipe, executor="synchronous")
    assert not outcome.totals.n_failed
    assert preview(recipe).is_empty
    rows = {str(row.id): row for row in server.database.select()}
    found = live(recipe)
    assert len(rows) > 6
    assert set(found["key"]) == set(rows)
    assert found["key"].is_unique().all()
    assert set(found["status"]) == {"ok"}


def test_one_state_is_seen_to_the_end(server, tmp_path, monkeypatch):
    """A row that is written while the first page is looked at is not on the second."""
    from atomlake.sources import ase_server

    monkeypatch.setattr(ase_server, "PAGE_ROWS", 2)
    found = []
    rows = ase_server.read_rows(server.location, SECRET, LabelKeys(), None, None)
    for row_id, _ in rows:
        if not found:
            server.database.write(molecule("H2O"))
            server.database.delete([5])
        found.append(row_id)
    assert found == [1, 2, 3, 4, 5, 6]


def test_nothing_can_be_written_even_by_a_role_that_may(server):
    from atomlake.sources import ase_server

    url = server.location.replace("reader", "writer")
    for statement in ("DELETE FROM systems", "UPDATE systems SET energy = 0"):
        with (
            pytest.raises(SourceError, match=r"(?i)read.?only"),
            ase_server._transaction(url, "writer") as (_, cursor),
        ):
            cursor.execute(statement)
    assert server.database.count() == 6


def test_a_reader_does_not_hold_up_writers(server):
    from atomlake.sources import ase_server

    with ase_server._transaction(server.location, SECRET) as (_, cursor):
        cursor.execute("SELECT COUNT(*) FROM systems")
        assert cursor.fetchone()[0] == 6
        done = []
        writer = threading.Thread(target=lambda: done.append(server.database.delete([1])))
        writer.start()
        writer.join(20)
        assert done
        cursor.execute("SELECT COUNT(*) FROM systems")
        assert cursor.fetchone()[0] == 6


def test_a_database_without_tables_is_refused(server, tmp_path):
    server.execute("ALTER TABLE systems RENAME TO others")
    with pytest.raises(SourceError, match="systems"):
        server.reader(tmp_path).index()
    server.execute("ALTER TABLE others RENAME TO systems")


def test_a_connection_that_is_cut_says_so_and_the_next_run_goes_on(server, tmp_path):
    from atomlake.sources import ase_server

    socket = str(server.folder / "mariadb.run/socket")
    cut = {
        "postgresql": [
            "psql",
            "-qh127.0.0.1",
            "-p15432",
            "-Upostgres",
            "-c",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'reader'",
        ],
        "mysql": [
            "mariadb",
            "--no-defaults",
            "-uroot",
            f"-S{socket}",
            "-e",
            "KILL USER reader@localhost",
        ],
    }[server.kind]

    def read():
        with ase_server._transaction(server.location, SECRET) as (_, cursor):
            subprocess.run(cut, check=True, stdout=subprocess.DEVNULL)
            cursor.execute("SELECT COUNT(*) FROM systems")

    with pytest.raises(SourceError, match=f"{server.location}.*cannot be read") as caught:
        read()
    assert SECRET not in str(caught.value)
    assert len(server.reader(tmp_path).index()) == 6


def test_a_server_that_answers_no_more_is_not_waited_for(server, tmp_path):
    pid = {
        "postgresql": server.folder / "postgres/postmaster.pid",
        "mysql": server.folder / "mariadb.run/pid",
    }[server.kind]
    server_pid = int(pid.read_text().split()[0])
    reader = server.reader(tmp_path, Guard(seconds=3.0))
    reader.index()
    os.kill(server_pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(SourceError, match="not read within 3 s"):
            reader.index()
        assert time.monotonic() - started < 60  # a hang would be for ever
    finally:
        os.kill(server_pid, signal.SIGCONT)
    assert len(reader.index()) == 6


def test_a_wrong_password_is_a_reason_that_does_not_hold_it(server, tmp_path):
    entry = Source(path=server.as_reader.replace(quote(SECRET, safe=""), "wr0ngsecret"))
    reader = sources.reader(entry.path, entry, tmp_path)
    with pytest.raises(SourceError, match="cannot be read") as caught:
        reader.fingerprint()
    assert "wr0ngsecret" not in str(caught.value)


def test_the_password_may_come_from_the_environment(server, tmp_path, monkeypatch):
    from atomlake.sources import guarded

    guarded._end_all()
    guarded._Process._idle.clear()
    monkeypatch.setenv("SECRET_OF_THE_TEST", SECRET)
    entry = Source(path=server.location.replace("reader@", "reader:${SECRET_OF_THE_TEST}@"))
    state = sources.reader(entry.path, entry, tmp_path).fingerprint()
    assert state == server.reader(tmp_path).fingerprint()
    assert entry.label == Source(path=server.as_reader).label == server.location
    if server.kind == "postgresql":
        monkeypatch.setenv("PGPASSWORD", SECRET)
        entry = Source(path=server.location)
        guarded._end_all()
        guarded._Process._idle.clear()
        assert sources.reader(entry.path, entry, tmp_path).fingerprint() == state


def test_no_byte_of_the_lake_and_no_word_holds_the_password(server, tmp_path):
    """After a run, a repetition, and a run against a server that is not there."""
    import yaml

    recipe = {
        "lake": str(tmp_path / "lake"),
        "sources": [{"path": server.as_reader}],
        "descriptors": [DESCRIPTOR],
        "cluster": {"kind": "local", "workers": 1, "dashboard": False},
    }
    said = ""
    for port in (str(SERVERS[server.kind]), str(SERVERS[server.kind]), "9"):
        recipe["sources"][0]["path"] = server.as_reader.replace(str(SERVERS[server.kind]), port)
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe))
        for arguments in (["run", path], ["status", recipe["lake"], "--web", tmp_path / "page"]):
            done = subprocess.run(
                [sys.executable, "-m", "atomlake", *map(str, arguments)],
                capture_output=True,
                text=True,
                timeout=300,
            )
            said += done.stdout + done.stderr
    path.unlink()
    assert server.location in said or "server" in said
    forms = (SECRET.encode(), quote(SECRET, safe="").encode())
    written = [file for file in Path(tmp_path).rglob("*") if file.is_file()]
    assert len(written) > 10
    for file in written:
        assert not any(form in file.read_bytes() for form in forms), file
    assert not any(form.decode() in said for form in forms)
