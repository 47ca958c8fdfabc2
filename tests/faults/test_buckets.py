"""A lake in a bucket is the lake that it would be in a folder, whoever is killed or meets whom."""

from __future__ import annotations

import lzma
import os
import subprocess
import sys
import uuid
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase.build import molecule
from ase.io import write
from observing import content

from atomlake import recipe as recipes
from atomlake.buckets import ObjectPath
from atomlake.engine import run as running
from atomlake.engine import shares
from atomlake.engine.run import run
from atomlake.errors import BusyError, ExitCode, LakeError, SourceError
from atomlake.lake import Lake, layout
from atomlake.lake.compaction import compact
from atomlake.lake.garbage import collect, purge
from atomlake.lake.verify import verify

sys.path.insert(0, str(Path(__file__).parents[1] / "services"))

pytest.importorskip("obstore", reason="obstore is not installed: pip install 'atomlake[s3]'")
pytest.importorskip("moto", reason="moto is not installed: pip install 'atomlake[test]'")

import stores

#: Requests for one more part: its arrays and their descriptions; nothing grows with the lake.
MOST_REQUESTS_PER_PART = 30


@pytest.fixture(scope="module", params=["moto", pytest.param("ceph", marks=pytest.mark.service)])
def store(request, tmp_path_factory):
    with getattr(stores, request.param)(tmp_path_factory.mktemp("store")) as port:
        proxy = stores.Proxy(port)
        yield proxy
        proxy.close()


@pytest.fixture
def place(store, monkeypatch):
    """URL of a lake that does not exist yet, in a bucket of its own."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", stores.KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", stores.SECRET)
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    stores.make_bucket(store.store_port, bucket)
    store.reset()
    yield f"s3://{bucket}/some/lake?endpoint=http://127.0.0.1:{store.port}"
    store.reset()


def make_recipe(folder, lake, n=6, **changes):
    """A recipe for parts of two structures; path of its file."""
    rng = np.random.default_rng(3)
    structures = [molecule("H2O") for _ in range(n)]
    for atoms in structures:
        atoms.positions += rng.normal(scale=0.05, size=(3, 3))
    write(folder / "db.xyz", structures, format="extxyz")
    parameters = {"species": ["H", "O"], "cutoff": 3.0, "g2": [[0.1, 0.0]]}
    path = folder / f"{uuid.uuid4().hex}.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "lake": str(lake),
                "sources": [{"path": str(folder / "db.xyz"), "name": "db"}],
                "descriptors": [
                    {"kind": "symmetry_functions", "gradients": "pairs", "parameters": parameters}
                ],
                "parts": {"structures": 2},
                **changes,
            }
        )
    )
    return path


def start(path, executor="synchronous"):
    return run(recipes.load(path), executor=executor)


def process(path, folder, *options):
    """A run on another machine: nothing is shared but the bucket and the sources."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "atomlake", "run", str(path), "--quiet", *options]
    return subprocess.Popen(
        [*command, "--executor", "synchronous"],
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def expected(folder, n=6):
    """What an undisturbed run writes into a folder."""
    lake = folder / "undisturbed"
    start(make_recipe(folder, lake, n))
    return content(Lake.open(lake), with_ids=False)


def found(place):
    return content(Lake.open(place), with_ids=False)


def test_a_bucket_holds_what_a_folder_holds(tmp_path, place):
    path = make_recipe(tmp_path, place)
    assert start(path).totals.n_parts == 3
    held = Lake.open(place)
    before = content(held)
    assert found(place) == expected(tmp_path)
    assert start(path).plan.is_empty
    assert not verify(held, deep=True).problems
    start(make_recipe(tmp_path, place, n=8))
    assert found(place) == expected(tmp_path, 8)
    assert content(held) == before
    assert layout.newest_log(place) is not None


@pytest.mark.slow
def test_workers_write_to_the_bucket(tmp_path, place):
    start(make_recipe(tmp_path, place, cluster={"workers": 2}), executor="cluster")
    assert found(place) == expected(tmp_path)


def test_maintenance(tmp_path, place):
    start(make_recipe(tmp_path, place))
    orphan = layout.resolve(place, layout.structures_path(uuid.uuid4().hex)) / "zarr.json"
    orphan.write_bytes(b"{}")
    assert compact(place).n_parts_after == 1
    assert [group.n_files for group in collect(place, timedelta(0))] == [1]
    assert not orphan.exists()
    assert found(place) == expected(tmp_path)
    purge(place, timedelta(0))
    assert found(place) == expected(tmp_path)
    assert not verify(Lake.open(place), deep=True).problems


def test_requests_of_a_part(tmp_path, place, store, monkeypatch):
    """However many parts there are, they are published in one commit."""
    monkeypatch.setattr(running, "PUBLISH_INTERVAL", 1e9)
    totals = []
    for n in (4, 12):
        lake = place.replace("lake", f"lake{n}")
        path = make_recipe(tmp_path, lake, n)
        store.reset()
        start(path)
        totals.append(dict(store.counts))
    per_part = {k: (totals[1][k] - totals[0].get(k, 0)) / 4 for k in totals[1]}
    print(f"requests for one more part: {per_part}; for a run of two parts: {totals[0]}")
    assert sum(per_part.values()) <= MOST_REQUESTS_PER_PART
    assert per_part["GET"] <= 1
    store.reset()
    path = make_recipe(tmp_path, lake, n)
    assert start(path).plan.is_empty
    print(f"requests of a run that finds nothing to do: {dict(store.counts)}")
    store.reset()
    Lake.open(lake)
    print(f"requests of opening a lake: {dict(store.counts)}")
    store.reset()
    len(Lake.open(lake).features("symmetry_functions")["features"].values)
    print(f"requests of reading the features of six parts: {dict(store.counts)}")


# ----- Kills


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.95])
def test_a_killed_run_is_completed_by_the_same_command(tmp_path, place, store, share):
    path = make_recipe(tmp_path, place.replace("lake", "counted"))
    undisturbed = process(path, tmp_path / "a")
    undisturbed.communicate()
    assert undisturbed.returncode == 0
    n_puts = store.counts["PUT"]
    path = make_recipe(tmp_path, place)
    victim = process(path, tmp_path / "a")
    store.reset(kill=(victim.pid, round(share * n_puts)))
    said = victim.communicate()
    assert victim.returncode == -9, said
    store.reset()
    start(path)
    assert found(place) == expected(tmp_path)
    assert not verify(Lake.open(place), deep=True).problems


