"""What was measured, as JSON, as a page with tables, and as a plot."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from .codes import Family
from .measure import QUANTITIES, Record
from .structures import Group

TITLES = {
    "features": "features",
    "positions": "with gradients by positions",
    "strain": "with gradients by strain",
    "pairs": "pairs",
}
#: Okabe and Ito's colours, which everybody can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INTRODUCTION = """\
# Benchmarks

Atomlake against the fastest codes of the field, on the same structures, in one process, on one
core, with one thread. Numbers are processor time in **microseconds per atom**, the least of several
calls after a first one; neighbour lists are part of it. Everybody starts from structures in memory,
in the form that the code takes. A ratio is the time of the fastest peer over that of atomlake,
**bold** where it is below the target. Where a number of atoms is in parentheses the code would take
too long, or too much memory, for all of them; its ratio is to atomlake's time on the same few. In
the same run the numbers of all codes were compared with those of atomlake; how far they were apart
stands below each table.

This page, the [numbers]({name}.json) and the [plot]({name}.svg) are written by `make bench-peers`,
which first makes an environment with all the peers.
"""


class Ratio(NamedTuple):
    """How many times faster than its fastest peer atomlake is."""

    value: float
    target: float

    @property
    def is_met(self) -> bool:
        """Whether the target, if there is one, is reached."""
        return self.value >= self.target


class Results:
    """Everything that was measured, by family and kind of structures."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path, self.content = path, content

    @classmethod
    def read(cls, path: Path) -> Results:
        """Return the content of a file, or nothing where there is none."""
        empty: dict[str, Any] = {"versions": {}, "structures": {}, "families": {}}
        return cls(path, json.loads(path.read_text("utf-8")) if path.exists() else empty)

    def write(self) -> None:
        """Write the file."""
        text = json.dumps(self.content, indent=1, ensure_ascii=False)
        self.path.write_text(text + "\n", encoding="utf-8")

    def has(self, family: Family, kind: str) -> bool:
        """Say whether a family was measured on a kind of structures."""
        return kind in self.content["families"].get(family.name, {}).get("kinds", {})

    def replace(self, family: Family, group: Group, records: list[Record]) -> None:
        """Put new measurements in the place of older ones."""
        self.content["machine"] = machine()
        self.content["structures"][group.kind] = f"{group.origin}; {group.n_atoms:,} atoms"
        packages = {"numba": "numba"} | {peer.name: peer.package for peer in family.peers}
        for name, package in packages.items():
            self.content["versions"][name] = version(package)
        entry = self.content["families"].setdefault(family.name, {"kinds": {}})
        entry["parameters"] = family.parameters
        entry["remarks"] = [peer.remark for peer in family.peers if peer.remark]
        is_periodic = bool(group.structures[0].pbc.any())
        entry["kinds"][group.kind] = {
            "load": os.getloadavg()[0],
            "targets": {q: family.target(q, is_periodic) for q in family.targets},
            "records": [record._asdict() for record in records],
        }

    def tables(self) -> Iterator[Table]:
        """Yield what there is of every family."""
        for name, entry in self.content["families"].items():
            yield Table(name, entry, list(self.content["structures"]))


class Table:
    """What was measured of one family."""

    def __init__(self, name: str, entry: dict[str, Any], kinds: list[str]) -> None:
        self.name, self.entry = name, entry
        records = {
            kind: [Record(**record) for record in entry["kinds"][kind]["records"]]
            for kind in kinds
            if kind in entry["kinds"]
        }
        #: Processes that wanted to run while this was measured.
        self.load = max(cells["load"] for cells in entry["kinds"].values())
        #: Kinds of structures that atomlake describes.
        self.kinds = [k for k in records if any(r.microseconds for r in records[k])]
        #: Why it does not describe the others.
        self.refused = {k: records[k][0].reason for k in records if k not in self.kinds}
        self.records = [record for kind in self.kinds for record in records[kind]]
        codes = (record.code for record in self.records if record.code != "atomlake")
        self.peers = list(dict.fromkeys(codes))
        self.quantities = [q for q in QUANTITIES if any(r.quantity == q for r in self.records)]

    def of(self, kind: str, quantity: str, code: str) -> list[Record]:
        """Return the records of one cell, the one of most atoms first."""
        where = kind, quantity, code
        found = [r for r in self.records if (r.kind, r.quantity, r.code) == where]
        return sorted(found, key=lambda r: -r.n_atoms)

    def ratio(self, kind: str, quantity: str) -> Ratio | None:
        """Return how many times faster than the fastest peer atomlake is."""
        ours = {r.n_atoms: r.microseconds for r in self.of(kind, quantity, "atomlake")}
        ratios = [
            theirs.microseconds / mine
            for peer in self.peers
            for theirs in self.of(kind, quantity, peer)
            if theirs.microseconds and (mine := ours.get(theirs.n_atoms))
        ]
        target = self.entry["kinds"][kind]["targets"][quantity]
        return Ratio(min(ratios), target) if ratios else None


