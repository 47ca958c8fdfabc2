"""Our reader reads what zarr reads, bit by bit, and nothing else."""

from __future__ import annotations

import gc
import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lake_building import same_bits

from atomlake.errors import LakeError
from atomlake.lake import chunks, groups
from atomlake.lake.chunks import Files
from atomlake.variables import Variable

#: Files of one chunk, of a few chunks in one shard, of several shards, and none at all.
SHAPES = [(0, 3), (1,), (40, 100), (2500, 100), (700, 3, 30), (5000,), (33, 0)]
DTYPES = [np.float32, np.float64, np.int32, np.int64, np.bool_]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Groups, each with an array of every shape and kind, in shards of a few chunks."""
    folder = tmp_path_factory.mktemp("lake")
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups, "SHARD_NBYTES", 2**17)
        writer = groups.GroupWriter(folder / "parts" / "p" / "g", {})
        for i, shape in enumerate(SHAPES):
            for dtype in DTYPES:
                values = (100 * rng.normal(size=shape)).astype(dtype)
                variable = Variable(("x", "y", "z")[: len(shape)], "", "1", "")
                name = f"a{i}-{np.dtype(dtype)}"
                chunking = groups.Chunking(2**14, 4, 2**9)
                stream = writer.stream(name, variable, shape, dtype, chunking)
                stream.append(values)
                stream.finish()
        writer.close()
    return folder


GROUP = "parts/p/g"
NAMES = [f"a{i}-{np.dtype(dtype)}" for i in range(len(SHAPES)) for dtype in DTYPES]


def by_zarr(lake: Path, name: str) -> np.ndarray:
    return groups.read(groups.open_array(lake / GROUP, name), ...)


@pytest.mark.parametrize("name", NAMES)
def test_whole_arrays_equal_what_zarr_reads(lake: Path, name: str) -> None:
    found = Files(lake).array(GROUP, name)
    expected = by_zarr(lake, name)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert same_bits(found.read(), expected)


def test_the_arrays_have_chunks_and_shards_of_all_kinds(lake: Path) -> None:
    files = {p.relative_to(lake / GROUP).parts[0]: 0 for p in (lake / GROUP).glob("*/c/*")}
    for path in (lake / GROUP).glob("*/c/*"):
        files[path.relative_to(lake / GROUP).parts[0]] += 1
    assert {1, 2} < set(files.values()) or max(files.values()) > 2


@settings(max_examples=200)
@given(st.sampled_from(NAMES), st.data())
def test_any_selection_equals_that_of_numpy(lake: Path, name: str, data: st.DataObject) -> None:
    expected = by_zarr(lake, name)
    array = Files(lake).array(GROUP, name)
    n = len(expected)
    first = data.draw(st.integers(0, n))
    run = slice(first, data.draw(st.integers(first, n)))
    rows = st.just(run)
    if n:
        rows |= st.lists(st.integers(0, n - 1), max_size=30).map(lambda i: np.array(i, np.int64))
    selected = data.draw(rows)
    tail = []
    for length in expected.shape[1:]:
        some = st.just(slice(None)) | st.slices(length)
        if length:
            some |= st.integers(0, length - 1)
            some |= st.lists(st.integers(0, length - 1)).map(lambda i: np.array(i, np.int64))
        tail.append(data.draw(some))
    assert same_bits(array.read(selected, tail), chunks.outer(expected, (selected, *tail)))


def test_few_files_stay_open_and_all_are_closed(
    lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "N_OPEN_FILES", 3)
    monkeypatch.setattr(chunks, "N_KNOWN_ARRAYS", 1)

    def n_open() -> int:
        return len(os.listdir("/proc/self/fd"))

    gc.collect()
    before = n_open()
    files = Files(lake)
    for _ in range(2):
        for name in NAMES:
            files.array(GROUP, name).read()
            assert n_open() <= before + 3
    del files
    gc.collect()
    assert n_open() == before


def test_threads_read_what_one_thread_reads(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With so few files kept open that threads close what others read."""
    monkeypatch.setattr(chunks, "N_OPEN_FILES", 2)
    files = Files(lake)
    expected = {name: by_zarr(lake, name) for name in NAMES}
    with ThreadPoolExecutor(8) as threads:
        found = threads.map(lambda name: (name, files.array(GROUP, name).read()), NAMES * 20)
        assert all(same_bits(values, expected[name]) for name, values in found)


