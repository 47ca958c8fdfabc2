"""Compare every file of a lake with what the catalogue says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atomlake.errors import LakeError
from atomlake.lake import groups, layout
from atomlake.lake.catalogue import reporting
from atomlake.lake.chunks import Array, Files
from atomlake.lake.garbage import unpublished
from atomlake.lake.lake import Lake
from atomlake.lake.parts import read_descriptor, read_structures

Booleans = NDArray[np.bool_]

#: What a structure is called.
_NAMES = ("structure_id", "source", "location", "key")


@dataclass(frozen=True)
class Problem:
    """One thing that is not as the catalogue says.

    Attributes
    ----------
    code : str
        Stable machine-readable name, e.g. ``"missing_file"``.
    where : str
        File, group or table, relative to the lake.
    message : str
        What was expected and what was found.
    part_id, descriptor_id : str or None
        What is affected: the structures of a part, or its features.
    """

    code: str
    where: str
    message: str
    part_id: str | None = None
    descriptor_id: str | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.message} ({self.code})"


@dataclass(frozen=True)
class Damage:
    """The structures of a part that problems of one group of files concern.

    Attributes
    ----------
    part_id : str
        The part.
    descriptor_id : str or None
        Whose features are damaged; None if the structures themselves are.
    structures : list of dict
        ``structure_id``, ``source``, ``location`` and ``key`` of each.
    """

    part_id: str
    descriptor_id: str | None
    structures: list[dict[str, str]]

    def __str__(self) -> str:
        what = f"features of {self.descriptor_id} in " if self.descriptor_id else ""
        return f"{what}part {self.part_id}: {len(self.structures):,} structures damaged"


@dataclass
class Verification:
    """What :func:`verify` found.

    Attributes
    ----------
    problems : list of Problem
        Empty for a lake in order.
    damaged : list of Damage
        The structures that problems of parts and of features concern.
    n_parts, n_files, nbytes : int
        What was looked at.
    n_orphans, orphan_nbytes : int
        Files that were never published, which are no problem, and their size.
    """

    problems: list[Problem] = field(default_factory=list)
    damaged: list[Damage] = field(default_factory=list)
    n_parts: int = 0
    n_files: int = 0
    nbytes: int = 0
    n_orphans: int = 0
    orphan_nbytes: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def verify(lake: Lake, *, deep: bool = False) -> Verification:
    """Check that everything that is visible in a lake is there and as it was written.

    Every byte is read and compared with its checksum; offsets, neighbours and counts are
    checked against the catalogue.

    Parameters
    ----------
    lake : Lake
        The state to check.
    deep : bool
        Also decode every array, and recompute the hash of every structure.

    Raises
    ------
    LakeError
        If the catalogue itself cannot be read.
    """
    report = Verification()
    files = Files(lake.path)
    with reporting(lake.path):
        structures = lake.catalogue.structures().collect()
        parts = lake.catalogue.parts().collect()
        features = lake.catalogue.features().collect()
    for table, problem in lake.catalogue.damage():
        report.problems.append(Problem("damaged_table", layout.table_path(table), problem))
    ok = structures.filter(pl.col("status") == "ok")
    report.problems += _check_tables(structures, ok, parts, features)
    by_part = ok.sort("row").partition_by("part_id", as_dict=True)
    rows_of = {part_id: rows for (part_id,), rows in by_part.items()}
    n_atoms: dict[str, int] = {}
    for part in parts.iter_rows(named=True):
        if part["part_id"] in rows_of:
            report.n_parts += 1
            n_atoms[part["part_id"]] = part["n_atoms"]
            group = _Group(files, part, rows_of[part["part_id"]], report, deep)
            group.check(_check_structures)
    for record in features.iter_rows(named=True):
        if record["part_id"] in n_atoms:
            rows = rows_of[record["part_id"]]
            if record["rows"] is not None:
                rows = rows.filter(pl.col("row").is_in(record["rows"]))
            group = _Group(files, record, rows, report, deep)
            group.check(lambda g: _check_features(g, n_atoms[g.row["part_id"]]))
    for descriptor_id in features["descriptor_id"].unique().sort():
        try:
            read_descriptor(lake.path, descriptor_id)
        except LakeError as error:
            where = layout.descriptor_path(descriptor_id)
            report.problems.append(
                Problem("damaged_labels", where, str(error), descriptor_id=descriptor_id)
            )
    orphans = unpublished(lake.path)
    report.n_orphans = sum(orphan.n_files for orphan in orphans)
    report.orphan_nbytes = sum(orphan.nbytes for orphan in orphans)
    return report


# ----- Tables


def _check_tables(
    structures: pl.DataFrame, ok: pl.DataFrame, parts: pl.DataFrame, features: pl.DataFrame
) -> Iterator[Problem]:
    table = layout.table_path("structures")
    for identity in (["structure_id"], ["source", "location", "key"]):
        twice = structures.filter(pl.struct(identity).is_duplicated()).unique(identity)
        for names in twice.select(identity).iter_rows():
            yield Problem("structure_twice", table, f"more than one structure holds {names}")
    placed = ok.join(parts, on="part_id", how="left", suffix="_of_part")
    outside = placed.filter(
        pl.col("path").is_null()
        | pl.col("row").is_null()
        | ~pl.col("row").is_between(0, pl.col("n_structures") - 1)
        | (pl.col("first_atom") + pl.col("n_atoms") > pl.col("n_atoms_of_part"))
    )
    for row in outside.iter_rows(named=True):
        yield Problem(
            "unknown_place",
            table,
            f"{row['structure_id']} is said to be row {row['row']} of part {row['part_id']}, which "
            f"has {row['n_structures']} rows",
            row["part_id"],
        )
    strays = features.join(parts, on="part_id", how="anti")
    for row in strays.iter_rows(named=True):
        yield Problem(
            "unknown_part",
            layout.table_path("features"),
            f"features of {row['descriptor_id']} belong to part {row['part_id']}, which is not "
            "in the parts table",
            row["part_id"],
            row["descriptor_id"],
        )


# ----- Groups


@dataclass
class _Group:
    """One zarr group, the catalogue's row about it, the structures in it, and where to report."""

    files: Files
    row: dict[str, Any]
    structures: pl.DataFrame
    report: Verification
    deep: bool

    def __post_init__(self) -> None:
        self.is_damaged = np.zeros(len(self.structures), dtype=bool)

    def check(self, content: Callable[[_Group], None]) -> None:
        """Check the files, and if they are as written, what is in them; name the structures."""
        self._check(content)
        if self.is_damaged.any():
            names = self.structures.filter(pl.Series(self.is_damaged)).select(_NAMES).to_dicts()
            self.report.damaged.append(
                Damage(self.row["part_id"], self.row.get("descriptor_id"), names)
            )

    def _check(self, content: Callable[[_Group], None]) -> None:
        n_problems = len(self.report.problems)
        try:
            root = layout.resolve(self.files.lake, self.row["path"])
        except LakeError as error:
            self.report.problems.append(Problem("path_leaves_lake", "catalogue", str(error)))
            self.is_damaged[:] = True
            return
        for entry in self.row["files"]:
            file = groups.StoredFile(**entry)
            self.report.n_files += 1
            self.report.nbytes += file.nbytes
            if problem := groups.file_problem(root, file):
                self.problem(*problem, file.name, concerns=self.within(file.name))
        if len(self.report.problems) > n_problems:
            return
        try:
            content(self)
            if self.deep:
                for name in self.files.arrays(self.row["path"]):
                    self.decode(name)
        except (LakeError, LookupError, ValueError) as error:
            self.problem("unreadable", f"{error}")

    def within(self, file: str) -> Booleans:
        """Which structures have rows in what cannot be read of a file; all if that is not known."""
        name, _, place = file.partition("/c/")
        try:
            array = self.files.array(self.row["path"], name)
            first, last = _extents(self.row, self.structures)[array.dims[0]]
            lost = array.unreadable(int(place.partition("/")[0]))
        except (LakeError, LookupError, ValueError):
            return np.ones(len(self.structures), dtype=bool)
        shares = [np.maximum(first, r.start) < np.minimum(last, r.stop) for r in lost]
        return np.any(shares, axis=0)

    def problem(
        self, code: str, message: str, file: str = "", concerns: Booleans | None = None
    ) -> None:
        """Report a problem of some structures of this group, or of all; or of one of its files."""
        where = f"{self.row['path']}/{file}" if file else self.row["path"]
        self.report.problems.append(
            Problem(code, where, message, self.row["part_id"], self.row.get("descriptor_id"))
        )
        self.is_damaged |= True if concerns is None else concerns

    def expect(self, code: str, what: str, expected: Any, found: Any) -> None:
        """Report a problem if two values differ."""
        if expected != found:
            self.problem(code, f"{what} must be {expected} and is {found}")

    def length(self, name: str) -> int:
        """Rows of an array."""
        return len(self.files.array(self.row["path"], name))

    def values(self, name: str) -> Array:
        """All of an array."""
        return self.files.array(self.row["path"], name).read()

    def decode(self, name: str) -> None:
        """Decode an array, chunk by chunk."""
        array = self.files.array(self.row["path"], name)
        scratch = None
        for i in range(-(-len(array) // array.chunk_rows)):
            scratch = array.chunk(i, scratch)


def _extents(row: dict[str, Any], structures: pl.DataFrame) -> dict[str, tuple[Array, Array]]:
    """First row of each structure, and the one after its last, along the dimensions of a group."""
    place = structures["row"].to_numpy()
    atoms = structures["first_atom"].to_numpy(), structures["n_atoms"].to_numpy()
    if row.get("rows") is not None:
        place = np.searchsorted(row["rows"], place)
        atoms = _starts(row["structure_n_atoms"])[place], atoms[1]
    extents = {"structure": (place, place + 1), "atom": (atoms[0], atoms[0] + atoms[1])}
    if row.get("structure_n_pairs") is not None:
        pairs = _starts(row["structure_n_pairs"])
        extents["pair"] = pairs[place], pairs[place + 1]
    return extents


def _starts(counts: list[int]) -> Array:
    return np.concatenate([[0], np.cumsum(counts)])


def _check_structures(group: _Group) -> None:
    part, rows = group.row, group.structures
    offsets = group.values("structure_offsets")
    _check_offsets(group, "structure_offsets", offsets, part["n_structures"], part["n_atoms"])
    for name, n in (("numbers", part["n_atoms"]), ("cells", part["n_structures"])):
        group.expect("wrong_count", f"length of {name}", n, group.length(name))
    at = rows["row"].to_numpy()
    firsts, counts = rows["first_atom"].to_numpy(), rows["n_atoms"].to_numpy()
    moved = (offsets[at] != firsts) | (offsets[at + 1] - offsets[at] != counts)
    for i in np.flatnonzero(moved).tolist():
        group.problem(
            "wrong_place",
            f"the atoms of {rows['structure_id'][i]} are not where the catalogue says",
            concerns=np.arange(len(rows)) == i,
        )
    if group.deep:
        found = [
            h.hex() for h in read_structures(group.files.lake, part["part_id"]).content_hashes()
        ]
        for i, row in enumerate(rows.iter_rows(named=True)):
            if row["content_hash"] not in (None, found[row["row"]]):
                group.problem(
                    "wrong_content",
                    f"{row['structure_id']} is another structure",
                    concerns=np.arange(len(rows)) == i,
                )


def _check_features(group: _Group, n_atoms_of_part: int) -> None:
    record = group.row
    offsets = group.values("structure_offsets")
    n_atoms = n_atoms_of_part
    if record["rows"] is not None:
        n_atoms = sum(record["structure_n_atoms"])
        group.expect("wrong_count", "rows", record["n_structures"], len(record["rows"]))
        group.expect(
            "wrong_count",
            "atoms of each structure",
            record["structure_n_atoms"],
            np.diff(offsets).tolist(),
        )
    _check_offsets(group, "structure_offsets", offsets, record["n_structures"], n_atoms)
    group.expect("wrong_count", "length of features", record["n_rows"], group.length("features"))
    if record["structure_n_pairs"] is None:
        return
    pairs = group.values("pair_offsets")
    _check_offsets(group, "pair_offsets", pairs, n_atoms, record["n_pairs"], may_be_empty=True)
    group.expect(
        "wrong_count",
        "pairs of each structure",
        record["structure_n_pairs"],
        np.diff(pairs[offsets]).tolist(),
    )
    for name in ("neighbour_index", "cell_shift", "gradient_positions"):
        group.expect("wrong_count", f"length of {name}", record["n_pairs"], group.length(name))
    first, last = (
        np.repeat(bounds, np.diff(pairs[offsets])) for bounds in (offsets[:-1], offsets[1:])
    )
    neighbours = group.values("neighbour_index")
    strays = np.flatnonzero((neighbours < first) | (neighbours >= last))
    if len(strays):
        group.problem(
            "stray_neighbour",
            f"{len(strays)} pairs, the first of them pair {strays[0]}, lead out of their structure",
        )


def _check_offsets(
    group: _Group,
    name: str,
    offsets: Array,
    n: int,
    last: int,
    *,
    may_be_empty: bool = False,
) -> None:
    group.expect("wrong_count", f"length of {name}", n + 1, len(offsets))
    group.expect("wrong_offsets", f"the first of {name}", 0, int(offsets[0]))
    group.expect("wrong_offsets", f"the last of {name}", last, int(offsets[-1]))
    if (np.diff(offsets) < (0 if may_be_empty else 1)).any():
        group.problem("wrong_offsets", f"{name} must increase")
