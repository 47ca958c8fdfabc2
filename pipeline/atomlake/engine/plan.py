"""What has to be done: what the sources hold, minus what the catalogue holds, cut into units.

The plan reads indexes and the catalogue, never positions (unless a recipe asks for a scan
of the species), and writes nothing but decompressed copies into the scratch folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import ValidationError

from atomlake.descriptors.base import Descriptor
from atomlake.engine import memory, scan
from atomlake.engine.changes import Changes, compare, told_apart
from atomlake.engine.known import Known
from atomlake.engine.scan import LocationState
from atomlake.engine.units import (
    Costs,
    Estimate,
    Piece,
    Speed,
    Task,
    Unit,
    costs,
    cut,
    shared_out,
    too_large_for_worker,
)
from atomlake.errors import RecipeError
from atomlake.lake import Lake, layout
from atomlake.recipe import DescriptorEntry, Recipe
from atomlake.sources.base import FileIndex, Fingerprint, Source
from atomlake.structures import CHEMICAL_SYMBOLS

#: State and records of the locations that were indexed.
Indexed = Mapping[str, tuple[Fingerprint | None, FileIndex]]
#: Units of the largest number of structures whose cost is estimated at once, to bound memory.
COSTED_UNITS = 20


@dataclass(frozen=True)
class Plan:
    """All that a run will do.

    Attributes
    ----------
    units : list of Unit
        Work for the cluster.
    changes : dict of str to Changes
        What becomes of the structures of each source, by its name.
    set_aside : DataFrame
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
    notes : list of str
        What a person should know before the run starts.
    refusals : list of str
        Why the run must not start; empty if it may.
    """

    units: list[Unit]
    changes: dict[str, Changes]
    set_aside: pl.DataFrame
    states: list[LocationState]
    vanished: list[tuple[str, str]]
    descriptors: list[tuple[DescriptorEntry, Descriptor]]
    estimate: Estimate
    memory_nbytes: int
    n_unchanged: int
    notes: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether the lake already holds everything that the recipe asks for."""
        return not (
            self.units
            or self.states
            or self.vanished
            or any(len(c.leaving) or len(c.moved) or len(c.new) for c in self.changes.values())
        )

    @property
    def n_new(self) -> int:
        """Records to ingest."""
        return sum(len(c.new) for c in self.changes.values())

    @property
    def n_retired(self) -> int:
        """Structures whose record is gone or replaced."""
        return sum(len(c.leaving) for c in self.changes.values())