def test_threads_that_open_one_file_at_once_leave_one_open(
    lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With threads that take turns as often as they can, each a reason to open files again."""
    monkeypatch.setattr(chunks, "N_OPEN_FILES", 2)
    names = [name for name in NAMES if name.startswith(("a1", "a5"))]
    expected = {name: by_zarr(lake, name) for name in names}
    files, interval = Files(lake), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            found = threads.map(lambda name: (name, files.array(GROUP, name).read()), names * 800)
            assert all(same_bits(values, expected[name]) for name, values in found)
    finally:
        sys.setswitchinterval(interval)


def test_a_fork_and_a_pickle_read_on(lake: Path) -> None:
    name = "a3-float64"
    files = Files(lake)
    expected = files.array(GROUP, name).read()
    child = os.fork()
    if child == 0:
        os._exit(not same_bits(files.array(GROUP, name).read(), expected))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert same_bits(files.array(GROUP, name).read(), expected)
    assert same_bits(pickle.loads(pickle.dumps(files)).array(GROUP, name).read(), expected)


# ----- Damage


def delete(path: Path) -> None:
    path.unlink()


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 30)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def with_crc32c(content: bytes) -> bytes:
    return content + google_crc32c.value(content).to_bytes(4, "little")


def forget_a_chunk(path: Path) -> None:
    """Say in the index that a chunk was never written, with the index' own checksum right."""
    content = bytearray(path.read_bytes())
    n = 16 * 8 + 4
    index = np.frombuffer(content[-n:-4], "<u8").reshape(8, 2).copy()
    index[3] = 2**64 - 1
    content[-n:] = with_crc32c(index.tobytes())
    path.write_bytes(content)


def other_chunk(path: Path) -> None:
    """Say in the index that a chunk starts within another one."""
    content = bytearray(path.read_bytes())
    n = 16 * 8 + 4
    index = np.frombuffer(content[-n:-4], "<u8").reshape(8, 2).copy()
    index[3, 0] += 1
    content[-n:] = with_crc32c(index.tobytes())
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [delete, cut_short, empty, forget_a_chunk, other_chunk])
def test_what_is_damaged_raises_with_the_name_of_the_file(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    writer = groups.GroupWriter(tmp_path / "parts" / "p" / "g", {})
    variable = Variable(("x", "y"), "", "1", "")
    stream = writer.stream("a", variable, (64, 10), np.float64, groups.Chunking(640, 8, 8))
    stream.append(np.zeros((64, 10)))
    stream.finish()
    writer.close()
    damage(tmp_path / "parts" / "p" / "g" / "a" / "c" / "0" / "0")
    array = Files(tmp_path).array(GROUP, "a")
    with pytest.raises(LakeError, match=r"parts/p/g/a/c/0/0 of .* is missing or damaged"):
        array.read(slice(24, 25))


@pytest.mark.parametrize(
    "path",
    [
        ("shape", 0),
        ("chunk_grid", "configuration", "chunk_shape", 0),
        ("chunk_grid", "configuration", "chunk_shape", 1),
        ("codecs", 0, "configuration", "chunk_shape", 0),
        ("codecs", 0, "configuration", "codecs", 1, "name"),
        ("codecs", 0, "configuration", "codecs", 0, "configuration", "endian"),
        ("codecs", 0, "configuration", "index_codecs", 1, "name"),
        ("data_type",),
        ("dimension_names",),
    ],
)
def test_a_description_that_does_not_fit_the_file_raises(
    tmp_path: Path, path: tuple[str | int, ...]
) -> None:
    writer = groups.GroupWriter(tmp_path / "parts" / "p" / "g", {})
    variable = Variable(("x", "y"), "", "1", "")
    stream = writer.stream("a", variable, (64, 10), np.float64, groups.Chunking(640, 8, 8))
    stream.append(np.zeros((64, 10)))
    stream.finish()
    writer.close()
    document = json.loads((tmp_path / GROUP / "zarr.json").read_bytes())
    inner = document["consolidated_metadata"]["metadata"]["a"]
    for key in path[:-1]:
        inner = inner[key]
    value = inner[path[-1]]
    inner[path[-1]] = 2 * value if isinstance(value, int) else None
    (tmp_path / GROUP / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(LakeError, match="is missing or damaged"):
        Files(tmp_path).array(GROUP, "a").read()


def test_a_chunk_may_be_compared_once_until_its_file_changes(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(lake, tmp_path / "lake")
    path = next((tmp_path / "lake" / GROUP / "a2-float64" / "c").glob("0*"))
    path = next(p for p in [path, *path.rglob("*")] if p.is_file())
    files = Files(tmp_path / "lake")
    array = files.array(GROUP, "a2-float64")
    array.chunk(0, once=True)
    compared: list[int] = []
    value = google_crc32c.value
    monkeypatch.setattr(
        chunks.google_crc32c, "value", lambda content: compared.append(1) or value(content)
    )
    array.chunk(0, once=True)
    assert not compared
    array.chunk(0)
    assert compared, "who does not ask for less has every chunk compared every time"
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.unlink()
    path.write_bytes(content)
    monkeypatch.setattr(chunks, "N_OPEN_FILES", 1)
    files.array(GROUP, "a3-int32").read()
    with pytest.raises(LakeError, match="CRC-32C"):
        array.chunk(0, once=True)


@pytest.mark.parametrize("name", NAMES)
def test_plain_rows_are_read_where_they_are_once_their_chunk_is_known(
    lake: Path, name: str
) -> None:
    array = Files(lake).array(GROUP, name)
    expected = by_zarr(lake, name)
    n = array.chunk_rows
    for i in range(-(-len(expected) // n) if expected.size else 0):
        rows = expected[i * n + 1 : (i + 1) * n]
        out = np.zeros_like(rows)
        assert not array.copy(i, 1, out), "nothing is known of a chunk that was not read"
        array.chunk(i, once=True)
        is_plain = array.copy(i, 1, out)
        assert same_bits(out, rows if is_plain else np.zeros_like(rows))
        if "float" in name and len(rows) == n - 1 and rows.size:
            assert is_plain, "random floats cannot be compressed"


def test_plain_rows_that_are_gone_are_told(lake: Path, tmp_path: Path) -> None:
    shutil.copytree(lake, tmp_path / "lake")
    array = Files(tmp_path / "lake").array(GROUP, "a2-float64")
    out = array.chunk(0, once=True)
    assert array.copy(0, 0, out)
    path = next(
        p for p in (tmp_path / "lake" / GROUP / "a2-float64" / "c").rglob("0") if p.is_file()
    )
    os.truncate(path, 100)
    with pytest.raises(LakeError, match="cut off"):
        array.copy(0, 0, out)
