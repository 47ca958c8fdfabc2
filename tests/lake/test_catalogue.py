"""The catalogue: what was committed is there, once, for ever, whoever else commits."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from multiprocessing import get_context
from pathlib import Path

import polars as pl
import pytest
from lake_building import Builder, Toy

from atomlake.descriptors.base import Gradients
from atomlake.errors import LakeError
from atomlake.lake import Lake
from atomlake.lake.catalogue import TABLES, Catalogue


def rows(*keys: str, content: str = "") -> pl.DataFrame:
    """Structures that were set aside: they need no part."""
    return pl.DataFrame(
        {
            "structure_id": [f"id-{key}{content}" for key in keys],
            "source": ["db"] * len(keys),
            "location": ["a.xyz"] * len(keys),
            "key": list(keys),
            "status": ["set_aside"] * len(keys),
            "code": ["empty"] * len(keys),
            "reason": ["no atoms"] * len(keys),
        }
    )


def ids(lake: Lake) -> list[str]:
    table = lake.catalogue.structures(["structure_id", "sequence"]).sort("sequence")
    return table.collect()["structure_id"].to_list()


def live(lake: Lake, *keys: str) -> pl.DataFrame:
    return lake.catalogue.structures().filter(pl.col("key").is_in(keys)).collect()


# ----- What rows say


def test_an_empty_lake_has_every_table(lake: Lake) -> None:
    for table in ("structures", "parts", "features", "runs", "sources"):
        found = getattr(lake.catalogue, table)().collect()
        assert len(found) == 0
        assert set(found.columns) == set(TABLES[table]) - {"retires"}


def test_structures_come_in_the_order_of_publication(lake: Lake) -> None:
    lake.catalogue.publish_structures(rows("b", "a"), run_id="r1")
    lake.catalogue.publish_structures(rows("0"), run_id="r2")
    table = lake.refresh().catalogue.structures().sort("sequence").collect()
    assert table["key"].to_list() == ["b", "a", "0"]
    assert table["run_id"].to_list() == ["r1", "r1", "r2"]
    assert table["sequence"].is_unique().all()


def test_replacing_is_one_commit(lake: Lake) -> None:
    """No version of the lake has both or neither."""
    lake.catalogue.publish_structures(rows("a", "b"), run_id="r1")
    lake = lake.refresh()
    lake.catalogue.publish_structures(
        rows("a", content="-new"), retire=live(lake, "a"), run_id="r2"
    )
    assert ids(lake.refresh()) == ["id-b", "id-a-new"]
    assert lake.refresh().catalogue.versions["structures"] == 2


def test_retiring_alone_is_a_commit(lake: Lake) -> None:
    lake.catalogue.publish_structures(rows("a", "b"), run_id="r1")
    lake = lake.refresh()
    lake.catalogue.publish_structures(rows(), retire=live(lake, "a"), run_id="r2")
    assert ids(lake.refresh()) == ["id-b"]


def test_a_structure_may_come_back(lake: Lake) -> None:
    for _ in range(3):
        lake.catalogue.publish_structures(rows("a"), run_id="r")
        lake = lake.refresh()
        assert ids(lake) == ["id-a"]
        lake.catalogue.publish_structures(rows(), retire=live(lake, "a"), run_id="r")
        lake = lake.refresh()
        assert ids(lake) == []


def test_keys_may_be_exchanged(lake: Lake) -> None:
    lake.catalogue.publish_structures(rows("a", "b"), run_id="r1")
    lake = lake.refresh()
    moved = live(lake, "a", "b").with_columns(
        key=pl.col("key").replace_strict({"a": "b", "b": "a"})
    )
    lake.catalogue.publish_structures(moved, retire=live(lake, "a", "b"), run_id="r2")
    found = lake.refresh().catalogue.structures(["structure_id", "key"]).collect()
    assert dict(found.iter_rows()) == {"id-a": "b", "id-b": "a"}


def test_only_one_source_can_be_asked_for(lake: Lake) -> None:
    other = rows("x").with_columns(source=pl.lit("other"))
    lake.catalogue.publish_structures(pl.concat([rows("a"), other]), run_id="r")
    found = lake.refresh().catalogue.structures(["key"], source="other").collect()
    assert found["key"].to_list() == ["x"]


def test_the_last_row_about_a_run_or_a_file_holds(lake: Lake) -> None:
    start = {"run_id": "r1", "status": "running", "started": datetime.now(UTC)}
    lake.catalogue.publish_run(start)
    lake.catalogue.publish_run(start | {"status": "finished", "finished": datetime.now(UTC)})
    for n in (1, 2):
        lake.catalogue.publish_sources(
            pl.DataFrame({"source": ["db"], "location": ["a"], "nbytes": [n], "species": [[1, 8]]})
        )
    catalogue = lake.refresh().catalogue
    assert catalogue.runs().collect()["status"].to_list() == ["finished"]
    assert catalogue.sources().collect()["nbytes"].to_list() == [2]
    assert catalogue.sources().collect()["species"].to_list() == [[1, 8]]
    assert len(catalogue.sources(source="other").collect()) == 0


def test_the_last_features_of_a_part_hold_for_each_form_of_gradients(builder: Builder) -> None:
    part_id, structures = builder.part()
    for gradients in (Gradients(), Gradients("pairs"), Gradients()):
        builder.features(part_id, structures, Toy(), gradients)
    catalogue = builder.lake.refresh().catalogue
    log = catalogue.log("features").sort("sequence").select("path").collect()["path"].to_list()
    found = catalogue.features().collect()
    assert found["path"].to_list() == [log[1], log[2]]
    assert found["gradients"].to_list() == ["pairs", "none"]


def test_a_clock_that_goes_backwards_changes_no_order(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.catalogue.publish_structures(rows("a"), run_id="r")
    lake.catalogue.publish_run({"run_id": "r", "status": "running"})
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)
    for catalogue in (lake.catalogue, lake.refresh().catalogue):
        catalogue.publish_run({"run_id": "r", "status": catalogue.version})
    lake.refresh().catalogue.publish_structures(rows("b"), run_id="r")
    assert ids(lake.refresh()) == ["id-a", "id-b"]
    assert lake.refresh().catalogue.runs().collect()["status"].to_list() == ["1.0.0.1.0"]


def test_a_column_that_a_table_does_not_have_is_refused(lake: Lake) -> None:
    with pytest.raises(ValueError, match="no columns"):
        lake.catalogue.publish_run({"run_id": "r", "mood": "good"})


def test_a_commit_reads_nothing_of_what_is_there(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a writer is at work, its commits do not grow with the table."""
    lake.catalogue.publish_structures(rows("first"), run_id="r")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a commit must not scan the table")

    monkeypatch.setattr(pl, "scan_parquet", refuse)
    for i in range(3):
        lake.catalogue.publish_structures(rows(str(i)), run_id="r")


