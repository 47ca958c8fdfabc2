"""Memory is projected before anything runs, measured, and never asked for where it is not."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys

import numpy as np
import pytest
import yaml
from ase.build import bulk, molecule
from ase.io import write

from atomlake import descriptors
from atomlake.engine import memory
from atomlake.engine.events import WorkerMessage
from atomlake.engine.run import preview, run
from atomlake.engine.tasks import run_unit
from atomlake.engine.units import too_large_for_worker
from atomlake.lake import Lake, layout
from atomlake.lake.verify import verify
from atomlake.recipe import Recipe

FUNCTIONS = {"species": ["H", "O", "Cu"], "cutoff": 4.0, "g2": [[0.05, 0.0]]}
#: Averaged gradients are one row for a structure: 27,436 atoms take gigabytes.
AVERAGE = {"species": ["H", "O", "Cu"], "cutoff": 4.0, "n_max": 6, "l_max": 4, "sigma": 0.5}


def test_what_a_process_takes_is_measured_anew_for_every_unit():
    memory.forget_peak()
    before = memory.peak()
    block = np.ones(8 * 10**6)
    assert memory.peak() - before > 0.9 * block.nbytes
    del block
    memory.forget_peak()
    assert memory.peak() - before < 8 * 10**6


def test_projected_and_measured_memory_are_recorded_and_compared(database, monkeypatch):
    heard = []
    outcome = database.run(listeners=[heard.append])
    counts = json.loads(database.open().runs()["counts"][0])
    assert counts["worker_projected_nbytes"] == outcome.plan.memory_nbytes
    assert counts["worker_peak_nbytes"] == outcome.totals.peak_nbytes > 0
    log = layout.log_path(database.lake, outcome.run_id).read_text().splitlines()
    (done,) = [line for line in map(json.loads, log) if line["event"] == "UnitDone"]
    assert done["projected_nbytes"] == outcome.plan.memory_nbytes
    assert done["peak_nbytes"] == outcome.totals.peak_nbytes
    monkeypatch.setattr(memory, "peak", lambda: 10**15)
    database.structures.append(molecule("C2H6"))
    database.save()
    totals = database.run(listeners=[heard.append]).totals
    assert totals.n_above_projection == 1
    assert "was projected to take" in [e.message for e in heard if type(e) is WorkerMessage][-1]


def test_units_fit_workers_and_structures_that_cannot_are_left_out(tmp_path):
    def plan(memory_per_worker):
        recipe = _recipe(tmp_path, [_averaged_gradients()], memory_per_worker)
        return preview(recipe)

    large = bulk("Cu", cubic=True) * (10, 10, 10)
    write(tmp_path / "s.xyz", [molecule("H2O")] * 20 + [large] + [molecule("H2O")] * 20)
    assert [len(unit) for unit in plan("40GB").units] == [41]
    units = plan("1GB").units
    assert not plan("1GB").refusals
    assert plan("1GB").memory_nbytes <= memory.USABLE * 10**9
    assert [len(unit) for unit in units] == [20, 1, 20]
    (problem,) = units[1].fatal.values()
    assert problem.code == "too_large_for_worker"
    refusals = plan("300MB").refusals
    assert refusals
    assert "raise cluster.memory" in refusals[0]


def test_what_was_too_large_is_taken_up_with_more_memory(database, monkeypatch):
    monkeypatch.setattr(memory, "LEAST_NBYTES", 0)
    real = memory.available
    monkeypatch.setattr(memory, "available", lambda nbytes: 1)
    outcome = database.run()
    assert outcome.is_complete
    assert outcome.totals.set_aside == {"too_large_for_worker": 5}
    assert preview(database.recipe).is_empty
    monkeypatch.setattr(memory, "available", real)
    database.cluster = {"kind": "local", "workers": 1, "memory": "7GB"}
    assert database.run().totals.n_structures == 5
    assert len(database.features()) == 5
    assert not verify(database.open()).problems


def test_the_reason_says_how_much_is_needed_and_how_much_there_was():
    reason = too_large_for_worker(2 * 10**9, 10**9).reason
    assert "2,000,000,000" in reason
    assert reason.endswith("a worker had 1,000,000,000 bytes (cluster.memory)")


# ----- Real workers


def _averaged_gradients():
    wanted = {"positions": "summed", "strain": True}
    return {"kind": "soap", "gradients": wanted, "parameters": AVERAGE | {"average": "outer"}}


def _recipe(folder, wanted, memory_per_worker):
    return Recipe.model_validate(
        {
            "lake": str(folder / "lake"),
            "sources": [{"path": str(folder / "s.xyz"), "name": "s"}],
            "descriptors": wanted,
            "cluster": {
                "kind": "local",
                "workers": 2,
                "memory": memory_per_worker,
                "dashboard": False,
            },
        }
    )


def _run(folder, wanted, memory_per_worker):
    """Run a recipe as a user does; return its counts. No worker may have died."""
    path = folder / "recipe.yaml"
    recipe = _recipe(folder, wanted, memory_per_worker)
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json", exclude_defaults=True)))
    command = [sys.executable, "-m", "atomlake", "run", str(path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    assert "died" not in done.stderr
    assert "budget" not in done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_thirty_thousand_atoms_among_molecules_kill_nobody(tmp_path):
    """A worker of 1 GB computes them in blocks of rows, and is not given what it cannot do."""
    large = bulk("Cu", cubic=True) * (19, 19, 19)
    molecules = [molecule("H2O") for _ in range(60)]
    write(tmp_path / "s.xyz", [*molecules[:30], large, *molecules[30:]])
    functions = {"kind": "symmetry_functions", "gradients": "pairs", "parameters": FUNCTIONS}
    counts = _run(tmp_path, [functions], "1GB")
    assert counts["set_aside"] == {}
    assert counts["n_structures"] == 61
    assert 0 < counts["worker_peak_nbytes"] <= counts["worker_projected_nbytes"] < 10**9
    counts = _run(tmp_path, [functions, _averaged_gradients()], "1GB")
    assert counts["set_aside"] == {"too_large_for_worker": 1}
    lake = Lake.open(tmp_path / "lake")
    assert len(lake.features("symmetry_functions").structure_id) == 61
    assert len(lake.features("soap").structure_id) == 60
    assert not verify(lake).problems


@pytest.mark.slow
def test_a_part_with_lists_larger_than_a_worker_is_computed_within_its_memory(tmp_path):
    """Lists of 1 GB in a worker of 1 GB, most of which is for its libraries."""
    _write_diamonds(tmp_path, 100)
    _run(tmp_path, [], "1GB")
    counts = _run(tmp_path, _two_lists(), "1GB")
    assert counts["set_aside"] == {}
    assert counts["n_structures"] == 100
    assert 0 < counts["worker_peak_nbytes"] <= counts["worker_projected_nbytes"] < 10**9
    lake = Lake.open(tmp_path / "lake")
    assert len(lake.catalogue.parts().collect()) == 1
    assert not verify(lake).problems


def _write_diamonds(folder, n_structures):
    """Write crystals that are denser than the planner takes those of a part for."""
    crystals = [bulk("C", cubic=True) * (5, 5, 5) for _ in range(n_structures)]
    for i, crystal in enumerate(crystals):
        crystal.rattle(0.05, seed=i)
    write(folder / "s.xyz", crystals, format="extxyz")


def _two_lists():
    """Two descriptors whose lists, nearly the same, are in memory together: 10 kB for an atom."""
    return [
        {
            "kind": "symmetry_functions",
            "gradients": gradients,
            "parameters": FUNCTIONS | {"species": ["C"], "cutoff": cutoff, "dtype": "float32"},
        }
        for gradients, cutoff in (("pairs", 5.0), ("none", 4.99))
    ]


# ----- The projection against what every descriptor takes


def measured(folder):
    """Print, of every registered descriptor, form of gradients and average, what a unit takes."""
    for kind in map(descriptors.get, descriptors.names()):
        for average in {"none", "inner"} & set(kind.averages):
            forms = ["none", "summed", "pairs"] if kind.gradients else ["none"]
            for form in forms:
                what = f"{kind.kind}, average {average}, gradients {form}"
                _tell(what, _measured(folder, kind, average, form))
    _tell("a part in pieces", _measured_in_pieces(folder))


def _tell(what, taken):
    print(json.dumps({"what": what} | taken), flush=True)


def _measured(folder, kind, average, form):
    is_matrix = "n_atoms_max" in kind.model_fields
    size = 4 if is_matrix else 12 if form == "none" else 6
    parameters = kind.examples(("Na", "Cl"))[0].model_dump(mode="json") | {"average": average}
    if is_matrix:
        parameters["n_atoms_max"] = 8 * size**3
    entry = {"kind": kind.kind, "parameters": parameters}
    entry["gradients"] = {
        "positions": form if "positions" in kind.gradients else "none",
        "strain": form != "none" and "strain" in kind.gradients,
    }
    # The first, small one loads the kernels, which are counted with the process.
    for n in (1, size):
        crystal = bulk("NaCl", "rocksalt", a=5.6, cubic=True) * (n, n, n)
        crystal.rattle(0.1, seed=1)
        crystal.pbc = kind.kind != "coulomb_matrix"
        write(folder / "s.xyz", crystal, format="extxyz")
        recipe = _recipe(folder, [entry], "40GB")
        Lake.create(recipe.lake)
        taken = _taken(recipe)
    return taken


def _measured_in_pieces(folder):
    """Measure a unit whose lists take more than twice what a worker of 1 GB has for them."""
    for n_structures in (1, 100):
        place = folder / f"{n_structures} diamonds"
        place.mkdir()
        _write_diamonds(place, n_structures)
        run(_recipe(place, [], "1GB"), executor="synchronous")
        taken = _taken(_recipe(place, _two_lists(), "1GB"))
    return taken


def _taken(recipe):
    """Do the only unit of a recipe; return what it was projected to take, and what it took."""
    (unit,) = preview(recipe).units
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    memory.forget_peak()
    before = memory.peak()
    record = run_unit(recipe.lake, unit, recipe.limits)
    assert not record.set_aside
    assert len(record.features) == len(recipe.descriptors)
    return {
        "projected": record.projected_nbytes - memory.PROCESS_NBYTES,
        "measured": record.peak_nbytes - before,
    }


@pytest.mark.slow
def test_no_descriptor_takes_more_than_is_projected(tmp_path):
    """In a process of its own, because memory that a process once had is not given back.

    No tolerance: whatever is not in the projection would be the end of a worker.
    """
    command = [sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) >= len(descriptors.names())
    above = [one for one in found if one["measured"] > one["projected"]]
    assert not above


if __name__ == "__main__":
    from pathlib import Path

    measured(Path(sys.argv[1]))
