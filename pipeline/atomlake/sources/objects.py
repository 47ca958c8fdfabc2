"""Sources in buckets: objects are copied to the machine that reads them, and read as files are."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import translate
from pathlib import Path
from re import compile as compile_pattern

import numpy as np
from numpy.typing import NDArray

from atomlake.buckets import ObjectPath
from atomlake.errors import SourceError
from atomlake.sources.base import FileIndex, Fingerprint, Guard, Reader, ReadResult, Source

#: Bytes that are fetched at once.
BLOCK_NBYTES = 2**23


def object_path(url: str) -> ObjectPath:
    """Return the object of a location.

    Raises
    ------
    SourceError
        If the URL cannot be one.
    """
    try:
        return ObjectPath(url)
    except ValueError as error:
        raise SourceError(f"{url} can be no source: {error}") from error


def expand(url: str) -> list[str]:
    """List the objects that a URL stands for: itself, what matches it, or all below it.

    ``*`` and ``[...]`` match within a key as they do in names of files, ``/`` included; a question
    mark begins the options.

    Raises
    ------
    SourceError
        If there are none, or the store cannot be asked.
    """
    pattern, question_mark, options = url.partition("?")
    is_glob = any(character in pattern for character in "*[")
    fixed = pattern.split("*")[0].split("[")[0].rpartition("/")[0] if is_glob else pattern
    root = object_path(f"{fixed}{question_mark}{options}")
    try:
        if not is_glob and root.key and root.exists():
            return [str(root)]
        found = [root / rest for rest, stored in root.below() if stored.nbytes]
    except OSError as error:
        raise SourceError(f"source {url!r} cannot be listed: {error.strerror}") from error
    if is_glob:
        matches = compile_pattern(translate(pattern)).match
        found = [path for path in found if matches(path.uri)]
    found = [path for path in found if not path.name.startswith(".")]
    if not found:
        raise SourceError(
            f"source {url!r} matches no object; expected the URL of one, with * in it, or what "
            "their keys begin with"
        )
    return sorted(str(path) for path in found)


class ObjectReader(Reader):
    """Reads an object through a copy of it, in the format that files of its name have.

    Parameters
    ----------
    reader_class : type of Reader
        Reads the copy.
    location, source, scratch, guard
        As for every reader. The copy lies in the scratch folder of each machine that reads it.
    """

    def __init__(
        self,
        reader_class: type[Reader],
        location: str,
        source: Source,
        scratch: Path,
        guard: Guard | None = None,
    ) -> None:
        super().__init__(location, source, scratch, guard)
        self._reader_class = reader_class
        self._object = object_path(location)

    def fingerprint(self, known: Fingerprint | None = None) -> Fingerprint:
        """Return size, time and what the store calls the content (its ETag)."""
        with self._named():
            stored = self._object.stat()
        digest = hashlib.blake2b(f"{stored.nbytes} {stored.e_tag}".encode(), digest_size=16)
        return Fingerprint(stored.nbytes, round(1e9 * stored.modified), digest.hexdigest())

    def index(self) -> FileIndex:
        """List the records; see :class:`atomlake.sources.base.Reader`."""
        with self._named():
            return self._reader().index()

    def read(self, locations: NDArray[np.int64]) -> ReadResult:
        """Read records; see :class:`atomlake.sources.base.Reader`."""
        with self._named():
            return self._reader().read(locations)

    def species(self, index: FileIndex) -> Sequence[int]:
        """Atomic numbers that occur anywhere in the object, ascending."""
        with self._named():
            return self._reader().species(index)

    def _reader(self) -> Reader:
        return self._reader_class(str(self._copy()), self.source, self.scratch, self.guard)

    def _copy(self) -> Path:
        """Return the copy of what the object holds; made in one step, under a name of its own."""
        stored = self._object.stat()
        identity = f"{self._object.uri} {stored.e_tag} {stored.nbytes}"
        folder = self.scratch / hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
        copy = folder / self._object.name
        if copy.exists():
            return copy
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=".", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as target:
                for block in self._object.blocks(BLOCK_NBYTES, stored.e_tag):
                    target.write(block)
            os.replace(temporary, copy)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return copy

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Name the object where the copy is named, and turn what the store says into our error."""
        try:
            yield
        except SourceError as error:
            text = str(error).replace(f"{self.scratch}/", "")
            raise SourceError(f"{self.location}: {text}") from error
        except FileNotFoundError as error:
            raise SourceError(f"{self.location} is missing") from error
        except OSError as error:
            raise SourceError(f"{self.location} cannot be read: {error.strerror}") from error
