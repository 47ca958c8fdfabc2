"""Whether a lake holds what its recipe says: after a run, and whenever somebody asks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atomlake.descriptors.base import Descriptor
from atomlake.engine.run import preview
from atomlake.lake import Lake, parts
from atomlake.lake.verify import verify
from atomlake.recipe import Recipe
from atomlake.structures import CHEMICAL_SYMBOLS

#: Relative difference, of the largest number of a structure, by which a recomputed feature may
#: differ: another processor rounds fused operations differently.
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}

#: Structures from which the statistics of features are taken, of what is new and what was there.
N_NEW, N_BEFORE = 50, 200


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Attributes
    ----------
    check : {"counts", "files", "sample", "drift"}
        Which look found it.
    message : str
        What was expected, what was found, and what to do.
    """

    check: str
    message: str

    def __str__(self) -> str:
        return f"{self.check}: {self.message}"


def check(recipe: Recipe) -> list[Finding]:
    """Compare a lake with its recipe; change nothing.

    Raises
    ------
    LakeError, SourceError, RecipeError
        If the lake, a source or the recipe cannot be read at all.
    """
    plan = preview(recipe)
    lake = Lake.open(recipe.lake)
    descriptors = [descriptor for _, descriptor in plan.descriptors]
    findings = []
    missing = plan.estimate.n_structures
    if missing:
        findings.append(
            Finding("counts", f"{missing:,} structures of the sources are not in the lake; run it")
        )
    damage = [Finding("files", str(problem)) for problem in verify(lake).problems]
    if damage:
        return findings + damage
    live = lake.catalogue.structures().filter(pl.col("status") == "ok").collect()
    for descriptor in descriptors:
        if descriptor.descriptor_id in set(lake.descriptors()["descriptor_id"]):
            findings += _recomputed(lake, descriptor, live, recipe.checks.sample)
            if recipe.checks.largest_drift is not None:
                findings += _drifted(lake, descriptor, live, recipe.checks.largest_drift)
    return findings


# ----- A sample, computed again


def _recomputed(
    lake: Lake, descriptor: Descriptor, live: pl.DataFrame, n_sample: int
) -> Iterator[Finding]:
    """Compute some structures again and compare every number with what is stored."""
    stored = lake.features(descriptor.descriptor_id)
    wanted = live.filter(pl.col("structure_id").is_in(stored["structure_id"].values.tolist()))
    for row in wanted.sample(min(n_sample, len(wanted)), shuffle=True).iter_rows(named=True):
        structure = parts.read_structures(lake.path, row["part_id"], [row["row"]])
        expected = descriptor.compute(structure)["features"].values
        found, _ = _rows_of(lake, descriptor, [row["structure_id"]])
        allowed = TOLERANCE[descriptor.dtype] * max(np.abs(expected).max(initial=0.0), 1e-30)
        difference = (
            np.abs(found - expected).max(initial=0.0) if found.shape == expected.shape else np.inf
        )
        if not difference <= allowed:
            yield Finding(
                "sample",
                f"{descriptor.descriptor_id} of {row['location']} # {row['key']} (part "
                f"{row['part_id']}, row {row['row']}): computed again it differs by "
                f"{difference:.3g}, and {allowed:.1g} is rounding; verify the lake, and compare "
                "the software versions of the runs",
            )


# ----- Statistics of what is new


def _drifted(
    lake: Lake, descriptor: Descriptor, live: pl.DataFrame, largest: float
) -> Iterator[Finding]:
    """Compare the means of features of the newest run's structures with those before them.

    Atoms are compared with atoms of their own species, because species differ more than
    anything that could be found.
    """
    runs = live["run_id"].unique().sort().to_list()
    if len(runs) < 2:
        return
    is_new = pl.col("run_id") == runs[-1]
    new, new_species = _sampled(lake, descriptor, live.filter(is_new), N_NEW)
    before, species = _sampled(lake, descriptor, live.filter(~is_new), N_BEFORE)
    worst = (0.0, 0, 0)
    for kind in np.intersect1d(species, new_species):
        theirs = before[species == kind]
        spread = theirs.std(axis=0)
        scale = np.maximum(spread, 1e-3 * max(spread.max(initial=0.0), 1e-30))
        moved = np.abs(new[new_species == kind].mean(axis=0) - theirs.mean(axis=0)) / scale
        worst = max(worst, (float(moved.max(initial=0.0)), int(moved.argmax()), int(kind)))
    if worst[0] > largest:
        of_species = f" of {CHEMICAL_SYMBOLS[worst[2]]} atoms" if worst[2] else ""
        yield Finding(
            "drift",
            f"{descriptor.descriptor_id}: the mean of feature {worst[1]}{of_species} over the "
            f"structures of run {runs[-1]} lies {worst[0]:.1f} standard deviations from what was "
            f"there ({largest:g} are allowed); are units and cells of the new structures what "
            "they were? If they are meant to differ, raise checks.largest_drift",
        )


def _sampled(
    lake: Lake, descriptor: Descriptor, live: pl.DataFrame, n_structures: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return features of some structures, and the species of every row (0 where it has none)."""
    chosen = live.sample(min(n_structures, len(live)), seed=0)["structure_id"].to_list()
    features, species = _rows_of(lake, descriptor, chosen)
    return features.astype(np.float64), species


def _rows_of(
    lake: Lake, descriptor: Descriptor, structure_ids: list[str]
) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """Return features of some structures in the order of the lake, and the species of the rows."""
    view = lake.features(descriptor.descriptor_id)
    rows = np.flatnonzero(np.isin(view["structure_id"].values, structure_ids))
    species = np.zeros(len(rows), np.int64)
    if "atom" in view["features"].dims:
        offsets = view["structure_offsets"].values
        ranges = [np.arange(offsets[s], offsets[s + 1]) for s in rows]
        rows = np.concatenate([np.zeros(0, np.int64), *ranges])
        species = view["numbers"].values[rows].astype(np.int64)
    return view["features"][rows].values, species