def test_a_share_that_is_killed_is_completed_by_the_same_command(tmp_path, place, store):
    """Jobs of an array on three machines; the first dies in its second part, and nobody sees it."""
    path = make_recipe(tmp_path, place)
    shares.prepare(recipes.load(path))
    victim = process(path, tmp_path / "a", "--part-of", "1/2")
    store.reset(kill=(victim.pid, 40))
    said = victim.communicate()
    assert victim.returncode == -9, said
    store.reset()
    jobs = [process(path, tmp_path / f"b{i}", "--part-of", f"{i}/2") for i in (1, 2)]
    for job in jobs:
        said, problem = job.communicate()
        assert job.returncode == 0, problem
        assert "1 units done" in said
    assert run(recipes.load(path), executor="shares").is_complete
    assert found(place) == expected(tmp_path)
    assert not verify(Lake.open(place), deep=True).problems
    assert not list((ObjectPath(place) / layout.SHARES).below())


# ----- Two at once


def test_two_runs_at_once(tmp_path, place):
    path = make_recipe(tmp_path, place)
    runs = [process(path, tmp_path / machine) for machine in "ab"]
    codes = []
    for each in runs:
        _, error = each.communicate()
        codes.append(each.returncode)
        assert each.returncode in (ExitCode.DONE, ExitCode.BUSY), error
    assert ExitCode.DONE in codes
    start(path)
    assert found(place) == expected(tmp_path)
    assert not verify(Lake.open(place), deep=True).problems


def test_of_two_writers_on_one_source_the_second_is_refused(tmp_path, place):
    start(make_recipe(tmp_path, place))
    late = Lake.open(place)
    start(make_recipe(tmp_path, place, n=8))
    rows = late.catalogue.structures().collect()
    with pytest.raises(BusyError, match="changed structures of"):
        late.catalogue.publish_structures(rows.clear(), retire=rows, run_id="late")


