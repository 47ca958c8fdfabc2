"""Extended XYZ: plain or compressed, cut into records without parsing, parsed in bulk.

The lines of many structures are parsed by a kernel in one call, at about 10 ns a number; numpy
parses what the kernel refuses, and is slower by the factor 10. No input can make either write
outside its buffers. A parser in C that is called once per structure (the package ``extxyz``) is
no faster than numpy on small structures, and malformed comments crash it.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import re
import tempfile
import zlib
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atomlake.errors import SetAside, SourceError
from atomlake.kernels import text as columns_of_text
from atomlake.sources import labels
from atomlake.sources.base import (
    FileIndex,
    Fingerprint,
    LabelKeys,
    Reader,
    ReadResult,
    RecordHashes,
    Unreadable,
    gather,
    numbered_keys,
)
from atomlake.structures import ATOMIC_NUMBERS, CHEMICAL_SYMBOLS, Floats, Structures

#: Bytes read at once.
BLOCK_NBYTES = 2**23
#: Atoms parsed at once, to bound memory.
BLOCK_ATOMS = 50_000
#: Bytes in which a count of atoms is looked for.
MAX_COUNT_NBYTES = 100
#: A longer line is no line of text.
MAX_LINE_NBYTES = 2**26

_OPENERS: Mapping[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


class ExtendedXyz(Reader):
    """Files of extended or plain XYZ, as they are or compressed.

    Keys and columns mean what ase takes them to mean: a ``Lattice`` without ``pbc`` is
    periodic in all directions, a structure without ``Lattice`` has no cell, columns beyond
    those that ``Properties`` announces are ignored. A species is a chemical symbol, in any
    case, or an atomic number; isotopes (``D``) and names of atoms (``C1``) are no species,
    and structures that have one are set aside.

    A compressed file is decompressed once into the scratch folder, where every worker finds
    the copy under a name made of the file's path, size and time of change.
    """

    format: ClassVar[str] = "extxyz"
    title: ClassVar[str] = "extended XYZ, plain or compressed (gz, bz2, xz)"
    patterns: ClassVar[tuple[str, ...]] = tuple(
        f"*{name}{compression}" for name in (".xyz", ".extxyz") for compression in ("", *_OPENERS)
    )

    def index(self) -> FileIndex:
        """List the records; see :class:`atomlake.sources.base.Reader`."""
        path, is_truncated = Path(self.location), False
        if self._opener is not None:
            path, is_truncated = self._decompress()
        try:
            with path.open("rb", buffering=0) as stream:
                index = _index(stream, self.record_salt, is_truncated)
        except OSError as error:
            raise self._unreadable(error) from error
        except Unreadable as error:
            raise SourceError(f"{self.location} holds no XYZ structure: {error}") from error
        if not len(index):
            raise SourceError(f"{self.location} is empty; expected at least one structure")
        return index

    def appended(self, known: Fingerprint, n_known: int) -> FileIndex | None:
        """Index what was appended; see :class:`atomlake.sources.base.Reader`.

        The earlier text must still be there, byte for byte, end with a line, and go on with a
        count of atoms: then no record of the earlier state extends into what follows.
        """
        if self._opener is not None or not known.nbytes:
            return None
        try:
            with Path(self.location).open("rb", buffering=0) as stream:
                if not _begins_as(stream, known):
                    return None
                index = _index(stream, self.record_salt, is_truncated=False)
        except (OSError, Unreadable):
            return None
        if index.set_aside:  # their reasons name lines of the whole file
            return None
        index.locations[:, 0] += known.nbytes
        return replace(index, keys=numbered_keys(len(index), n_known))

    def read(self, locations: NDArray[np.int64]) -> ReadResult:
        """Read records; see :class:`atomlake.sources.base.Reader`."""
        path = Path(self.location)
        if self._opener is not None and not (path := self._copy).exists():
            path, _ = self._decompress()
        batch, digests, salt = _Batch(self.source.labels), [], self.record_salt
        try:
            with path.open("rb", buffering=2**17) as stream:
                for row, (offset, nbytes) in enumerate(locations.tolist()):
                    stream.seek(offset)
                    content = stream.read(nbytes)
                    digests.append(_digest(content, salt))
                    batch.add(row, content)
        except OSError as error:
            raise self._unreadable(error) from error
        return batch.result(lambda rows, structures: [digests[row] for row in rows])

    @property
    def _opener(self) -> Any:
        return _OPENERS.get(Path(self.location).suffix.lower())

    @property
    def _copy(self) -> Path:
        try:
            state = os.stat(self.location)
        except OSError as error:
            raise self._unreadable(error) from error
        identity = f"{Path(self.location).resolve()} {state.st_size} {state.st_mtime_ns}"
        name = hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
        return self.scratch / f"{name}.xyz"

    def _decompress(self) -> tuple[Path, bool]:
        """Write the copy, in one step; say also whether the compressed file ends too early."""
        copy = self._copy
        self.scratch.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.scratch, suffix=".part")
        is_truncated = False
        try:
            with os.fdopen(handle, "wb") as target:
                for block in self._decompressed():
                    is_truncated = block is None
                    target.write(block or b"")
                target.flush()
                os.fsync(target.fileno())
            os.replace(name, copy)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return copy, is_truncated

    def _decompressed(self) -> Iterator[bytes | None]:
        """Yield blocks, and None at the end if the compressed file ends too early."""
        try:
            with self._opener(self.location, "rb") as stream:
                while block := stream.read1(BLOCK_NBYTES):
                    yield block
        except EOFError:
            yield None
        except (OSError, zlib.error, lzma.LZMAError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise self._unreadable(error) from error
            raise SourceError(
                f"{self.location} cannot be decompressed, and what precedes the damage is not "
                f"to be trusted either ({error}); restore the file or correct its name"
            ) from error

    def _unreadable(self, error: OSError) -> SourceError:
        return SourceError(f"{self.location} cannot be read: {error.strerror}")


# ----- Where the records are

_COUNT = re.compile(rb"[ \t]*(\d{1,8})[ \t\r]*\n?\Z")
_COUNT_LINE = re.compile(rb"[ \t]*(\d{1,8})[ \t\r]*\n")
_LATTICE = re.compile(rb"""Lattice\s*=\s*["'{\[]([^"'}]*)""")
_FORTRAN_EXPONENT = re.compile(r"(?<=[\d.])[dD](?=[+-]?\d{1,3}(?!\S))")
_BRACKETS = str.maketrans("[]{},", "     ")


class _Record(NamedTuple):
    """A range of lines: a structure, or what could not be understood (without content)."""

    offset: int
    nbytes: int
    content: bytes
    n_atoms: int
    problem: SetAside | None


class _Window:
    """The part of a stream under inspection, cut into lines that are counted from 0."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._is_complete = False
        self._data = b""
        self._offset = 0
        self._first = 0
        self._ends: list[int] = []

    @property
    def last(self) -> int:
        """One past the last whole line that was read."""
        return self._first + len(self._ends)

    @property
    def is_cut(self) -> bool:
        """Whether the stream ends within the last line."""
        return self._is_complete and not self._data.endswith(b"\n")

    def extend(self, keep: int) -> bool:
        """Forget the lines before ``keep`` and read on; False at the end of the stream."""
        if self._is_complete:
            return False
        start = self._start(keep)
        kept = self._data[start:]
        more = self._stream.read(max(BLOCK_NBYTES, len(kept)))
        self._is_complete = not more
        self._data = kept + more
        self._offset += start
        self._first = keep
        text = np.frombuffer(self._data, dtype=np.uint8)
        self._ends = (np.flatnonzero(text == ord("\n")) + 1).tolist()
        rest = len(self._data) - (self._ends[-1] if self._ends else 0)
        if rest > MAX_LINE_NBYTES:
            raise Unreadable("malformed", f"line {self.last + 1} is longer than 64 MiB")
        if self._is_complete and rest:
            self._ends.append(len(self._data))
        return True

    def has(self, line: int, keep: int) -> bool:
        """Whether the stream has a line; reads on as far as necessary."""
        while line >= self.last:
            if not self.extend(keep):
                return False
        return True

    def line(self, line: int) -> bytes:
        """Bytes of a line, its end included."""
        return self._data[self._start(line) : self._ends[line - self._first]]

    def count(self, line: int) -> int | None:
        """Return the number on a line that holds nothing else, None for other lines."""
        match = _COUNT.match(self.line(line))
        return int(match[1]) if match else None

    def offset(self, line: int) -> int:
        """Position in the stream at which a line begins, or at which the last one ends."""
        return self._offset + self._start(line)

    def lines(self, start: int, stop: int) -> bytes:
        """Bytes of the lines ``start:stop``."""
        return self._data[self._start(start) : self._start(stop)]

    def run(self, line: int) -> Iterator[tuple[int, _Record]]:
        """Yield structures that follow each other, and the line after each.

        Ends before anything else than one count leading to the next, and before the last
        structure in the window.
        """
        data, ends = self._data, self._ends
        last = line - self._first
        start = self._start(line)
        match = _COUNT_LINE.match(data, start)
        while match:
            n_atoms = int(match[1])
            last += 2 + n_atoms
            if last >= len(ends):
                return
            stop = ends[last - 1]
            match = _COUNT_LINE.match(data, stop)
            if match:
                content = data[start:stop]
                yield (
                    self._first + last,
                    _Record(self._offset + start, stop - start, content, n_atoms, None),
                )
            start = stop

    def _start(self, line: int) -> int:
        return self._ends[line - self._first - 1] if line > self._first else 0


def _records(stream: IO[bytes]) -> Iterator[_Record]:
    """Cut a stream into records, by the counts of atoms.

    A count that does not lead to the next count or to the end is checked against the lines
    that it claims. From where a count was expected and not found, or from a structure whose
    lines are not those of atoms, everything up to the next line at which a whole structure
    begins is one record with a problem.
    """
    window = _Window(stream)
    line = 0
    while window.has(line, line):
        for following, record in window.run(line):
            yield record
            line = following
        if window.line(line).isspace():
            line += 1
            continue
        offset = window.offset(line)
        n_atoms = window.count(line)
        stop = None if n_atoms is None else _end(window, line, n_atoms)
        if n_atoms is None or stop is None:
            stop, problem = _resynchronise(window, line)
            yield _Record(offset, window.offset(stop) - offset, b"", 0, problem)
        else:
            problem = None
            if stop > window.last:
                stop = window.last
                problem = SetAside(
                    "truncated",
                    f"expected {n_atoms} atoms after line {line + 2}, but the file ends after "
                    f"{max(stop - line - 2, 0)}; complete it",
                )
            content = window.lines(line, stop)
            yield _Record(offset, len(content), content, n_atoms, problem)
        line = stop


def _end(window: _Window, start: int, n_atoms: int, is_sure: bool = True) -> int | None:
    """Find the line after the structure that begins at ``start``.

    Parameters
    ----------
    window : _Window
        Where to look.
    start, n_atoms : int
        The line that holds the count of atoms, and the count.
    is_sure : bool
        Whether a count is known to belong there. If not, the structure must be complete and
        every one of its lines look like an atom.

    Returns
    -------
    int or None
        None if this is no structure; a line beyond the last if the stream ends within it.
    """
    stop = checked = start + 2
    stop += n_atoms
    while window.last < stop:
        if not _are_atoms(window, checked, window.last - window.is_cut):
            return None
        checked = max(checked, window.last)
        if not window.extend(start):
            return stop if is_sure else None
    last_atom = stop
    while stop < last_atom + 3 and window.has(stop, start) and _is_vector(window.line(stop)):
        stop += 1
    following = stop
    while window.has(following, start) and window.line(following).isspace():
        following += 1
    leads_on = following == window.last or window.count(following) is not None
    if leads_on and is_sure:
        return stop
    if not _are_atoms(window, start + 2, last_atom):
        return None
    return stop if leads_on or not _is_atom(window.line(following)) else None


def _resynchronise(window: _Window, start: int) -> tuple[int, SetAside]:
    """Find the next line at which a whole structure begins; say what is wrong before it."""
    n_atoms = window.count(start)
    if n_atoms is None:
        found = window.line(start)[:60].decode(errors="replace").strip()
        problem = f"expected the number of atoms, found {found!r}"
    else:
        problem = f"it announces {n_atoms} atoms, but the lines that follow are not as many atoms"
    line = start + 1
    while window.has(line, line):
        n_atoms = window.count(line)
        if n_atoms and _end(window, line, n_atoms, is_sure=False) is not None:
            break
        line += 1
    reason = f"line {start + 1}: {problem}; lines {start + 1} to {line} are left out"
    return line, SetAside("malformed", reason)


def _is_vector(line: bytes) -> bool:
    return line.lstrip().startswith(b"VEC")


def _are_atoms(window: _Window, first: int, last: int) -> bool:
    return all(_is_atom(window.line(line)) for line in range(first, last))


def _is_atom(line: bytes) -> bool:
    tokens = line.decode("latin-1").split()
    return len(tokens) >= 4 and sum(map(_is_number, tokens)) >= 3


def _is_number(token: str) -> bool:
    try:
        float(_with_exponents(token))
    except ValueError:
        return False
    return True


def _with_exponents(text: str) -> str:
    """Write exponents as Python does, which Fortran writes with D (``1.5D-03``)."""
    return _FORTRAN_EXPONENT.sub("e", text)


def _digest(content: bytes, salt: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16, person=salt).digest()


def _begins_as(stream: IO[bytes], known: Fingerprint) -> bool:
    """Read on to the end of an earlier state; say whether a structure follows there."""
    digest = hashlib.blake2b(digest_size=16)
    rest, block = known.nbytes, b""
    while rest and (read := stream.read(min(rest, BLOCK_NBYTES))):
        block = read
        digest.update(block)
        rest -= len(block)
    follows = stream.read(MAX_COUNT_NBYTES)
    stream.seek(known.nbytes)
    return (
        not rest
        and digest.hexdigest() == known.digest
        and block.endswith(b"\n")
        and _COUNT_LINE.match(follows) is not None
    )


def _index(stream: IO[bytes], salt: bytes, is_truncated: bool) -> FileIndex:
    hashes = bytearray()
    n_atoms, volumes, locations = array("i"), array("f"), array("q")
    problems: dict[int, SetAside] = {}
    content = b""
    for offset, nbytes, content, count, problem in _records(stream):
        if problem is not None:
            problems[len(n_atoms)] = problem
        hashes += _digest(content or repr((nbytes, problem)).encode(), salt)
        n_atoms.append(count)
        volumes.append(_volume(content))
        locations.extend((offset, nbytes))
    if n_atoms and len(problems) == len(n_atoms) and problems[0].code == "malformed":
        raise Unreadable(*problems[0])
    if is_truncated and len(n_atoms) - 1 not in problems:
        if content.endswith(b"\n") or not n_atoms:
            hashes += _digest(b"", salt)
            n_atoms.append(0)
            volumes.append(np.nan)
            locations.extend((sum(locations[-2:]), 0))
        else:
            locations[-1] = content.rfind(b"\n") + 1
        problems[len(n_atoms) - 1] = SetAside("truncated", _ENDS_EARLY)
    return FileIndex(
        keys=numbered_keys(len(n_atoms)),
        record_hashes=np.frombuffer(hashes, dtype=np.uint8).reshape(-1, 16),
        n_atoms=np.array(n_atoms, dtype=np.int32),
        volumes=np.array(volumes, dtype=np.float32),
        locations=np.array(locations, dtype=np.int64).reshape(-1, 2),
        set_aside=problems,
    )


_ENDS_EARLY = "the compressed file ends early, and what follows is lost; restore the file"


def _volume(content: bytes) -> float:
    start = content.find(b"Lattice", 0, 4096)
    match = _LATTICE.match(content, start) if start >= 0 else None
    if match is None:
        return np.nan
    try:
        ax, ay, az, bx, by, bz, cx, cy, cz = map(float, match[1].split())
    except ValueError:
        return np.nan
    volume = ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx)
    return abs(volume) or np.nan


# ----- What the records say

#: A key with its value. Every alternative begins differently, so that the time is linear in
#: the length of the line. A key without a value is passed over; one whose quotes are left open
#: has an empty value, which is none that anything accepts.
_PAIR = re.compile(
    r"""("[^"]*"|[^\s="'{\[]++)
        (?:\s*+(=)\s*+(?:"((?:[^"\\]++|\\.)*+)" | '([^']*+)' | \{([^{}]*+)\}
                     | \[((?:[^\[\]]++|\[[^\[\]]*+\])*+)\] | ([^\s"'{\[]\S*+) | ))?""",
    re.VERBOSE | re.DOTALL,
)
#: Groups of values in double quotes and in none, and what others of the kind look like.
_PLAIN_VALUES = {3: r'([^"\\]*+)', 7: r"""([^\s"'{\[]\S*+)"""}
#: What stands for true and false, in any case.
_LOGICALS = {"t": True, "true": True, "1": True, "f": False, "false": False, "0": False}
#: A cell vector on a line of its own after the atoms, as ADF writes it.
_VECTOR = re.compile(r"\s*VEC([123])" + 3 * r"\s+([-+]?\d+\.?\d*(?:[eE][-+]?\d+)?)" + r"\s*\Z")
#: Names of the columns that every structure needs, the preferred ones first.
_SPECIES = ("Z", "numbers", "species", "symbols")
_POSITIONS = ("pos", "positions")
#: Stands for a species that does not exist.
_UNKNOWN = -1


class _Layout(NamedTuple):
    """Where the columns of an atom's line go.

    Attributes
    ----------
    kinds : int8 array
        What each column holds, in the terms of :mod:`atomlake.kernels.text`.
    columns : list of int
        All columns that are parsed, field by field of ``dtype``.
    dtype : numpy.dtype
        ``species``, ``values`` (all numeric columns), ``flags`` (all logical ones) and
        ``last``, the last column if it is none of them, so that its absence is noticed.
    values : dict of str to slice
        Which of the values are the position (``""``) and the labels that are wanted.
    """

    kinds: NDArray[np.int8]
    columns: list[int]
    dtype: np.dtype[np.void]
    values: dict[str, slice]


class _Text(NamedTuple):
    """A record of which only the lines of the atoms are not parsed yet."""

    row: int
    n_atoms: int
    lines: bytes
    cell: list[float]
    pbc: list[bool]
    labels: dict[str, Floats]


class _Table(NamedTuple):
    """What lines of atoms say: the species in all spellings that occur, that of each, numbers."""

    species: list[str]
    species_index: NDArray[np.int32]
    values: Floats


class _Batch:
    """Collects records and parses those together that have the same layout and labels."""

    def __init__(self, keys: LabelKeys) -> None:
        self._keys = keys
        self._comments = _Comments()
        self._layouts: dict[str, _Layout | Unreadable] = {}
        self._waiting: dict[tuple[Any, ...], list[_Text]] = {}
        self._n_waiting = 0
        self._parsed: list[tuple[list[int], Structures]] = []
        self._problems: dict[int, SetAside] = {}

    def add(self, row: int, content: bytes) -> None:
        """Take in one record."""
        try:
            self._add(row, content)
        except Unreadable as error:
            self._problems[row] = error.problem

    def result(self, hashes: RecordHashes) -> ReadResult:
        """Return what became of the records."""
        self._parse_waiting()
        return gather(self._parsed, self._problems, hashes)

    def _add(self, row: int, content: bytes) -> None:
        if not content:
            raise Unreadable("truncated", _ENDS_EARLY)
        head, _, rest = content.partition(b"\n")
        comment, _, body = rest.partition(b"\n")
        if not _COUNT.match(head):
            raise Unreadable("malformed", f"expected the number of atoms, found {head[:60]!r}")
        if not rest:
            raise Unreadable("truncated", "there is a number of atoms and nothing more")
        n_atoms = int(head)
        if not body.endswith(b"\n"):
            body += b"\n"
        n_lines = body.count(b"\n")
        if n_lines < n_atoms:
            raise Unreadable("truncated", f"expected {n_atoms} atoms, found {n_lines}")
        following = body.split(b"\n", n_atoms)[n_atoms] if n_lines > n_atoms else b""
        lines = body.removesuffix(following)
        pairs = self._comments.pairs(comment.decode(errors="replace"))
        properties = pairs.get("Properties", "species:S:1:pos:R:3")
        self._layout(properties)
        cell, pbc = _cell(pairs, following.decode("latin-1"))
        structure_labels = labels.structure_labels(
            self._keys, lambda key: _value(pairs[key]) if key in pairs else None
        )
        text = _Text(row, n_atoms, lines, cell, pbc, structure_labels)
        shapes = tuple((name, value.shape) for name, value in structure_labels.items())
        self._waiting.setdefault((properties, shapes), []).append(text)
        self._n_waiting += n_atoms
        if self._n_waiting >= BLOCK_ATOMS:
            self._parse_waiting()

    def _layout(self, properties: str) -> _Layout:
        if properties not in self._layouts:
            try:
                self._layouts[properties] = _layout(properties, self._keys)
            except Unreadable as error:
                self._layouts[properties] = error
        layout = self._layouts[properties]
        if isinstance(layout, Unreadable):
            raise layout
        return layout

    def _parse_waiting(self) -> None:
        for (properties, _), texts in self._waiting.items():
            self._parse(texts, self._layout(properties))
        self._waiting.clear()
        self._n_waiting = 0

    def _parse(self, texts: list[_Text], layout: _Layout) -> None:
        """Parse records together; where that fails, each half of them on its own."""
        n_atoms, lines = sum(text.n_atoms for text in texts), b"".join(text.lines for text in texts)
        try:
            table = _table(lines, n_atoms, layout)
        except ValueError as error:
            if len(texts) > 1:
                half = len(texts) // 2
                self._parse(texts[:half], layout)
                self._parse(texts[half:], layout)
                return
            try:
                text = _with_exponents(lines.decode("latin-1")).encode("latin-1")
                table = _table(text, n_atoms, layout)
            except ValueError:
                problem = SetAside("malformed", _explain(lines, n_atoms, layout) or str(error))
                self._problems[texts[0].row] = problem
                return
        self._take(texts, layout, table)

    def _take(self, texts: list[_Text], layout: _Layout, table: _Table) -> None:
        """Turn parsed lines into structures; set aside those with an unknown species."""
        numbers = np.array([_NUMBERS[word] for word in table.species], np.int32)[
            table.species_index
        ]
        values = {name: table.values[:, columns] for name, columns in layout.values.items()}
        structure_offsets = np.zeros(len(texts) + 1, dtype=np.int64)
        np.cumsum([text.n_atoms for text in texts], out=structure_offsets[1:])
        structures = Structures(
            numbers=numbers,
            positions=np.ascontiguousarray(values[""]),
            cells=np.array([text.cell for text in texts]).reshape(-1, 3, 3),
            pbc=np.array([text.pbc for text in texts], dtype=bool),
            structure_offsets=structure_offsets,
            structure_labels={
                name: np.array([text.labels[name] for text in texts]) for name in texts[0].labels
            },
            atom_labels=labels.atom_labels(
                self._keys, len(numbers), lambda name: _squeezed(values.get(name))
            ),
        )
        rows = [text.row for text in texts]
        unknown = np.flatnonzero(numbers == _UNKNOWN)
        if len(unknown):
            homes = np.searchsorted(structure_offsets, unknown, side="right") - 1
            for atom, home in zip(unknown[::-1].tolist(), homes[::-1].tolist(), strict=True):
                self._problems[rows[home]] = SetAside(
                    "unknown_species",
                    "expected a chemical symbol or an atomic number, found "
                    f"{table.species[table.species_index[atom]]!r} "
                    f"for atom {atom - structure_offsets[home]}; name the element",
                )
            good = np.setdiff1d(np.arange(len(texts)), homes)
            rows, structures = [rows[s] for s in good], structures.take(good)
        if rows:
            self._parsed.append((rows, structures))


class _Numbers(dict[str, int]):
    """Atomic number of what stands in a species column, worked out once per spelling."""

    def __missing__(self, token: str) -> int:
        number = ATOMIC_NUMBERS.get(token.capitalize(), _UNKNOWN)
        if re.fullmatch("[0-9]{1,3}", token) and int(token) < len(CHEMICAL_SYMBOLS):
            number = int(token)
        if len(self) < 1000:
            self[token] = number
        return number


_NUMBERS = _Numbers()


class _Comments:
    """Takes comments apart, those that look like the one before in a third of the time.

    Comments of a file mostly differ in their values alone. From the second of two that follow each
    other and have the same keys a pattern is made, of all that stands around the values.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._pattern: re.Pattern[str] | None = None

    def pairs(self, comment: str) -> dict[str, str]:
        """Return the values of a comment by their keys."""
        match = self._pattern.fullmatch(comment) if self._pattern else None
        if match:
            return dict(zip(self._names, match.groups(), strict=True))
        found = _pairs(comment)
        names, self._names = self._names, list(found)
        self._pattern = _around_values(comment, len(names)) if self._names == names else None
        return found


def _pairs(comment: str) -> dict[str, str]:
    return {
        key.strip('"'): "".join(values) for key, equals, *values in _PAIR.findall(comment) if equals
    }


def _around_values(comment: str, n_keys: int) -> re.Pattern[str] | None:
    """Pattern of comments that differ from this one in nothing but values.

    What it matches is taken apart by ``_PAIR`` in the same way. None where a key has no value or
    stands twice, a value is in anything but double quotes or none, or there is more between pairs
    than blanks: a quote there could become part of a key with what a value brings.
    """
    pattern, n_values, done, end = "", 0, 0, 0
    for match in _PAIR.finditer(comment):
        group = next((i for i in _PLAIN_VALUES if match[i] is not None), None)
        if group is None or comment[end : match.start()].strip():
            return None
        pattern += re.escape(comment[done : match.start(group)]) + _PLAIN_VALUES[group]
        n_values, done, end = n_values + 1, match.end(group), match.end()
    return re.compile(pattern + re.escape(comment[done:])) if n_values == n_keys else None


def _value(text: str) -> float | list[float] | str:
    for bare in (str, _without_brackets):
        try:
            numbers = list(map(float, bare(text).split()))
        except ValueError:
            continue
        return numbers[0] if len(numbers) == 1 else numbers
    return text


def _without_brackets(text: str) -> str:
    return text.translate(_BRACKETS)


def _cell(pairs: Mapping[str, str], following: str) -> tuple[list[float], list[bool]]:
    """Cell vectors and periodicity, from the comment or from lines after the atoms."""
    cell, pbc = [0.0] * 9, [False] * 3
    if "Lattice" in pairs:
        numbers = _value(pairs["Lattice"])
        if not isinstance(numbers, list) or len(numbers) != 9:
            raise Unreadable(
                "malformed", f"expected nine numbers in Lattice, found {pairs['Lattice'][:60]!r}"
            )
        cell, pbc = numbers, [True] * 3
    if "pbc" in pairs:
        pbc = list(_flags(pairs["pbc"]))
    for line in following.split("\n") if following else ():
        if match := _VECTOR.match(line):
            vector = int(match[1]) - 1
            cell[3 * vector : 3 * vector + 3] = [float(number) for number in match.groups()[1:]]
            pbc[vector] = True
        elif line.strip():
            raise Unreadable("malformed", f"expected nothing after the atoms, found {line[:60]!r}")
    return cell, pbc


@lru_cache(maxsize=100)
def _flags(text: str) -> list[bool]:
    flags = [_LOGICALS.get(token.lower()) for token in _without_brackets(text).split()]
    if len(flags) not in (1, 3) or None in flags:
        raise Unreadable("malformed", f'expected pbc="T T F" or the like, found {text[:60]!r}')
    return [bool(flag) for flag in flags] * (3 // len(flags))


def _layout(properties: str, keys: LabelKeys) -> _Layout:
    """Choose the columns to parse from ``name:type:count`` triplets."""
    fields = properties.split(":")
    found: dict[str, tuple[str, range]] = {}
    n_columns = 0
    for name, kind, count in zip(fields[::3], fields[1::3], fields[2::3], strict=False):
        if kind not in ("S", "R", "I", "L") or not re.fullmatch(r"[1-9][0-9]{0,5}", count):
            break
        found[name] = kind, range(n_columns, n_columns + int(count))
        n_columns += int(count)
    if 3 * len(found) != len(fields):
        raise Unreadable(
            "malformed", f"expected Properties=name:type:count:..., found {properties[:80]!r}"
        )
    species = next((found[name][1] for name in _SPECIES if name in found), range(0))
    position_name = next((name for name in _POSITIONS if name in found), "")
    kind, position = found.get(position_name, ("", range(0)))
    if len(species) != 1 or len(position) != 3 or kind not in ("R", "I"):
        raise Unreadable(
            "malformed",
            "expected a column of species and three of positions (species:S:1:pos:R:3) in "
            f"Properties, found {properties[:80]!r}",
        )

    def lookup(name: str) -> Any:
        if name not in found:
            return None
        kind, columns = found[name]
        is_numeric = kind in ("R", "I")
        return _squeezed(np.zeros((0, len(columns)))) if is_numeric else f"text ({kind})"

    named = {
        name: (keys.forces or name) if name == "forces" else name
        for name in labels.atom_labels(keys, 0, lookup)
    }
    values: dict[str, slice] = {}
    numeric: list[int] = []
    logical: list[int] = []
    for name, (kind, columns) in found.items():
        if columns == species:
            continue
        if kind in ("R", "I"):
            values[name] = slice(len(numeric), len(numeric) + len(columns))
            numeric += columns
        elif kind == "L":
            logical += columns
    kinds = np.full(n_columns, columns_of_text.IGNORED, dtype=np.int8)
    kinds[numeric] = columns_of_text.NUMBER
    kinds[logical] = columns_of_text.LOGICAL
    kinds[species.start] = columns_of_text.WORD
    dtype: list[Any] = [
        ("species", "U8"),
        ("values", "f8", (len(numeric),)),
        ("flags", "U6", (len(logical),)),
    ]
    chosen = [*species, *numeric, *logical]
    if n_columns - 1 not in chosen:
        chosen.append(n_columns - 1)
        dtype.append(("last", "U1"))
    wanted = {"": position_name, **{name: name for name in named.values()}}
    return _Layout(
        kinds, chosen, np.dtype(dtype), {name: values[column] for name, column in wanted.items()}
    )


def _squeezed(columns: Floats | None) -> Floats | None:
    return columns[:, 0] if columns is not None and columns.shape[1] == 1 else columns


_POWERS = columns_of_text.powers()


def call_kernels() -> None:
    """Parse one line, so that the kernel is compiled, or loaded."""
    _table(b"H 0 0 0\n", 1, _layout("species:S:1:pos:R:3", LabelKeys()))


def _table(lines: bytes, n_lines: int, layout: _Layout) -> _Table:
    """Parse lines, one atom each; what the kernel refuses is left to numpy.

    Raises
    ------
    ValueError
        If a line has too few columns, or one that is not of the announced type.
    """
    words = np.zeros(columns_of_text.MAX_WORDS, dtype=np.uint64)
    word_index = np.empty(n_lines, dtype=np.int32)
    values = np.empty((n_lines, layout.dtype["values"].shape[0]))
    text = np.frombuffer(lines, dtype=np.uint8)
    if n_lines != columns_of_text.parse_lines(
        text, layout.kinds, _POWERS, words, word_index, values
    ):
        return _table_by_numpy(lines.decode("latin-1").split("\n")[:n_lines], layout)
    spellings = [word.tobytes().rstrip(b"\0").decode() for word in words[words > 0]]
    return _Table(spellings, word_index, values)


def _table_by_numpy(lines: list[str], layout: _Layout) -> _Table:
    if not any(lines):
        table = np.zeros(0, dtype=layout.dtype)
    else:
        table = np.loadtxt(
            lines, dtype=layout.dtype, usecols=layout.columns, comments=None, ndmin=1
        )
    if len(table) != len(lines):
        raise ValueError("a line is blank")
    if not _LOGICALS.keys() >= {flag.lower() for flag in set(table["flags"].ravel().tolist())}:
        raise ValueError("a logical column holds something else")
    species, species_index = np.unique(table["species"], return_inverse=True)
    return _Table(species.tolist(), species_index.astype(np.int32), table["values"])


def _explain(text: bytes, n_lines: int, layout: _Layout) -> str:
    """Say which atom's line is wrong, and what is wrong with it; nothing if none is."""
    n_columns = len(layout.kinds)
    numeric, logical = (
        np.flatnonzero(layout.kinds == kind).tolist()
        for kind in (columns_of_text.NUMBER, columns_of_text.LOGICAL)
    )
    for atom, line in enumerate(text.decode("latin-1").split("\n")[:n_lines]):
        tokens = line.split()
        if len(tokens) < n_columns:
            return f"atom {atom}: expected {n_columns} columns, found {line[:60].strip()!r}"
        wrong = {column: "a number" for column in numeric if not _is_number(tokens[column])}
        wrong |= {column: "T or F" for column in logical if tokens[column].lower() not in _LOGICALS}
        for column, expected in wrong.items():
            found = tokens[column][:60]
            return f"atom {atom}: expected {expected} in column {column + 1}, found {found!r}"
    return ""
