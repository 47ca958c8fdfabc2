"""Zarr groups: cut as the rules say, whole, quiet to open, loud when something is missing."""

from __future__ import annotations

import copy
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec

from atomlake.errors import LakeError
from atomlake.lake import groups
from atomlake.lake.groups import FEATURE_CHUNKS, GRADIENT_CHUNKS, PLAIN_CHUNKS
from atomlake.variables import Variable

ATOMS = Variable(("atom", "feature"), "feature", "1", "number")


@given(
    st.integers(0, 10**7),
    st.integers(1, 10**5),
    st.sampled_from([4, 8]),
    st.sampled_from([FEATURE_CHUNKS, GRADIENT_CHUNKS, PLAIN_CHUNKS]),
)
def test_chunks_and_shards_follow_the_rules(
    n_rows: int, width: int, itemsize: int, chunking: groups.Chunking
) -> None:
    chunk, shard = groups.chunk_and_shard((n_rows, width), itemsize, chunking)
    nbytes = itemsize * width
    if n_rows <= chunk:
        assert chunk == shard == max(1, n_rows)
        return
    assert chunk & (chunk - 1) == 0, "a power of two of rows"
    assert chunking.least_rows <= chunk <= chunking.most_rows
    assert chunk * nbytes <= chunking.nbytes or chunk == chunking.least_rows
    assert shard % chunk == 0
    assert shard * nbytes <= groups.SHARD_NBYTES + chunk * nbytes
    n_shards = -(-n_rows // shard)
    assert n_shards * shard - n_rows < n_shards * chunk, "hardly any padding"


def test_features_of_soap_get_sixteen_rows_a_chunk() -> None:
    assert groups.chunk_and_shard((10**5, 3696), 4, FEATURE_CHUNKS)[0] == 16
    assert groups.chunk_and_shard((10**5, 3, 3696), 4, GRADIENT_CHUNKS)[0] == 16


def write(root: Path, values: np.ndarray) -> tuple[groups.StoredFile, ...]:
    writer = groups.GroupWriter(root, {"title": "test"})
    stream = writer.stream("features", ATOMS, values.shape, values.dtype, FEATURE_CHUNKS)
    for start in range(0, len(values), 300):
        stream.append(values[start : start + 300])
    stream.finish()
    return writer.close()


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of a few chunks, so that small arrays have several."""
    monkeypatch.setattr(groups, "SHARD_NBYTES", 2**19)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("fill", [0.0, np.nan, 1.5])
def test_every_chunk_is_written_once_and_none_is_left_out(tmp_path: Path, fill: float) -> None:
    """Also where all values are zero or NaN, which codecs and stores like to skip."""
    values = np.full((2500, 100), fill, dtype=np.float32)
    files = write(tmp_path / "g", values)
    array = groups.open_array(tmp_path / "g", "features")
    assert array.chunks == (512, 100)
    assert array.shards == (1536, 100)
    shards = [f for f in files if f.name.startswith("features/c/")]
    assert [f.name for f in shards] == [f"features/c/{i}/0" for i in range(2)]
    for file, n_chunks in zip(shards, (3, 2), strict=True):
        content = (tmp_path / "g" / file.name).read_bytes()
        assert (len(content), zlib.crc32(content)) == (file.nbytes, file.crc32)
        # The index at the end has offset and length of each chunk; all ones mean absent.
        index = np.frombuffer(content[-4 - 16 * 3 : -4], dtype="<u8").reshape(3, 2)
        assert (index[:n_chunks] != 2**64 - 1).all()
    np.testing.assert_array_equal(groups.read(array, ...), values)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "i8", "?", np.dtypes.StringDType()])
@pytest.mark.parametrize("shape", [(2500, 100), (40, 100), (700, 3, 30), (1,), (0, 3), (1024, 64)])
def test_groups_hold_the_bytes_that_zarr_writes(
    tmp_path: Path, shape: tuple[int, ...], dtype: Any
) -> None:
    dtype = np.dtype(dtype)
    # lz4 makes these much smaller, so that they are compressed by both.
    values = np.resize(np.random.default_rng(0).normal(size=100).round(2), shape).astype(dtype)
    variable = Variable(("atom", "xyz", "feature")[-len(shape) :], "", "Å", "")
    writer = groups.GroupWriter(tmp_path / "g", {})
    stream = writer.stream("a", variable, shape, dtype, FEATURE_CHUNKS)
    stream.append(values)
    stream.finish()
    writer.close()
    chunk, shard = groups.chunk_and_shard(shape, dtype.itemsize, FEATURE_CHUNKS)
    is_text = dtype.kind == "T"
    array = zarr.create_array(
        tmp_path / "zarr",
        name="a",
        shape=shape,
        dtype=dtype,
        chunks=(chunk, *shape[1:]),
        shards=None if shard == chunk else (shard, *shape[1:]),
        compressors=(
            BloscCodec(
                cname="lz4",
                clevel=5,
                shuffle="noshuffle" if dtype.kind == "f" else "shuffle",
                typesize=1 if is_text else dtype.itemsize,
            ),
            Crc32cCodec(),
        ),
        fill_value=np.nan if dtype.kind == "f" else None,
        dimension_names=variable.dims,
        attributes={"units": "Å"},
        config={"write_empty_chunks": True},
    )
    if len(values):
        array[...] = values
    assert contents(tmp_path / "g" / "a") == contents(tmp_path / "zarr" / "a")


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_floats_that_compression_hardly_shrinks_stay_plain(tmp_path: Path, dtype: str) -> None:
    values = np.random.default_rng(0).normal(size=(1024, 64)).astype(dtype)
    values[:, :12] = 0  # lz4 would save a sixth
    writer = groups.GroupWriter(tmp_path, {})
    writer.write("a", Variable(("atom", "feature"), "", "Å", ""), values)
    writer.close()
    stored = b"".join(p.read_bytes() for p in (tmp_path / "a" / "c").rglob("*") if p.is_file())
    assert values[10:14].tobytes() in stored
    np.testing.assert_array_equal(groups.read(groups.open_array(tmp_path, "a"), ...), values)


def contents(folder: Path) -> dict[str, Any]:
    """Every file below a folder: documents as what they say, others as bytes."""
    return {
        path.relative_to(folder).as_posix(): json.loads(path.read_bytes())
        if path.suffix == ".json"
        else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_list_of_files_is_what_is_there(tmp_path: Path) -> None:
    root = tmp_path / "g"
    files = write(root, np.ones((10, 3)))
    found = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}
    assert {f.name for f in files} == found


def test_a_group_opens_by_itself_with_xarray(tmp_path: Path) -> None:
    values = np.arange(12.0).reshape(4, 3)
    write(tmp_path / "g", values)
    with xr.open_zarr(tmp_path / "g") as dataset:
        assert dataset.attrs == {"title": "test"}
        assert dataset["features"].dims == ("atom", "feature")
        assert dataset["features"].attrs == {"units": "1", "long_name": "number"}
        np.testing.assert_array_equal(dataset["features"], values)


def test_a_group_that_was_not_closed_does_not_open(tmp_path: Path) -> None:
    writer = groups.GroupWriter(tmp_path / "g", {})
    writer.write("features", ATOMS, np.ones((4, 3)))
    with pytest.raises(LakeError):
        groups.array_dims(tmp_path / "g")


def test_arrays_without_rows_are_kept(tmp_path: Path) -> None:
    write(tmp_path / "g", np.ones((0, 3), np.float32))
    array = groups.open_array(tmp_path / "g", "features")
    assert array.shape == (0, 3)
    assert groups.read(array, ...).dtype == np.float32


def test_rows_that_never_came_are_noticed(tmp_path: Path) -> None:
    writer = groups.GroupWriter(tmp_path / "g", {})
    stream = writer.stream("features", ATOMS, (5, 3), np.float64, FEATURE_CHUNKS)
    stream.append(np.ones((4, 3)))
    with pytest.raises(LakeError, match="must have 5 rows, and 4 came"):
        stream.finish()


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("damage", ["delete", "truncate", "flip"])
def test_damage_raises_on_reading_and_spares_the_rest(tmp_path: Path, damage: str) -> None:
    values = np.random.default_rng(0).normal(size=(2500, 100)).astype(np.float32)
    write(tmp_path / "g", values)
    shard = tmp_path / "g" / "features" / "c" / "1" / "0"
    content = bytearray(shard.read_bytes())
    content[1000] ^= 4
    if damage == "delete":
        shard.unlink()
    else:
        shard.write_bytes(content[:-1000] if damage == "truncate" else content)
    array = groups.open_array(tmp_path / "g", "features")
    with pytest.raises(LakeError, match=r"missing or damaged.*atomlake verify"):
        groups.read(array, slice(1536, 1540))
    np.testing.assert_array_equal(groups.read(array, slice(0, 1536)), values[:1536])


def test_reading_does_not_change_the_settings_of_others(tmp_path: Path) -> None:
    write(tmp_path / "g", np.ones((4, 3)))
    before = copy.deepcopy(zarr.config.config)
    groups.read(groups.open_array(tmp_path / "g", "features"), ...)
    assert zarr.config.config == before
