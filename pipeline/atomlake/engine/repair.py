"""Compute again what verification found damaged, and nothing else."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import polars as pl

from atomlake.descriptors.base import Descriptor, Gradients
from atomlake.engine.run import run
from atomlake.engine.tasks import run_unit
from atomlake.engine.units import Estimate, Task, Unit
from atomlake.errors import LakeError
from atomlake.lake import Lake, layout
from atomlake.lake.catalogue import reporting
from atomlake.lake.lock import alone
from atomlake.lake.parts import read_descriptor, write_descriptor
from atomlake.lake.verify import Problem, verify
from atomlake.recipe import Limits, PartSize, Recipe


@dataclass
class Repair:
    """What :func:`repair` did.

    Attributes
    ----------
    labels : list of str
        Descriptors whose labels were written again.
    features : list of str
        Damaged groups of features that others, computed anew, replace.
    n_structures : int
        Damaged structures that others, read from their sources again, replace.
    problems : list of Problem
        What verification finds afterwards: empty if all is well.
    """

    labels: list[str] = field(default_factory=list)
    features: list[str] = field(default_factory=list)
    n_structures: int = 0
    problems: list[Problem] = field(default_factory=list)


def repair(
    path: layout.Place | str,
    recipe: Recipe | None = None,
    *,
    executor: Literal["cluster", "synchronous"] = "cluster",
) -> Repair:
    """Make a damaged lake whole.

    Labels are written again. Features are computed again from the structures of their part and
    published in the place of the damaged ones. Structures that are damaged themselves are read
    from their sources by a run of the recipe, which computes their features and replaces them:
    readers see the damaged ones, and errors that name them, or the new ones. Who opened the lake
    before, or opens an old version, meets the damaged files. A repair that is killed is taken up
    by the next.

    Parameters
    ----------
    path : Path, ObjectPath or str
        The lake.
    recipe : Recipe, optional
        Needed where structures are damaged: it says where they come from.
    executor : {"cluster", "synchronous"}
        Where the recipe is run.

    Raises
    ------
    LakeError
        If the catalogue cannot be read: nothing of it can be computed again.
    BusyError
        If another run is at work in the lake.
    """
    result = Repair()
    with alone(path, "repair"):
        lake = Lake.open(path)
        run_id = f"repair-{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
        problems = verify(lake).problems
        with reporting(path):
            records = lake.catalogue.features().collect()
        lost = {p.part_id for p in problems if p.part_id and p.descriptor_id is None}
        damaged = [
            row
            for row in records.iter_rows(named=True)
            if any(f"{problem.where}/".startswith(f"{row['path']}/") for problem in problems)
        ]
        for problem in problems:
            if problem.code == "damaged_labels" and problem.descriptor_id:
                _write_labels(lake, problem.descriptor_id, records, damaged)
                result.labels.append(problem.descriptor_id)
        for row in damaged:
            if row["part_id"] not in lost:
                _compute(lake, row, run_id)
                result.features.append(row["path"])
        structures = _structures(lake, lost)
    if len(structures) and recipe is not None:
        _require_sources(lake, structures, recipe)
        run(recipe.model_copy(update={"lake": str(path)}), executor=executor, damaged_parts=lost)
    lake = Lake.open(path)
    result.n_structures = len(structures) - len(_structures(lake, lost))
    result.problems = verify(lake).problems
    return result


def _write_labels(
    lake: Lake, descriptor_id: str, records: pl.DataFrame, damaged: Sequence[dict[str, Any]]
) -> None:
    """Write the labels of a descriptor, whose parameters each group of its features carries."""
    unusable = [row["path"] for row in damaged]
    row = records.filter(
        pl.col("descriptor_id") == descriptor_id, ~pl.col("path").is_in(unusable)
    ).row(0, named=True)
    group = json.loads((layout.resolve(lake.path, row["path"]) / "zarr.json").read_bytes())
    descriptor = _descriptor(row, group["attributes"]["parameters"])
    layout.remove(layout.resolve(lake.path, layout.descriptor_path(descriptor_id)))
    write_descriptor(lake.path, descriptor)


def _compute(lake: Lake, row: dict[str, Any], run_id: str) -> None:
    """Compute a group of features from its part, and publish it in the place of the old one."""
    parameters = read_descriptor(lake.path, row["descriptor_id"]).attrs["parameters"]
    descriptor = _descriptor(row, parameters)
    rows = row["rows"]
    if rows is not None:
        rows = tuple(sorted([*rows, *(entry["row"] for entry in row["set_aside"])]))
    gradients = Gradients(row["gradients"], row["strain"])
    task = Task(row["kind"], descriptor.parameters, gradients)
    unit = Unit("", (), row["part_id"], rows, (task,), Estimate(), list_nbytes=PartSize().memory)
    limits = (
        Limits() if row["max_neighbours"] is None else Limits(max_neighbours=row["max_neighbours"])
    )
    record = run_unit(str(lake.path), unit, limits)
    lake.catalogue.publish_features(record.features, run_id=run_id)


def _descriptor(row: dict[str, Any], parameters: str) -> Descriptor:
    """Build a descriptor again from its stored parameters."""
    descriptor = Task(row["kind"], json.loads(parameters), Gradients()).descriptor
    if descriptor.descriptor_id != row["descriptor_id"]:
        raise LakeError(
            f"this version of atomlake computes {descriptor.descriptor_id} where "
            f"{row['descriptor_id']} is damaged: install the version that made it "
            f"({row['versions']}), or run the recipe, which computes the other one"
        )
    return descriptor


def _structures(lake: Lake, part_ids: Collection[str]) -> pl.DataFrame:
    """Rows of the structures in some parts."""
    is_there = pl.col("part_id").is_in(list(part_ids)) & (pl.col("status") == "ok")
    with reporting(lake.path):
        return lake.catalogue.structures().filter(is_there).collect()


def _require_sources(lake: Lake, structures: pl.DataFrame, recipe: Recipe) -> None:
    """Refuse a recipe that does not have the sources of damaged structures."""
    known = {source.label for source in recipe.sources}
    missing = sorted(set(structures["source"]) - known)
    if missing:
        raise LakeError(
            f"damaged structures of {lake.path} come from the sources {missing}, which the recipe "
            "does not have: give the recipe that made them"
        )
