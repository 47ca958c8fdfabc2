"""Zarr groups that are written once and open by themselves with :func:`xarray.open_zarr`.

Arrays are cut along their first axis only. A chunk, the least that can be read, holds whole
rows, a power of two of them. A shard is one file of many chunks; only whole shards are ever
written. Every chunk carries a CRC-32C, and every chunk is written, so that what is missing or
damaged raises on reading and never reads as a fill value.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import google_crc32c
import numpy as np
from numcodecs import Blosc, VLenUTF8
from numpy.typing import NDArray

from atomlake.buckets import ObjectPath, Upload
from atomlake.errors import LakeError
from atomlake.lake import layout
from atomlake.lake.layout import Place
from atomlake.variables import Variable

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store

Array = NDArray[Any]


class Chunking(NamedTuple):
    """How an array is cut along its first axis: about ``nbytes`` raw per chunk, in whole rows."""

    nbytes: int
    least_rows: int
    most_rows: int


#: Features: a training job that reads single structures wants small chunks, a scan large ones.
FEATURE_CHUNKS = Chunking(2**18, 8, 2**10)
#: Gradients: the rows of one structure are read together, and are many.
GRADIENT_CHUNKS = Chunking(2**20, 1, 2**10)
#: Everything with a few numbers per row.
PLAIN_CHUNKS = Chunking(2**18, 8, 2**16)
#: Raw bytes of a shard: few files, and a piece of work for those who read with dask.
SHARD_NBYTES = 2**26
#: Encoded bytes that are gathered before they go to the file system.
WRITE_NBYTES = 2**22

_BLOCK_NBYTES = 2**24
_TEXT = np.dtypes.StringDType()
#: Bytes of integers are shuffled, of which most are zero; of floats lz4 finds the zeros as they
#: are, at several times the speed.
_SHUFFLED, _UNSHUFFLED = (Blosc("lz4", 5, shuffle) for shuffle in (Blosc.SHUFFLE, Blosc.NOSHUFFLE))
#: The same format without compression. Rows of floats stay plain unless lz4 makes them smaller
#: than this part of their size: plain rows are read where they are, several times faster.
_PLAIN = Blosc("lz4", 0, Blosc.NOSHUFFLE)
_WORTHWHILE = 0.8


class StoredFile(NamedTuple):
    """One file of a zarr group: its path inside the group, its size and its CRC-32.

    The checksum is another polynomial than that of the chunks: the CRC-32C of data that end
    in their own CRC-32C is the same for all data.
    """

    name: str
    nbytes: int
    crc32: int


# ----- Reading


def group_attributes(root: Place) -> dict[str, Any]:
    """Attributes of a group."""
    with reading(str(root)):
        return dict(_document(root)["attributes"])


def array_dims(root: Place) -> dict[str, tuple[str, ...]]:
    """Names of the arrays of a group and their dimensions."""
    with reading(str(root)):
        arrays = _document(root)["consolidated_metadata"]["metadata"]
        return {name: tuple(array["dimension_names"]) for name, array in arrays.items()}


def open_array(root: Place, name: str) -> zarr.Array[Any]:
    """Open one array of a group; reading a file that is missing from it raises."""
    import zarr

    with reading(f"{root}/{name}"):
        return zarr.open_array(
            _store(root, name),
            path=name,
            mode="r",
            config={"read_missing_chunks": False},
        )


def _store(root: Place, name: str) -> Store:
    """What zarr reads an array from: of a bucket, a copy in memory."""
    from zarr.core.buffer import cpu
    from zarr.storage import LocalStore, MemoryStore

    if isinstance(root, Path):
        return LocalStore(root, read_only=True)
    content = {
        f"{name}/{key}": (root / name / key).read_bytes() for key, _ in (root / name).below()
    }
    return MemoryStore({k: cpu.Buffer.from_bytes(v) for k, v in content.items()}, read_only=True)


def read(array: zarr.Array[Any], selection: Any) -> Array:
    """Read a selection of an array; with arrays of indices, one axis at a time.

    Raises
    ------
    LakeError
        If anything that the selection needs is missing or damaged.
    """
    with reading(f"{array.store_path}"):
        if isinstance(selection, tuple) and any(isinstance(s, np.ndarray) for s in selection):
            return np.asarray(array.oindex[selection])
        return np.asarray(array[selection])


def file_problem(root: Place, file: StoredFile) -> tuple[str, str] | None:
    """Compare a file with what was written: code and message of what is wrong, or None."""
    size = checksum = 0
    try:
        for block in _blocks(root / file.name):
            size += len(block)
            checksum = zlib.crc32(block, checksum)
    except FileNotFoundError:
        return "missing_file", "the file is gone"
    except OSError as error:
        return "unreadable", f"the file cannot be read: {error}"
    if size != file.nbytes:
        return "wrong_size", f"the file must have {file.nbytes} bytes and has {size}"
    if checksum != file.crc32:
        return "wrong_checksum", "the file's bytes are not those that were written"
    return None


def _blocks(path: Place) -> Iterator[Any]:
    if isinstance(path, ObjectPath):
        yield from path.blocks(_BLOCK_NBYTES)
        return
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_NBYTES):
            yield block


def _document(root: Place) -> Any:
    return json.loads((root / "zarr.json").read_bytes())


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever goes wrong while reading stored bytes into a LakeError."""
    try:
        yield
    except (LakeError, MemoryError):
        raise
    except Exception as error:
        first_line = str(error).partition("\n")[0]
        raise LakeError(
            f"{what} is missing or damaged ({type(error).__name__}: {first_line}); "
            "'atomlake verify' says what else is"
        ) from error


