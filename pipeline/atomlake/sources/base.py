"""What a source is: files or databases of structures, indexed once, read by range."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from urllib.parse import unquote

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, model_validator

from atomlake.errors import SetAside, SourceError
from atomlake.structures import LABELS, Floats, Structures

#: Records read at once while looking for species, to bound memory.
SPECIES_BATCH = 1000


#: What a URL says before its host: scheme, user, password.
_CREDENTIALS = re.compile(r"([A-Za-z][\w+.-]*://)([^:/@]*):(.*)@")
_VARIABLE = re.compile(r"\$\{(\w+)\}")


class LabelKeys(BaseModel):
    """Which keys of a source hold which labels.

    ``None`` leaves the choice to the reader: the calculator results that ase knows, and
    the plain keys ``energy``, ``forces`` and ``stress``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    energy: str | None = Field(default=None, description="Key of the energy (eV).")
    forces: str | None = Field(default=None, description="Key of the forces (eV/Å).")
    stress: str | None = Field(default=None, description="Key of the stress (eV/Å^3).")
    structure: tuple[str, ...] = Field(
        default=(), description="Further numeric keys of whole structures to keep."
    )
    atom: tuple[str, ...] = Field(
        default=(), description="Further numeric per-atom arrays to keep."
    )

    @model_validator(mode="after")
    def _one_meaning_each(self) -> LabelKeys:
        further = [*self.structure, *self.atom]
        for key in further:
            if key in LABELS or further.count(key) > 1:
                raise ValueError(
                    f"the label {key!r} would be stored twice: list each further key once, and "
                    f"none of {', '.join(LABELS)}, which have settings of their own"
                )
        return self


class Source(BaseModel):
    """One entry of a recipe's ``sources``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(
        description="A file, a glob, a folder, an s3:// URL, a database URL (its password is not "
        "kept; ${NAME} in its place is taken from the environment), or ase:NAME for a collection "
        "that ships inside ase (ase:g2, ase:s22, ase:dcdft, ase:elements)."
    )
    format: str = Field(default="auto", description="Registered format, or auto by file name.")
    name: str | None = Field(
        default=None, description="Name under which the lake knows it; the path if not given."
    )
    select: str | None = Field(
        default=None, description="ase.db selection such as 'natoms<20,energy<0' (databases only)."
    )
    labels: LabelKeys = LabelKeys()

    # Beside the fields, so that nothing that is printed, logged or stored of a source holds it.
    _password: SecretStr | None = PrivateAttr(default=None)

    @model_validator(mode="wrap")
    @classmethod
    def _keep_password_apart(cls, value: Any, validate: Callable[[Any], Source]) -> Source:
        password = None
        if isinstance(value, Mapping) and isinstance(value.get("path"), str):
            path = value["path"]
            if found := _CREDENTIALS.match(path):
                scheme, user, password = found.groups()
                path = f"{scheme}{user}{'@' if user else ''}{path[found.end() :]}"
            if "://" in path and "password=" in path:
                raise ValueError(
                    "a password among the parameters of a URL would be stored with it; write "
                    "user:${NAME}@host, where NAME is a variable of the environment"
                )
            value = {**value, "path": path}
        source = validate(value)
        if password is not None:
            source._password = SecretStr(password)
        return source

    @property
    def label(self) -> str:
        """The name under which the lake knows this source."""
        return self.name or self.path

    @property
    def password(self) -> str | None:
        """The password of a database that the path held, where it says ``${NAME}`` that variable.

        Raises
        ------
        SourceError
            If the environment has no such variable.
        """
        if self._password is None:
            return None
        text = self._password.get_secret_value()
        if (variable := _VARIABLE.fullmatch(text)) is None:
            return unquote(text)
        try:
            return os.environ[variable[1]]
        except KeyError:
            raise SourceError(
                f"the password of {self.path} is to be in the variable {variable[1]}, which the "
                f"environment on {socket.gethostname()} does not have"
            ) from None


class Guard(NamedTuple):
    """What a parser of others may take; what takes more is set aside.

    Attributes
    ----------
    seconds : float
        Time for one structure.
    nbytes : int
        Memory, beside that of the libraries.
    """

    seconds: float = 60.0
    nbytes: int = 2 * 10**9


class Fingerprint(NamedTuple):
    """The state of a location: equal fingerprints mean equal content.

    ``nbytes`` and ``mtime_ns`` are 0 for sources that have none; ``digest`` then says it all.
    """

    nbytes: int
    mtime_ns: int
    digest: str


@dataclass(frozen=True)
class FileIndex:
    """Where each record of one file is, and what can be said of it without parsing it.

    Attributes
    ----------
    keys : Series of str
        Name of each record within its file, unique there: its position for files, the row
        id for databases.
    record_hashes : uint8 array, shape (n_records, 16)
        Hash of each record's raw content together with the options that decide how it is
        read (format, labels): equal hashes mean equal structures.
    n_atoms : int32 array, shape (n_records,)
        Number of atoms; 0 where it is not known without parsing.
    volumes : float32 array, shape (n_records,)
        Cell volume in Å^3; NaN where there is none or it is not known.
    locations : int64 array, shape (n_records, 2)
        Where the reader finds the record: byte offset and length, or what suits it.
    set_aside : mapping of int to SetAside
        Records that are known to be unreadable; reading them gives no structure either.
    """

    keys: pl.Series
    record_hashes: NDArray[np.uint8]
    n_atoms: NDArray[np.int32]
    volumes: NDArray[np.float32]
    locations: NDArray[np.int64]
    set_aside: Mapping[int, SetAside] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def hash_numbers(self) -> pl.Series:
        """Return the record hashes as numbers of 128 bits, the first byte the highest."""
        high, low = self.record_hashes.view(">u8").astype(np.uint64).T
        halves = pl.DataFrame({"high": high, "low": low}).lazy()
        number = pl.col("high").cast(pl.UInt128) * 2**64 + pl.col("low")
        return halves.select(record_hash=number).collect(engine="streaming").to_series()


@dataclass(frozen=True)
class ReadResult:
    """What became of the records that were asked for.

    Attributes
    ----------
    structures : Structures
        Those that could be read, in the order asked for.
    rows : int64 array, shape (n_structures,)
        Which of the locations each structure came from, ascending.
    record_hashes : uint8 array, shape (n_structures, 16)
        Hash of what was read, as in :attr:`FileIndex.record_hashes`: another one there means
        that the record has changed since it was indexed.
    set_aside : mapping of int to SetAside
        Why each of the other locations gave no structure.
    """

    structures: Structures
    rows: NDArray[np.int64]
    record_hashes: NDArray[np.uint8]
    set_aside: Mapping[int, SetAside] = field(default_factory=dict)


class Unreadable(Exception):
    """One record cannot be read; never leaves the sources.

    Parameters
    ----------
    code, reason : str
        As in :class:`atomlake.errors.SetAside`.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.problem = SetAside(code, reason)


