"""Units of work: slices of a source, or parts of the lake, of bounded time and size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atomlake import descriptors
from atomlake.descriptors.base import BLOCK_NBYTES, Descriptor, Gradients
from atomlake.engine.changes import structure_id
from atomlake.errors import SetAside
from atomlake.recipe import PartSize
from atomlake.sources.base import Fingerprint, Source
from atomlake.structures import CHECKS_VERSION

Floats = NDArray[np.float64]

#: Memory for an atom: positions, labels and the parser's copies.
ATOM_NBYTES = 600
#: Memory for a pair: index, image, distance, vector and shift.
PAIR_NBYTES = 8 + 4 + 8 + 24 + 12

#: Units that work for several workers is cut into, and arrays of one below which it is not.
FEW_UNITS, LEAST_UNIT_NBYTES = 8, 96 * 10**6

#: Measured seconds per row of features, by (descriptor_id, gradients).
Speed = Mapping[tuple[str, Gradients], float]

#: Atoms per Å^3 where a structure's volume is not known: organic molecules and most
#: crystals hold between 0.05 and 0.15.
TYPICAL_DENSITY = 0.1
#: Atoms of a structure whose count is not known before it is read.
TYPICAL_N_ATOMS = 30


class Task(NamedTuple):
    """One descriptor to compute for a part, in a form that any worker can rebuild."""

    kind: str
    parameters: dict[str, Any]
    gradients: Gradients

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor itself."""
        return descriptors.get(self.kind).model_validate(self.parameters)


@dataclass(frozen=True)
class Piece:
    """Records of one location of a source.

    Attributes
    ----------
    source : Source
        The recipe's entry.
    location : str
        File or database.
    fingerprint : Fingerprint or None
        State of the location when it was indexed; None where it could not be read.
    locations : int64 array, shape (n_records, 2)
        Where the reader finds each record.
    keys : Series of str
        Name of each record.
    record_hashes : uint8 array, shape (n_records, 16)
        Hash of each record's content.
    nth : uint32 array, shape (n_records,)
        Count that tells equal records apart.
    """

    source: Source
    location: str
    fingerprint: Fingerprint | None
    locations: NDArray[np.int64]
    keys: pl.Series
    record_hashes: NDArray[np.uint8]
    nth: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.keys)

    def __reduce__(self) -> tuple[Any, ...]:
        # The scheduler holds every unit that waits: all but the hashes compresses to little.
        columns = {
            "first": np.diff(self.locations[:, 0], prepend=0),
            "second": self.locations[:, 1],
            "key": self.keys,
            "nth": self.nth,
        }
        hashes = np.ascontiguousarray(self.record_hashes)
        where = self.source, self.location, self.fingerprint
        return _unpacked, (*where, hashes, packed(pl.DataFrame(columns)))

    def described(self, records: Sequence[int], problems: Sequence[SetAside] = ()) -> pl.DataFrame:
        """What the catalogue says of some records, and why they are set aside if they are."""
        label = self.source.label
        hashes = [self.record_hashes[i].tobytes().hex() for i in records]
        counts = self.nth[records].tolist()
        rows = pl.DataFrame(
            {
                "structure_id": [
                    structure_id(label, self.location, record_hash, nth)
                    for record_hash, nth in zip(hashes, counts, strict=True)
                ],
                "key": self.keys[records],
                "record_hash": hashes,
            },
            schema=dict.fromkeys(("structure_id", "key", "record_hash"), pl.String),
        ).with_columns(
            source=pl.lit(label), location=pl.lit(self.location), check_hash=pl.lit(CHECKS_VERSION)
        )
        if problems:
            rows = rows.with_columns(
                status=pl.lit("set_aside"),
                code=pl.Series([problem.code for problem in problems]),
                reason=pl.Series([problem.reason for problem in problems]),
            )
        return rows

    def take(self, chosen: slice) -> Piece:
        """Return the piece of some of the records."""
        return replace(
            self,
            locations=self.locations[chosen],
            keys=self.keys[chosen],
            record_hashes=self.record_hashes[chosen],
            nth=self.nth[chosen],
        )


def _unpacked(
    source: Source,
    location: str,
    fingerprint: Fingerprint | None,
    record_hashes: NDArray[np.uint8],
    columns: bytes,
) -> Piece:
    rows = pl.read_ipc(columns)
    locations = np.stack([rows["first"].cum_sum(), rows["second"]], axis=1)
    return Piece(
        source, location, fingerprint, locations, rows["key"], record_hashes, rows["nth"].to_numpy()
    )


def packed(frame: pl.DataFrame) -> bytes:
    """Compress a table, to be read by ``pl.read_ipc``."""
    stream = BytesIO()
    frame.write_ipc(stream, compression="zstd")
    return stream.getvalue()


