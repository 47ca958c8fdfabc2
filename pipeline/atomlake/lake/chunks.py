"""Rows of stored arrays, straight from the chunks of their files.

Reads what :mod:`atomlake.lake.groups` writes, several times faster than zarr does: the place of
a chunk is looked up in the index of its shard, its bytes are read in one call, their CRC-32C is
compared, and they are decoded into the rows that the caller wants. What is missing or damaged
raises; nothing ever reads as a fill value.
"""

from __future__ import annotations

import json
import math
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from atomlake.buckets import ObjectPath
from atomlake.errors import LakeError
from atomlake.lake import layout

Array = NDArray[Any]
Integers = NDArray[np.int64]

#: Files that one lake holds open.
N_OPEN_FILES = 128
#: Bytes of an object that one request asks for, at most, unless a chunk has more.
READ_AHEAD_NBYTES = 2**24
#: Arrays whose description one lake keeps, about a kilobyte each.
N_KNOWN_ARRAYS = 2**15
#: Files of which one lake keeps what is known of their chunks, a byte for each.
N_KNOWN_FILES = 2**16

# One thread decodes one chunk, and several threads several; zarr sets the same.
blosc.use_threads = False
_CRC_NBYTES = 4
#: Blosc's header: 16 bytes, of which the third has this bit set if what follows is the rows
#: themselves, uncompressed.
_HEADER_NBYTES = 16
_PLAIN_BIT = 2
#: What is known of a chunk of a local file: nothing, its CRC-32C was compared, and so it was and
#: its rows are plain.
_UNKNOWN, _COMPARED, _PLAIN = range(3)
#: CRC-32C of whatever ends in its own CRC-32C.
_RESIDUE = google_crc32c.value(google_crc32c.value(b"").to_bytes(_CRC_NBYTES, "little"))
_ABSENT = np.uint64(2**64 - 1)
_INDEX_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]