class Reader(ABC):
    """Reads one location (a file, a database) in one format.

    Parameters
    ----------
    location : str
        Path or URL.
    source : Source
        The recipe's entry that led here.
    scratch : Path
        Folder on storage that every worker sees, for decompressed copies; what is in it
        can be deleted at any time between runs.
    guard : Guard, optional
        What a parser of others may take.
    """

    #: Name in recipes and in the registry.
    format: ClassVar[str]
    #: One line for ``atomlake sources``.
    title: ClassVar[str]
    #: Patterns of locations, in lower case, that select this format when a recipe says ``auto``.
    patterns: ClassVar[tuple[str, ...]] = ()
    #: Whether a source's ``select`` has a meaning.
    has_select: ClassVar[bool] = False
    #: Whether :meth:`index` sees one state of the location, whatever is written meanwhile. What
    #: was written since the fingerprint was taken then is found again by the next run.
    has_snapshots: ClassVar[bool] = False
    #: Raised whenever the same record is read differently.
    version: ClassVar[int] = 1

    def __init__(
        self, location: str, source: Source, scratch: Path, guard: Guard | None = None
    ) -> None:
        self.location = location
        self.source = source
        self.scratch = scratch
        self.guard = guard or Guard()

    @property
    def files(self) -> list[Path]:
        """The files that hold the location's content."""
        return [Path(self.location)]

    @property
    def record_salt(self) -> bytes:
        """16 bytes that enter every record hash: what decides how the record is read."""
        labels = self.source.labels.model_dump_json()
        options = f"{self.format} {self.version} {self.source.format} {labels}"
        return hashlib.blake2b(options.encode(), digest_size=16).digest()

    def fingerprint(self, known: Fingerprint | None = None) -> Fingerprint:
        """Return the present state of the location.

        Parameters
        ----------
        known : Fingerprint, optional
            An earlier state. Where size and time of change are still the same, it is
            returned as it is and the content is not read.

        Raises
        ------
        SourceError
            If the location is missing or may not be read.
        """
        try:
            states = [file.stat() for file in self.files]
            nbytes = sum(state.st_size for state in states)
            mtime_ns = max(state.st_mtime_ns for state in states)
            if known is not None and known[:2] == (nbytes, mtime_ns):
                return known
            digest = hashlib.blake2b(digest_size=16)
            for file in self.files:
                with file.open("rb") as stream:
                    while block := stream.read(2**20):
                        digest.update(block)
        except OSError as error:
            raise SourceError(f"{self.location} cannot be read: {error.strerror}") from error
        return Fingerprint(nbytes, mtime_ns, digest.hexdigest())

    def require(self, expected: Fingerprint) -> None:
        """Make sure, after reading, that the location is in the state it was expected in.

        Raises
        ------
        SourceError
            If it is not, or if it is gone.
        """
        if self.fingerprint(expected).digest != expected.digest:
            raise self.changed

    @property
    def changed(self) -> SourceError:
        """What to raise where the location is not what it was."""
        return SourceError(
            f"{self.location} changed while it was being read; run again when it is complete"
        )

    def appended(self, known: Fingerprint, n_known: int) -> FileIndex | None:
        """Index only what was appended since an earlier state, where that is all that changed.

        Parameters
        ----------
        known : Fingerprint
            The earlier state, in which every record was whole.
        n_known : int
            Records that it had.

        Returns
        -------
        FileIndex or None
            What :meth:`index` returns from record ``n_known`` on; None where something else
            changed, where it is not certain that the earlier records are as they were, and
            from readers that cannot tell.
        """
        return None

    @abstractmethod
    def index(self) -> FileIndex:
        """List the records in order, without parsing positions where that can be avoided.

        Raises
        ------
        SourceError
            If the location as a whole cannot be read: missing, not of this format, or
            without a single record. Damage within it is reported in ``set_aside``.
        """

    @abstractmethod
    def read(self, locations: NDArray[np.int64]) -> ReadResult:
        """Read the records at ``locations`` (rows of :attr:`FileIndex.locations`).

        Reading never executes anything that the location contains. Geometry is not
        checked here (:func:`atomlake.structures.check` does), only that it can be read.
        Whether a record has changed since it was indexed is told by its hash; whether one that
        cannot be read has, by :meth:`require`.

        Raises
        ------
        SourceError
            If the location as a whole has become unreadable since it was indexed.
        """

    def species(self, index: FileIndex) -> Sequence[int]:
        """Atomic numbers that occur anywhere in the location, ascending."""
        found: set[int] = set()
        readable = [row for row in range(len(index)) if row not in index.set_aside]
        for first in range(0, len(readable), SPECIES_BATCH):
            result = self.read(index.locations[readable[first : first + SPECIES_BATCH]])
            found.update(np.unique(result.structures.numbers).tolist())
        return sorted(found)


