"""What readers see of a lake: every bit of it, and whether it is whole."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import xarray as xr

from atomlake.errors import LakeError
from atomlake.lake import Lake
from atomlake.lake.catalogue import TABLES

#: Digest of everything that a lake shows of a structure, by view and key.
Content = Mapping[str, Mapping[str, str]]


def content(lake: Lake, *, with_ids: bool = True) -> dict[str, dict[str, str]]:
    """Digest what a lake shows of each structure.

    Parameters
    ----------
    lake : Lake
        The lake.
    with_ids : bool
        Whether structure_ids count: those of equal structures depend on which came first.

    Raises
    ------
    AssertionError
        If a structure is shown twice.
    """
    found = {"structures": _by_key(lake.structures(), with_ids)}
    for kind, gradients in lake.descriptors().select("descriptor_id", "gradients").unique().rows():
        views = {f"features {kind}": lake.features(kind)}
        if gradients != "none":
            views[f"{gradients} {kind}"] = lake.gradients(kind, form=gradients)
        # Features are committed before the structures that have them: a run that ends in between
        # leaves a view of nothing, and a purge forgets it.
        shown = {name: _by_key(data, with_ids) for name, data in views.items()}
        found |= {name: digests for name, digests in shown.items() if digests}
    found["set aside"] = _reasons(lake)
    return found


def _by_key(data: xr.Dataset, with_ids: bool) -> dict[str, str]:
    names = zip(data["source"].values, data["key"].values, strict=True)
    keys = [f"{source}:{key}" for source, key in names]
    assert len(set(keys)) == len(keys), f"a structure is shown twice: {sorted(keys)}"
    ids = [str(i) if with_ids else "" for i in data["structure_id"].values]
    bounds = {"structure": np.arange(len(keys) + 1)}
    if "structure_offsets" in data:
        bounds["atom"] = data["structure_offsets"].values
    arrays = {
        str(name): (variable.dims[0], variable.values)
        for name, variable in sorted(data.variables.items())
        if variable.dims[:1] in [("structure",), ("atom",), ("pair",)]
        and name not in ("structure_index", "key", "structure_id", "location", "source")
    }
    if "pair_offsets" in data:
        offsets = data["pair_offsets"].values
        bounds["pair"] = offsets[bounds["atom"]]
        arrays["n_pairs"] = ("atom", np.diff(offsets))
    if "neighbour_index" in arrays:
        first = np.repeat(bounds["atom"][:-1], np.diff(bounds["pair"]))
        arrays["neighbour_index"] = ("pair", arrays["neighbour_index"][1] - first)
    digests = {}
    for s, key in enumerate(keys):
        digest = hashlib.blake2b(ids[s].encode(), digest_size=16)
        for name, (dim, values) in arrays.items():
            rows = values[bounds[dim][s] : bounds[dim][s + 1]]
            text = rows.tolist() if rows.dtype.kind == "O" else rows.tobytes()
            digest.update(f"{name}{rows.shape}".encode())
            digest.update(repr(text).encode() if isinstance(text, list) else text)
        digests[key] = digest.hexdigest()
    return digests


def _reasons(lake: Lake) -> dict[str, str]:
    rejected = lake.rejected().select("source", "key", "descriptor_id", "code", "reason").rows()
    reasons = {f"{source}:{key} {by}": f"{why}" for source, key, by, *why in rejected}
    assert len(reasons) == len(rejected), f"a structure is set aside twice: {rejected}"
    return reasons


def committed_twice(lake: Lake) -> list[str]:
    """What was committed more than once, seen or not, to a lake whose source never changed."""
    subjects = {"structures": ["structure_id"], "features": ["descriptor_id", "part_id"]}
    return [
        f"{table} of {row} were committed twice"
        for table, subject in subjects.items()
        for row in lake.catalogue.log(table)
        .filter(pl.struct(subject).is_duplicated())
        .select(subject)
        .collect()
        .rows()
    ]


def stray(found: Content, expected: Content) -> list[str]:
    """What is shown and is not, bit by bit, what an undisturbed run would have written."""
    return [
        f"{view} of structure {key}"
        for view, digests in found.items()
        for key, digest in digests.items()
        if expected[view].get(key) != digest
    ]


class Reader:
    """Reads a lake that others write, again and again, and notes whatever is not whole."""

    def __init__(self, expected: Content) -> None:
        self.expected = expected
        self.n_opened = 0
        self.n_reread = 0
        self.n_unfinished = 0
        self.problems: list[str] = []
        self._held: tuple[Lake, Content] | None = None
        self._most: dict[str, int] = {}
        self._whole = {view: len(digests) for view, digests in expected.items()}

    def look(self, path: Path) -> None:
        """Open the lake as it is, and look again at a state that was opened before."""
        if not all((path / "catalogue" / name / "_delta_log").is_dir() for name in TABLES):
            return
        if self._held is not None and self._held[0].path != path:
            self._held, self._most = None, {}
        try:
            lake = Lake.open(path)
        except LakeError as error:
            if "creation was interrupted" in str(error):
                return
            raise
        found = content(lake)
        self.n_opened += 1
        self.n_unfinished += {view: len(digests) for view, digests in found.items()} != self._whole
        self.problems += [f"{path.name}: {what}" for what in stray(found, self.expected)]
        for view, digests in found.items():
            if len(digests) < self._most.get(view, 0):
                self.problems.append(f"{path.name}: {view} were {self._most[view]} structures")
            self._most[view] = len(digests)
        if self._held is not None:
            self.n_reread += 1
            if content(self._held[0]) != self._held[1]:
                self.problems.append(f"{path.name}: version {self._held[0].version} changed")
        if self._held is None or self.n_opened % 7 == 0:
            self._held = lake, found

    def watch(self, current: Path, stop: Path, report: Path) -> None:
        """Look at the lake whose path a file holds until there is a file ``stop``."""
        while not stop.exists():
            lake = Path(current.read_text())
            try:
                self.look(lake)
            except Exception as error:
                # A lake that is no longer the current one is being removed.
                if current.read_text() == str(lake):
                    self.problems.append(f"{lake.name}: {type(error).__name__}: {error}")
            time.sleep(0.02)
        report.write_text(
            json.dumps(
                {
                    "opened": self.n_opened,
                    "unfinished": self.n_unfinished,
                    "reread": self.n_reread,
                    "problems": self.problems,
                }
            )
        )
