"""What a worker does with one unit: read, check, find neighbours, compute, write.

A task is idempotent: its files have fresh names and mean nothing until the driver
publishes the record that the task returns.
"""

from __future__ import annotations

import os
import pickle
import socket
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atomlake import sources
from atomlake.descriptors.base import Descriptor, Gradients, RowMemory, Rows, cut
from atomlake.engine import memory
from atomlake.engine.events import UnitDone
from atomlake.engine.units import Piece, Unit, costs, packed
from atomlake.engine.versions import versions
from atomlake.errors import LakeError, SetAside, SourceError
from atomlake.kernels.compiled import load, warm_up
from atomlake.kernels.finite import all_finite
from atomlake.lake import layout, parts
from atomlake.neighbours import Neighbours, find_neighbours
from atomlake.recipe import Limits
from atomlake.sources import extxyz
from atomlake.sources.base import Guard, ReadResult, cell_volumes
from atomlake.structures import Structures, check

#: Problems of one structure, by its row in a batch.
Problems = dict[int, SetAside]


class Undone(NamedTuple):
    """Records that a task left alone, because their location changed under its hands."""

    source: str
    location: str
    n_structures: int
    reason: str


@dataclass
class UnitRecord:
    """What a task returns to the driver: rows of the catalogue, and how it went."""

    structures: pl.DataFrame = field(default_factory=pl.DataFrame)
    part: parts.PartRecord | None = None
    features: list[parts.FeaturesRecord] = field(default_factory=list)
    set_aside: Counter[str] = field(default_factory=Counter)
    undone: list[Undone] = field(default_factory=list)
    n_structures: int = 0
    n_atoms: int = 0
    nbytes: int = 0
    projected_nbytes: int = 0
    peak_nbytes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    worker: str = field(default_factory=lambda: f"{socket.gethostname()} {os.getpid()}")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"structures": packed(self.structures)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"structures": pl.read_ipc(state["structures"])})

    @property
    def paths(self) -> list[str]:
        """Groups that were written, relative to the lake."""
        part = [] if self.part is None else [self.part.path]
        return part + [features.path for features in self.features]

    @property
    def event(self) -> UnitDone:
        """What is told of the unit to whoever listens to the run."""
        return UnitDone(
            self.n_structures,
            self.n_atoms,
            self.set_aside,
            self.seconds,
            self.nbytes,
            self.projected_nbytes,
            self.peak_nbytes,
            self.worker,
        )

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def run_unit(lake: str, unit: Unit, limits: Limits) -> UnitRecord:
    """Do one unit and return its record.

    Parameters
    ----------
    lake : str
        Path of the lake.
    unit : Unit
        What to do.
    limits : Limits
        What is set aside.

    Raises
    ------
    LakeError
        If the lake cannot be written; nothing else can go on either.
    """
    record = UnitRecord(projected_nbytes=memory.project(unit))
    memory.forget_peak()
    descriptors = [(task.descriptor, task.gradients) for task in unit.tasks]
    with record.timing("compile"):
        warm(descriptors)
    part_id = unit.part_id
    if part_id is None:
        part_id = uuid.uuid4().hex
        structures, rows, fatal = _ingest(lake, part_id, unit, limits.guard, record), None, {}
        pieces = [range(structures.n_structures)]
    else:
        rows = unit.rows
        fatal = {unit.part_rows[i]: problem for i, problem in unit.fatal.items()}
        if fatal:
            rows = tuple(row for row in unit.part_rows if row not in fatal)
        with record.timing("read"):
            structures = parts.read_structures(lake, part_id, rows)
        pieces = _pieces(structures, unit, limits.max_neighbours)
        record.n_structures, record.n_atoms = len(unit), structures.n_atoms
    if structures.n_structures or fatal:
        batch = _Batch(part_id, rows, structures, pieces, limits.max_neighbours, fatal)
        batch.largest_cutoff = max((d.cutoff for d, _ in descriptors), default=0.0)
        for descriptor, gradients in descriptors:
            _featurize(lake, record, batch, descriptor, gradients)
    record.peak_nbytes = memory.peak()
    return record


def run_packed(arguments: bytes) -> UnitRecord:
    """As :func:`run_unit`, of arguments that no scheduler has to look into."""
    return run_unit(*pickle.loads(arguments))


# ----- Structures


