"""Growth: what a structure costs as the lake grows, and what a thousand workers cost.

``lake`` makes structures by perturbing real ones, brings them into a lake of each size with
two workers, and prints time per structure, peak memory of the driver and size of the
catalogue; then how long a second run takes that finds nothing to do, and a run after 1,000
structures were added, as a file beside and at the end of the large file. Every run is a process
of its own, and its imports count. ``plan`` plans a number of structures for an
empty lake, for a lake that holds them, and for one that holds all but 1,000. ``scheduler`` runs
tasks that only sleep on many workers, with the engine's own submission.

    python benchmarks/growth.py lake --sizes 10000 100000 1000000
    python benchmarks/growth.py plan --sizes 10000000
    python benchmarks/growth.py scheduler --workers 1000 --seconds 8
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import batched
from pathlib import Path
from typing import Any

import numpy as np

from atomlake.engine.run import run
from atomlake.lake import Lake
from atomlake.recipe import Recipe
from atomlake.sources import reader
from atomlake.sources.base import Source
from atomlake.structures import CHEMICAL_SYMBOLS, Structures

#: Real structures to perturb: crystals of five atoms.
REAL = "cdvae_perov5_carbon24/perov_5_val.extxyz.xz"
#: Standard deviation of the perturbation in Å.
NOISE = 0.02
N_ADDED = 1000
WORKERS = 2
DESCRIPTOR = {
    "kind": "symmetry_functions",
    "preset": "gastegger_centred",
    "parameters": {"cutoff": 4.0, "dtype": "float32"},
}


# ----- Lakes of different sizes


def real_structures(data: Path) -> Structures:
    """Read the structures to perturb."""
    with tempfile.TemporaryDirectory(prefix="atomlake-growth-") as scratch:
        real = reader(str(data / REAL), Source(path=str(data / REAL)), Path(scratch))
        return real.read(real.index().locations).structures


def write_perturbed(file: Path, real: Structures, n: int, seed: int, mode: str = "w") -> None:
    """Write ``n`` structures as extended XYZ, each a perturbed copy of a real one."""
    random = np.random.default_rng(seed)
    forms = []
    for s in range(real.n_structures):
        atoms = slice(*real.structure_offsets[s : s + 2].tolist())
        lattice = " ".join(f"{x:.6f}" for x in real.cells[s].ravel())
        symbols = [CHEMICAL_SYMBOLS[z] for z in real.numbers[atoms]]
        lines = "".join(f"{symbol} %.6f %.6f %.6f\n" for symbol in symbols)
        comment = f'Lattice="{lattice}" Properties=species:S:1:pos:R:3 pbc="T T T"'
        forms.append((f"{len(symbols)}\n{comment}\n{lines}", real.positions[atoms]))
    with file.open(mode) as stream:
        for block in batched(range(n), 10_000):
            stream.write(
                "".join(
                    form % tuple((positions + random.normal(0, NOISE, positions.shape)).ravel())
                    for form, positions in (forms[i % len(forms)] for i in block)
                )
            )


def measure_lake(data: Path, n: int, folder: Path) -> None:
    """Bring ``n`` structures into a lake, then run again with nothing and with little to do."""
    real = real_structures(data)
    files = folder / "structures"
    files.mkdir()
    start = time.perf_counter()
    write_perturbed(files / "many.extxyz", real, n, seed=0)
    print(f"\n{n:,} structures, {real.n_atoms / real.n_structures:.1f} atoms each", flush=True)
    print(f"  made in {time.perf_counter() - start:.1f} s, {_nbytes(files) / 1e6:,.0f} MB of text")
    lake = folder / "lake"
    first = in_own_process(lake, files)
    _tell("first run", first, n)
    print(f"    {1e6 * first['wall'] / n:.1f} µs a structure, {first['n_units']} parts")
    catalogue = _nbytes(lake / "catalogue")
    print(
        f"    lake {_nbytes(lake) / 1e6:,.0f} MB, of which catalogue {catalogue / 1e6:,.2f} MB: "
        f"{catalogue / n:.0f} bytes a structure",
        flush=True,
    )
    _tell("second run, nothing to do", in_own_process(lake, files), 0)
    write_perturbed(files / "beside.extxyz", real, N_ADDED, seed=1)
    _tell("1,000 structures in a file beside", in_own_process(lake, files), N_ADDED)
    write_perturbed(files / "many.extxyz", real, N_ADDED, seed=2, mode="a")
    _tell("1,000 structures at the end of the large file", in_own_process(lake, files), N_ADDED)
    start = time.perf_counter()
    features = Lake.open(lake).features(str(DESCRIPTOR["kind"]))
    print(f"  features view of {features.sizes['structure']:,} structures opened in "
          f"{time.perf_counter() - start:.2f} s", flush=True)  # fmt: skip


def in_own_process(lake: Path, files: Path) -> dict[str, Any]:
    """Run the recipe in a fresh process; return what it measured, and its wall time."""
    start = time.perf_counter()
    command = [sys.executable, __file__, "run", str(lake), str(files)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(result.stdout)
    return found | {"wall": time.perf_counter() - start}


def run_once(lake: Path, files: Path) -> dict[str, Any]:
    """Run the recipe here; return what it took."""
    recipe = Recipe.model_validate(
        {
            "lake": str(lake),
            "sources": [{"path": str(files), "name": "many"}],
            "descriptors": [DESCRIPTOR],
            "cluster": {"kind": "local", "workers": WORKERS},
        }
    )
    before = peak_nbytes()
    outcome = run(recipe)
    return {
        "seconds": outcome.seconds,
        "n_structures": outcome.totals.n_structures,
        "n_units": len(outcome.plan.units),
        "workers": outcome.totals.seconds,
        "nbytes_before": before,
        "peak_nbytes": peak_nbytes(),
    }


def _tell(what: str, found: dict[str, Any], n: int) -> None:
    assert found["n_structures"] == n, (what, found["n_structures"], n)
    phases = ", ".join(f"{k} {v:.2f} s" for k, v in found["seconds"].items())
    print(f"  {what}: {found['wall']:.2f} s ({phases})")
    print(
        f"    driver's peak memory {found['peak_nbytes'] / 1e6:,.0f} MB, "
        f"{found['nbytes_before'] / 1e6:,.0f} MB of it after the imports",
        flush=True,
    )


def _nbytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def peak_nbytes() -> int:
    """Peak memory of this process so far; what getrusage says starts with its parent's."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


# ----- The command


def main() -> None:
    """Run one of the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    lake = commands.add_parser("lake", help="lakes of these sizes, one after the other")
    lake.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    lake.add_argument("--data", type=Path, default=Path("../shared/data"))
    one = commands.add_parser("run", help="one run, in this process")
    one.add_argument("lake", type=Path)
    one.add_argument("files", type=Path)
    arguments = parser.parse_args()
    match arguments.command:
        case "lake":
            for n in arguments.sizes:
                with tempfile.TemporaryDirectory(prefix="atomlake-growth-") as folder:
                    measure_lake(arguments.data, n, Path(folder))
        case "run":
            print(json.dumps(run_once(arguments.lake, arguments.files)))


if __name__ == "__main__":
    main()
