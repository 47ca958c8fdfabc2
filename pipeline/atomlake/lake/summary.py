"""What is in a lake, in numbers."""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from atomlake.lake.lake import Lake


def summarise(lake: Lake) -> dict[str, Any]:
    """Count what a lake holds, source by source and descriptor by descriptor.

    Returns
    -------
    dict
        Plain values: ``n_structures`` and ``n_atoms`` (live), ``n_parts``, ``nbytes`` (on
        disk), ``sources``, ``descriptors``, ``set_aside`` (counts by code), ``runs``.
    """
    structures = lake.catalogue.structures(
        ["source", "part_id", "row", "n_atoms", "status"]
    ).collect()
    live = structures.filter(pl.col("status") == "ok")
    parts = lake.catalogue.parts(["part_id", "nbytes"]).collect()
    features = lake.catalogue.features().collect()
    in_use = live.select("part_id").unique()
    rejected = lake.rejected()
    return {
        "path": str(lake.path),
        "version": lake.version,
        "n_structures": len(live),
        "n_atoms": int(live["n_atoms"].sum()),
        "n_parts": len(in_use),
        "nbytes": int(parts.join(in_use, on="part_id")["nbytes"].sum())
        + int(features.join(in_use, on="part_id")["nbytes"].sum()),
        "sources": structures.group_by("source")
        .agg(
            n_structures=(pl.col("status") == "ok").sum(),
            n_set_aside=(pl.col("status") == "set_aside").sum(),
        )
        .sort("source")
        .to_dicts(),
        "descriptors": [
            _coverage(lake, str(descriptor_id), rows, live)
            for (descriptor_id,), rows in features.sort("descriptor_id").group_by(
                "descriptor_id", maintain_order=True
            )
        ],
        "set_aside": dict(rejected.group_by("code").len().sort("code").iter_rows()),
        "runs": [_run(row) for row in lake.runs().iter_rows(named=True)],
    }


def _coverage(
    lake: Lake, descriptor_id: str, rows: pl.DataFrame, live: pl.DataFrame
) -> dict[str, Any]:
    """Live structures that have a descriptor, and what it takes."""
    whole = rows.filter(pl.col("rows").is_null()).select("part_id")
    some = rows.filter(pl.col("rows").is_not_null()).select("part_id", row="rows").explode("row")
    covered = pl.concat(
        [
            live.join(whole, on="part_id", how="semi").select("part_id", "row"),
            live.join(some, on=["part_id", "row"], how="semi").select("part_id", "row"),
        ]
    )
    return {
        "descriptor_id": descriptor_id,
        "kind": rows["kind"][0],
        "n_structures": len(covered.unique()),
        "n_features": lake.descriptor(descriptor_id).sizes["feature"],
        "gradients": "/".join(sorted(set(rows["gradients"]))),
        "strain": bool(rows["strain"].any()),
        "nbytes": int(rows["nbytes"].sum()),
        "seconds": float(rows["seconds"].sum()),
    }


def _run(row: dict[str, Any]) -> dict[str, Any]:
    counts = json.loads(row["counts"] or "{}")
    return {
        "run_id": row["run_id"],
        "status": row["status"],
        "started": row["started"].isoformat(timespec="seconds"),
        "finished": row["finished"] and row["finished"].isoformat(timespec="seconds"),
        "n_structures": counts.get("n_structures", 0),
        "reason": row["reason"],
    }
