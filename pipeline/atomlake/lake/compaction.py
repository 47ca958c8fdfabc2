"""Many small parts become few large ones; nobody sees anything but what was there.

A new part is written from what readers see of the old ones, then its features are published, then
its structures are moved in one commit. Whoever reads an older state goes on reading the old parts,
which stay until they are purged (:mod:`atomlake.lake.garbage`).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import xarray as xr

from atomlake.errors import BusyError, SetAside
from atomlake.lake import groups, layout, views
from atomlake.lake.catalogue import Catalogue, reporting
from atomlake.lake.chunks import Files
from atomlake.lake.durability import Disk
from atomlake.lake.lake import Lake
from atomlake.lake.lock import alone
from atomlake.lake.parts import (
    FeaturesRecord,
    read_descriptor,
    read_structures,
    write_structures,
)
from atomlake.structures import Structures
from atomlake.variables import PAIR_VARIABLES, STRUCTURE_VARIABLES, feature_variables

#: Bytes on disk of a part that is large enough.
PART_NBYTES = 192 * 10**6
#: Structures of a part, at most.
PART_STRUCTURES = 20_000
#: Bytes that are copied at a time.
_BLOCK_NBYTES = 2**26


@dataclass(frozen=True)
class Compaction:
    """What :func:`compact` did.

    Attributes
    ----------
    n_parts_before, n_parts_after : int
        Parts with live structures.
    n_moved : int
        Structures that lie in a new part.
    nbytes : int
        Bytes of the new parts.
    """

    n_parts_before: int
    n_parts_after: int
    n_moved: int
    nbytes: int


def compact(lake: layout.Place | str, part_nbytes: int = PART_NBYTES) -> Compaction:
    """Join parts of less than half a size into parts of that size, and the files of the tables.

    Parts are joined if they are of one source, have the same labels and have features of the
    same descriptors. A part of which more than half is retired is written anew without
    that half. Structures in new parts come after all others in the order of readers.

    Parameters
    ----------
    lake : Path, ObjectPath or str
        The lake.
    part_nbytes : int
        Size of a part on disk.

    Raises
    ------
    LakeError
        If the lake cannot be read or written. What was joined until then stays joined.
    BusyError
        If another run is at work in it.
    """
    with alone(lake, "compaction"):
        opened = Lake.open(lake)
        run_id = f"compaction-{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
        with reporting(lake):
            table = opened.catalogue.structures().filter(pl.col("status") == "ok")
            live = table.sort("sequence").collect()
            records = opened.catalogue.features().collect()
        sizes = _part_sizes(opened.catalogue, live, records)
        n_moved = n_new = n_old = nbytes = 0
        for part_ids in _choose(sizes, part_nbytes):
            rows = live.filter(pl.col("part_id").is_in(part_ids))
            nbytes += _join(opened, rows, records.filter(pl.col("part_id").is_in(part_ids)), run_id)
            n_moved, n_new, n_old = n_moved + len(rows), n_new + 1, n_old + len(part_ids)
        opened.catalogue.compact()
    return Compaction(len(sizes), len(sizes) - n_old + n_new, n_moved, nbytes)


# ----- What is joined with what


def _part_sizes(catalogue: Catalogue, live: pl.DataFrame, records: pl.DataFrame) -> pl.DataFrame:
    """One row per part with live structures: its bytes that are alive, and what it must share."""
    with reporting(catalogue.lake):
        parts = catalogue.parts(["part_id", "nbytes", "n_structures", "labels"]).collect()
    features = records.group_by("part_id").agg(
        features_nbytes=pl.col("nbytes").sum(),
        features=pl.concat_str(
            "descriptor_id",
            "gradients",
            "strain",
            pl.col("max_neighbours").cast(pl.String).fill_null(""),
            separator=" ",
        )
        .sort()
        .str.join("; "),
    )
    return (
        live.group_by("part_id", maintain_order=True)
        .agg(pl.col("source").first(), n_live=pl.len())
        .join(parts, on="part_id", maintain_order="left")
        .join(features, on="part_id", how="left", maintain_order="left")
        .with_columns(
            alive=pl.col("n_live") / pl.col("n_structures"),
            labels=pl.col("labels").map_elements(
                lambda labels: json.dumps(sorted(map(str, labels))), return_dtype=pl.String
            ),
            features=pl.col("features").fill_null(""),
        )
        .with_columns(
            live_nbytes=(pl.col("nbytes") + pl.col("features_nbytes").fill_null(0))
            * pl.col("alive")
        )
    )


def _choose(sizes: pl.DataFrame, part_nbytes: int) -> Iterator[list[str]]:
    """Parts that become one, in the order in which they were published."""
    small = sizes.filter((pl.col("live_nbytes") < part_nbytes / 2) | (pl.col("alive") < 0.5))
    for _, alike in small.group_by("source", "labels", "features", maintain_order=True):
        bins: list[list[dict[str, Any]]] = [[]]
        for part in alike.iter_rows(named=True):
            together = [*bins[-1], part]
            if bins[-1] and (
                sum(p["live_nbytes"] for p in together) > part_nbytes
                or sum(p["n_live"] for p in together) > PART_STRUCTURES
            ):
                bins.append([part])
            else:
                bins[-1] = together
        for chosen in bins:
            if len(chosen) > 1 or chosen[0]["alive"] < 0.5:
                yield [part["part_id"] for part in chosen]


# ----- Joining


def _join(lake: Lake, rows: pl.DataFrame, records: pl.DataFrame, run_id: str) -> int:
    """Write one part from ``rows`` of others, publish it, move the structures; return its bytes."""
    catalogue, part_id = lake.catalogue, uuid.uuid4().hex
    structures = _structures(lake.path, rows)
    part = write_structures(lake.path, part_id, structures)
    moved = rows.with_columns(
        part_id=pl.lit(part_id),
        row=pl.Series(np.arange(len(rows))),
        first_atom=pl.Series(structures.structure_offsets[:-1]),
    )
    features = [
        _features(lake, part_id, rows, alike)
        for _, alike in records.group_by(
            "descriptor_id", "gradients", "strain", maintain_order=True
        )
    ]
    # The old parts are going to be purged.
    Disk(lake.path).wait_for([part.path, *(record.path for record in features)])
    catalogue.publish_parts([part], run_id=run_id)
    if features:
        catalogue.publish_features(features, run_id=run_id)
    _require_known(lake, records, rows["part_id"].unique().to_list())
    catalogue.publish_structures(moved, retire=rows, run_id=run_id)
    return part.nbytes + sum(record.nbytes for record in features)


def _structures(lake: layout.Place, rows: pl.DataFrame) -> Structures:
    """Read the structures of ``rows``, in their order."""
    part_ids = rows["part_id"].unique(maintain_order=True)
    batches, order = [], np.empty(len(rows), np.int64)
    n = 0
    for part_id in part_ids:
        here = np.flatnonzero((rows["part_id"] == part_id).to_numpy())
        batches.append(read_structures(lake, part_id, rows["row"].to_numpy()[here]))
        order[here] = n + np.arange(len(here))
        n += len(here)
    structures = Structures.concatenate(batches)
    return structures if (np.diff(order) == 1).all() else structures.take(order)


def _features(
    lake: Lake, part_id: str, rows: pl.DataFrame, records: pl.DataFrame
) -> FeaturesRecord:
    """Write what readers see of one descriptor, in one form, of ``rows``."""
    first = records.row(0, named=True)
    labels = read_descriptor(lake.path, first["descriptor_id"])
    data = _stored(lake, rows, records, labels)
    path = layout.new_features_path(part_id, first["descriptor_id"])
    attributes = groups.group_attributes(layout.resolve(lake.path, first["path"]))
    with groups.writing(lake.path, path):
        writer = groups.GroupWriter(
            layout.resolve(lake.path, path), attributes | {"part_id": part_id}
        )
        variables = {
            **feature_variables(
                labels.attrs["per"], first["gradients"], labels.attrs["n_components"] > 1
            ),
            **PAIR_VARIABLES,
        }
        for name, array in data.data_vars.items():
            chunking = groups.PLAIN_CHUNKS
            if name not in PAIR_VARIABLES:
                is_value = name == "features"
                chunking = groups.FEATURE_CHUNKS if is_value else groups.GRADIENT_CHUNKS
            stream = writer.stream(
                str(name), variables[str(name)], array.shape, array.dtype, chunking
            )
            for block in _blocks(array):
                stream.append(block)
            stream.finish()
        offsets = data["structure_offsets"].values
        variable = STRUCTURE_VARIABLES["structure_offsets"]
        writer.write("structure_offsets", variable, offsets)
        files = writer.close()
    at = {structure_id: row for row, structure_id in enumerate(rows["structure_id"])}
    covered = tuple(at[str(structure_id)] for structure_id in data["structure_id"].values)
    is_whole = len(covered) == len(rows)
    n_pairs: tuple[int, ...] | None = None
    if "pair_offsets" in data:
        n_pairs = tuple(np.diff(data["pair_offsets"].values[offsets]).tolist())
    return FeaturesRecord(
        descriptor_id=first["descriptor_id"],
        kind=first["kind"],
        part_id=part_id,
        path=path,
        gradients=first["gradients"],
        strain=first["strain"],
        n_structures=len(covered),
        n_rows=data.sizes[data["features"].dims[0]],
        n_pairs=sum(n_pairs or ()),
        rows=None if is_whole else covered,
        structure_n_atoms=None if is_whole else tuple(np.diff(offsets).tolist()),
        structure_n_pairs=n_pairs,
        files=files,
        set_aside=_set_aside(rows, records),
        max_neighbours=first["max_neighbours"],
        seconds=float(records["seconds"].to_numpy().sum()),
        versions=json.loads(first["versions"]),
    )


def _stored(
    lake: Lake, rows: pl.DataFrame, records: pl.DataFrame, labels: xr.Dataset
) -> xr.Dataset:
    """Everything that the groups of ``records`` hold of ``rows``."""
    catalogue, files = lake.catalogue, Files(lake.path)
    data = views.features_view(catalogue, files, rows, records, labels)
    if records["gradients"][0] == "none" and not records["strain"][0]:
        return data
    gradients = views.gradients_view(catalogue, files, rows, records, labels)
    return data.assign(gradients.data_vars)


def _blocks(array: xr.DataArray) -> Iterator[groups.Array]:
    row_nbytes = max(1, array.dtype.itemsize * int(np.prod(array.shape[1:])))
    step = max(1, _BLOCK_NBYTES // row_nbytes)
    for start in range(0, len(array), step):
        yield array[start : start + step].values


def _set_aside(rows: pl.DataFrame, records: pl.DataFrame) -> Mapping[int, SetAside]:
    """What the descriptor cannot describe, by its row in the new part."""
    at: dict[Hashable, int] = {
        place: row for row, place in enumerate(rows.select("part_id", "row").iter_rows())
    }
    found = {
        at.get((record["part_id"], entry["row"])): SetAside(entry["code"], entry["reason"])
        for record in records.iter_rows(named=True)
        for entry in record["set_aside"]
    }
    return {row: reason for row, reason in found.items() if row is not None}


def _require_known(lake: Lake, records: pl.DataFrame, part_ids: list[str]) -> None:
    """Refuse to move structures away from features that were published meanwhile."""
    newest = Catalogue.open(lake.path)
    with reporting(lake.path):
        found = newest.features(["path", "part_id"]).filter(pl.col("part_id").is_in(part_ids))
        paths = set(found.collect()["path"])
    if paths - set(records["path"]):
        raise BusyError(
            f"a run published features in {lake.path} while its parts were joined; compact it "
            "again: what was joined stays"
        )