def _ingest(lake: str, part_id: str, unit: Unit, guard: Guard, record: UnitRecord) -> Structures:
    """Read, check and write the structures of a new part; return the good ones."""
    if unit.fatal:
        (piece,), (reason,) = unit.pieces, unit.fatal.values()
        record.structures = piece.described([0], [reason])
        record.n_structures = record.set_aside[reason.code] = 1
        return Structures.empty()
    scratch = layout.scratch_path(lake)
    batches: list[Structures] = []
    good: list[pl.DataFrame] = []
    bad: list[pl.DataFrame] = []
    for piece in unit.pieces:
        try:
            with record.timing("read"):
                result = _read(piece, scratch, guard)
        except SourceError as error:
            where = piece.source.label, piece.location
            record.undone.append(Undone(*where, len(piece), str(error)))
            continue
        structures, rows, problems = result.structures, result.rows, dict(result.set_aside)
        with record.timing("check"):
            keep = np.ones(structures.n_structures, dtype=bool)
            for s, problem in enumerate(check_structures(structures)):
                if problem is not None:
                    problems[int(rows[s])] = problem
                    keep[s] = False
        record.set_aside.update(problem.code for problem in problems.values())
        if problems:
            bad.append(piece.described(sorted(problems), [problems[i] for i in sorted(problems)]))
        batches.append(structures if keep.all() else structures.take(np.flatnonzero(keep)))
        good.append(piece.described(rows[keep].tolist()))
    if not batches:
        return Structures.empty()
    structures = Structures.concatenate(batches)
    with record.timing("hash"):
        described = pl.concat(good).with_columns(
            status=pl.lit("ok"),
            content_hash=pl.Series([h.hex() for h in structures.content_hashes()], dtype=pl.String),
            part_id=pl.lit(part_id),
            row=pl.int_range(pl.len()),
            first_atom=pl.Series(structures.structure_offsets[:-1]),
            n_atoms=pl.Series(structures.n_atoms_per_structure),
            formula=pl.Series(structures.formulas(), dtype=pl.String),
            pbc=pl.Series(
                ["".join("T" if p else "F" for p in pbc) for pbc in structures.pbc.tolist()],
                dtype=pl.String,
            ),
            labels=_labels_present(structures),
        )
        record.structures = pl.concat([*bad, described], how="diagonal")
    record.n_structures = len(record.structures)
    record.n_atoms = structures.n_atoms
    if structures.n_structures == 0:
        return structures
    with record.timing("write"):
        record.part = parts.write_structures(lake, part_id, structures)
    record.nbytes += record.part.nbytes
    return structures


def _read(piece: Piece, scratch: Path, guard: Guard) -> ReadResult:
    """Read a piece, as it was when it was indexed.

    Raises
    ------
    SourceError
        If its location is not what it was.
    """
    reader = sources.reader(piece.location, piece.source, scratch, guard)
    result = reader.read(piece.locations)
    if not np.array_equal(result.record_hashes, piece.record_hashes[result.rows]):
        raise reader.changed
    if result.set_aside and piece.fingerprint is not None:
        reader.require(piece.fingerprint)
    return result


def check_structures(structures: Structures) -> list[SetAside | None]:
    """Say of each structure why no descriptor can describe it, or None.

    Coincident atoms are looked for among the structures that pass the other checks.
    """
    problems = check(structures)
    good = [s for s, problem in enumerate(problems) if problem is None]
    _, coincident = find_neighbours(
        structures if len(good) == len(problems) else structures.take(good), 0.0
    )
    for s, problem in zip(good, coincident, strict=True):
        problems[s] = problem
    return problems


def _labels_present(structures: Structures) -> pl.Series:
    """Names of the labels that each structure has."""
    has: dict[str, NDArray[np.bool_]] = {}
    for name, values in structures.structure_labels.items():
        has[name] = ~np.isnan(values).any(axis=tuple(range(1, values.ndim)))
    for name, values in structures.atom_labels.items():
        missing = np.isnan(values).any(axis=tuple(range(1, values.ndim)))
        homes = structures.structure_index[missing]
        has[name] = np.bincount(homes, minlength=structures.n_structures) == 0
    # Few combinations occur, and a list of strings for each structure is slow to take in.
    table = np.array(list(has.values()), dtype=bool).reshape(len(has), structures.n_structures)
    combinations, which = np.unique(table, axis=1, return_inverse=True)
    names = [
        [name for name, is_there in zip(has, c, strict=True) if is_there] for c in combinations.T
    ]
    return pl.Series(names, dtype=pl.List(pl.String)).gather(which)


# ----- Features