@pytest.mark.parametrize("name", ["a b", "é", "a#b", "x=1", "a?b*"])
def test_any_folder_name_will_do(tmp_path: Path, name: str) -> None:
    first, second = Lake.create(tmp_path / name), Lake.open(tmp_path / name)
    first.catalogue.publish_structures(rows("a"), run_id="r")
    second.catalogue.publish_structures(of("other", "b"), run_id="r")
    assert ids(first.refresh()) == ["id-a", "other-b"]
    assert [p.name for p in tmp_path.iterdir()] == [name]


# ----- Versions


def test_a_lake_does_not_change_while_it_is_held(lake: Lake) -> None:
    lake.catalogue.publish_structures(rows("a"), run_id="r")
    held = lake.refresh()
    copies = [held, pickle.loads(pickle.dumps(held)), Lake.open(lake.path, held.version)]
    held.catalogue.publish_structures(rows("b"), run_id="r")
    held.catalogue.publish_structures(rows(), retire=live(held, "a"), run_id="r")
    held.catalogue.compact()
    for copy in copies:
        assert copy.version == "1.0.0.0.0"
        assert ids(copy) == ["id-a"]
    assert ids(lake.refresh()) == ["id-b"]


def test_every_version_can_be_read_again(lake: Lake) -> None:
    versions = {}
    for key in "abcde":
        lake.catalogue.publish_structures(rows(key), run_id="r")
        lake.catalogue.publish_run({"run_id": key})
        versions[lake.refresh().version] = [f"id-{k}" for k in "abcde"[: "abcde".index(key) + 1]]
    for version, expected in versions.items():
        assert ids(Lake.open(lake.path, as_of=version)) == expected