@contextmanager
def writing(lake: Place | str, path: str) -> Iterator[None]:
    """Turn a refusal of the file system into a LakeError."""
    try:
        yield
    except OSError as error:
        raise LakeError(
            f"{path} cannot be written to {lake} ({error}); make room or get permission, "
            "and run the recipe again: what was published stays"
        ) from error


# ----- Writing


class GroupWriter:
    """Writes one zarr group; it does not open before it is closed."""

    def __init__(self, root: Place, attributes: Mapping[str, Any]) -> None:
        self.root = root
        self._attributes = dict(attributes)
        self._arrays: dict[str, dict[str, Any]] = {}
        self._files: dict[str, StoredFile] = {}

    def stream(
        self,
        name: str,
        variable: Variable,
        shape: tuple[int, ...],
        dtype: Any,
        chunking: Chunking = PLAIN_CHUNKS,
    ) -> ChunkWriter:
        """Create an array of its final shape, which is filled block by block."""
        dtype = np.dtype(dtype)
        chunk, shard = chunk_and_shard(shape, dtype.itemsize, chunking)
        self._arrays[name] = _array_document(variable, shape, dtype, chunk, shard)
        (self.root / name).mkdir(parents=True)
        self._write_document(f"{name}/zarr.json", self._arrays[name])
        return ChunkWriter(self, name, shape, dtype, chunk, shard)

    def write(self, name: str, variable: Variable, values: Array) -> None:
        """Create an array and fill it."""
        values = np.asarray(values)
        if values.dtype.kind in "OU":
            values = values.astype(_TEXT)
        stream = self.stream(name, variable, values.shape, values.dtype)
        stream.append(values)
        stream.finish()

    def add(self, file: StoredFile) -> None:
        """Note a file that was written."""
        self._files[file.name] = file

    def close(self) -> tuple[StoredFile, ...]:
        """Write the group's own metadata, with that of all arrays, and list the files."""
        document = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": self._attributes,
            "consolidated_metadata": {
                "kind": "inline",
                "must_understand": False,
                "metadata": self._arrays,
            },
        }
        self._write_document("zarr.json", document)
        return tuple(file for _, file in sorted(self._files.items()))

    def _write_document(self, name: str, document: Mapping[str, Any]) -> None:
        content = json.dumps(document, indent=2).encode()
        layout.write_whole(self.root / name, content)
        self.add(StoredFile(name, len(content), zlib.crc32(content)))


def _array_document(
    variable: Variable, shape: tuple[int, ...], dtype: np.dtype[Any], chunk: int, shard: int
) -> dict[str, Any]:
    """Metadata of an array as zarr writes it, which takes zarr itself 4 ms an array."""
    tail = [max(1, n) for n in shape[1:]]
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    checksum = {"name": "crc32c"}
    numbers = {"name": "bytes"} if dtype.itemsize == 1 else little
    shuffle = "noshuffle" if dtype.kind == "f" else "shuffle"
    blosc = {"cname": "lz4", "clevel": 5, "shuffle": shuffle, "blocksize": 0}
    codecs: list[dict[str, Any]] = [
        {"name": "vlen-utf8", "configuration": {}} if dtype == _TEXT else numbers,
        {
            "name": "blosc",
            "configuration": {"typesize": 1 if dtype == _TEXT else dtype.itemsize, **blosc},
        },
        checksum,
    ]
    if shard != chunk:
        sharding = {
            "chunk_shape": [chunk, *tail],
            "codecs": codecs,
            "index_codecs": [little, checksum],
            "index_location": "end",
        }
        codecs = [{"name": "sharding_indexed", "configuration": sharding}]
    return {
        "shape": list(shape),
        "data_type": "string" if dtype == _TEXT else dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard, *tail]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": "NaN" if dtype.kind == "f" else _fill_value(dtype),
        "codecs": codecs,
        "attributes": {name: text for name, text in variable.attributes.items() if text},
        "dimension_names": list(variable.dims),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def _fill_value(dtype: np.dtype[Any]) -> Any:
    return np.nan if dtype.kind == "f" else "" if dtype == _TEXT else dtype.type(0).item()