@dataclass
class _Batch:
    """The structures of one unit, with neighbour lists cut from one list where that can be.

    ``rows`` are the rows of the part that ``structures`` are; None for all of them. ``pieces``
    are the structures whose lists are in memory together. ``fatal`` are rows that are not tried,
    with what is to be recorded of them.
    """

    part_id: str
    rows: Sequence[int] | None
    structures: Structures
    pieces: Sequence[range]
    max_neighbours: int
    fatal: Problems
    largest_cutoff: float = 0.0
    found: tuple[range, Neighbours, list[SetAside | None]] | None = None

    def neighbours(
        self, piece: range, cutoff: float
    ) -> tuple[Structures, Neighbours, list[SetAside | None]]:
        """Return a piece, its list at one cutoff and the structures that it sets aside."""
        is_all = len(piece) == self.structures.n_structures
        structures = self.structures if is_all else self.structures.take(piece)
        if self.found is None or self.found[0] != piece:
            self.found = None  # its memory is needed for the next
            self.found = piece, *self.find(structures, self.largest_cutoff)
        _, neighbours, problems = self.found
        if cutoff != self.largest_cutoff and any(problems):
            return structures, *self.find(structures, cutoff)
        return structures, neighbours.within(cutoff), problems

    def find(
        self, structures: Structures, cutoff: float
    ) -> tuple[Neighbours, list[SetAside | None]]:
        """Make the list of some structures."""
        return find_neighbours(structures, cutoff, max_neighbours=self.max_neighbours)

    def survey(self, cutoff: float) -> tuple[NDArray[np.int64], list[SetAside | None]]:
        """Count the neighbours of each atom, and say which structures the lists set aside."""
        counts, problems = [np.empty(0, np.int64)], []
        for piece in self.pieces:
            of_atoms, of_structures = self._survey_piece(piece, cutoff)
            counts.append(of_atoms)
            problems += of_structures
        return np.concatenate(counts), problems

    def _survey_piece(
        self, piece: range, cutoff: float
    ) -> tuple[NDArray[np.int64], list[SetAside | None]]:
        _, neighbours, problems = self.neighbours(piece, cutoff)
        return neighbours.counts, problems

    def part_rows(self, structures: Sequence[int]) -> list[int]:
        """Rows of the part of some structures of the batch."""
        return list(structures) if self.rows is None else [self.rows[s] for s in structures]


def _pieces(structures: Structures, unit: Unit, max_neighbours: int) -> list[range]:
    """Cut the structures of an existing part so that each piece's lists fit the memory."""
    volumes = cell_volumes(structures.cells)
    cost = costs(structures.n_atoms_per_structure, volumes, unit.tasks, {}, max_neighbours)
    return [range(*ends) for ends in cut(cost.list_nbytes.astype(np.int64), unit.list_nbytes)]


def _featurize(
    lake: str, record: UnitRecord, batch: _Batch, descriptor: Descriptor, gradients: Gradients
) -> None:
    """Compute and write one descriptor of a part, without the structures that it cannot have."""
    start = time.perf_counter()
    with record.timing("neighbours"):
        counts, problems = batch.survey(descriptor.cutoff)
    set_aside: Problems = {
        s: problem
        for reasons in (problems, descriptor.check(batch.structures))
        for s, problem in enumerate(reasons)
        if problem is not None
    }
    while True:
        covered = [s for s in range(batch.structures.n_structures) if s not in set_aside]
        is_covered = np.isin(batch.structures.structure_index, covered)
        writer = parts.FeatureWriter(
            lake,
            batch.part_id,
            descriptor,
            gradients,
            batch.structures.take(covered) if set_aside else batch.structures,
            np.concatenate([[0], np.cumsum(counts[is_covered])]),
            rows=None if batch.rows is None and not set_aside else batch.part_rows(covered),
        )
        failed = _compute(record, writer, batch, set_aside)
        if not failed:
            break
        set_aside |= failed
    rows = batch.part_rows(list(set_aside))
    problems_of_rows = batch.fatal | dict(zip(rows, set_aside.values(), strict=True))
    for problem in problems_of_rows.values():
        record.set_aside[problem.code] += 1
    with record.timing("write"):
        written = writer.close(
            seconds=time.perf_counter() - start,
            set_aside=dict(sorted(problems_of_rows.items())),
            max_neighbours=batch.max_neighbours,
            versions=versions(),
        )
    record.nbytes += written.nbytes
    record.features.append(written)


def _compute(
    record: UnitRecord, writer: parts.FeatureWriter, batch: _Batch, set_aside: Problems
) -> Problems:
    """Compute and write all that is not set aside; return what fails, where something does."""
    memory = RowMemory(writer.descriptor, writer.gradients)
    for piece in batch.pieces:
        failed = _compute_piece(record, writer, batch, piece, set_aside, memory)
        if failed:
            return failed
    return {}


def _compute_piece(
    record: UnitRecord,
    writer: parts.FeatureWriter,
    batch: _Batch,
    piece: range,
    set_aside: Problems,
    memory: RowMemory,
) -> Problems:
    """As :func:`_compute`, of one piece, whose list is gone when this returns."""
    descriptor, gradients = writer.descriptor, writer.gradients
    covered = [s for s in piece if s not in set_aside]
    with record.timing("neighbours"):
        if len(covered) == len(piece):
            structures, neighbours, _ = batch.neighbours(piece, descriptor.cutoff)
        else:
            structures = batch.structures.take(covered)
            neighbours, _ = batch.find(structures, descriptor.cutoff)
    try:
        _stream(record, writer, structures, neighbours, memory)
    except LakeError:
        raise
    except Exception as error:
        found = _culprits(structures, descriptor, gradients, batch.max_neighbours, error)
        return {covered[s]: reason for s, reason in found.items()}
    return {}


