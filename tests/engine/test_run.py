"""A run brings the lake up to date with the recipe: all of it, and nothing twice."""

import fcntl
import os
import threading
from contextlib import contextmanager

import numpy as np
import polars as pl
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import write

from atomlake.clusters.local import Local
from atomlake.descriptors import get
from atomlake.engine import scan
from atomlake.engine.run import RefusedError, preview, run
from atomlake.errors import LakeError, RecipeError
from atomlake.lake.catalogue import Catalogue
from atomlake.sources import first_look
from atomlake.sources.extxyz import ExtendedXyz
from atomlake.structures import Structures

ALL = {"H2O", "H3N", "CH4", "CO2", "Cu4"}


def live(database):
    return database.open().catalogue.structures().collect()


def with_path(database, path):
    """The recipe, with another path under the same name."""
    source = database.recipe.sources[0].model_copy(update={"path": str(path)})
    return database.recipe.model_copy(update={"sources": (source,)})


def test_a_first_run_computes_every_structure(database):
    outcome = database.run()
    assert outcome.totals.n_structures == 5
    assert not outcome.totals.set_aside
    assert set(database.features()) == ALL


def test_the_features_are_those_of_the_descriptor(database):
    database.run()
    descriptor = database.recipe.descriptors[0].build()
    stored = database.features()
    for atoms in database.structures:
        expected = descriptor.compute(atoms).features.values
        formula = Structures.from_ase(atoms).formulas()[0]
        np.testing.assert_array_equal(stored[formula], expected)


def test_the_same_recipe_again_does_nothing(database):
    database.run()
    plan = preview(database.recipe)
    assert plan.is_empty
    assert plan.n_unchanged == 5
    assert database.run().totals.n_structures == 0
    assert len(live(database)) == 5


class Opened:
    """Stands in for the opening of a local cluster, and notes what becomes of it."""

    def __init__(self, monkeypatch):
        self.happened = []
        monkeypatch.setattr(Local, "open", lambda cluster: self._open())

    @contextmanager
    def _open(self):
        thread = threading.get_ident()
        self.happened.append("opened")
        yield
        assert thread == threading.get_ident() != threading.main_thread().ident
        self.happened.append("closed")


def test_a_cluster_that_was_opened_while_planning_is_closed_when_the_plan_is_refused(
    database, monkeypatch
):
    opened = Opened(monkeypatch)
    limits = database.recipe.limits.model_copy(update={"max_features": 1})
    with pytest.raises(RefusedError):
        run(database.recipe.model_copy(update={"limits": limits}))
    assert opened.happened == ["opened", "closed"]


def test_no_cluster_is_opened_where_nothing_changed(database, monkeypatch):
    database.run()
    opened = Opened(monkeypatch)
    run(database.recipe)
    assert opened.happened == []


def test_one_more_structure_costs_one_structure(database):
    database.run()
    database.structures.append(molecule("C2H6"))
    database.save()
    assert database.run().totals.n_structures == 1
    assert set(database.features()) == ALL | {"C2H6"}


def test_what_is_appended_is_indexed_alone(database, monkeypatch):
    database.run()
    monkeypatch.setattr(ExtendedXyz, "index", _refuse)
    for name in ("C2H6", "H2O"):
        database.structures.append(molecule(name))
        database.save()
        outcome = database.run()
        assert (outcome.totals.n_structures, outcome.plan.n_retired) == (1, 0)
    rows = live(database)
    assert sorted(rows["key"]) == [str(i) for i in range(7)]
    assert rows["structure_id"].n_unique() == 7
    monkeypatch.undo()
    assert preview(database.recipe).is_empty


def test_what_a_killed_run_changed_is_seen_though_the_file_is_as_before(database, monkeypatch):
    database.run()
    before, removed = database.file.read_bytes(), database.structures.pop(0)
    database.save()
    with monkeypatch.context() as patch:
        patch.setattr(Catalogue, "publish_sources", _raise_once_retired)
        with pytest.raises(KeyboardInterrupt):
            database.run()
    assert len(live(database)) == 4, "it was killed after it had retired a structure"
    database.file.write_bytes(before)
    assert database.run().totals.n_structures == 1
    assert removed.get_chemical_formula() in set(live(database)["formula"])


def _refuse(reader):
    raise AssertionError("the whole file is indexed")