def test_a_lake_can_be_read_as_it_was_at_a_time(lake: Lake) -> None:
    lake.catalogue.publish_structures(rows("a"), run_id="r")
    time.sleep(0.01)
    between = datetime.now(UTC)
    time.sleep(0.01)
    lake.catalogue.publish_structures(rows("b"), run_id="r")
    for path in (lake.path / "catalogue" / "structures" / "_delta_log").iterdir():
        os.utime(path, (0, 0))  # as in a copy
    east = between.astimezone(timezone(timedelta(hours=9)))
    for as_of in (between, between.isoformat(), between.replace(tzinfo=None), east):
        assert ids(Lake.open(lake.path, as_of=as_of)) == ["id-a"]
    assert ids(Lake.open(lake.path, as_of=between + timedelta(days=1))) == ["id-a", "id-b"]
    assert ids(Lake.open(lake.path, as_of="1999-01-01")) == []


@pytest.mark.parametrize(
    ("as_of", "message"),
    [("yesterday", "neither a version"), ("3.1", "it has 5 numbers"), ("9.9.9.9.9", "cannot be")],
)
def test_a_state_that_never_was_is_refused(lake: Lake, as_of: str, message: str) -> None:
    with pytest.raises(LakeError, match=message):
        Lake.open(lake.path, as_of=as_of)


def test_many_commits_stay_quick_to_open_and_readable(lake: Lake) -> None:
    """Checkpoints come by themselves and take no old version away."""
    for i in range(120):
        lake.catalogue.publish_run({"run_id": str(i)})
    log = lake.path / "catalogue" / "runs" / "_delta_log"
    assert list(log.glob("*.checkpoint.parquet"))
    assert len(lake.refresh().catalogue.runs().collect()) == 120
    assert len(Lake.open(lake.path, "0.0.0.5.0").catalogue.runs().collect()) == 5


# ----- Several writers


def of(source: str, *keys: str) -> pl.DataFrame:
    return rows(*keys).with_columns(
        source=pl.lit(source), structure_id=pl.lit(f"{source}-") + pl.col("key")
    )


REFUSED = r"first changed structures of \['db'\] after this run .*run it again"


def test_of_two_runs_on_one_source_the_second_to_commit_is_refused(lake: Lake) -> None:
    lake.catalogue.publish_structures(rows("a", "b"), run_id="r")
    first, second = lake.refresh(), lake.refresh()
    first.catalogue.publish_structures(rows("c"), run_id="first")
    with pytest.raises(LakeError, match=REFUSED):
        second.catalogue.publish_structures(rows("c", "d"), run_id="second")
    with pytest.raises(LakeError, match=REFUSED):
        second.catalogue.publish_structures(rows(), retire=live(second, "a"), run_id="second")
    with pytest.raises(LakeError, match=REFUSED):
        second.catalogue.require_undisturbed(["db"], run_id="second")
    first.catalogue.publish_structures(rows("e"), run_id="first")
    second.refresh().catalogue.publish_structures(rows("f"), run_id="second")
    assert ids(lake.refresh()) == [f"id-{key}" for key in "abcef"]


def test_a_retirement_by_another_run_is_a_change_of_its_source(lake: Lake) -> None:
    lake.catalogue.publish_structures(rows("a", "b"), run_id="r")
    first, second = lake.refresh(), lake.refresh()
    first.catalogue.publish_structures(rows(), retire=live(first, "a"), run_id="first")
    moved = live(second, "a").with_columns(key=pl.lit("z"))
    with pytest.raises(LakeError, match=REFUSED):
        second.catalogue.publish_structures(moved, retire=live(second, "a"), run_id="second")
    assert ids(lake.refresh()) == ["id-b"]