def make_plan(
    recipe: Recipe,
    lake: Lake | None,
    scratch: Path,
    on_work: Callable[[], None] = lambda: None,
    damaged_parts: Collection[str] = (),
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
    damaged_parts : collection of str
        Parts whose structures are read again and replaced.

    Raises
    ------
    SourceError
        If a source matches nothing.
    RecipeError
        If a descriptor does not fit what the sources hold.
    """
    known = Known(lake, recipe.cluster.memory_per_worker, damaged_parts)
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
        return Plan([], {}, pl.DataFrame(), [], [], built, Estimate(), 0, 0, notes, refusals)

    units: list[Unit] = []
    source_changes: dict[str, Changes] = {}
    set_aside: list[pl.DataFrame] = []
    vanished: list[tuple[str, str]] = []
    speed = known.speed()
    for source in recipe.sources:
        label = source.label
        indexed = [s for s in states[label] if s.index is not None]
        by_location = {s.location: (s.fingerprint, s.index) for s in indexed if s.index is not None}
        gone = known.locations(label) - {s.location for s in states[label]}
        vanished += [(label, location) for location in sorted(gone)]
        readable = {s.location for s in indexed if s.fingerprint is not None and not s.n_before}
        unreadable = {s.location for s in indexed if s.fingerprint is None}
        names = pl.Enum(sorted(gone | by_location.keys()))
        change = compare(
            scan.records(indexed, names),
            known.structures(label, readable | gone, unreadable, names),
        )
        twins = known.twins(label, change.new["record_hash"])
        change = replace(change, new=told_apart(label, change.new, twins))
        source_changes[label] = change
        tasks = [
            Task(entry.kind, descriptor.parameters, entry.wanted)
            for entry, descriptor in built
            if entry in recipe.entries_for(source)
        ]
        hopeless = _hopeless(indexed, change.new)
        set_aside += _set_aside(source, by_location, hopeless)
        new = change.new
        if len(hopeless):
            new = new.join(hopeless, on=["location", "position"], how="anti", maintain_order="left")
        units += _ingest_units(source, by_location, new, tasks, recipe, speed)
        units += _feature_units(label, known, change.leaving, tasks, recipe, speed)
    estimate = sum((unit.estimate for unit in units), Estimate())
    plan = Plan(
        units=units,
        changes=source_changes,
        set_aside=pl.concat([pl.DataFrame(), *set_aside], how="diagonal"),
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
            known.n_structures(s.label) - len(source_changes[s.label].leaving)
            for s in recipe.sources
        ),
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
    folder = layout.place(recipe.lake)
    if isinstance(folder, Path):
        folder = folder.absolute()
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        if nbytes > free:
            yield (
                f"the run would write up to {nbytes / 1e9:,.0f} GB and {folder} has "
                f"{free / 1e9:,.0f} GB free"
            )
    allowed = memory.USABLE * recipe.cluster.memory_per_worker
    if plan.memory_nbytes > allowed:
        yield (
            f"a worker would need {plan.memory_nbytes / 1e9:,.2f} GB and may use "
            f"{allowed / 1e9:,.2f} GB; raise cluster.memory to at least "
            f"{plan.memory_nbytes / memory.USABLE / 1e9:,.2f}GB (with fewer workers on one machine)"
        )


# ----- Units


def _hopeless(indexed: Sequence[LocationState], new: pl.DataFrame) -> pl.DataFrame:
    """New records that their index already calls unreadable."""
    places = [
        (state.location, position)
        for state in indexed
        if state.index is not None
        for position in state.index.set_aside
    ]
    if not places:
        return new.clear()
    schema = {"location": new.schema["location"], "position": pl.UInt32()}
    return new.join(
        pl.DataFrame(places, schema=schema, orient="row"), on=["location", "position"], how="semi"
    )


def _set_aside(
    source: Source, by_location: Indexed, hopeless: pl.DataFrame
) -> Iterator[pl.DataFrame]:
    """Rows of the catalogue for records that their index calls unreadable."""
    for piece, positions in _pieces(source, by_location, hopeless, slice(0, len(hopeless))):
        problems = by_location[piece.location][1].set_aside
        yield piece.described(range(len(piece)), [problems[p] for p in positions.tolist()])


def _pieces(
    source: Source, by_location: Indexed, new: pl.DataFrame, rows: slice
) -> Iterator[tuple[Piece, NDArray[np.uint32]]]:
    """Cut new records into pieces of one location each, with their positions in its index.

    Records that follow each other share the memory of the index.
    """
    some = new[rows]
    location = some["location"].to_physical().to_numpy()
    bounds = np.flatnonzero(np.diff(location, prepend=-1.0, append=-1.0)).tolist()
    for start, stop in pairwise(bounds):
        name = str(some["location"][start])
        fingerprint, index = by_location[name]
        positions = some["position"][start:stop].to_numpy()
        is_run = positions[-1] - positions[0] == len(positions) - 1
        at = slice(int(positions[0]), int(positions[-1]) + 1) if is_run else positions
        yield (
            Piece(
                source,
                name,
                fingerprint,
                index.locations[at],
                index.keys[at],
                index.record_hashes[at],
                some["nth"][start:stop].to_numpy(),
            ),
            positions,
        )


def _ingest_units(
    source: Source,
    by_location: Indexed,
    new: pl.DataFrame,
    tasks: Sequence[Task],
    recipe: Recipe,
    speed: Speed,
) -> Iterator[Unit]:
    """Cut the new records of a source into units; a unit may span several locations."""
    limit, size = recipe.limits.max_neighbours, recipe.parts
    allowed = recipe.cluster.memory_per_worker
    available = memory.available(allowed)
    first = 0
    while first < len(new):
        # several units at a time: estimates for all records would take more than the records
        block = slice(first, min(first + COSTED_UNITS * size.structures, len(new)))
        pieces = list(_pieces(source, by_location, new, block))
        found = [(by_location[piece.location][1], positions) for piece, positions in pieces]
        cost = costs(
            np.concatenate([index.n_atoms[positions] for index, positions in found]),
            np.concatenate([index.volumes[positions] for index, positions in found]),
            tasks,
            speed,
            limit,
        )
        is_last = block.stop == len(new)
        ranges = list(cut(cost, shared_out(size, cost) if is_last else size, available))
        if not is_last:
            del ranges[-1]  # which would go on in the next block
        for rows in ranges:
            place = slice(first + rows.start, first + rows.stop)
            unit_pieces = tuple(p for p, _ in _pieces(source, by_location, new, place))
            unit = Unit(source.label, unit_pieces, None, None, tuple(tasks), cost.total(rows))
            yield unit if len(unit) > 1 else _within(unit, cost, rows, allowed)
        first += ranges[-1].stop


def _feature_units(
    source: str,
    known: Known,
    leaving: pl.Series,
    tasks: Sequence[Task],
    recipe: Recipe,
    speed: Speed,
) -> Iterator[Unit]:
    """One unit for each existing part that lacks a descriptor.

    A part loses live rows and never gains one, so that what was computed of it covers it for
    good.
    """
    if not tasks:
        return
    limit = recipe.limits.max_neighbours
    parts = known.parts(source)
    computed = [_covered(parts, known.computed(task, limit)) for task in tasks]
    lacking = set(parts["part_id"]).difference(set[str].intersection(*computed))
    if not lacking:
        return
    content = known.content(pl.Series("part_id", sorted(lacking)), leaving)
    columns = ("part_id", "n_structures", "rows", "n_atoms")
    for part_id, n_structures, live, n_atoms in zip(*map(content.get_column, columns), strict=True):
        missing = tuple(
            task for task, have in zip(tasks, computed, strict=True) if part_id not in have
        )
        cost = costs(n_atoms.to_numpy(), np.full(len(live), np.nan), missing, speed, limit)
        rows = None if len(live) == n_structures else tuple(live.to_list())
        unit = Unit(source, (), part_id, rows, missing, cost.total(slice(None)))
        memory_nbytes = recipe.cluster.memory_per_worker
        yield _in_pieces(_within(unit, cost, slice(None), memory_nbytes), cost, memory_nbytes)


def _within(unit: Unit, cost: Costs, rows: slice, memory_nbytes: int) -> Unit:
    """Return the unit without the structures that are too large for workers of so much memory.

    Where a worker has too little for any structure, none is left out, and the plan is refused.
    """
    needed = (cost.input_nbytes + cost.working_nbytes)[rows]
    available = memory.available(memory_nbytes)
    is_too_large = needed > available
    if available < memory.LEAST_NBYTES or not is_too_large.any():
        return unit
    fatal = {
        int(i): too_large_for_worker(int(memory_nbytes - available + needed[i]), memory_nbytes)
        for i in np.flatnonzero(is_too_large)
    }
    left = cost.without(is_too_large, rows).total(slice(None))
    return replace(unit, estimate=left, fatal=fatal)


def _in_pieces(unit: Unit, cost: Costs, memory_nbytes: int) -> Unit:
    """Return the unit of an existing part with neighbour lists that fit what is left of a worker.

    The part stays whole; its worker makes the lists of a few structures at a time, of one at least.
    """
    lists = np.delete(cost.list_nbytes, list(unit.fatal))
    estimate = unit.estimate
    rest = int(estimate.input_nbytes - lists.sum())
    left = memory.available(memory_nbytes) - rest - estimate.working_nbytes
    list_nbytes = max(left, int(lists.max(initial=0)))
    in_memory = rest + min(int(lists.sum()), list_nbytes)
    return replace(
        unit, estimate=replace(estimate, input_nbytes=in_memory), list_nbytes=list_nbytes
    )


def _covered(parts: pl.DataFrame, computed: pl.DataFrame) -> set[str]:
    """Parts of which every live row was computed or set aside."""
    is_covered = pl.col("n_covered").is_null() | (pl.col("n_covered") >= pl.col("n_live"))
    return set(parts.join(computed, on="part_id").filter(is_covered)["part_id"])