def _raise_once_retired(catalogue, sources, publish=Catalogue.publish_sources):
    if (sources["digest"] != "").any():
        raise KeyboardInterrupt
    publish(catalogue, sources)


def test_an_insertion_at_the_front_costs_one_structure(database):
    database.run()
    database.structures.insert(0, molecule("C2H6"))
    database.save()
    assert database.run().totals.n_structures == 1
    keys = dict(live(database).select("formula", "key").iter_rows())
    assert keys["C2H6"] == "0"
    assert keys["Cu4"] == "5"


def test_a_changed_structure_replaces_its_predecessor(database):
    database.run()
    before = database.features()
    database.structures[0].positions[0, 2] += 0.1
    database.save()
    outcome = database.run()
    assert (outcome.totals.n_structures, outcome.plan.n_retired) == (1, 1)
    after = database.features()
    assert set(after) == ALL
    assert not np.array_equal(before["H2O"], after["H2O"])
    np.testing.assert_array_equal(before["CH4"], after["CH4"])


def test_a_removed_structure_is_no_longer_seen(database):
    database.run()
    del database.structures[1]
    database.save()
    outcome = database.run()
    assert (outcome.totals.n_structures, outcome.plan.n_retired) == (0, 1)
    assert set(database.features()) == ALL - {"H3N"}


def test_an_earlier_version_still_shows_what_was(database):
    database.run()
    before = database.open().version
    database.structures.pop()
    database.save()
    database.run()
    assert len(database.open(as_of=before).catalogue.structures().collect()) == 5
    assert len(live(database)) == 4


def test_a_removed_file_retires_its_structures(database):
    database.run()
    other = database.file.with_name("other.xyz")
    database.file.rename(other)
    recipe = with_path(database, database.file.with_name("*.xyz"))
    outcome = run(recipe, executor="synchronous")
    assert outcome.totals.n_structures == 0, "a renamed file is not computed again"
    assert set(live(database)["location"]) == {str(other)}
    assert preview(recipe).is_empty


def test_files_that_several_processes_look_at_are_planned_as_by_this_one(database, monkeypatch):
    database.descriptors[0]["parameters"]["species"] = "scan"
    write(database.file.with_name("other.xyz"), molecule("CH3OH"), format="extxyz")
    database.file.with_name("bad.xyz").write_bytes(b"\x00\xff junk")
    recipe = with_path(database, database.file.with_name("*.xyz"))
    here = preview(recipe)
    monkeypatch.setattr(first_look, "LEAST_NBYTES", 0)
    monkeypatch.setattr(scan, "usable_cores", lambda: 2)
    there = preview(recipe)
    for plan in (here, there):
        assert [(s.location, s.fingerprint, s.species) for s in plan.states] == [
            (s.location, s.fingerprint, s.species) for s in here.states
        ]
        (unit,), (expected,) = plan.units, here.units
        assert unit.estimate == expected.estimate
        assert [(p.location, p.record_hashes.tolist()) for p in unit.pieces] == [
            (p.location, p.record_hashes.tolist()) for p in expected.pieces
        ]
        assert plan.set_aside.equals(here.set_aside)
        assert plan.descriptors == here.descriptors
    outcome = run(recipe, executor="synchronous")
    assert outcome.totals.set_aside == {"unreadable": 1}
    assert preview(recipe).is_empty


def test_one_more_descriptor_is_computed_from_the_lake(database):
    database.run()
    database.file.chmod(0o000)
    database.descriptors.append(
        {
            "kind": "soap",
            "parameters": {
                "species": ["H", "C", "N", "O", "Cu"],
                "cutoff": 3.0,
                "n_max": 2,
                "l_max": 2,
                "sigma": 0.5,
            },
        }
    )
    outcome = database.run()
    assert outcome.totals.n_structures == 5
    assert set(database.features("soap")) == ALL
    assert "hash" not in outcome.totals.seconds, "no structure was ingested again"


def test_a_changed_parameter_is_another_descriptor(database):
    database.run()
    database.descriptors[0]["parameters"] = {
        **database.descriptors[0]["parameters"],
        "cutoff": 5.0,
    }
    assert database.run().totals.n_structures == 5
    assert len(database.open().descriptors()) == 2