def test_runs_on_different_sources_do_not_disturb_each_other(lake: Lake) -> None:
    first, second = Lake.open(lake.path), Lake.open(lake.path)
    for i in range(3):
        first.catalogue.publish_structures(of("one", str(i)), run_id="first")
        second.catalogue.publish_structures(of("two", str(i)), run_id="second")
    first.catalogue.require_undisturbed(["one"], run_id="first")
    assert len(ids(lake.refresh())) == 6


def test_joining_the_files_of_a_table_is_no_change(lake: Lake) -> None:
    for key in "abc":
        lake.catalogue.publish_structures(rows(key), run_id="r")
        Lake.open(lake.path).catalogue.compact()
    assert ids(lake.refresh()) == ["id-a", "id-b", "id-c"]


def commit_many(path: Path, writer: int, n: int) -> None:
    """Publish, as a run does, structures of a source of its own."""
    lake = Lake.open(path)
    for i in range(n):
        lake.catalogue.publish_structures(of(str(writer), str(i)), run_id=str(writer))
        lake.catalogue.publish_run({"run_id": f"{writer}-{i}"})


def test_commits_of_several_processes_are_all_there_once(lake: Lake) -> None:
    n_writers, n = 3, 10
    context = get_context("spawn")
    others = [context.Process(target=commit_many, args=(lake.path, w, n)) for w in (1, 2)]
    for process in others:
        process.start()
    while not ids(lake.refresh()):
        time.sleep(0.001)
    commit_many(lake.path, 0, n)
    for process in others:
        process.join()
    assert [process.exitcode for process in others] == [0, 0]
    found = lake.refresh().catalogue.structures(["structure_id", "sequence"]).collect()
    expected = {f"{w}-{i}" for w in range(n_writers) for i in range(n)}
    assert sorted(found["structure_id"]) == sorted(expected)
    assert found["sequence"].is_unique().all()
    assert len(lake.refresh().catalogue.runs().collect()) == n_writers * n


def test_a_lake_may_be_created_by_several_at_once(tmp_path: Path) -> None:
    for attempt in range(5):
        path = tmp_path / str(attempt)
        barrier = threading.Barrier(4)

        def start(i: int, path: Path = path, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            Lake.create(path).catalogue.publish_run({"run_id": str(i)})

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(start, range(4)))
        assert len(Lake.open(path).catalogue.runs().collect()) == 4


COMMIT_FOR_EVER = """
import sys
sys.path[:0] = {paths!r}
from test_catalogue import rows
from atomlake.lake import Lake
lake = Lake.open({lake!r})
for i in range(10**6):
    lake.catalogue.publish_structures(rows(str(2 * i), str(2 * i + 1)), run_id="r")
    print(i, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_was_told_is_in(lake: Lake) -> None:
    """And nothing is half there: both structures of a commit, or neither."""
    code = COMMIT_FOR_EVER.format(paths=[str(Path(__file__).parent)], lake=str(lake.path))
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 20:
                os.kill(process.pid, signal.SIGKILL)
                break
        acknowledged = 21 + len(process.stdout.read().split())
    n = len(ids(lake.refresh()))
    assert n % 2 == 0
    assert 2 * acknowledged <= n <= 2 * (acknowledged + 1)


# ----- Trouble


def test_a_catalogue_that_is_damaged_says_so(lake: Lake) -> None:
    (lake.path / "catalogue" / "structures" / "_delta_log" / f"{0:020}.json").write_text("{")
    with pytest.raises(LakeError, match=r"catalogue of .* cannot be used"):
        Lake.open(lake.path)


def test_a_table_that_is_gone_says_so(lake: Lake) -> None:
    Catalogue(lake.path, lake.catalogue.versions)
    for path in sorted((lake.path / "catalogue" / "parts").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(LakeError, match="lacks a table"):
        Lake.open(lake.path)
