"""A reader of lakes written from docs/format-spec.md alone; it imports nothing of atomlake."""

from __future__ import annotations

import json
import zlib
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import google_crc32c
import numpy as np
import polars as pl
from numcodecs import Blosc


class Damage(Exception):
    """The lake is not as the format says."""


class Reader:
    """One state of a lake."""

    def __init__(self, path: Path) -> None:
        marker = json.loads((path / "atomlake.json").read_bytes())
        if marker["format"] != "atomlake" or marker["format_version"] > 1:
            raise Damage(f"format version {marker['format_version']} by {marker['created_by']}")
        self.path = path
        structures = self._table("structures")
        ended = structures["retires"].drop_nulls().implode()
        self.structures = structures.filter(
            pl.col("retires").is_null(),
            ~pl.col("sequence").is_in(ended),
            pl.col("status") == "ok",
        ).sort("sequence")
        self.parts = self._newest("parts", ["part_id"])
        subject = ["descriptor_id", "part_id", "gradients", "strain"]
        self.features = self._newest("features", subject)

    def _table(self, name: str) -> pl.DataFrame:
        folder = self.path / "catalogue" / name
        files: dict[str, None] = {}
        commits = sorted((folder / "_delta_log").glob("*.json"))
        if [int(commit.stem) for commit in commits] != list(range(len(commits))):
            raise Damage(f"the log of {name} has a gap; its checkpoints are not read here")
        for commit in commits:
            for line in commit.read_text().splitlines():
                action = json.loads(line)
                if "remove" in action:
                    del files[unquote(action["remove"]["path"])]
                if "add" in action:
                    files[unquote(action["add"]["path"])] = None
        frames = [pl.read_parquet(folder / file) for file in files]
        return pl.concat(frames, how="diagonal_relaxed")

    def _newest(self, name: str, subject: list[str]) -> pl.DataFrame:
        return self._table(name).sort("sequence").unique(subject, keep="last", maintain_order=True)

    def array(self, group: str, name: str) -> np.ndarray:
        """Read a whole array."""
        relative = PurePosixPath(group)
        if relative.is_absolute() or ".." in relative.parts:
            raise Damage(f"{group} leaves the lake")
        root = self.path / relative
        document = json.loads((root / "zarr.json").read_bytes())
        metadata = document["consolidated_metadata"]["metadata"][name]
        shape, dtype = tuple(metadata["shape"]), np.dtype(metadata["data_type"])
        rows = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
        inner, codecs = rows, metadata["codecs"]
        if codecs[0]["name"] == "sharding_indexed":
            inner = codecs[0]["configuration"]["chunk_shape"][0]
            codecs = codecs[0]["configuration"]["codecs"]
        assert [codec["name"] for codec in codecs] == ["bytes", "blosc", "crc32c"]
        out = np.empty(shape, dtype)
        for shard in range(-(-shape[0] // rows)):
            file = root / name / "c" / "/".join([str(shard), *["0"] * (len(shape) - 1)])
            content = file.read_bytes()
            places = [(0, len(content))]
            if metadata["codecs"][0]["name"] == "sharding_indexed":
                n = rows // inner
                index = self._checked(content[-16 * n - 4 :])
                places = np.frombuffer(index, "<u8").reshape(n, 2).tolist()
            first = shard * rows
            for place, nbytes in places:
                if first < shape[0]:
                    raw = Blosc().decode(self._checked(content[place : place + nbytes]))
                    chunk = np.frombuffer(raw, dtype.newbyteorder("<")).reshape(inner, *shape[1:])
                    last = min(first + inner, shape[0])
                    out[first:last] = chunk[: last - first]
                first += inner
        return out

    @staticmethod
    def _checked(content: bytes) -> bytes:
        if google_crc32c.value(content[:-4]) != int.from_bytes(content[-4:], "little"):
            raise Damage("a CRC-32C does not agree")
        return content[:-4]

    def structure(self, row: dict[str, Any]) -> dict[str, np.ndarray]:
        """Positions, numbers, cell, periodicity and labels of a row of ``structures``."""
        part = self.parts.row(by_predicate=pl.col("part_id") == row["part_id"], named=True)
        atoms = slice(row["first_atom"], row["first_atom"] + row["n_atoms"])
        found = {name: self.array(part["path"], name)[atoms] for name in ("numbers", "positions")}
        for name in ("cells", "pbc"):
            found[name] = self.array(part["path"], name)[row["row"]]
        for label in part["labels"]:
            at = atoms if label["per"] == "atom" else row["row"]
            found[label["name"]] = self.array(part["path"], label["name"])[at]
        return found

    def feature_rows(self, row: dict[str, Any], record: dict[str, Any]) -> dict[str, np.ndarray]:
        """Features per atom of a structure, and pairs with their derivatives."""
        held = range(record["n_structures"]) if record["rows"] is None else record["rows"]
        s = list(held).index(row["row"])
        offsets = self.array(record["path"], "structure_offsets")
        atoms = slice(offsets[s], offsets[s + 1])
        found = {"features": self.array(record["path"], "features")[atoms]}
        if record["gradients"] == "pairs":
            bounds = self.array(record["path"], "pair_offsets")
            pairs = slice(bounds[atoms.start], bounds[atoms.stop])
            neighbours = self.array(record["path"], "neighbour_index")[pairs]
            found["neighbour_index"] = neighbours - atoms.start
            found["gradient_positions"] = self.array(record["path"], "gradient_positions")[pairs]
        return found

    def verify(self) -> int:
        """Compare every file that the catalogue names with its checksum; count them."""
        n = 0
        for record in [*self.parts.iter_rows(named=True), *self.features.iter_rows(named=True)]:
            for file in record["files"]:
                content = (self.path / record["path"] / file["name"]).read_bytes()
                if (len(content), zlib.crc32(content)) != (file["nbytes"], file["crc32"]):
                    raise Damage(f"{record['path']}/{file['name']}")
                n += 1
        return n