def test_gradients_can_be_switched_on_later(database):
    database.run()
    database.descriptors[0]["gradients"] = "pairs"
    assert database.run().totals.n_structures == 5
    gradients = database.open().gradients("symmetry_functions")
    assert gradients.gradient_positions.shape[1] == 3
    assert set(database.features()) == ALL
    assert preview(database.recipe).is_empty


@pytest.mark.parametrize(
    ("atoms", "code"),
    [
        (Atoms("H2", [[0, 0, 0], [0, 0, np.nan]]), "non_finite_position"),
        (Atoms("H2", [[0, 0, 0], [0, 0, 0]]), "coincident_atoms"),
        (Atoms("H", [[0, 0, 0]], cell=[3, 3, 0], pbc=True), "degenerate_cell"),
        (Atoms("H", [[0, 0, 0]], cell=[3, 3, 1e-9], pbc=True), "degenerate_cell"),
    ],
)
def test_a_bad_structure_is_set_aside_and_the_rest_goes_on(database, atoms, code):
    database.structures.insert(2, atoms)
    database.save()
    outcome = database.run()
    assert outcome.totals.set_aside == {code: 1}
    assert set(database.features()) == ALL
    rejected = database.open().rejected()
    assert rejected["key"].to_list() == ["2"]
    assert rejected["location"].to_list() == [str(database.file)]
    assert preview(database.recipe).is_empty


def test_labelled_structures_that_are_all_bad_are_set_aside(database):
    properties = "energy=-1.0 Properties=species:S:1:pos:R:3:forces:R:3"
    one_site_twice = f"2\n{properties}\n" + 2 * "H 0 0 0 1 2 3\n"
    database.file.write_text(one_site_twice + f"0\n{properties}\n")
    outcome = database.run()
    assert outcome.totals.set_aside == {"coincident_atoms": 1, "empty": 1}
    assert outcome.totals.n_failed == 0


@pytest.mark.parametrize("content", [b"", b"\x00\xff junk", b"not a number\n\nH 0 0 0\n"])
def test_an_unreadable_file_is_one_record_set_aside_once(database, content):
    database.run()
    bad = database.file.with_name("bad.xyz")
    bad.write_bytes(content)
    recipe = with_path(database, database.file.with_name("*.xyz"))
    outcome = run(recipe, executor="synchronous")
    assert outcome.totals.n_atoms == 0
    found = live(database).filter(pl.col("location") == str(bad))
    assert found["status"].to_list() == ["set_aside"] * len(found)
    assert len(found) <= 1
    again = run(recipe, executor="synchronous")
    assert again.totals.n_structures == 0
    assert live(database).filter(pl.col("location") == str(bad)).equals(found)
    write(bad, molecule("CH3Cl"), format="extxyz")
    run(recipe, executor="synchronous")
    repaired = live(database).filter(pl.col("location") == str(bad))
    assert repaired["formula"].to_list() == ["CClH3"]


def test_a_known_file_that_becomes_unreadable_keeps_its_structures(database):
    database.run()
    database.file.write_bytes(b"\x00\xff junk")
    database.run()
    assert set(database.features()) == ALL
    assert database.open().rejected()["code"].to_list() == ["unreadable"]
    database.save()
    assert database.run().totals.n_structures == 0
    assert not len(database.open().rejected())


def test_an_unknown_species_is_set_aside_for_the_descriptor_only(database):
    database.structures.append(molecule("SiH4"))
    database.save()
    outcome = database.run()
    assert outcome.totals.set_aside == {"unknown_species": 1}
    assert set(database.features()) == ALL
    assert len(live(database).filter(pl.col("status") == "ok")) == 6
    rejected = database.open().rejected().row(0, named=True)
    assert "Si" in rejected["reason"]
    assert rejected["descriptor_id"].startswith("symmetry_functions-")
    assert preview(database.recipe).is_empty


def test_raising_the_limit_takes_up_what_it_had_set_aside(database):
    database.limits = {"max_neighbours": 10}
    assert database.run().totals.set_aside == {"too_many_neighbours": 1}
    assert set(database.features()) == ALL - {"Cu4"}
    database.limits = {"max_neighbours": 1000}
    assert not database.run().totals.set_aside
    assert set(database.features()) == ALL