class Record(NamedTuple):
    """One structure as a reader found it, with arrays as :meth:`Structures.single` takes them."""

    numbers: NDArray[Any]
    positions: Floats
    cell: Floats
    pbc: NDArray[Any]
    structure_labels: Mapping[str, Floats]
    atom_labels: Mapping[str, Floats]


#: Gives the hashes of the records in some rows, of which the structures were made.
RecordHashes = Callable[[NDArray[np.int64], Structures], Sequence[bytes]]


class Batch:
    """Collects structures that are read one by one, and joins them in the end."""

    def __init__(self) -> None:
        self._groups: dict[tuple[Any, ...], list[tuple[int, Record]]] = {}
        self._problems: dict[int, SetAside] = {}

    def add(self, row: int, record: Record | SetAside) -> None:
        """Add the structure of one row, or why there is none."""
        if isinstance(record, SetAside):
            self.set_aside(row, record)
            return
        shapes = (
            *((name, value.shape) for name, value in record.structure_labels.items()),
            None,
            *((name, value.shape[1:]) for name, value in record.atom_labels.items()),
        )
        self._groups.setdefault(shapes, []).append((row, record))

    def set_aside(self, row: int, problem: SetAside) -> None:
        """Say why a row gives no structure."""
        self._problems[row] = problem

    def result(self, hashes: RecordHashes) -> ReadResult:
        """Return what became of the rows; see :func:`gather`."""
        groups = [_joined(group) for group in self._groups.values()]
        return gather(groups, self._problems, hashes)


def _joined(group: Sequence[tuple[int, Record]]) -> tuple[Sequence[int], Structures]:
    rows, records = zip(*group, strict=True)
    numbers, positions, cells, pbc, structure_labels, atom_labels = zip(*records, strict=True)
    structure_offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(array) for array in numbers], out=structure_offsets[1:])
    return rows, Structures(
        numbers=np.concatenate(numbers).astype(np.int32),
        positions=np.concatenate(positions).astype(np.float64).reshape(-1, 3),
        cells=np.array(cells, dtype=np.float64).reshape(-1, 3, 3),
        pbc=np.array(pbc, dtype=bool).reshape(-1, 3),
        structure_offsets=structure_offsets,
        structure_labels={
            name: np.array([labels[name] for labels in structure_labels])
            for name in structure_labels[0]
        },
        atom_labels={
            name: np.concatenate([labels[name] for labels in atom_labels])
            for name in atom_labels[0]
        },
    )


