"""What has to be done: what the sources hold, minus what the catalogue holds, cut into units.

The plan reads indexes and the catalogue, never positions (unless a recipe asks for a scan
of the species), and writes nothing but decompressed copies into the scratch folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import ValidationError

from atomlake.descriptors.base import Descriptor
from atomlake.engine import memory, scan
from atomlake.engine.changes import Changes, compare
from atomlake.engine.known import Known
from atomlake.engine.scan import LocationState
from atomlake.engine.units import Estimate, Piece, Speed, Task, Unit, costs, cut, structure_row
from atomlake.errors import RecipeError
from atomlake.lake import Lake
from atomlake.recipe import DescriptorEntry, Recipe
from atomlake.sources.base import Source
from atomlake.structures import CHEMICAL_SYMBOLS


@dataclass(frozen=True)
class Plan:
    """All that a run will do.

    Attributes
    ----------
    units : list of Unit
        Work for the cluster.
    changes : dict of str to Changes
        What becomes of the structures of each source, by its name.
    set_aside : list of dict
        Rows of the catalogue for new records that their index already calls unreadable.
    states : list of LocationState
        Locations to be recorded as reflected once their structures are published.
    vanished : list of (source, location)
        Locations that the catalogue knows and that are gone.
    descriptors : list of (DescriptorEntry, Descriptor)
        The recipe's descriptors with their species settled.
    estimate : Estimate
        Sum over the units.
    memory_nbytes : int
        Projected peak memory of a worker.
    n_unchanged : int
        Structures of the recipe's sources that are in the lake and stay as they are.
    live : DataFrame
        Structures of the lake that the plan was made against.
    notes : list of str
        What a person should know before the run starts.
    refusals : list of str
        Why the run must not start; empty if it may.
    """

    units: list[Unit]
    changes: dict[str, Changes]
    set_aside: list[dict[str, Any]]
    states: list[LocationState]
    vanished: list[tuple[str, str]]
    descriptors: list[tuple[DescriptorEntry, Descriptor]]
    estimate: Estimate
    memory_nbytes: int
    n_unchanged: int
    live: pl.DataFrame
    notes: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether the lake already holds everything that the recipe asks for."""
        return not (
            self.units
            or self.states
            or self.vanished
            or any(c.retired or len(c.moved) or len(c.new) for c in self.changes.values())
        )

    @property
    def n_new(self) -> int:
        """Records to ingest."""
        return sum(len(c.new) for c in self.changes.values())

    @property
    def n_retired(self) -> int:
        """Structures whose record is gone or replaced."""
        return sum(
            len(c.retired) + c.new["replaces"].drop_nulls().len() for c in self.changes.values()
        )


