"""Job arrays: shares that are done apart and published once make the lake that one run makes."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from ase.build import molecule

from atomlake.engine import shares
from atomlake.engine.run import run
from atomlake.errors import LakeError, RefusedError
from atomlake.lake import Lake, layout
from atomlake.recipe import PartSize


@pytest.fixture
def recipe(database):
    database.structures = [molecule(n) for n in ("H2O", "NH3", "CH4", "CO2", "C2H6", "C2H4")]
    database.save()
    return database.recipe.model_copy(update={"parts": PartSize(structures=1)})


def publish(recipe):
    return run(recipe, executor="shares")


def everything(lake):
    table = lake.features("symmetry_functions")
    keys = [str(key) for key in table["key"].values]
    offsets = table["structure_offsets"].values
    rows = [table["features"].values[a:b].tobytes() for a, b in zip(offsets, offsets[1:])]  # noqa: B905, RUF007
    return dict(zip(keys, rows, strict=True))


def test_shares_make_the_lake_that_a_run_makes(recipe, tmp_path):
    other = recipe.model_copy(update={"lake": str(tmp_path / "by-a-run")})
    run(other, executor="synchronous")
    shares.prepare(recipe)
    done = [shares.do_share(recipe, i, 4) for i in (3, 1, 4, 2)]
    assert sum(done) == 6
    assert sorted(done) == [1, 1, 2, 2]
    assert publish(recipe).is_complete
    assert everything(Lake.open(recipe.lake)) == everything(Lake.open(other.lake))
    assert run(recipe, executor="synchronous").plan.is_empty


def test_nothing_is_visible_before_it_is_published(recipe):
    shares.prepare(recipe)
    shares.do_share(recipe, 1, 1)
    assert Lake.open(recipe.lake).descriptors().is_empty()


def test_a_share_that_is_done_again_does_nothing(recipe):
    shares.prepare(recipe)
    assert shares.do_share(recipe, 1, 2) == 3
    assert shares.do_share(recipe, 1, 2) == 0


def test_what_a_job_left_undone_is_told_and_done_by_the_next_run(recipe):
    shares.prepare(recipe)
    shares.do_share(recipe, 1, 2)
    outcome = publish(recipe)
    assert outcome.totals.n_failed == 3
    assert "no job of the array left a record" in outcome.totals.failures[0]
    assert run(recipe, executor="synchronous").totals.n_structures == 3
    assert len(everything(Lake.open(recipe.lake))) == 6


def test_a_unit_that_ends_its_jobs_is_not_tried_for_ever(recipe):
    plan = shares.prepare(recipe)
    folder = Lake.open(recipe.lake).path / layout.SHARES
    folder.mkdir()
    for n in range(shares.ATTEMPTS):
        (folder / f"{shares.digest(plan.units[0])}.try-{n}").touch()
    assert shares.do_share(recipe, 1, 1) == 5


def test_a_record_that_is_damaged_is_told(recipe):
    plan = shares.prepare(recipe)
    shares.do_share(recipe, 1, 1)
    record = Lake.open(recipe.lake).path / layout.SHARES / f"{shares.digest(plan.units[2])}.json"
    record.write_bytes(record.read_bytes()[:40])
    outcome = publish(recipe)
    assert outcome.totals.n_failed == 1
    assert "cannot be read" in outcome.totals.failures[0]


def test_a_source_that_changed_between_is_computed_by_the_next_run(recipe, database):
    shares.prepare(recipe)
    shares.do_share(recipe, 1, 1)
    database.structures[0] = molecule("CH3OH")
    database.save()
    assert publish(recipe).totals.n_failed == 1
    assert run(recipe, executor="synchronous").is_complete
    assert len(everything(Lake.open(recipe.lake))) == 6


def test_there_must_be_a_lake_first(recipe):
    with pytest.raises(LakeError, match="no lake"):
        shares.do_share(recipe, 1, 2)


def test_a_plan_that_is_refused_stops_before_the_array(recipe):
    limits = recipe.limits.model_copy(update={"max_features": 1})
    with pytest.raises(RefusedError):
        shares.prepare(recipe.model_copy(update={"limits": limits}))


def test_jobs_at_the_same_time_by_command(recipe, tmp_path):
    import yaml

    content = recipe.model_dump(mode="json", exclude={"cluster", "limits"})
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(content))

    def atomlake(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "atomlake", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )

    assert "6 units" in atomlake("init", file).stdout
    killed = subprocess.Popen([sys.executable, "-m", "atomlake", "run", file, "--part-of", "1/2"])
    threading.Timer(0.3, os.kill, (killed.pid, signal.SIGKILL)).start()
    assert atomlake("run", file, "--part-of", "2/2").returncode == 0
    killed.wait()
    assert atomlake("publish", file).returncode == 6
    assert atomlake("run", file).returncode == 0
    assert len(everything(Lake.open(recipe.lake))) == 6
    assert atomlake("run", file, "--part-of", "3/2").returncode == 2
