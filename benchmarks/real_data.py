"""Every extended XYZ file and every nasty file of a folder of real data, into one lake.

Weighted symmetry functions for all of it, the full SOAP power spectrum for every file of at
most six species, with two workers. Prints what became of each structure, the peak memory of
a worker, and how long a second run takes to find that there is nothing to do.

    python benchmarks/real_data.py ../shared/data /tmp/lake
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

from atomlake.engine.run import Outcome, RefusedError, preview, run
from atomlake.engine.scan import survey
from atomlake.lake import Lake
from atomlake.recipe import Recipe

MAX_SPECIES = 6
SOAP = {"cutoff": 5.0, "n_max": 8, "l_max": 6, "sigma": 0.5, "dtype": "float32"}
WEIGHTED = {"cutoff": 5.0, "dtype": "float32"}


def make_recipe(data: Path, lake: Path, workers: int = 2) -> Recipe:
    """Return a recipe for all that is below a folder."""
    files = sorted(p for p in data.rglob("*.extxyz*") if "nasty" not in p.parts)
    narrow = []
    for file in files:
        found = survey(str(file))[0]
        if 0 < len(found["species"]) <= MAX_SPECIES:
            narrow.append(str(file))
    sources = [{"path": str(file)} for file in files]
    if (data / "nasty").is_dir():
        sources.append({"path": str(data / "nasty"), "name": "nasty"})
    weighted = {"kind": "symmetry_functions", "preset": "gastegger_centred", "parameters": WEIGHTED}
    soaps = [
        {"kind": "soap", "sources": [name], "parameters": {**SOAP, "species": "scan"}}
        for name in narrow
    ]
    return Recipe.model_validate(
        {
            "lake": str(lake),
            "sources": sources,
            "descriptors": [weighted, *soaps],
            "cluster": {"kind": "local", "workers": workers},
        }
    )


def refused_for_many_species(data: Path, lake: Path) -> list[str]:
    """Why the full SOAP of a cell with over a hundred species is refused."""
    file = data / "cookbook_mendeleev_soup" / "mendeleev_soup_dev.extxyz.xz"
    recipe = Recipe.model_validate(
        {
            "lake": str(lake) + "-refused",
            "sources": [{"path": str(file)}],
            "descriptors": [{"kind": "soap", "parameters": {**SOAP, "species": "scan"}}],
        }
    )
    return preview(recipe).refusals


def describe(outcome: Outcome) -> None:
    """Print what a run did."""
    totals = outcome.totals
    print(
        f"  {totals.n_structures} structures, {totals.n_atoms} atoms, {totals.n_parts} parts, "
        f"{totals.nbytes / 1e9:.2f} GB; {outcome.seconds['total']:.1f} s "
        f"({ {k: round(v, 1) for k, v in outcome.seconds.items()} })"
    )
    print(f"  worker seconds { {k: round(v, 1) for k, v in totals.seconds.items()} }")
    print(
        f"  peak memory of a worker {totals.peak_nbytes / 1e9:.2f} GB, "
        f"projected {outcome.plan.memory_nbytes / 1e9:.2f} GB"
    )
    print(f"  set aside {dict(totals.set_aside)}; failed {totals.n_failed} {totals.failures}")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("lake", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    recipe = make_recipe(arguments.data, arguments.lake, arguments.workers)
    print(f"{len(recipe.sources)} sources, {len(recipe.descriptors)} descriptors")
    print("first run")
    describe(run(recipe))
    start = time.perf_counter()
    print("second run")
    describe(run(recipe))
    print(f"  {time.perf_counter() - start:.1f} s in all")
    table = Lake.open(recipe.lake).catalogue.structures(["status", "code"]).collect()
    print(
        "structures",
        dict(Counter(table["status"])),
        "set aside",
        dict(Counter(table["code"].drop_nulls())),
    )
    print("soap of a hundred species:", *refused_for_many_species(arguments.data, arguments.lake))


if __name__ == "__main__":
    try:
        main()
    except RefusedError as refusal:
        raise SystemExit(f"refused: {refusal}") from None
