"""The command line: what each command prints, and what its exit code means."""

import json
import sys

import pytest
import yaml
from ase.build import molecule
from ase.io import write
from click.testing import CliRunner

from atomlake.cli import main


@pytest.fixture
def recipe(tmp_path):
    """A recipe file for two molecules, and a function that changes it."""
    write(tmp_path / "molecules.xyz", [molecule("H2O"), molecule("CH4")], format="extxyz")
    content = {
        "lake": str(tmp_path / "lake"),
        "sources": [{"path": str(tmp_path / "molecules.xyz"), "name": "molecules"}],
        "descriptors": [
            {"kind": "symmetry_functions", "parameters": {"cutoff": 4.0, "w2": [[0.5, 0.0]]}}
        ],
        "cluster": {"workers": 1},
    }
    path = tmp_path / "recipe.yaml"

    def save(**changes):
        path.write_text(yaml.safe_dump(content | changes))
        return str(path)

    save()
    return save


def call(*arguments, code=0):
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, result.output + result.stderr
    return result


def as_json(*arguments, code=0):
    return json.loads(call(*arguments, "--json", code=code).stdout)


def run(path):
    return as_json("run", path, "--executor", "synchronous", "--quiet")


def test_run_says_what_it_did(recipe):
    first = run(recipe())
    assert (first["n_structures"], first["n_unchanged"], first["set_aside"]) == (2, 0, {})
    second = run(recipe())
    assert (second["n_structures"], second["n_unchanged"]) == (0, 2)
    text = call("run", recipe(), "--executor", "synchronous", "--quiet").stdout
    assert "unchanged  2 structures" in text


@pytest.mark.parametrize(
    ("cluster", "starts"),
    [({}, True), ({"kind": "local"}, True), ({"kind": "slurm"}, False), ("local", False)],
)
def test_only_a_local_cluster_starts_the_parent_of_its_workers_early(
    recipe, monkeypatch, cluster, starts
):
    started = []
    monkeypatch.setattr("atomlake.clusters.forking.start", lambda: started.append(True))
    monkeypatch.setattr("atomlake.cli.recipes.load", lambda *_: sys.exit(0))
    call("run", recipe(cluster=cluster))
    assert bool(started) == starts


def test_plan_says_what_a_run_would_do_and_changes_nothing(recipe, tmp_path):
    plan = as_json("plan", recipe())
    assert plan["n_new"] == 2
    assert plan["n_atoms"] == 8
    assert plan["nbytes"] > 0
    assert plan["memory_per_worker_nbytes"] > 0
    assert plan["descriptors"][0]["n_features"] == 1
    assert "structures  2 to do (2 new)" in call("plan", recipe()).stdout
    assert not (tmp_path / "lake").exists()


def test_status_show_and_verify_read_a_lake(recipe, tmp_path):
    lake = str(tmp_path / "lake")
    run(recipe())
    status = as_json("status", lake)
    assert status["n_structures"] == 2
    assert status["descriptors"][0]["n_structures"] == 2
    assert "symmetry_functions" in call("status", lake).stdout
    shown = as_json("show", lake, "symmetry_functions")
    assert shown["sizes"]["feature"] == 1
    assert "Behler" in call("show", lake, "symmetry_functions").stdout
    assert as_json("verify", lake)["problems"] == []


def test_status_lists_what_was_set_aside_with_its_reason(recipe, tmp_path):
    (tmp_path / "molecules.xyz").write_text("2\n\nH 0 0 0\nH 0 0 nan\n")
    run(recipe())
    text = call("status", str(tmp_path / "lake")).stdout
    assert "non_finite_position" in text
    assert "molecules.xyz # 0: positions must be finite" in text


def test_descriptors_and_sources_list_what_there_is(tmp_path):
    assert {"soap", "mbtr"} <= {row["kind"] for row in as_json("descriptors")}
    assert "density correlations" in call("descriptors", "--species", "Si").stdout
    assert "unknown chemical symbol 'Xx'" in call("descriptors", "--species", "Xx", code=2).stderr
    assert "extxyz" in {row["format"] for row in as_json("sources")}
    write(tmp_path / "a.xyz", molecule("H2O"), format="extxyz")
    (found,) = as_json("sources", str(tmp_path / "a.xyz"))
    assert (found["n_records"], found["species"]) == (1, ["H", "O"])