def _stream(
    record: UnitRecord,
    writer: parts.FeatureWriter,
    structures: Structures,
    neighbours: Neighbours,
    memory: RowMemory,
) -> None:
    """Compute block after block in the same memory and hand each to the writer."""
    descriptor, gradients = writer.descriptor, writer.gradients
    with record.timing("write"):
        writer.append_pairs(neighbours)
    for first, last in descriptor.blocks(structures, neighbours, gradients):
        with record.timing("kernel"):
            rows = memory.compute(structures, neighbours, first, last)
            _require_finite(rows)
        with record.timing("write"):
            writer.append(rows)


class NonFiniteFeatureError(ArithmeticError):
    """A kernel returned NaN or infinity."""


def _require_finite(rows: Rows) -> None:
    """Refuse NaN and infinity."""
    for name, array in zip(Rows._fields, rows, strict=True):
        if not all_finite(array.reshape(-1)):
            raise NonFiniteFeatureError(f"{name} are not finite")


def _culprits(
    structures: Structures,
    descriptor: Descriptor,
    gradients: Gradients,
    max_neighbours: int,
    problem: Exception,
) -> Problems:
    """Find the structures that fail alone; if none does, all are set aside."""
    culprits: Problems = {}
    for s in range(structures.n_structures):
        batch = structures.take([s])
        try:
            neighbours, _ = find_neighbours(batch, descriptor.cutoff, max_neighbours=max_neighbours)
            n = 1 if descriptor.counts_structures(gradients) else batch.n_atoms
            _require_finite(RowMemory(descriptor, gradients).compute(batch, neighbours, 0, n))
        except NonFiniteFeatureError as found:
            culprits[s] = SetAside("non_finite_feature", f"{descriptor.kind}: {found}")
        except Exception:
            culprits[s] = SetAside("failed", f"{descriptor.kind}: {traceback.format_exc(limit=-2)}")
    if culprits:
        return culprits
    reason = SetAside(
        "failed", f"{descriptor.kind} fails on the batch and on none alone: {problem}"
    )
    return dict.fromkeys(range(structures.n_structures), reason)


# ----- Compiled kernels

_warm: set[tuple[str, Gradients]] = set()


def warm(descriptors: Sequence[tuple[Descriptor, Gradients]]) -> None:
    """Compile, or load, the kernels of these descriptors, one process at a time."""
    _warm_common_kernels()
    wanted = [(d, g) for d, g in descriptors if (d.descriptor_id, g) not in _warm]
    if not wanted:
        return

    def first_calls() -> None:
        for descriptor, gradients in wanted:
            tiny = _tiny_structure(descriptor)
            if tiny is not None:
                neighbours, _ = find_neighbours(tiny, descriptor.cutoff)
                n = 1 if descriptor.counts_structures(gradients) else tiny.n_atoms
                rows = RowMemory(descriptor, gradients).compute(tiny, neighbours, 0, n)
                _require_finite(rows)

    warm_up(repr(sorted((d.descriptor_id, tuple(g)) for d, g in wanted)), first_calls)
    _warm.update((d.descriptor_id, g) for d, g in wanted)


def load_common_kernels() -> None:
    """Load the kernels that every unit needs, if they were compiled before.

    The first load takes 0.25 s, most of it numba's own beginnings.
    """
    load("common", _common_first_calls)


@cache
def _warm_common_kernels() -> None:
    warm_up("common", _common_first_calls)


def _common_first_calls() -> None:
    extxyz.call_kernels()
    hydrogen = Structures.single([1, 1], [[0.0, 0, 0], [0, 0, 1.0]])
    check_structures(hydrogen)
    neighbours = find_neighbours(hydrogen, 2.0)[0].within(1.5)
    _ = neighbours.vectors, neighbours.cell_shift


def _tiny_structure(descriptor: Descriptor) -> Structures | None:
    """Two atoms that a descriptor accepts, as a molecule or as a crystal."""
    numbers = [int(descriptor.species_numbers[0]) if descriptor.species else 1] * 2
    positions = [[0.0, 0.0, 0.0], [0.0, 0.3, 1.0]]
    for cell in (None, 4.0 * np.eye(3)):
        tiny = Structures.single(numbers, positions, cell, cell is not None)
        if not any(descriptor.check(tiny)):
            return tiny
    return None
