"""Batches of whole structures for training: shuffled, read ahead, shared out among ranks."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from atomlake.errors import LakeError
from atomlake.lake.arrays import Axis, PartsArray
from atomlake.lake.chunks import Array, Integers, StoredArray

Shuffle = Literal["blocks", "all", "none"]

#: Raw bytes of the runs of structures that ``shuffle="blocks"`` moves about as a whole.
BLOCK_NBYTES = 2**22
#: Raw bytes of arrays with short rows that are kept whole.
_WHOLE_NBYTES = 2**26
#: Arrays with longer rows than this are never kept whole.
_SHORT_ROW_NBYTES = 512


class BatchArrays(NamedTuple):
    """What batches are made of.

    ``dims`` is the first dimension of each array, ``bounds`` where the structures start along
    a dimension, ``atoms`` where the atoms are in the files of the features.
    """

    arrays: Mapping[str, PartsArray]
    dims: Mapping[str, str]
    bounds: Mapping[str, Integers]
    atoms: Axis


class Batches:
    """Batches of one descriptor: what :meth:`atomlake.Lake.batches` returns.

    A batch is a dictionary of arrays by name: ``structure`` (positions along ``structure`` of
    ``lake.features(...)``, or of ``lake.gradients(...)`` where gradients are read),
    ``structure_offsets`` (atoms of structure ``s`` of the batch are
    ``structure_offsets[s]:structure_offsets[s + 1]``), ``features``, the gradients, and the
    labels. ``neighbour_index`` and ``pair_offsets`` count atoms and pairs of the batch.

    Every epoch has all structures once, in an order that follows from ``seed``, the epoch and
    the rank alone. Its batches have nearly the same size, and every rank has as many.

    Attributes
    ----------
    n_structures : int
        Structures in all batches of an epoch, of all ranks.
    """

    def __init__(
        self,
        what: BatchArrays,
        *,
        n_structures: int,
        shuffle: Shuffle,
        seed: int,
        rank: int,
        world_size: int,
        memory_nbytes: int,
        n_threads: int,
    ) -> None:
        if shuffle not in get_args(Shuffle):
            raise ValueError(f"shuffle must be one of {get_args(Shuffle)} and is {shuffle!r}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be from 0 to {world_size - 1} and is {rank}")
        if n_structures < 1:
            raise ValueError(f"a batch must have a structure, and n_structures is {n_structures}")
        self.n_structures = len(what.bounds["structure"]) - 1
        if self.n_structures < world_size:
            raise LakeError(
                f"{self.n_structures} structures cannot be shared out among {world_size} ranks"
            )
        self._what = what
        self._read = _Reader(what, memory_nbytes)
        self._n_batches = -(-self.n_structures // (world_size * n_structures))
        self._shuffle = shuffle
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._memory_nbytes = memory_nbytes
        self._n_threads = n_threads
        self._nbytes = np.zeros(self.n_structures, dtype=np.int64)
        for name, array in what.arrays.items():
            self._nbytes += _row_nbytes(array) * np.diff(what.bounds[what.dims[name]])

    def __len__(self) -> int:
        """Batches of an epoch, of this rank."""
        return self._n_batches

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return self.epoch(0)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[dict[str, Array]]:
        """Read the batches of an epoch.

        Parameters
        ----------
        epoch : int
            Which one, from 0 on: each is shuffled in another way.
        start : int
            Batches to leave out: to resume after the first ``start`` of them.

        Raises
        ------
        LakeError
            If anything is missing or damaged; the message names the file.
        """
        batches = self.order(epoch)[start:]
        if self._n_threads == 0:
            yield from map(self._read, batches)
            return
        mean_nbytes = max(1, int(self._nbytes.mean()) * max(map(len, batches), default=1))
        n_ahead = min(max(1, self._memory_nbytes // mean_nbytes), 2 * self._n_threads)
        pending: deque[Future[dict[str, Array]]] = deque()
        with ThreadPoolExecutor(self._n_threads, "atomlake-batches") as threads:
            try:
                for batch in batches:
                    # Memory that a thread allocates and another frees is given back each time,
                    # and to get it again takes longer than to fill it.
                    request = self._read.request(batch)
                    pending.append(threads.submit(self._read.fill, request))
                    if len(pending) > n_ahead:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()

    def order(self, epoch: int) -> list[Integers]:
        """Structures of each batch of an epoch, without reading them."""
        n = self.n_structures
        shared = np.random.default_rng([self._seed, epoch])
        if self._shuffle == "none":
            order = np.arange(n)
        elif self._shuffle == "all":
            order = shared.permutation(n)
        else:
            order = self._blocks(shared)
        bounds = np.arange(self._world_size + 1) * n // self._world_size
        order = order[bounds[self._rank] : bounds[self._rank + 1]]
        if self._shuffle == "blocks":
            # Each structure comes up to half a window late, so that those of a block are spread
            # over the window, and what all of them need at a time fits in it.
            own = np.random.default_rng([self._seed, epoch, self._rank])
            due = np.cumsum(self._nbytes[order]) + own.random(len(order)) * self._memory_nbytes / 2
            order = order[np.argsort(due)]
        return np.array_split(order, self._n_batches)

    def _blocks(self, rng: np.random.Generator) -> Integers:
        """Structures in the order of the files, cut into blocks, and these shuffled."""
        part, row = self._what.arrays["features"].axis.locate(
            self._what.bounds[self._what.dims["features"]][:-1]
        )
        order = np.lexsort((row, part))
        nbytes = np.cumsum(self._nbytes[order])
        is_first = np.ones(len(order), dtype=bool)
        is_first[1:] = (np.diff(nbytes // BLOCK_NBYTES) > 0) | (np.diff(part[order]) > 0)
        blocks = np.split(order, np.flatnonzero(is_first)[1:])
        return np.concatenate([blocks[i] for i in rng.permutation(len(blocks))])


class _Request(NamedTuple):
    """What one batch is.

    Attributes
    ----------
    structures : int64 array, shape (n_structures,)
        Structures.
    first, n_rows, start : mapping of str to int64 array
        By dimension: where the rows of each structure begin, how many there are, where
        they begin in the batch.
    room : mapping of str to array
        Memory for the arrays that are not kept whole.
    """

    structures: Integers
    first: dict[str, Integers]
    n_rows: dict[str, Integers]
    start: dict[str, Integers]
    room: dict[str, Array]


class _Reader:
    """Reads batches; several threads may call it at once."""

    def __init__(self, what: BatchArrays, memory_nbytes: int) -> None:
        self._what = what
        self._chunks = _Chunks(memory_nbytes)
        self._whole = _WholeArrays(what.arrays)

    def __call__(self, structures: Integers) -> dict[str, Array]:
        return self.fill(self.request(structures))

    def request(self, structures: Integers) -> _Request:
        """Say where the rows of some structures are, and allocate memory for them."""
        what = self._what
        first = {dim: bounds[structures] for dim, bounds in what.bounds.items()}
        n_rows = {dim: bounds[structures + 1] - first[dim] for dim, bounds in what.bounds.items()}
        start = {
            dim: np.concatenate([[0], np.cumsum(n, dtype=np.int64)]) for dim, n in n_rows.items()
        }
        room = {
            name: np.empty((start[what.dims[name]][-1], *array.shape[1:]), array.dtype)
            for name, array in what.arrays.items()
            if name not in self._whole.names
        }
        return _Request(structures, first, n_rows, start, room)

    def fill(self, request: _Request) -> dict[str, Array]:
        """Read what was requested."""
        what = self._what
        structures, first, n_rows, start, room = request
        rows = {
            dim: np.arange(start[dim][-1]) + np.repeat(first[dim] - start[dim][:-1], n)
            for dim, n in n_rows.items()
        }
        batch: dict[str, Array] = {"structure": structures, "structure_offsets": start["atom"]}
        for name, array in what.arrays.items():
            dim = what.dims[name]
            if name in room:
                batch[name] = room[name]
                self._read(array, first[dim], start[dim], batch[name])
            else:
                batch[name] = self._whole[name].take(rows[dim], axis=0)
        if "pair" in what.bounds:
            # Both are stored as counted over the part.
            stored = batch["pair_offsets"][start["atom"][:-1]]
            batch["pair_offsets"] += np.repeat(start["pair"][:-1] - stored, n_rows["atom"])
            _, stored = what.atoms.locate(first["atom"])
            batch["neighbour_index"] += np.repeat(start["atom"][:-1] - stored, n_rows["pair"])
            batch["pair_offsets"] = np.append(batch["pair_offsets"], start["pair"][-1])
        return batch

    def _read(self, array: PartsArray, first: Integers, start: Integers, out: Array) -> None:
        """Read the rows of each structure, which are consecutive rows of one part."""
        has_rows = np.flatnonzero(np.diff(start))
        part, row = array.axis.locate(first[has_rows])
        opened: dict[int, StoredArray | None] = {}
        for p, at, begin, end in zip(
            part.tolist(),
            row.tolist(),
            start[has_rows].tolist(),
            start[has_rows + 1].tolist(),
            strict=True,
        ):
            stored = opened.get(p)
            if stored is None or at + end - begin > len(stored):
                stored = opened[p] = array.stored(p, at + end - begin)
            if stored is None:
                out[begin:end] = np.nan
            else:
                self._chunks.copy(stored, at, out, begin, end)


class _WholeArrays:
    """The arrays with the shortest rows, such as labels: whole in memory, where they fit.

    Pickles as empty.
    """

    def __init__(self, arrays: Mapping[str, PartsArray]) -> None:
        self._arrays = arrays
        self._lock = Lock()
        self._values: dict[str, Array] = {}
        nbytes = {name: len(array.axis) * _row_nbytes(array) for name, array in arrays.items()}
        fitting = sorted(nbytes, key=lambda name: _row_nbytes(arrays[name]))
        total = np.cumsum([nbytes[name] for name in fitting])
        self.names = {
            name
            for name, upto in zip(fitting, total, strict=True)
            if upto <= _WHOLE_NBYTES and _row_nbytes(arrays[name]) <= _SHORT_ROW_NBYTES
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return _WholeArrays, (self._arrays,)

    def __getitem__(self, name: str) -> Array:
        """Return all rows of one of the arrays ``names``."""
        if name not in self._values:
            with self._lock:
                if name not in self._values:
                    self._values[name] = self._arrays[name].values()
        return self._values[name]


class _Chunks:
    """Decoded chunks that were used last; each is decoded once, whoever asks for it first.

    Pickles as empty.
    """

    def __init__(self, nbytes: int) -> None:
        self._most_nbytes = nbytes
        self._nbytes = 0
        self._lock = Lock()
        self._slots: OrderedDict[tuple[str, int], _Slot] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Chunks, (self._most_nbytes,)

    def copy(self, array: StoredArray, row: int, out: Array, begin: int, end: int) -> None:
        """Copy the rows from ``row`` on to ``out[begin:end]``.

        Plain rows are read where they are wanted, and a chunk of which all rows are wanted is
        decoded there.
        """
        n = array.chunk_rows
        while begin < end:
            i, first = divmod(row, n)
            n_here = min(n - first, end - begin)
            here = out[begin : begin + n_here]
            if not array.copy(i, first, here):
                if n_here == n:
                    array.chunk(i, here, once=True)
                else:
                    here[...] = self._chunk(array, i)[first : first + n_here]
            begin += n_here
            row += n_here

    def _chunk(self, array: StoredArray, i: int) -> Array:
        key = (array.path, i)
        with self._lock:
            slot = self._slots.get(key)
            if slot is None:
                slot = self._slots[key] = _Slot()
            else:
                self._slots.move_to_end(key)
        if slot.chunk is not None:
            return slot.chunk
        with slot.lock:
            if slot.chunk is None:
                chunk = slot.chunk = array.chunk(i, once=True)
                with self._lock:
                    self._nbytes += chunk.nbytes
                    while self._nbytes > self._most_nbytes and len(self._slots) > 1:
                        _, oldest = self._slots.popitem(last=False)
                        self._nbytes -= 0 if oldest.chunk is None else oldest.chunk.nbytes
            return slot.chunk


class _Slot:
    """Place of one decoded chunk."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.chunk: Array | None = None


def _row_nbytes(array: PartsArray) -> int:
    return array.dtype.itemsize * int(np.prod(array.shape[1:]))