def make_plan(
    recipe: Recipe,
    lake: Lake | None,
    scratch: Path,
    on_work: Callable[[], None] = lambda: None,
) -> Plan:
    """Compare the sources with the lake and cut what is missing into units.

    Parameters
    ----------
    recipe : Recipe
        What is asked for.
    lake : Lake or None
        The lake as it is; None if there is none yet.
    scratch : Path
        Folder for decompressed copies.
    on_work : callable
        Called as soon as it is clear that there is something to do, maybe more than once.

    Raises
    ------
    SourceError
        If a source matches nothing.
    RecipeError
        If a descriptor does not fit what the sources hold.
    """
    known = Known(lake)
    notes: list[str] = []
    states = {
        s.label: list(scan.locations(s, known, scratch, recipe, on_work)) for s in recipe.sources
    }
    for label in states:
        for state in states[label]:
            if state.fingerprint is None and state.index is not None:
                notes.append(f"{state.location}: {state.index.set_aside[0].reason}")
    built: list[tuple[DescriptorEntry, Descriptor]] = []
    refusals: list[str] = []
    for entry in recipe.descriptors:
        try:
            built.append((entry, _settle(entry, recipe, states)))
        except ValidationError as error:
            reasons = "; ".join(e["msg"].removeprefix("Value error, ") for e in error.errors())
            refusals.append(f"{entry.kind}, for the species that its sources hold: {reasons}")
    refusals += _too_wide(built, recipe)
    if refusals:
        return Plan([], {}, [], [], [], built, Estimate(), 0, 0, known.live, notes, refusals)

    units: list[Unit] = []
    source_changes: dict[str, Changes] = {}
    set_aside: list[dict[str, Any]] = []
    vanished: list[tuple[str, str]] = []
    speed = known.speed()
    for source in recipe.sources:
        label = source.label
        indexed = [s for s in states[label] if s.index is not None]
        gone = known.locations(label) - {s.location for s in states[label]}
        vanished += [(label, location) for location in sorted(gone)]
        readable = {s.location for s in indexed if s.fingerprint is not None}
        unreadable = {s.location for s in indexed if s.fingerprint is None}
        rows = known.structures(label, readable | gone, unreadable)
        change = compare(label, scan.records(indexed), rows)
        source_changes[label] = change
        tasks = [
            Task(entry.kind, descriptor.parameters, entry.wanted)
            for entry, descriptor in built
            if entry in recipe.entries_for(source)
        ]
        hopeless = list(_set_aside(source, indexed, change))
        set_aside += hopeless
        units += _ingest_units(
            source, indexed, _without(change.new, hopeless), tasks, recipe, speed
        )
        leaving = {*change.retired, *change.new["replaces"].drop_nulls()}
        units += _feature_units(label, known, leaving, tasks, recipe, speed)
    estimate = sum((unit.estimate for unit in units), Estimate())
    plan = Plan(
        units=units,
        changes=source_changes,
        set_aside=set_aside,
        states=[
            s
            for label in states
            for s in states[label]
            if s.index is not None and s.fingerprint is not None
        ],
        vanished=vanished,
        descriptors=built,
        estimate=estimate,
        memory_nbytes=max((memory.project(unit) for unit in units), default=0),
        n_unchanged=sum(
            known.n_structures(s.label)
            - len(source_changes[s.label].retired)
            - source_changes[s.label].new["replaces"].drop_nulls().len()
            for s in recipe.sources
        ),
        live=known.live,
        notes=notes,
    )
    plan.refusals.extend(_too_large(plan, recipe))
    return plan


# ----- Descriptors


def _settle(
    entry: DescriptorEntry, recipe: Recipe, states: dict[str, list[LocationState]]
) -> Descriptor:
    """Build a descriptor, with the species that its sources hold where it asks for a scan."""
    if not entry.scans_species:
        return entry.build()
    labels = [s.label for s in recipe.sources if entry.sources is None or s.label in entry.sources]
    found = {z for label in labels for state in states[label] for z in state.species or ()}
    if not found:
        raise RecipeError(
            f"descriptor {entry.kind!r} asks for a scan of the species and its sources "
            f"{labels} hold no readable structure; give the species"
        )
    return entry.build([CHEMICAL_SYMBOLS[z] for z in sorted(found)])


def _too_wide(built: Sequence[tuple[DescriptorEntry, Descriptor]], recipe: Recipe) -> Iterator[str]:
    limit = recipe.limits.max_features
    for entry, descriptor in built:
        if descriptor.n_values > limit:
            nbytes = descriptor.n_values * np.dtype(descriptor.dtype).itemsize
            n_species = len(descriptor.species_numbers)
            yield (
                f"{entry.kind} has {descriptor.n_values:,} features for {n_species} species: "
                f"{nbytes / 1e6:,.1f} MB for each {descriptor.per}; the limit is {limit:,}. "
                "Compute it for sources of fewer species (sources:), shrink its basis, take a "
                "descriptor that does not grow with the species (weighted symmetry functions), "
                "or raise limits.max_features"
            )


def _too_large(plan: Plan, recipe: Recipe) -> Iterator[str]:
    nbytes = plan.estimate.nbytes
    if nbytes > recipe.limits.max_nbytes:
        yield (
            f"the run would write up to {nbytes / 1e9:,.0f} GB and the limit is "
            f"{recipe.limits.max_nbytes / 1e9:,.0f} GB; store gradients summed or none, use "
            "float32, or raise limits.max_nbytes"
        )
    folder = Path(recipe.lake).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        yield (
            f"the run would write up to {nbytes / 1e9:,.0f} GB and {folder} has "
            f"{free / 1e9:,.0f} GB free"
        )
    allowed = recipe.cluster.memory_per_worker
    if plan.memory_nbytes > allowed:
        yield (
            f"a worker would need {plan.memory_nbytes / 1e9:,.2f} GB and has "
            f"{allowed / 1e9:,.2f} GB; use fewer workers, raise cluster.memory, or make "
            "parts.nbytes smaller"
        )