@dataclass(frozen=True)
class Estimate:
    """What a unit, or a whole plan, is expected to take.

    ``nbytes`` counts arrays to be written, before compression; ``input_nbytes`` what structures
    and neighbour lists take in memory; ``working_nbytes`` what the largest block of output and
    what makes it take beside them.
    """

    n_structures: int = 0
    n_atoms: int = 0
    n_pairs: int = 0
    seconds: float = 0.0
    nbytes: int = 0
    input_nbytes: int = 0
    working_nbytes: int = 0

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(
            self.n_structures + other.n_structures,
            self.n_atoms + other.n_atoms,
            self.n_pairs + other.n_pairs,
            self.seconds + other.seconds,
            self.nbytes + other.nbytes,
            self.input_nbytes + other.input_nbytes,
            max(self.working_nbytes, other.working_nbytes),
        )

    def share(self, n_structures: int) -> Estimate:
        """Return what so many of the structures are expected to take."""
        part = n_structures / max(self.n_structures, 1)
        return Estimate(
            n_structures,
            int(self.n_atoms * part),
            int(self.n_pairs * part),
            self.seconds * part,
            int(self.nbytes * part),
            int(self.input_nbytes * part),
            self.working_nbytes,
        )


@dataclass(frozen=True)
class Unit:
    """What one task does: make a part or take one, and compute what it lacks.

    Attributes
    ----------
    source : str
        Name of the source; a unit never spans two.
    pieces : tuple of Piece
        Records to ingest; empty for an existing part.
    part_id : str or None
        The existing part.
    rows : tuple of int or None
        Rows of the existing part that are live; None for all.
    tasks : tuple of Task
        Descriptors to compute.
    estimate : Estimate
        What it is expected to take.
    fatal : mapping of int to SetAside
        Structures, by their position in the unit, that workers are not to try, and what is to
        be recorded of them instead. A new one is alone in its unit.
    list_nbytes : int
        Memory that neighbour lists of an existing part may take at a time.
    """

    source: str
    pieces: tuple[Piece, ...]
    part_id: str | None
    rows: tuple[int, ...] | None
    tasks: tuple[Task, ...]
    estimate: Estimate
    fatal: Mapping[int, SetAside] = field(default_factory=dict)
    list_nbytes: int = 0

    def __len__(self) -> int:
        return self.estimate.n_structures

    def take(self, chosen: range) -> Unit:
        """Return the unit of some of the structures, which follow each other."""
        pieces, first = [], 0
        for piece in self.pieces:
            here = slice(max(chosen.start - first, 0), max(chosen.stop - first, 0))
            pieces.append(piece.take(here))
            first += len(piece)
        rows = None if self.part_id is None else tuple(self.part_rows[i] for i in chosen)
        return replace(
            self,
            pieces=tuple(piece for piece in pieces if len(piece)),
            rows=rows,
            estimate=self.estimate.share(len(chosen)),
            fatal={i - chosen.start: self.fatal[i] for i in self.fatal if i in chosen},
        )

    @property
    def part_rows(self) -> Sequence[int]:
        """Rows of the existing part that are live."""
        return range(len(self)) if self.rows is None else self.rows


def killed_worker(memory_nbytes: int) -> SetAside:
    """What is recorded of a structure that ends every worker of so much memory."""
    return SetAside(
        "killed_worker",
        "every worker that tried it died; give workers more memory, or correct the structure; "
        + memory_of_worker(memory_nbytes),
    )


def too_large_for_worker(needed_nbytes: int, memory_nbytes: int) -> SetAside:
    """What is recorded of a structure that no worker of so much memory can be given."""
    return SetAside(
        "too_large_for_worker",
        f"a worker is projected to need {needed_nbytes:,} bytes for it alone; give workers more "
        "memory, or ask for less at a time (gradients, n_atoms_max); "
        + memory_of_worker(memory_nbytes),
    )


def memory_of_worker(memory_nbytes: int) -> str:
    """Say how much memory decided; what ends otherwise is tried again."""
    return f"a worker had {memory_nbytes:,} bytes (cluster.memory)"


@dataclass(frozen=True)
class Costs:
    """Expected cost of each structure of a batch, as arrays of shape (n_structures,)."""

    n_atoms: Floats
    n_pairs: Floats
    seconds: Floats
    nbytes: Floats
    input_nbytes: Floats
    working_nbytes: Floats

    @property
    def list_nbytes(self) -> Floats:
        """What neighbour lists are of ``input_nbytes``."""
        return self.input_nbytes - ATOM_NBYTES * self.n_atoms

    def total(self, rows: slice) -> Estimate:
        """Sum over a range of structures."""
        return Estimate(
            n_structures=len(self.n_atoms[rows]),
            n_atoms=int(self.n_atoms[rows].sum()),
            n_pairs=int(self.n_pairs[rows].sum()),
            seconds=float(self.seconds[rows].sum()),
            nbytes=int(self.nbytes[rows].sum()),
            input_nbytes=int(self.input_nbytes[rows].sum()),
            working_nbytes=int(self.working_nbytes[rows].max(initial=0)),
        )

    def without(self, some: NDArray[np.bool_], rows: slice) -> Costs:
        """Return the costs of a range, with nothing to do for ``some`` of its structures."""
        return Costs(*(np.where(some, 0.0, values[rows]) for values in vars(self).values()))