class ChunkWriter:
    """Fills an array from its first row to its last, chunk by chunk.

    A chunk is encoded as soon as it is whole, and goes to the file of its shard with its
    neighbours, in the encoding that the array's metadata states (zarr's ``sharding_indexed``,
    index at the end). The same bytes come out of zarr's ``array[...] = rows``, at three times
    the processor time, and with two raw shards of each array in memory instead of one chunk.
    """

    def __init__(
        self,
        group: GroupWriter,
        name: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        chunk: int,
        shard: int,
    ) -> None:
        self.name = name
        self.shape = shape
        self.dtype = dtype
        self._group = group
        self._is_sharded = shard != chunk
        self._shard_chunks = shard // chunk
        self._held = np.empty((chunk, *shape[1:]), dtype)
        self._n_held = 0
        self._n_rows = 0
        self._n_shards = 0
        self._index: list[tuple[int, int]] = []
        self._nbytes = 0
        self._crc32 = 0
        self._waiting: list[bytes] = []
        self._waiting_nbytes = 0
        self._upload: Upload | None = None

    def append(self, block: Array) -> None:
        """Add rows, with the trailing axes in any shape; ``block`` may be reused afterwards."""
        block = np.ascontiguousarray(block, self.dtype)
        block = block.reshape(len(block), *self.shape[1:])
        self._n_rows += len(block)
        n = len(self._held)
        while len(block):
            if self._n_held == 0 and len(block) >= n:
                self._encode(block[:n])
                block = block[n:]
                continue
            taken = min(n - self._n_held, len(block))
            self._held[self._n_held : self._n_held + taken] = block[:taken]
            self._n_held += taken
            block = block[taken:]
            if self._n_held == n:
                self._encode(self._held)
                self._n_held = 0

    def finish(self) -> None:
        """Write what is left.

        Raises
        ------
        LakeError
            If more or fewer rows came than the array has.
        """
        if self._n_held:
            self._held[self._n_held :] = _fill_value(self.dtype)
            self._encode(self._held)
        if self._index:
            self._finish_shard()
        if self._n_rows != self.shape[0]:
            raise LakeError(
                f"{self._group.root / self.name} must have {self.shape[0]} rows, and "
                f"{self._n_rows} came: the descriptor's blocks do not cover its rows"
            )

    def _encode(self, rows: Array) -> None:
        """Put one chunk into the shard."""
        if self.dtype.kind == "f":
            content = _UNSHUFFLED.encode(rows)
            if len(content) > _WORTHWHILE * rows.nbytes:
                content = _PLAIN.encode(rows)
        elif self.dtype == _TEXT:
            content = _SHUFFLED.encode(VLenUTF8().encode(rows.astype(object)))
        else:
            content = _SHUFFLED.encode(rows)
        self._index.append((self._nbytes, len(content) + 4))
        self._put(content)
        if len(self._index) == self._shard_chunks:
            self._finish_shard()

    def _finish_shard(self) -> None:
        if self._is_sharded:
            # Offset and length of each chunk; all bits are set for chunks beyond the array.
            index = np.full((self._shard_chunks, 2), 2**64 - 1, dtype="<u8")
            index[: len(self._index)] = self._index
            self._put(index.tobytes())
        self._write_waiting()
        if self._upload is not None:
            self._upload.close()
            self._upload = None
        self._group.add(StoredFile(self._file, self._nbytes, self._crc32))
        self._n_shards += 1
        self._index, self._nbytes, self._crc32 = [], 0, 0

    @property
    def _file(self) -> str:
        return f"{self.name}/c/{self._n_shards}" + "/0" * (len(self.shape) - 1)

    def _put(self, content: bytes) -> None:
        """Append bytes and their CRC-32C to the shard."""
        checksum = google_crc32c.value(content).to_bytes(4, "little")
        for piece in (content, checksum):
            self._waiting.append(piece)
            self._waiting_nbytes += len(piece)
            self._nbytes += len(piece)
            self._crc32 = zlib.crc32(piece, self._crc32)
        if self._waiting_nbytes >= WRITE_NBYTES:
            self._write_waiting()

    def _write_waiting(self) -> None:
        path = self._group.root / self._file
        content = b"".join(self._waiting)
        is_first = self._nbytes == self._waiting_nbytes
        if isinstance(path, ObjectPath):
            self._upload = path.upload() if is_first else self._upload
            cast("Upload", self._upload).write(content)
        else:
            if is_first:
                path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(content)
        self._waiting, self._waiting_nbytes = [], 0


def chunk_and_shard(shape: tuple[int, ...], itemsize: int, chunking: Chunking) -> tuple[int, int]:
    """Rows of a chunk and of a shard.

    Shards have equal numbers of chunks, except that the last may have fewer. An array that
    fits in a chunk is one file without an inner index.
    """
    n_rows = max(1, shape[0])
    row_nbytes = max(1, itemsize * int(np.prod(shape[1:])))
    exponent = max(0, int(np.log2(chunking.nbytes / row_nbytes)))
    chunk = min(max(2**exponent, chunking.least_rows), chunking.most_rows)
    if n_rows <= chunk:
        return n_rows, n_rows
    n_shards = -(-n_rows * row_nbytes // SHARD_NBYTES)
    n_chunks = -(-n_rows // (n_shards * chunk))
    return chunk, chunk * n_chunks
