"""Whatever happens to a lake, in whatever order, it shows what a model in memory says it must.

The database is edited, the recipe grows, runs finish or die at any point of their writing, parts
are joined, garbage is collected, old states are read or purged.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from ase import Atoms
from ase.io import write
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from atomlake.engine import run as running
from atomlake.engine.run import preview, run
from atomlake.errors import LakeError
from atomlake.lake import Lake, catalogue, layout
from atomlake.lake.compaction import compact
from atomlake.lake.garbage import collect, purge
from atomlake.lake.verify import verify
from atomlake.recipe import Recipe

sys.path.append(str(Path(__file__).parents[1] / "faults"))
from observing import content

DESCRIPTORS = [
    {
        "kind": "symmetry_functions",
        "gradients": gradients,
        "parameters": {"species": ["H"], "cutoff": 3.0, "g2": [[eta, 0.0]]},
    }
    for eta, gradients in [(0.1, "none"), (0.2, "pairs"), (0.3, "summed")]
]
#: Lengths of the bonds of hydrogen molecules, which tell one structure from another.
LENGTHS = st.integers(1, 6)


class Died(BaseException):
    """The process ends here: nothing that would tidy up may catch it."""


class Death:
    """Ends a run before the nth time that it writes a file or commits, or after."""

    def __init__(self) -> None:
        self.left: int | None = None

    def pass_by(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Died

    def around(self, function):
        def wrapped(*arguments, **options):
            self.pass_by()
            result = function(*arguments, **options)
            self.pass_by()
            return result

        return wrapped


class LakeMachine(RuleBasedStateMachine):
    """A database, a recipe, a lake, and what the lake must show."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="atomlake-states-"))
        self.file = self.folder / "structures.xyz"
        self.path = self.folder / "lake"
        self.database: list[tuple[int, int]] = []
        self.descriptors = [DESCRIPTORS[0]]
        self.states: dict[str, dict[str, dict[str, str]]] = {}
        self.held: list[tuple[Lake, dict[str, dict[str, str]]]] = []
        self.death = Death()
        self.patches = pytest.MonkeyPatch()
        self.patches.setattr(running, "PUBLISH_INTERVAL", 0.0)
        for module, name in [(catalogue, "write_deltalake"), (layout, "write_whole")]:
            self.patches.setattr(module, name, self.death.around(getattr(module, name)))
        self.n_written = 0

    def teardown(self) -> None:
        self.patches.undo()
        shutil.rmtree(self.folder)

    # ----- What people do to the database and the recipe

    @initialize(lengths=st.lists(LENGTHS, min_size=1, max_size=3))
    def start(self, lengths: list[int]) -> None:
        self.database = [(length, 0) for length in lengths]
        self.save()

    @rule(length=LENGTHS)
    def append(self, length: int) -> None:
        self.database.append((length, 0))
        self.save()

    @rule(data=st.data(), length=LENGTHS)
    def change(self, data: st.DataObject, length: int) -> None:
        where = data.draw(st.integers(0, len(self.database) - 1))
        self.database[where] = (length, self.database[where][1] + 1)
        self.save()

    @precondition(lambda self: len(self.database) > 1)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        del self.database[data.draw(st.integers(0, len(self.database) - 1))]
        self.save()

    @precondition(lambda self: len(self.descriptors) < len(DESCRIPTORS))
    @rule()
    def one_more_descriptor(self) -> None:
        self.descriptors = DESCRIPTORS[: len(self.descriptors) + 1]

    def save(self) -> None:
        """Write the database; every state of it has a time of its own."""
        write(
            self.file,
            [
                Atoms("H2", [[0, 0, 0], [0, 0, 0.5 + 0.1 * length + 0.01 * n_edits]])
                for length, n_edits in self.database
            ],
            format="extxyz",
        )
        self.n_written += 1
        os.utime(self.file, ns=(10**9 * self.n_written, 10**9 * self.n_written))

    @property
    def recipe(self) -> Recipe:
        return Recipe.model_validate(
            {
                "lake": str(self.path),
                "sources": [{"path": str(self.file), "name": "db"}],
                "descriptors": self.descriptors,
                "parts": {"structures": 2},
            }
        )

    # ----- What is done to the lake

    @rule()
    def run(self) -> None:
        run(self.recipe, executor="synchronous")
        lake = Lake.open(self.path)
        assert content(lake, with_ids=False) == self.expected()
        assert preview(self.recipe).is_empty

    @rule(n=st.integers(0, 60))
    def die_in_a_run(self, n: int) -> None:
        self.dying(n, lambda: run(self.recipe, executor="synchronous"))

    @precondition(lambda self: self.opened() is not None)
    @rule()
    def compact(self) -> None:
        self.unchanged(lambda: compact(self.path))

    @precondition(lambda self: self.opened() is not None)
    @rule(n=st.integers(0, 30))
    def die_in_a_compaction(self, n: int) -> None:
        self.unchanged(lambda: self.dying(n, lambda: compact(self.path)))

    @precondition(lambda self: self.opened() is not None)
    @rule()
    def collect(self) -> None:
        self.unchanged(lambda: collect(self.path, timedelta(0)))

    @precondition(lambda self: self.opened() is not None)
    @rule()
    def purge_what_is_old(self) -> None:
        """Everything here is young."""
        self.unchanged(lambda: purge(self.path, timedelta(hours=1)))

    @precondition(lambda self: self.opened() is not None)
    @rule()
    def purge_everything(self) -> None:
        self.unchanged(lambda: purge(self.path, timedelta(0)))
        self.held.clear()
        for version, found in self.states.items():
            try:
                lake = Lake.open(self.path, version)
            except LakeError:
                continue
            assert content(lake) == found
        self.states.clear()

    @precondition(lambda self: self.states)
    @rule(n=st.integers(0, 10**6))
    def read_any_version(self, n: int) -> None:
        version = list(self.states)[n % len(self.states)]
        assert content(Lake.open(self.path, version)) == self.states[version]

    @invariant()
    def the_lake_is_in_order(self) -> None:
        if (lake := self.opened()) is not None:
            assert not verify(lake).problems
            self.remember(lake, content(lake))

    @invariant()
    def those_who_opened_it_before_see_what_they_saw(self) -> None:
        for lake, found in self.held:
            assert content(lake) == found

    # ----- Helpers

    def opened(self) -> Lake | None:
        """The lake, if a run lived long enough to make it."""
        tables = [self.path / layout.table_path(name) / "_delta_log" for name in catalogue.TABLES]
        return Lake.open(self.path) if all(table.is_dir() for table in tables) else None

    def dying(self, n: int, work) -> None:
        self.death.left = n
        with suppress(Died):
            work()
        self.death.left = None

    def unchanged(self, work) -> None:
        """Do what nobody may see."""
        lake = Lake.open(self.path)
        before = content(lake)
        work()
        assert content(lake.refresh()) == before

    def remember(self, lake: Lake, found: dict[str, dict[str, str]]) -> None:
        self.states[lake.version] = found
        self.held = [*self.held, (lake, found)][-2:]

    def expected(self) -> dict[str, dict[str, str]]:
        """What a lake shows that one run made from the database as it is."""
        fresh = self.folder / "fresh"
        recipe = self.recipe.model_copy(update={"lake": str(fresh)})
        try:
            run(recipe, executor="synchronous")
            return content(Lake.open(fresh), with_ids=False)
        finally:
            shutil.rmtree(fresh)


LakeMachine.TestCase.settings = settings(
    max_examples=4,
    stateful_step_count=10,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestLakeStates = LakeMachine.TestCase


@pytest.mark.slow
class TestManyLakeStates(LakeMachine.TestCase):
    settings = settings(
        max_examples=50,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