def costs(
    n_atoms: NDArray[Any],
    volumes: NDArray[Any],
    tasks: Sequence[Task],
    speed: Speed,
    max_neighbours: int,
) -> Costs:
    """Estimate what structures of given sizes take.

    Parameters
    ----------
    n_atoms : array, shape (n_structures,)
        Number of atoms; 0 where unknown.
    volumes : array, shape (n_structures,)
        Cell volume in Å^3; NaN where there is none.
    tasks : sequence of Task
        Descriptors to compute.
    speed : dict
        Measured seconds per row of features, by (descriptor_id, gradients), where the lake
        knows.
    max_neighbours : int
        A structure with an atom of more is set aside, so none costs more than that.
    """
    atoms = np.where(n_atoms > 0, n_atoms, TYPICAL_N_ATOMS).astype(np.float64)
    zero = np.zeros(len(atoms))
    # numbers, positions, labels; 20 µs to read and check a structure, 1 µs for an atom
    nbytes, seconds = 60.0 * atoms + 200.0, 2e-5 + 1e-6 * atoms
    n_pairs, working = zero.copy(), zero.copy()
    for task in tasks:
        descriptor, gradients = task.descriptor, task.gradients
        neighbours = np.minimum(_neighbours(descriptor.cutoff, atoms, volumes), max_neighbours)
        n_pairs = np.maximum(n_pairs, neighbours * atoms)
        itemsize = np.dtype(descriptor.dtype).itemsize
        row = float(itemsize * descriptor.n_values)
        n_groups = len(descriptor.species_numbers) or 1
        if descriptor.per == "structure":
            features, positions, strain = np.ones_like(atoms), atoms, np.ones_like(atoms)
        elif gradients.positions == "summed":
            features, positions, strain = atoms, atoms * n_groups, zero + n_groups
        else:
            features, positions, strain = atoms, atoms * neighbours, atoms
        size = row * (
            features
            + 3 * positions * (gradients.positions != "none")
            + 9 * strain * gradients.strain
        )
        nbytes = nbytes + size
        by_structure = descriptor.counts_structures(gradients)
        block = np.maximum(size if by_structure else size / atoms, BLOCK_NBYTES)
        # the block itself, in double precision where it is summed or made, and as it is written
        needed = block * (2 + 8 / itemsize) + descriptor.scratch_nbytes(
            atoms, neighbours, gradients
        )
        working = np.maximum(working, needed)
        if (descriptor.descriptor_id, gradients) in speed:
            seconds = seconds + speed[descriptor.descriptor_id, gradients] * features
        else:
            counts, which = np.unique(neighbours.round(), return_inverse=True)
            per_atom = np.array([descriptor.cost(float(n), gradients) for n in counts])[which]
            seconds = seconds + per_atom * atoms
    n_lists = len({task.descriptor.cutoff for task in tasks})
    in_memory = ATOM_NBYTES * atoms + PAIR_NBYTES * min(n_lists, 2) * n_pairs
    return Costs(atoms, n_pairs, seconds, nbytes, in_memory, working)


def _neighbours(cutoff: float, n_atoms: Floats, volumes: NDArray[Any]) -> Floats:
    sphere = 4 / 3 * np.pi * cutoff**3
    with np.errstate(invalid="ignore", divide="ignore"):
        periodic = sphere * n_atoms / volumes
    free = np.minimum(n_atoms - 1, sphere * TYPICAL_DENSITY)
    return np.where(np.isfinite(periodic), periodic, free)


def shared_out(size: PartSize, costs: Costs) -> PartSize:
    """Return the size of the parts of all that is new: smaller where that makes few parts.

    A unit takes its worker and the driver 25 ms beside its work, so that units are large; of a few
    large units some workers would get one more than others, or none.
    """
    share = costs.nbytes.sum() / FEW_UNITS + costs.nbytes.max(initial=0.0)
    return size.model_copy(update={"nbytes": int(min(size.nbytes, max(share, LEAST_UNIT_NBYTES)))})


def cut(costs: Costs, size: PartSize, available_nbytes: float = np.inf) -> Iterator[slice]:
    """Cut structures, in order, into ranges that stay within the size of a part.

    A single structure that is larger than a part is a range of its own. So is one that needs more
    than half of the memory that a worker has for it to work with: the inputs of a range take the
    other half at most.
    """
    n = len(costs.n_atoms)
    is_alone = costs.working_nbytes > available_nbytes / 2
    alone = np.append(np.flatnonzero(is_alone), n)
    limits = [
        (np.concatenate([[0.0], np.cumsum(amount)]), float(limit))
        for amount, limit in (
            (costs.nbytes, size.nbytes),
            (costs.input_nbytes, min(size.memory, available_nbytes / 2)),
            (costs.seconds, size.seconds),
        )
    ]
    first = 0
    while first < n:
        within = [
            int(np.searchsorted(total, total[first] + limit, side="right")) - 1
            for total, limit in limits
        ]
        next_alone = int(alone[np.searchsorted(alone, first)])
        last = max(min(*within, first + size.structures, next_alone), first + 1)
        yield slice(first, last)
        first = last
