"""Fixtures of the tests of sources."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from atomlake import sources
from atomlake.sources import ase_database, ase_formats
from atomlake.sources.base import FileIndex, LabelKeys, Reader, ReadResult, Source


class Location(NamedTuple):
    """One location with all that its reader says of it."""

    reader: Reader
    index: FileIndex
    result: ReadResult

    @property
    def structures(self):
        return self.result.structures

    @property
    def rows(self) -> list[int]:
        """The record that each structure came from."""
        readable = [row for row in range(len(self.index)) if row not in self.index.set_aside]
        return [readable[row] for row in self.result.rows]

    @property
    def codes(self) -> dict[int, str]:
        """Why each record that gave no structure was set aside."""
        return {row: problem.code for row, problem in self._problems.items()}

    @property
    def reasons(self) -> dict[int, str]:
        return {row: problem.reason for row, problem in self._problems.items()}

    @property
    def _problems(self):
        readable = [row for row in range(len(self.index)) if row not in self.index.set_aside]
        found = {readable[row]: problem for row, problem in self.result.set_aside.items()}
        return dict(sorted({**found, **self.index.set_aside}.items()))


@pytest.fixture
def look_at(tmp_path):
    """Index and read a location, and see that what both say of it is consistent."""

    def look(path: str | Path, format: str = "auto", select: str | None = None, **labels):
        source = Source(path=str(path), format=format, select=select, labels=LabelKeys(**labels))
        reader = sources.reader(str(path), source, tmp_path / "scratch")
        index = reader.index()
        readable = [row for row in range(len(index)) if row not in index.set_aside]
        result = reader.read(index.locations[readable])
        assert len(index.record_hashes) == len(index.n_atoms) == len(index.volumes) == len(index)
        assert len(index.locations) == len(set(index.keys)) == len(index)
        assert sorted([*result.rows, *result.set_aside]) == list(range(len(readable)))
        assert list(result.rows) == sorted(result.rows)
        assert not len(reader.read(index.locations[sorted(index.set_aside)]).structures)
        assert len(result.rows) == len(result.structures)
        return Location(reader, index, result)

    return look


@pytest.fixture
def write(tmp_path):
    """Write a file and return its path."""

    def write_file(content: str | bytes, name: str = "structures.xyz") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


@pytest.fixture
def unguarded(monkeypatch):
    """Let the parsers of others work in this process, where a test can replace their parts."""
    for module in (ase_database, ase_formats):
        monkeypatch.setattr(module, "guarded", lambda guard, location, call, *rest: call(*rest))