def gather(
    groups: Sequence[tuple[Sequence[int] | NDArray[np.int64], Structures]],
    set_aside: Mapping[int, SetAside],
    hashes: RecordHashes,
) -> ReadResult:
    """Join structures that were read in groups into one result, in the order asked for.

    Parameters
    ----------
    groups : sequence of (rows, Structures)
        The location each structure came from, ascending within a group, and the structures.
    set_aside : mapping of int to SetAside
        Records that could not be read.
    hashes : callable
        Gives the hashes of the others.

    Returns
    -------
    ReadResult
        Where a label has one shape in some structures and another in others, the shape of
        the first structure that has it counts, and the others are set aside.
    """
    problems = dict(set_aside)
    shapes: dict[str, tuple[int, ...]] = {}
    fitting = []
    for rows, structures in sorted(groups, key=lambda group: group[0][0]):
        labels = {**structures.structure_labels, **structures.atom_labels}
        clashes = [
            f"{name} has shape {list(value.shape[1:])}, elsewhere {list(shapes[name])}"
            for name, value in labels.items()
            if shapes.setdefault(name, value.shape[1:]) != value.shape[1:]
        ]
        if clashes:
            problem = SetAside("label_shape", "a label must have one shape, but " + clashes[0])
            problems.update({int(row): problem for row in rows})
        else:
            fitting.append((np.asarray(rows, dtype=np.int64), structures))
    if not fitting:
        nothing = np.zeros(0, dtype=np.int64), np.zeros((0, 16), dtype=np.uint8)
        return ReadResult(Structures.empty(), *nothing, problems)
    rows = np.concatenate([rows for rows, _ in fitting])
    structures = Structures.concatenate([structures for _, structures in fitting])
    if (np.diff(rows) < 0).any():
        order = np.argsort(rows)
        rows, structures = rows[order], structures.take(order)
    return ReadResult(structures, rows, _as_array(hashes(rows, structures)), problems)


def content_hashes(salt: bytes) -> RecordHashes:
    """Hash records by what was parsed from them, where that is all there is to hash."""
    return lambda rows, structures: [_salted(h, salt) for h in structures.content_hashes()]


def _salted(content: bytes, salt: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16, person=salt).digest()


def _as_array(hashes: Sequence[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(hashes), dtype=np.uint8).reshape(-1, 16)


def parsed_index(
    result: ReadResult, keys: Sequence[str], locations: NDArray[np.int64], salt: bytes
) -> FileIndex:
    """Index records that had to be parsed to be counted.

    Parameters
    ----------
    result : ReadResult
        What became of them.
    keys : sequence of str
        Their names.
    locations : int64 array, shape (n_records, 2)
        Where they are.
    salt : bytes
        The reader's :attr:`Reader.record_salt`.
    """
    structures = result.structures
    hashes = np.zeros((len(keys), 16), dtype=np.uint8)
    hashes[result.rows] = result.record_hashes
    for row, problem in result.set_aside.items():
        hashes[row] = np.frombuffer(_salted(repr(problem).encode(), salt), dtype=np.uint8)
    n_atoms = np.zeros(len(keys), dtype=np.int32)
    n_atoms[result.rows] = structures.n_atoms_per_structure
    volumes = np.full(len(keys), np.nan, dtype=np.float32)
    volumes[result.rows] = cell_volumes(structures.cells)
    return FileIndex(
        keys=pl.Series(keys, dtype=pl.String),
        record_hashes=hashes,
        n_atoms=n_atoms,
        volumes=volumes,
        locations=locations,
        set_aside=dict(result.set_aside),
    )


def numbered_keys(n_records: int, first: int = 0) -> pl.Series:
    """Keys of the records of a file that has no better names for them: their positions."""
    return pl.int_range(first, first + n_records, eager=True).cast(pl.String)


def cell_volumes(cells: Floats) -> NDArray[np.float32]:
    """Volume of each cell in Å^3; NaN where there is none.

    Parameters
    ----------
    cells : float64 array, shape (n, 3, 3)
        Cell vectors as rows.
    """
    with np.errstate(all="ignore"):
        volumes = np.abs((cells[:, 0] * np.cross(cells[:, 1], cells[:, 2])).sum(axis=1))
        return np.where(volumes > 0, volumes, np.nan).astype(np.float32)