def machine() -> str:
    """Return the processor and the interpreter."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, Python {platform.python_version()}"


def draw(results: Results, page: Path) -> None:
    """Write the page and the plot."""
    tables = list(results.tables())
    page.write_text(_text(results, tables, page.stem), encoding="utf-8")
    _plot(tables, page.with_suffix(".svg"))


def _text(results: Results, tables: list[Table], name: str) -> str:
    content = results.content
    lines = [INTRODUCTION.format(name=name)]
    versions = ", ".join(f"{code} {number}" for code, number in content["versions"].items())
    lines += [f"Measured on {content['machine']}; {versions}. The load of the machine was"]
    lines += [f"{max(table.load for table in tables):.1f} at most, of which this run is 1.\n"]
    lines += [f"![Ratios to the fastest peer]({name}.svg)\n"]
    lines += ["| structures | what they are |", "|---|---|"]
    lines += [f"| {kind} | {origin} |" for kind, origin in content["structures"].items()]
    lines += ["\n## Ratios to the fastest peer\n"]
    lines += ["| family | | ratios | target | reached |", "|---|---|--:|--:|--:|"]
    for table in tables:
        lines += _summary(table)
    for table in tables:
        lines += _details(table)
    return "\n".join(lines) + "\n"


def _summary(table: Table) -> Iterator[str]:
    for quantity in table.quantities:
        ratios = [r for kind in table.kinds if (r := table.ratio(kind, quantity))]
        if not ratios:
            continue
        values = sorted(ratio.value for ratio in ratios)
        targets = sorted({ratio.target for ratio in ratios})
        reached = f"{sum(r.is_met for r in ratios)} of {len(ratios)}" if targets[-1] else ""
        yield (
            f"| {table.name} | {TITLES[quantity]} | {_short(values[0])} to {_short(values[-1])} | "
            f"{' or '.join(f'{t:g}' for t in targets if t)} | {reached} |"
        )


def _details(table: Table) -> Iterator[str]:
    yield f"\n## {table.name}\n"
    yield f"Parameters: {table.entry['parameters']}.\n"
    codes = ["atomlake", *table.peers]
    yield f"| structures | | {' | '.join(codes)} | ratio | target |"
    yield f"|---|---|{'--:|' * (len(codes) + 2)}"
    notes = dict.fromkeys(table.entry["remarks"])
    notes |= {f"Not on {kind}: {reason}.": None for kind, reason in table.refused.items()}
    for kind in table.kinds:
        largest = max(record.n_atoms for record in table.records if record.kind == kind)
        for quantity in table.quantities:
            cells = []
            for code in codes:
                found = table.of(kind, quantity, code)[:1]
                cells += [_cell(record, largest) for record in found] or [""]
                for record in found:
                    if record.microseconds is None:
                        notes[f"{code}, {kind}, {TITLES[quantity]}: {record.reason}."] = None
            cells += _ratio_cells(table.ratio(kind, quantity))
            yield f"| {kind} | {TITLES[quantity]} | {' | '.join(cells)} |"
    gaps = [_gap(table, peer) for peer in table.peers]
    compared = "; ".join(gap for gap in gaps if gap)
    if compared:
        notes[f"Largest differences from atomlake, relative to the norm of a row: {compared}."] = (
            None
        )
    yield ""
    yield from (f"- {note}" for note in notes)


def _cell(record: Record, largest: int) -> str:
    if record.microseconds is None:
        return "–"
    atoms = f" ({record.n_atoms:,})" if record.n_atoms < largest else ""
    return _short(record.microseconds) + atoms


def _ratio_cells(ratio: Ratio | None) -> list[str]:
    if ratio is None:
        return ["", ""]
    value = _short(ratio.value) if ratio.is_met else f"**{_short(ratio.value)}**"
    return [value, f"{ratio.target:g}" if ratio.target else ""]


def _gap(table: Table, peer: str) -> str:
    worst: dict[str, float] = {}
    for record in table.records:
        if record.code == peer and record.difference is not None:
            before = worst.get(record.quantity, 0.0)
            worst[record.quantity] = max(before, record.difference)
    return ", ".join(f"{peer} {quantity} {gap:.0e}" for quantity, gap in worst.items())


def _short(value: float) -> str:
    """Three digits, no exponent."""
    return f"{float(f'{value:.3g}'):,.15g}"


def _plot(tables: list[Table], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "atomlake"
    from matplotlib import pyplot
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter

    tables = [table for table in tables if table.peers][::-1]
    kinds = list(dict.fromkeys(kind for table in tables for kind in table.kinds))
    panels = ("features", "positions", "strain")
    figure, axes = pyplot.subplots(
        1, len(panels), sharey=True, figsize=(12, 1.8 + 0.42 * len(tables)), layout="constrained"
    )
    step = 0.7 / max(len(kinds), 1)
    for panel, ax in zip(panels, axes, strict=True):
        for y, table in enumerate(tables):
            if y % 2 == 0:
                ax.axhspan(y - 0.5, y + 0.5, color="0.95", zorder=0)
            quantity = "pairs" if panel == "features" and "pairs" in table.quantities else panel
            if quantity not in table.quantities:
                continue
            for k, kind in enumerate(kinds):
                if kind not in table.kinds or (ratio := table.ratio(kind, quantity)) is None:
                    continue
                height = y + step * ((len(kinds) - 1) / 2 - k)
                ax.hlines(height, 1, ratio.value, color=COLOURS[k], lw=1, alpha=0.5, zorder=2)
                ax.plot(ratio.value, height, "o", color=COLOURS[k], ms=5, zorder=3)
                if ratio.target:
                    ax.plot(
                        [ratio.target] * 2, [height - step / 2, height + step / 2], "k-", lw=1.5
                    )
        ax.axvline(1, color="0.4", lw=1)
        ax.set(title=TITLES[panel], xscale="log", xlabel="time of the fastest peer / ours")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        ax.set_ylim(-0.5, len(tables) - 0.5)
        ax.tick_params(axis="y", length=0)
        ax.spines[["top", "right", "left"]].set_visible(False)
    axes[0].set_yticks(range(len(tables)), [table.name for table in tables])
    handles = [
        Line2D([], [], marker="o", ls="", color=colour, label=kind)
        for kind, colour in zip(kinds, COLOURS, strict=False)
    ]
    handles.append(Line2D([], [], color="k", lw=1.5, label="target"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
