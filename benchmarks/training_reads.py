"""Epochs of shuffled batches from a lake, against the same data in parquet and in a flat file.

SOAP of molecules, once with 3,696 and once with 390 features; the page cache is warm. Every reader
hands out batches of 32 whole structures with features, atomic numbers, energies and forces, in
memory of their own, in two orders: structures at random, and shuffled in blocks (the lake's own
order, which all readers follow; parquet shuffles its row groups). Peers have numbers, energies and
forces in memory from the start. Parquet has rows of fixed-size lists, in row groups of 16 rows for
random structures and of 1,024 for blocks, uncompressed and with lz4.

    python benchmarks/training_reads.py ../shared/data [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr

from atomlake.engine.run import run
from atomlake.lake import Lake
from atomlake.recipe import Recipe

SOURCES = ("bc_benchmarks/small_molecules-1000.extxyz.xz", "rmd17/rmd17_uracil_train_01.extxyz.xz")
#: n_max and l_max of SOAP, and structures of an epoch at random (all of them in blocks).
CASES = {3696: (8, 6, 600), 390: (3, 4, 1985)}
BATCH = 32
#: Times over the fastest parquet, and of the speed of the flat file.
TARGETS = (3.0, 0.5)
COMPRESSIONS = ("none", "lz4")

Batch = dict[str, np.ndarray]
Reader = Callable[[list[np.ndarray]], Iterator[Batch]]


def make_lake(data: Path, folder: Path, n_max: int, l_max: int) -> Lake:
    """Featurize the molecules."""
    recipe = Recipe.model_validate(
        {
            "lake": str(folder / "lake"),
            "sources": [{"path": str(data / source)} for source in SOURCES],
            "descriptors": [
                {
                    "kind": "soap",
                    "parameters": {
                        "species": ["H", "C", "N", "O"],
                        "cutoff": 5.0,
                        "n_max": n_max,
                        "l_max": l_max,
                        "sigma": 0.5,
                        "dtype": "float32",
                    },
                }
            ],
        }
    )
    run(recipe, executor="synchronous")
    return Lake.open(recipe.lake)


class Peers:
    """The same data in other formats, and readers of them."""

    def __init__(self, lake: Lake, folder: Path) -> None:
        features, structures = lake.features("soap"), lake.structures()
        self.offsets = features.structure_offsets.values
        self.n_features = features.sizes["feature"]
        self.atoms = {name: structures[name].values for name in ("numbers", "forces")}
        self.energy = structures.energy.values
        self.folder = folder
        values = features.features.values
        if not (folder / "flat.npy").exists():
            np.save(folder / "flat.npy", values)
            table = pa.table({"features": pa.FixedSizeListArray.from_arrays(
                pa.array(values.ravel()), self.n_features)})  # fmt: skip
            for rows in (16, 1024):
                for compression in COMPRESSIONS:
                    pq.write_table(
                        table,
                        self.parquet(rows, compression),
                        row_group_size=rows,
                        compression=compression,
                        use_dictionary=False,
                    )
        self.flat = np.load(folder / "flat.npy", mmap_mode="r")
        paths = lake.catalogue.features(["path"]).collect()["path"]
        self.zarrs = [zarr.open_array(lake.path / path, path="features") for path in paths]
        self.starts = np.cumsum([0, *(array.shape[0] for array in self.zarrs)])

    def parquet(self, rows: int, compression: str) -> Path:
        """Path of the file with row groups of ``rows`` rows."""
        return self.folder / f"{rows}-{compression}.parquet"

    def batch(self, structures: np.ndarray, features: np.ndarray) -> Batch:
        """Put labels to the features of some structures."""
        runs = [slice(self.offsets[s], self.offsets[s + 1]) for s in structures]
        atoms = {
            name: np.concatenate([values[r] for r in runs]) for name, values in self.atoms.items()
        }
        return {"features": features, "energy": self.energy[structures], **atoms}

    def from_flat(self, order: list[np.ndarray]) -> Iterator[Batch]:
        """From the memory-mapped file."""
        for structures in order:
            runs = [self.flat[self.offsets[s] : self.offsets[s + 1]] for s in structures]
            yield self.batch(structures, np.concatenate(runs))

    def from_zarr(self, order: list[np.ndarray]) -> Iterator[Batch]:
        """From the lake, with zarr-python, structure by structure."""
        for structures in order:
            runs = []
            for s in structures:
                part = int(np.searchsorted(self.starts, self.offsets[s], side="right")) - 1
                first = self.offsets[s] - self.starts[part]
                last = self.offsets[s + 1] - self.starts[part]
                runs.append(np.asarray(self.zarrs[part][first:last]))
            yield self.batch(structures, np.concatenate(runs))

    def from_parquet(self, compression: str) -> Reader:
        """Random structures, from small row groups."""
        file = pq.ParquetFile(self.parquet(16, compression), memory_map=True)

        def read(order: list[np.ndarray]) -> Iterator[Batch]:
            for structures in order:
                runs = []
                for s in structures:
                    first, last = int(self.offsets[s]), int(self.offsets[s + 1])
                    values = self.rows(file, list(range(first // 16, -(-last // 16))))
                    runs.append(values[first % 16 : first % 16 + last - first])
                yield self.batch(structures, np.concatenate(runs))

        return read

    def blocks_from_parquet(self, compression: str) -> Reader:
        """Row groups in random order, 16 of them in memory, their structures shuffled."""
        file = pq.ParquetFile(self.parquet(1024, compression), memory_map=True)
        first_atoms = self.offsets[:-1]

        def read(order: list[np.ndarray]) -> Iterator[Batch]:
            rng = np.random.default_rng(0)
            groups = rng.permutation(file.num_row_groups)
            for window in np.array_split(groups, -(-len(groups) // 16)):
                held = {int(g): self.rows(file, [int(g)]) for g in window}
                # A structure that goes on in the next group belongs to its first.
                mine = np.flatnonzero(np.isin(first_atoms // 1024, window))
                mine = rng.permutation(mine)
                for structures in np.array_split(mine, max(1, len(mine) // BATCH)):
                    runs = []
                    for s in structures:
                        first, last = int(self.offsets[s]), int(self.offsets[s + 1])
                        at = first % 1024
                        runs.append(held[first // 1024][at : at + last - first])
                    yield self.batch(structures, np.concatenate(runs))

        return read

    def rows(self, file: Any, groups: list[int]) -> np.ndarray:
        """Features of some row groups."""
        column = file.read_row_groups(groups).column("features").combine_chunks()
        return column.flatten().to_numpy().reshape(-1, self.n_features)


def speed(read: Callable[[], Iterator[Batch]], seconds: float = 2.0) -> float:
    """MB/s of features, in the best of a few epochs."""
    best, end, n_epochs = 0.0, time.perf_counter() + seconds, 0
    while n_epochs < 2 or time.perf_counter() < end:
        start, nbytes = time.perf_counter(), 0
        for batch in read():
            nbytes += batch["features"].nbytes
        best = max(best, nbytes / (time.perf_counter() - start) / 1e6)
        n_epochs += 1
    return best


def measure(lake: Lake, folder: Path, n_random: int) -> None:
    """Measure one case and print it."""
    peers = Peers(lake, folder)
    print(
        f"\n{peers.n_features} features, {len(peers.flat):,} atoms in {len(peers.offsets) - 1:,} "
        f"structures, {peers.flat.nbytes / 1e6:.0f} MB"
    )
    for shuffle in ("all", "blocks"):
        batches = lake.batches("soap", n_structures=BATCH, shuffle=shuffle)
        alone = lake.batches("soap", n_structures=BATCH, shuffle=shuffle, n_threads=0)
        order = batches.order(0)[: n_random // BATCH if shuffle == "all" else None]
        for got, expected in zip(alone.epoch(0), peers.from_flat(order), strict=False):
            assert all(np.array_equal(got[k], expected[k], equal_nan=True) for k in expected)
        few = order[: max(1, len(order) // 8)]
        found = {
            "lake": speed(lambda b=batches: b.epoch(0)),
            "lake, no threads": speed(lambda b=alone: b.epoch(0)),
            "flat file, memory-mapped": speed(lambda o=order: peers.from_flat(o)),
            "zarr-python": speed(lambda o=few: peers.from_zarr(o), 0),
        }
        make = peers.from_parquet if shuffle == "all" else peers.blocks_from_parquet
        for compression in COMPRESSIONS:
            read = make(compression)
            found[f"parquet, {compression}"] = speed(lambda r=read, o=order: r(o), 1.0)
        parquet = max(value for name, value in found.items() if name.startswith("parquet"))
        print(f"  shuffle={shuffle!r}")
        for name, value in found.items():
            print(
                f"    {name:26} {value:8,.0f} MB/s   {value / parquet:6.2f} of parquet   "
                f"{value / found['flat file, memory-mapped']:5.2f} of the flat file"
            )
    print(f"  targets: {TARGETS[0]:.2f} of parquet, {TARGETS[1]:.2f} of the flat file")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("--keep", type=Path, help="folder for the data, made once and kept")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="atomlake-benchmark-") as temporary:
        for n_features, (n_max, l_max, n_random) in CASES.items():
            folder = (arguments.keep or Path(temporary)) / str(n_features)
            folder.mkdir(parents=True, exist_ok=True)
            measure(make_lake(arguments.data, folder, n_max, l_max), folder, n_random)


if __name__ == "__main__":
    main()
