"""Two that write one lake from two machines, where no lock keeps them apart.

While one run is at work, at any point of its writing, another run, a compaction, a collection or
a purge starts and ends. Whoever comes second either does its work or is told to do it again; once
all have been done again the lake is what it would be, had they come one after the other.
"""

from __future__ import annotations

from contextlib import nullcontext, suppress
from datetime import timedelta

import numpy as np
import pytest
from ase.build import molecule
from ase.io import write
from observing import content

from atomlake.engine import run as running
from atomlake.engine.run import run
from atomlake.errors import BusyError
from atomlake.lake import Lake, catalogue, compaction, garbage, layout
from atomlake.lake.verify import verify
from atomlake.recipe import Recipe

HOUR = timedelta(hours=1)


def recipe(folder, lake, etas=(0.1,), file="db"):
    return Recipe.model_validate(
        {
            "lake": str(folder / lake),
            "sources": [{"path": str(folder / f"{file}.xyz"), "name": file}],
            "descriptors": [
                {
                    "kind": "symmetry_functions",
                    "gradients": "pairs",
                    "parameters": {"species": ["H", "O"], "cutoff": 3.0, "g2": [[eta, 0.0]]},
                }
                for eta in etas
            ],
            "parts": {"structures": 2},
        }
    )


def save(folder, file, n):
    rng = np.random.default_rng(3)
    structures = [molecule("H2O") for _ in range(n)]
    for atoms in structures:
        atoms.positions += rng.normal(scale=0.05, size=(3, 3))
    write(folder / f"{file}.xyz", structures, format="extxyz")


def start(asked):
    return run(asked, executor="synchronous")


#: What the second does, given the folder and the lake.
OTHERS = {
    "the same recipe": lambda folder, lake: start(recipe(folder, lake)),
    "a recipe with one more descriptor": lambda folder, lake: start(
        recipe(folder, lake, (0.1, 0.2))
    ),
    "a recipe with another source": lambda folder, lake: start(
        recipe(folder, lake, file="another")
    ),
    "a compaction": lambda folder, lake: compaction.compact(folder / lake),
    "a collection": lambda folder, lake: garbage.collect(folder / lake, HOUR),
    "a purge": lambda folder, lake: garbage.purge(folder / lake, HOUR),
}


class Intrusion:
    """Does something else at the nth point of the writing of a run."""

    def __init__(self, monkeypatch):
        self.n_passed = 0
        self.nth = -1
        self.work = None
        for module, name in [(catalogue, "write_deltalake"), (layout, "write_whole")]:
            monkeypatch.setattr(module, name, self.around(getattr(module, name)))

    def around(self, function):
        def wrapped(*arguments, **options):
            self.n_passed += 1
            if self.n_passed == self.nth:
                work, self.work = self.work, None
                with suppress(BusyError):
                    work()
            return function(*arguments, **options)

        return wrapped


def prepare(folder, lake):
    """A lake of three small parts; then four structures are new and one has changed."""
    save(folder, "db", 6)
    save(folder, "another", 3)
    start(recipe(folder, lake))
    save(folder, "db", 10)
    text = (folder / "db.xyz").read_text().splitlines(keepends=True)
    first = text[2].split()
    text[2] = " ".join([first[0], "0.03", *first[2:]]) + "\n"
    (folder / "db.xyz").write_text("".join(text))


def check(folder, monkeypatch, other, nth):
    """Whether the point was reached."""
    intrusion = Intrusion(monkeypatch)
    prepare(folder, "lake")
    held = Lake.open(folder / "lake")
    before = content(held)
    intrusion.n_passed, intrusion.nth = 0, nth
    intrusion.work = lambda: OTHERS[other](folder, "lake")
    with suppress(BusyError):
        start(recipe(folder, "lake"))
    is_reached = intrusion.work is None
    intrusion.nth = -1
    assert content(held) == before
    assert not verify(Lake.open(folder / "lake"), deep=True).problems
    for lake in ("lake", "serial"):
        start(recipe(folder, lake))
        OTHERS[other](folder, lake)
    found, expected = (
        content(Lake.open(folder / lake), with_ids=False) for lake in ("lake", "serial")
    )
    assert found == expected
    assert content(held) == before
    return is_reached


@pytest.fixture(autouse=True)
def _no_lock(monkeypatch):
    """As on two machines; every part is published on its own."""
    for module in (running, compaction, garbage):
        monkeypatch.setattr(module, "alone", lambda *_: nullcontext())
    monkeypatch.setattr(running, "PUBLISH_INTERVAL", 0.0)


@pytest.mark.parametrize("other", OTHERS)
def test_serial_equals_parallel(tmp_path, monkeypatch, other):
    """Between the first part of a run and its last."""
    assert check(tmp_path, monkeypatch, other, 26)


@pytest.mark.slow
@pytest.mark.parametrize("other", OTHERS)
def test_serial_equals_parallel_wherever_they_meet(tmp_path, other):
    nth, is_reached = 1, True
    while is_reached:
        folder = tmp_path / str(nth)
        folder.mkdir()
        with pytest.MonkeyPatch.context() as monkeypatch:
            is_reached = check(folder, monkeypatch, other, nth)
        nth += 1
    print(f"{other}: {nth - 2} schedules")
    assert nth > 40


def test_the_second_run_on_one_machine_stops_before_it_computes(tmp_path, monkeypatch):
    from atomlake.lake.lock import alone

    monkeypatch.setattr(running, "alone", alone)
    prepare(tmp_path, "lake")
    with (
        alone(tmp_path / "lake", "purge"),
        pytest.raises(BusyError, match=r"another run is at work in .* \(purge, process \d+"),
    ):
        start(recipe(tmp_path, "lake"))


def test_a_file_system_without_locks_lets_runs_pass(tmp_path, monkeypatch):
    """The catalogue keeps them apart."""
    import fcntl

    from atomlake.lake.lock import alone

    def refuse(*_):
        raise OSError(95, "Operation not supported")

    prepare(tmp_path, "lake")
    monkeypatch.setattr(fcntl, "flock", refuse)
    with alone(tmp_path / "lake"), alone(tmp_path / "lake"):
        pass