class Files:
    """Files of one lake that were read last, with the indices of their chunks.

    Can be shared by threads, and used after a fork: files are read at given positions, and
    closed when nobody reads them any more. A pickled one starts without open files.

    Parameters
    ----------
    lake : Path, ObjectPath or str
        The lake.
    """

    def __init__(self, lake: layout.Place | str) -> None:
        self.lake = layout.place(lake)
        self._arrays: OrderedDict[tuple[str, str], StoredArray] = OrderedDict()
        self._open: OrderedDict[str, _File] = OrderedDict()
        self._known: OrderedDict[tuple[Any, ...], bytearray] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return Files, (self.lake,)

    def array(self, group: str, name: str) -> StoredArray:
        """Return an array of a group, given the group's path relative to the lake.

        Raises
        ------
        LakeError
            If the group's description is missing, damaged, or of another kind of array.
        """
        found = self._arrays.get((group, name))
        if found is None:
            found = StoredArray(self, group, name, self.arrays(group))
            found = _remember(self._arrays, (group, name), found, N_KNOWN_ARRAYS)
        else:
            _touch(self._arrays, (group, name))
        return found

    def arrays(self, group: str) -> Mapping[str, Any]:
        """Metadata of the arrays of a group, as zarr stores them.

        Raises
        ------
        LakeError
            If they are missing or damaged.
        """
        path = f"{group}/zarr.json"
        try:
            document = json.loads(layout.resolve(self.lake, path).read_bytes())
            return dict(document["consolidated_metadata"]["metadata"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise damaged(self.lake, path, f"{type(error).__name__}: {error}") from error

    def file(self, path: str, n_chunks: int | None) -> _File:
        """Open a file, given its path relative to the lake.

        Parameters
        ----------
        path : str
            The file.
        n_chunks : int or None
            Entries of the index at its end; None for a file that is one chunk.
        """
        found = self._open.get(path)
        if found is None:
            found = _remember(self._open, path, _File(self, path, n_chunks), N_OPEN_FILES)
        else:
            _touch(self._open, path)
        return found

    def known(self, identity: tuple[Any, ...], n_chunks: int) -> bytearray:
        """What is known of the chunks of a file.

        Parameters
        ----------
        identity : tuple
            Another one for a file that was replaced or changed.
        n_chunks : int
            Chunks of the file.
        """
        found = self._known.get(identity)
        if found is None:
            found = _remember(self._known, identity, bytearray(n_chunks), N_KNOWN_FILES)
        return found


# Each of these steps is one call that other threads see whole: no lock is held that a fork in
# another thread could leave locked. None may drop a value before it is done, which would close a
# file and let other threads in: to write ``known[key]`` over another value ends the process now
# and then.


def _touch(known: OrderedDict[Any, Any], key: Any) -> None:
    try:
        known.move_to_end(key)
    except KeyError:
        return


def _remember[Value](known: OrderedDict[Any, Value], key: Any, value: Value, n_most: int) -> Value:
    """Keep a value, and forget the oldest; return the one that is kept, by whichever thread."""
    kept = known.setdefault(key, value)
    while len(known) > n_most:
        try:
            known.popitem(last=False)
        except KeyError:
            break
    return kept


def damaged(lake: layout.Place, path: str, problem: str) -> LakeError:
    """Name the file of a lake that is not as it was written."""
    return LakeError(
        f"{path} of {lake} is missing or damaged ({problem}): 'atomlake verify {lake}' says what "
        f"else is, 'atomlake repair {lake}' computes it again"
    )


class _File:
    """One open file: chunks of an array."""

    def __init__(self, files: Files, path: str, n_chunks: int | None) -> None:
        self.lake = lake = files.lake
        self.path = path
        size = None if n_chunks is None else 16 * n_chunks + _CRC_NBYTES
        try:
            where = layout.resolve(lake, path)
            self._bytes = _LocalBytes(where) if isinstance(where, Path) else _Object(where, size)
            nbytes = self._bytes.nbytes
        except OSError as error:
            raise damaged(lake, path, f"{type(error).__name__}: {error.strerror}") from error
        self._known = bytearray()  # of an object nothing is kept
        if isinstance(self._bytes, _LocalBytes):
            self._known = files.known((path, *self._bytes.identity), n_chunks or 1)
        if n_chunks is None or size is None:
            self._places = [(0, nbytes)]
        else:
            content = self._checked(nbytes - size, size, "the index of its chunks")
            places = np.frombuffer(content, "<u8").reshape(n_chunks, 2)
            self._places = [(int(first), int(n)) for first, n in places]

    def chunk(self, i: int, *, once: bool) -> memoryview:
        """Encoded bytes of a chunk; ``once`` to compare those of a local file once."""
        first, nbytes = self._places[i]
        if first == _ABSENT:
            raise damaged(self.lake, self.path, f"chunk {i} was never written")
        is_known = once and bool(self._known) and self._known[i] != _UNKNOWN
        content = self._checked(first, nbytes, f"chunk {i}", compare=not is_known)
        if self._known and not is_known and len(content) >= _HEADER_NBYTES:
            self._known[i] = _PLAIN if content[2] & _PLAIN_BIT else _COMPARED
        return content

    def copy_plain(self, i: int, chunk_nbytes: int, start: int, out: Array) -> bool:
        """Fill ``out`` from byte ``start`` of a chunk's rows on, if they are known to be plain."""
        first, nbytes = self._places[i]
        if (
            not isinstance(self._bytes, _LocalBytes)
            or self._known[i] != _PLAIN
            or nbytes != _HEADER_NBYTES + chunk_nbytes + _CRC_NBYTES
        ):
            return False
        try:
            n_read = self._bytes.read_into(out, first + _HEADER_NBYTES + start)
        except OSError as error:
            raise damaged(self.lake, self.path, f"chunk {i}: {error}") from error
        if n_read != out.nbytes:
            raise damaged(self.lake, self.path, f"chunk {i} is cut off: the file is too short")
        return True

    def _checked(self, first: int, nbytes: int, what: str, *, compare: bool = True) -> memoryview:
        """Read bytes that end in their CRC-32C, and return them without it."""
        try:
            content = self._bytes.read(nbytes, first) if first >= 0 else b""
        except (OSError, OverflowError) as error:
            raise damaged(self.lake, self.path, f"{what}: {error}") from error
        if len(content) != nbytes or nbytes <= _CRC_NBYTES:
            raise damaged(self.lake, self.path, f"{what} is cut off: the file is too short")
        if compare and google_crc32c.value(content) != _RESIDUE:
            raise damaged(self.lake, self.path, f"{what} does not have its CRC-32C")
        return memoryview(content)[:-_CRC_NBYTES]


class _LocalBytes:
    """Bytes of a file, read where they are asked for."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        stat = os.fstat(self._descriptor)
        self.nbytes = stat.st_size
        #: Another one for a file that was replaced or changed.
        self.identity = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)

    def __del__(self, close: Any = os.close) -> None:
        if hasattr(self, "_descriptor"):
            close(self._descriptor)

    def read(self, nbytes: int, first: int) -> bytes:
        """Read bytes from a position on; fewer where the file ends."""
        return os.pread(self._descriptor, nbytes, first)

    def read_into(self, out: Array, first: int) -> int:
        """Fill an array from a position on; return how many bytes there were."""
        return os.preadv(self._descriptor, [out], first)


class _Object:
    """Bytes of an object; who reads one chunk after the other gets many with each request."""

    def __init__(self, path: ObjectPath, n_last: int | None) -> None:
        self._path = path
        content, self.nbytes = path.tail(n_last)
        self._held = (self.nbytes - len(content), content)

    def read(self, nbytes: int, first: int) -> bytes:
        """Read bytes from a position on; fewer where the object ends."""
        start, content = self._held
        if start <= first and first + nbytes <= start + len(content):
            return content[first - start : first - start + nbytes]
        goes_on = first == start + len(content)
        wanted = min(READ_AHEAD_NBYTES, 4 * len(content)) if goes_on else nbytes
        content = self._path.read_range(first, max(nbytes, wanted))
        self._held = first, content
        return content[:nbytes]


class _Cut(NamedTuple):
    """How an array is cut: rows of a chunk, chunks of a shard (None without shards)."""

    chunk_rows: int
    shard_chunks: int | None


class StoredArray:
    """One array of a group.

    Attributes
    ----------
    shape : tuple of int
        Of the whole array.
    dtype : dtype
        In native byte order.
    chunk_rows : int
        Rows that are read together.
    """

    def __init__(self, files: Files, group: str, name: str, arrays: Mapping[str, Any]) -> None:
        self.files = files
        self.path = f"{group}/{name}"
        try:
            metadata = arrays[name]
            self.shape = tuple(int(n) for n in metadata["shape"])
            self.dtype = np.dtype(str(metadata["data_type"]))
            self.dims = tuple(str(dim) for dim in metadata["dimension_names"])
            self.chunk_rows, self._shard_chunks = _cut(metadata, self.shape, self.dtype)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise damaged(
                files.lake, f"{group}/zarr.json", f"array {name}: {type(error).__name__}: {error}"
            ) from error
        self._zeros = "/0" * (len(self.shape) - 1)
        self._row_nbytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        self._chunk_nbytes = self.chunk_rows * self._row_nbytes

    def __len__(self) -> int:
        return self.shape[0]

    def copy(self, i: int, start: int, out: Array) -> bool:
        """Fill ``out`` with the rows of a chunk from ``start`` on, without what is beside them.

        Does so, and returns True, for a chunk of a local file that these :class:`Files` have
        read before and that holds plain rows.
        """
        file, inner = self._place(i)
        return file.copy_plain(inner, self._chunk_nbytes, start * self._row_nbytes, out)

    def chunk(self, i: int, out: Array | None = None, *, once: bool = False) -> Array:
        """Decode a chunk, all of its rows, into ``out`` (contiguous) or a new array.

        With ``once`` the CRC-32C of a chunk of a local file is compared the first time that
        these :class:`Files` read it, and again if the file was changed or replaced.
        """
        file, inner = self._place(i)
        content = file.chunk(inner, once=once)
        if out is None:
            out = np.empty((self.chunk_rows, *self.shape[1:]), self.dtype)
        if len(content) < 16 or int.from_bytes(content[4:8], "little") != out.nbytes:
            raise damaged(self.files.lake, file.path, f"chunk {inner} has another size")
        try:
            blosc.decompress(content, out)
        except (RuntimeError, ValueError) as error:
            raise damaged(self.files.lake, file.path, f"chunk {inner}: {error}") from error
        return out

    def _place(self, i: int) -> tuple[_File, int]:
        """Return the file of a chunk, and its number there."""
        shard, inner = (i, 0) if self._shard_chunks is None else divmod(i, self._shard_chunks)
        return self.files.file(f"{self.path}/c/{shard}{self._zeros}", self._shard_chunks), inner

    def unreadable(self, shard: int) -> list[range]:
        """Rows of the chunks of one file that cannot be decoded; all of its rows if every one can.

        Then what it holds can be read and yet be that of another file.
        """
        n_chunks = self._shard_chunks or 1
        n_all = -(-len(self) // self.chunk_rows)
        chunks = range(shard * n_chunks, min((shard + 1) * n_chunks, n_all))
        lost = [i for i in chunks if not self._decodes(i)] or chunks
        return [range(i * self.chunk_rows, (i + 1) * self.chunk_rows) for i in lost]

    def _decodes(self, i: int) -> bool:
        try:
            self.chunk(i)
        except LakeError:
            return False
        return True

    def read(self, rows: slice | Integers | None = None, tail: Sequence[Any] = ()) -> Array:
        """Read rows.

        Parameters
        ----------
        rows : slice or integer array, optional
            Which rows: a slice without a step, or rows in any order; all if not given.
        tail : sequence of int, slice or integer array, optional
            What of the further axes, one axis at a time.

        Raises
        ------
        LakeError
            If a file or a chunk that holds any of the rows is missing or damaged.
        """
        rows = slice(0, len(self)) if rows is None else rows
        shape = outer(np.empty((0, *self.shape[1:]), np.bool_), (slice(None), *tail)).shape[1:]
        if isinstance(rows, slice):
            out = np.empty((rows.stop - rows.start, *shape), self.dtype)
            self.fill(out, rows.start, tail)
        else:
            out = np.empty((len(rows), *shape), self.dtype)
            self._gather(out, rows, tail)
        return out

    def fill(self, out: Array, first: int, tail: Sequence[Any] = ()) -> None:
        """Read the rows from ``first`` on into ``out``, which may have another row in each."""
        if not out.size:
            return
        n = self.chunk_rows
        last = first + len(out)
        is_whole = out.shape[1:] == self.shape[1:] and out.flags.c_contiguous
        scratch = None
        for i in range(first // n, -(-last // n)):
            start, stop = max(first, i * n), min(last, (i + 1) * n)
            here = out[start - first : stop - first]
            if stop - start == n and is_whole and not _selects(tail):
                self.chunk(i, here)
                continue
            scratch = self.chunk(i, scratch)
            here[...] = outer(scratch, (slice(start - i * n, stop - i * n), *tail))

    def _gather(self, out: Array, rows: Integers, tail: Sequence[Any]) -> None:
        """Read rows in any order, every chunk once."""
        if not out.size:
            return
        n = self.chunk_rows
        order = np.argsort(rows, kind="stable")
        chunk = rows[order] // n
        scratch = None
        for here in np.split(order, np.flatnonzero(np.diff(chunk)) + 1):
            i = int(rows[here[0]]) // n
            scratch = self.chunk(i, scratch)
            out[here] = outer(scratch, (rows[here] - i * n, *tail))


def outer(array: Array, key: Sequence[Any]) -> Array:
    """Index one axis after the other."""
    for axis in reversed(range(len(key))):
        array = array[(slice(None),) * axis + (key[axis],)]
    return array


def _selects(tail: Sequence[Any]) -> bool:
    return any(k != slice(None) if isinstance(k, slice) else True for k in tail)


def _cut(metadata: Mapping[str, Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> _Cut:
    """Read how an array is cut, and refuse every encoding but the one that is written."""
    codecs = metadata["codecs"]
    rows, *tail = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    shard_chunks = None
    if codecs[0]["name"] == "sharding_indexed":
        sharding = codecs[0]["configuration"]
        shard_rows = rows
        rows, *inner_tail = sharding["chunk_shape"]
        codecs = sharding["codecs"]
        shard_chunks = shard_rows // rows
        if (
            inner_tail != tail
            or shard_chunks * rows != shard_rows
            or sharding["index_codecs"] != _INDEX_CODECS
            or sharding["index_location"] != "end"
        ):
            raise ValueError("its shards are not cut as atomlake cuts them")
    order = {"name": "bytes"}
    if dtype.itemsize > 1:
        order["configuration"] = {"endian": "little"}  # type: ignore[assignment]
    if (
        [codec["name"] for codec in codecs] != ["bytes", "blosc", "crc32c"]
        or codecs[0] != order
        or tail != [max(1, n) for n in shape[1:]]
        or metadata["chunk_grid"]["name"] != "regular"
        or metadata["chunk_key_encoding"]
        != {"name": "default", "configuration": {"separator": "/"}}
        or dtype.kind not in "biuf"
        or rows < 1
    ):
        raise ValueError("it is not encoded as atomlake encodes it")
    return _Cut(rows, shard_chunks)
