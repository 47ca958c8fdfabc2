"""Every registered descriptor, with gradients, through the pipeline, on real data that suits it.

    python benchmarks/every_descriptor.py ../shared/data

Each kind takes its own first examples; the files are small ones of a kind that the descriptor
can describe. What a descriptor cannot describe is set aside with its reason, and counted.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from atomlake import descriptors
from atomlake.engine.run import Outcome, run
from atomlake.lake import Lake
from atomlake.lake.summary import summarise
from atomlake.recipe import Recipe

#: Molecules, crystals and a slab, each with its species.
FILES = {
    "ethanol": ("cookbook_misc/ethanol.extxyz.xz", ("H", "C", "O")),
    "carbide": ("flare_sic/sic_dft.extxyz.xz", ("C", "Si")),
    "nitride": ("large_systems/pet_bulk_small_cell.extxyz.xz", ("N", "Ga")),
    "slab": ("fairchem_samples/toy_c3h8_relax.extxyz.xz", ("H", "C", "Cu")),
}

#: Atoms of the largest structure of these files, for descriptors of a fixed size.
MAX_ATOMS = 38


def make_recipe(data: Path, lake: Path, files: tuple[str, ...] = tuple(FILES)) -> Recipe:
    """Return a recipe with every kind for every file, gradients where the kind has them."""
    entries: list[dict[str, Any]] = []
    for name in descriptors.names():
        kind = descriptors.get(name)
        for file in files:
            parameters = kind.examples(FILES[file][1])[0].parameters
            if "n_atoms_max" in parameters:
                parameters["n_atoms_max"] = MAX_ATOMS
            entries.append(
                {
                    "kind": name,
                    "sources": [file],
                    "parameters": parameters,
                    "gradients": {
                        "positions": "pairs" if "positions" in kind.gradients else "none",
                        "strain": "strain" in kind.gradients,
                    },
                }
            )
    return Recipe.model_validate(
        {
            "lake": str(lake),
            "sources": [{"path": str(data / FILES[name][0]), "name": name} for name in files],
            "descriptors": entries,
            "cluster": {"kind": "local", "workers": 2},
        }
    )


def describe(outcome: Outcome, lake: Lake) -> None:
    """Print coverage of every descriptor."""
    summary = summarise(lake)
    print(f"{summary['n_structures']} structures, {summary['n_atoms']} atoms")
    for entry in summary["descriptors"]:
        rate = 1e6 * entry["seconds"]
        print(
            f"  {entry['descriptor_id']:34} {entry['n_structures']:5} structures "
            f"{entry['n_features']:6} features {entry['nbytes'] / 1e6:8.1f} MB "
            f"{rate / 1e6:6.2f} s"
        )
    print("set aside:", dict(outcome.totals.set_aside), "failed:", outcome.totals.failures)


def main() -> int:
    """Run the recipe in a temporary lake and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="atomlake-benchmark-") as folder:
        recipe = make_recipe(arguments.data, Path(folder, "lake"))
        outcome = run(recipe)
        describe(outcome, Lake.open(recipe.lake))
    return int(not outcome.is_complete)


if __name__ == "__main__":
    sys.exit(main())