def test_exit_codes_tell_what_is_wrong(recipe, tmp_path):
    assert "did you mean 'sources'" in call("run", recipe(suorces=[]), code=2).stderr
    call("run", recipe(sources=[{"path": str(tmp_path / "none*.xyz")}]), code=3)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("not a lake")
    call("run", recipe(lake=str(tmp_path / "other")), code=4)
    call("status", str(tmp_path / "other"), code=4)
    refused = call("run", recipe(limits={"max_nbytes": 10}), code=5)
    assert "limits.max_nbytes" in refused.stderr
    call("plan", recipe(limits={"max_nbytes": 10}), code=5)


def test_damage_is_found_and_named(recipe, tmp_path):
    run(recipe())
    shard = next((tmp_path / "lake" / "parts").glob("*/symmetry_functions-*/features/c/*/*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    lake = str(tmp_path / "lake")
    result = call("verify", lake, code=7)
    part_id, path = shard.relative_to(tmp_path / "lake" / "parts").parts[0], "molecules.xyz"
    assert f"in part {part_id}: 2 structures damaged" in result.stderr
    assert f"{path} # 0" in result.stderr
    (damage,) = as_json("verify", lake, code=7)["damaged"]
    assert damage["part_id"] == part_id
    assert [row["key"] for row in damage["structures"]] == ["0", "1"]


def test_what_verify_finds_repair_computes_again(recipe, tmp_path):
    path, lake = recipe(), str(tmp_path / "lake")
    run(path)
    assert as_json("verify", lake, "--deep")["problems"] == []
    shard = next((tmp_path / "lake" / "parts").glob("*/symmetry_functions-*/features/c/*/*"))
    shard.unlink()
    assert "computed 1 groups of features" in call("repair", lake).stdout
    positions = next((tmp_path / "lake" / "parts").glob("*/structures/positions/c/*/*"))
    positions.write_bytes(positions.read_bytes()[:-1])
    assert "only with a RECIPE" in call("repair", lake, code=7).stderr
    done = as_json("repair", lake, path)
    assert (done["n_structures"], done["problems"]) == (2, [])
    assert as_json("verify", lake, "--deep")["problems"] == []


def test_a_commit_that_is_gone_is_found(recipe, tmp_path):
    run(recipe())
    (tmp_path / "lake/catalogue/features/_delta_log/00000000000000000001.json").unlink()
    result = call("verify", str(tmp_path / "lake"), code=7)
    assert "catalogue/features: it had version 1 and has 0" in result.stderr


def test_a_lake_of_this_version_is_upgraded_to_it(recipe, tmp_path):
    run(recipe())
    done = as_json("upgrade", str(tmp_path / "lake"))
    assert done == {"format_version_before": 1, "format_version": 1}
    call("upgrade", str(tmp_path / "none"), code=4)


def test_a_lake_is_compacted_collected_and_purged(recipe, tmp_path):
    lake = str(tmp_path / "lake")
    run(recipe(parts={"structures": 1}))
    done = as_json("compact", lake)
    assert (done["n_parts_before"], done["n_parts_after"], done["n_moved"]) == (2, 1, 2)
    assert as_json("collect", lake)["groups"] == []
    assert as_json("purge", lake)["groups"] == [], "what is joined today is kept for a week"
    removed = as_json("purge", lake, "--older-than", "0s")
    assert len(removed["groups"]) == 4
    assert removed["nbytes"] > 0
    assert as_json("verify", lake)["problems"] == []
    assert run(recipe())["n_unchanged"] == 2


def test_a_time_span_or_a_size_that_is_none_is_refused(recipe, tmp_path):
    run(recipe())
    lake = str(tmp_path / "lake")
    assert "30min, 12h or 7d" in call("purge", lake, "--older-than", "soon", code=2).output
    assert "192MB" in call("compact", lake, "--part-size", "large", code=2).output