@pytest.mark.parametrize("failure", ["raises", "gives NaN"])
def test_a_kernel_that_fails_on_one_structure_costs_that_structure(database, monkeypatch, failure):
    kind = get("symmetry_functions")
    compute_rows = kind.compute_rows

    def fails_on_nitrogen(self, structures, neighbours, first, last, gradients, rows, held=None):
        compute_rows(self, structures, neighbours, first, last, gradients, rows, held)
        nitrogen = structures.numbers[first:last] == 7
        if nitrogen.any():
            if failure == "raises":
                raise ZeroDivisionError("the kernel did not expect nitrogen")
            rows.features[nitrogen] = np.nan

    monkeypatch.setattr(kind, "compute_rows", fails_on_nitrogen)
    outcome = database.run()
    code = "failed" if failure == "raises" else "non_finite_feature"
    assert outcome.totals.set_aside == {code: 1}
    assert set(database.features()) == ALL - {"H3N"}


def test_species_are_found_by_a_scan(database):
    database.descriptors[0]["parameters"]["species"] = "scan"
    outcome = database.run()
    assert outcome.plan.descriptors[0][1].species == ("H", "C", "N", "O", "Cu")
    assert preview(database.recipe).is_empty


def test_a_scan_that_finds_nothing_is_a_bad_recipe(database):
    database.structures = [Atoms()]
    database.save()
    database.descriptors[0]["parameters"]["species"] = "scan"
    with pytest.raises(RecipeError, match="give the species"):
        database.run()


def test_what_is_too_wide_is_refused_with_count_bytes_and_fix(database):
    database.limits = {"max_features": 5}
    with pytest.raises(RefusedError, match=r"features for 5 species.*MB.*limits.max_features"):
        database.run()


def test_soap_of_a_hundred_species_is_refused_by_the_plan(database):
    positions = 3.0 * np.arange(306).reshape(102, 3)
    database.structures = [Atoms(numbers=range(1, 103), positions=positions)]
    database.save()
    database.descriptors = [{"kind": "soap", "parameters": {"species": "scan"}}]
    refusals = preview(database.recipe).refusals
    assert "2,333,352" in refusals[0]
    assert "MiB" in refusals[0]
    assert "species_weights" in refusals[0]


def test_what_is_too_large_is_refused(database):
    database.limits = {"max_nbytes": 100}
    with pytest.raises(RefusedError, match=r"limits.max_nbytes"):
        database.run()


def test_what_does_not_fit_in_memory_is_refused(database):
    tight = {"kind": "local", "workers": 1, "memory": "100MB"}
    recipe = type(database.recipe).model_validate(
        {**database.recipe.model_dump(exclude={"cluster"}), "cluster": tight}
    )
    assert any("fewer workers" in refusal for refusal in preview(recipe).refusals)


def test_a_durable_run_publishes_nothing_that_is_not_on_the_disk(database, monkeypatch):
    """Files that the catalogue names were flushed before the commit that names them."""
    from atomlake.lake import catalogue

    flushed, checked = set(), []
    flush, write_table = os.fsync, catalogue.write_deltalake

    def note(file):
        flushed.add(os.readlink(f"/dev/fd/{file}"))
        flush(file)

    def check(table, rows, **options):
        for row in rows.iter_rows(named=True):
            for file in row.get("files") or ():
                path = database.lake.absolute() / row["path"] / file["name"]
                assert str(path) in flushed
                checked.append(path)
        return write_table(table, rows, **options)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(catalogue, "write_deltalake", check)
    run(database.recipe.model_copy(update={"durable": True}), executor="synchronous")
    assert len(checked) > 10
    assert any("_delta_log" in path for path in flushed)


def test_two_runs_do_not_work_in_one_lake(database):
    database.run()
    with open(database.lake / "scratch" / "run.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LakeError, match="another run is at work"):
            database.run()


def test_a_folder_that_is_no_lake_stops_the_run(database):
    database.lake.mkdir()
    (database.lake / "thesis.tex").write_text("precious")
    with pytest.raises(LakeError, match="not empty"):
        database.run()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_lake_stops_the_run(database):
    database.lake.parent.chmod(0o500)
    with pytest.raises(LakeError, match="cannot be written"):
        database.run()


def test_a_run_leaves_its_record(database):
    run_id = database.run().run_id
    runs = database.open().runs()
    assert runs["run_id"].to_list() == [run_id]
    assert runs["status"].to_list() == ["finished"]


def test_a_preview_changes_nothing(database):
    plan = preview(database.recipe)
    assert plan.n_new == 5
    assert plan.memory_nbytes > 0
    assert not database.lake.exists()
