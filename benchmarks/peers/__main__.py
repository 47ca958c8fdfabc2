"""Measure, compare, write down and draw.

Everything runs in this process, on one core, one thread to each library.

    python -m benchmarks.peers                 # all of it
    python -m benchmarks.peers --only soap     # one file of this folder; the rest is kept
    python -m benchmarks.peers --resume        # what an interrupted run did not come to
    python -m benchmarks.peers --draw          # page and plot again, from what was measured
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from importlib import import_module
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "benchmarks.md"
#: Files of this folder that hold families, in the order of the page.
MODULES = (
    "soap",
    "correlations",
    "symmetry_functions",
    "snap",
    "mbtr",
    "matrices",
    "neighbours",
)


def main() -> int:
    """Measure what was asked for and draw it."""
    from .measure import DISAGREES, Budget, measure
    from .page import Results, draw
    from .structures import KINDS, sizes

    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--only", nargs="+", choices=MODULES, default=MODULES, metavar="FILE")
    parser.add_argument("--structures", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--resume", action="store_true", help="keep what was measured already")
    parser.add_argument("--draw", action="store_true", help="measure nothing")
    parser.add_argument("--seconds", type=float, default=0.2, help="to repeat calls in")
    parser.add_argument("--longest", type=float, default=2.0, help="seconds of a call")
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()

    warnings.simplefilter("ignore")
    disagreements = []
    results = Results.read(arguments.page.with_suffix(".json"))
    if not arguments.draw:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        budget = Budget(arguments.seconds, arguments.longest)
        families = [
            family
            for module in arguments.only
            for family in import_module(f"{__package__}.{module}").FAMILIES
        ]
        groups = {kind: sizes(kind) for kind in arguments.structures}
        for kind in groups:
            for family in families:
                if arguments.resume and results.has(family, kind):
                    continue
                records = []
                for record in measure(family, groups[kind], budget):
                    print(" ".join(map(str, record)), flush=True)
                    records.append(record)
                    if record.reason.startswith(DISAGREES):
                        disagreements.append(record)
                results.replace(family, groups[kind][-1], records)
                results.write()
    draw(results, arguments.page)
    for record in disagreements:
        print(f"{record.code}, {record.family}, {record.kind}: {record.reason}", file=sys.stderr)
    return int(bool(disagreements))


if __name__ == "__main__":
    sys.exit(main())