# ----- Units


def _set_aside(
    source: Source, indexed: Sequence[LocationState], change: Changes
) -> Iterator[dict[str, Any]]:
    """Rows of new records that their index already calls unreadable."""
    for state in indexed:
        problems = state.index.set_aside if state.index is not None else {}
        if problems:
            records = change.new.filter(
                pl.col("location") == state.location, pl.col("position").is_in(list(problems))
            )
            for record in records.iter_rows(named=True):
                yield structure_row(
                    record["structure_id"],
                    source.label,
                    record["location"],
                    record["key"],
                    record["record_hash"],
                    problems[record["position"]],
                )


def _without(new: pl.DataFrame, rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    ids = pl.Series([row["structure_id"] for row in rows], dtype=pl.String)
    return new.filter(~pl.col("structure_id").is_in(ids.implode()))


def _ingest_units(
    source: Source,
    indexed: Sequence[LocationState],
    new: pl.DataFrame,
    tasks: Sequence[Task],
    recipe: Recipe,
    speed: Speed,
) -> Iterator[Unit]:
    """Cut the new records of a source into units; a unit may span several locations."""
    by_location = {
        s.location: (s.fingerprint, s.index)
        for s in indexed
        if s.fingerprint is not None and s.index is not None
    }
    if not len(new):
        return
    position = new["position"].to_numpy()
    first_of = np.flatnonzero(
        np.concatenate([[True], (new["location"] != new["location"].shift(1)).to_numpy()[1:]])
    )
    bounds = [*first_of.tolist(), len(new)]
    names = [new["location"][int(first)] for first in first_of]
    n_atoms, volumes, where = [], [], []
    for name, first, last in zip(names, bounds[:-1], bounds[1:], strict=True):
        _, index = by_location[name]
        rows = position[first:last]
        n_atoms.append(index.n_atoms[rows])
        volumes.append(index.volumes[rows])
        where.append(index.locations[rows])
    limit = recipe.limits.max_neighbours
    cost = costs(np.concatenate(n_atoms), np.concatenate(volumes), tasks, speed, limit)
    locations = np.concatenate(where)
    keys = new["key"].to_list()
    hashes = new["record_hash"].to_list()
    ids = new["structure_id"].to_list()
    for unit_rows in cut(cost, recipe.parts):
        pieces = []
        for name, first, last in zip(names, bounds[:-1], bounds[1:], strict=True):
            part = slice(max(first, unit_rows.start), min(last, unit_rows.stop))
            if part.start < part.stop:
                fingerprint, _ = by_location[name]
                records = locations[part], keys[part], hashes[part], ids[part]
                pieces.append(Piece(source, name, fingerprint, *records))
        yield Unit(source.label, tuple(pieces), None, None, tuple(tasks), cost.total(unit_rows))


def _feature_units(
    source: str,
    known: Known,
    leaving: set[str],
    tasks: Sequence[Task],
    recipe: Recipe,
    speed: Speed,
) -> Iterator[Unit]:
    """One unit for each existing part that lacks a descriptor."""
    limit = recipe.limits.max_neighbours
    computed = [known.computed(task, limit) for task in tasks]
    for part_id, live, n_atoms in known.parts(source, leaving):
        missing = tuple(
            task
            for task, have in zip(tasks, computed, strict=True)
            if part_id not in have or not _covers(have[part_id], live)
        )
        if missing:
            cost = costs(np.array(n_atoms), np.full(len(live), np.nan), missing, speed, limit)
            rows = None if live == list(range(len(live))) else tuple(live)
            yield Unit(source, (), part_id, rows, missing, cost.total(slice(None)))


def _covers(covered: Sequence[int] | None, live: Sequence[int]) -> bool:
    return covered is None or set(live) <= set(covered)