def test_a_commit_whose_answer_is_lost_is_there_once(tmp_path, place, store):
    """The store does what it is told and says that it failed; what is sent again is refused."""
    path = make_recipe(tmp_path, place)
    Lake.create(place)
    store.reset(loses_commits=True)
    start(path)
    commits = [line for line in store.lines if line.startswith("PUT") and "_delta_log" in line]
    assert len(commits) > len(set(commits)) > 4
    store.reset()
    assert found(place) == expected(tmp_path)
    assert not verify(Lake.open(place), deep=True).problems


# ----- Stores that cannot, places that cannot be


def test_a_store_without_conditional_writes_is_refused(tmp_path, place, store):
    store.reset(drops_conditions=True)
    with pytest.raises(LakeError, match=r"If-None-Match.*single_committer=true"):
        start(make_recipe(tmp_path, place))
    assert not layout.is_lake(place)


def test_a_single_committer_needs_no_conditional_writes(tmp_path, place, store):
    store.reset(drops_conditions=True)
    alone = f"{place}&single_committer=true"
    start(make_recipe(tmp_path, alone))
    start(make_recipe(tmp_path, alone, n=8))
    assert found(alone) == expected(tmp_path, 8)
    assert not verify(Lake.open(alone), deep=True).problems


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:secret@bucket/lake",
        "s3://bucket/lake?secret_access_key=secret",
        "s3://bucket/a lake",
        "s3:///lake",
    ],
)
def test_urls_that_cannot_be(url):
    with pytest.raises(LakeError, match="can be no lake"):
        Lake.open(url)


def test_a_bucket_that_holds_something_else_is_no_lake(tmp_path, place):
    (ObjectPath(place) / "thesis.pdf").write_bytes(b"")
    with pytest.raises(LakeError, match=r"not empty: it holds \['thesis.pdf'\]"):
        start(make_recipe(tmp_path, place))


def test_no_secret_is_written_anywhere(tmp_path, place, monkeypatch):
    path = make_recipe(tmp_path, place)
    done = process(path, tmp_path / "a")
    said = "".join(done.communicate())
    assert stores.SECRET not in said
    for name, _ in ObjectPath(place).below():
        assert stores.SECRET.encode() not in (ObjectPath(place) / name).read_bytes(), name
    assert found(place)


def test_a_wrong_secret_is_said_to_be_wrong(place, store, monkeypatch, request):
    if "ceph" not in request.node.name:
        pytest.skip("moto takes every secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(LakeError, match="403") as caught:
        Lake.create(f"{place}&region=elsewhere")
    assert "wrong" not in str(caught.value)


# ----- Sources


def test_sources_in_a_bucket(tmp_path, place, store):
    """Objects are found by what their keys begin with; what has changed is computed again."""
    make_recipe(tmp_path, place)
    folder, bucket = tmp_path / "sources", ObjectPath(place).parent / "sources"
    folder.mkdir()
    lines = (tmp_path / "db.xyz").read_bytes().splitlines(keepends=True)
    halves = {"a.xyz": b"".join(lines[:10]), "b.xyz.xz": lzma.compress(b"".join(lines[10:]))}
    for name, text in (halves | {"readme.txt": b"no structures"}).items():
        (folder / name).write_bytes(text)
        (bucket / name).write_bytes(text)
    lakes = {}
    for name, path in {
        "of files": f"{folder}/*.xyz*",
        "of objects": str(bucket).replace("?", "/*.xyz*?"),
    }.items():
        asked = make_recipe(tmp_path, tmp_path / name, sources=[{"path": path, "name": "db"}])
        assert start(asked).totals.n_structures == 6
        lakes[name] = Lake.open(tmp_path / name).gradients("symmetry_functions")
    for name, values in lakes["of files"].data_vars.items():
        np.testing.assert_array_equal(values, lakes["of objects"][name])
    store.reset()
    assert start(asked).plan.is_empty
    assert not [line for line in store.lines if line.startswith("GET") and ".xyz" in line]
    (bucket / "a.xyz").write_bytes(b"".join(lines[:5]))
    assert start(asked).plan.n_retired == 1


def test_a_source_that_is_not_there(tmp_path, place):
    bucket = ObjectPath(place).parent / "nothing"
    path = make_recipe(tmp_path, tmp_path / "lake", sources=[{"path": str(bucket)}])
    with pytest.raises(SourceError, match="matches no object"):
        start(path)
