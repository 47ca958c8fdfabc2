"""Objects in buckets that speak S3: what their URLs mean, and the few things done to them.

::

    s3://bucket/some/prefix?endpoint=http://127.0.0.1:9000&region=eu-central-1

What the URL does not say comes from the environment, under the names that all tools for S3 know:
``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_SESSION_TOKEN``, ``AWS_ENDPOINT_URL``,
``AWS_REGION``. Secrets are in no URL, so that URLs can be logged, stored and sent to workers.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

if TYPE_CHECKING:
    from obstore.store import S3Store

SCHEME = "s3://"
#: What a URL may say behind its question mark.
OPTIONS = ("endpoint", "region", "single_committer")
#: Bytes of an upload that are sent at once; a smaller object is one request.
UPLOAD_NBYTES = 2**24
#: Delta tables are addressed by URLs that are escaped once by some and twice by others.
_POSSIBLE = re.compile(r"[A-Za-z0-9._/=+-]+")


class BucketError(OSError):
    """A store cannot be reached, or refuses."""


class Stored(NamedTuple):
    """What a store says of an object: size, seconds since 1970, and a name of its content."""

    nbytes: int
    modified: float
    e_tag: str


def is_url(place: object) -> bool:
    """Whether something names objects of a bucket."""
    return str(place).startswith(SCHEME)


class ObjectPath:
    """An object, or all whose keys begin alike; what is shared with pathlib means the same.

    Parameters
    ----------
    url : str
        As above.

    Raises
    ------
    ValueError
        If the URL has no bucket, or options or characters that cannot be.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        unknown = sorted(set(options) - set(OPTIONS))
        if unknown or parts.fragment:
            raise ValueError(
                f"a URL of a bucket has the options {', '.join(OPTIONS)} and no others such as "
                f"{', '.join(unknown) or parts.fragment}; secrets belong into the environment"
            )
        if not parts.netloc or "@" in parts.netloc or ":" in parts.netloc:
            raise ValueError(f"{SCHEME}BUCKET/PREFIX expected, with the name of a bucket alone")
        key = parts.path.strip("/")
        if key and not _POSSIBLE.fullmatch(key):
            raise ValueError(
                f"the key {key!r} may have letters, digits and . _ - + = / only, or its Delta "
                "tables cannot be addressed"
            )
        self._set(parts.netloc, key, options)

    def _set(self, bucket: str, key: str, options: Mapping[str, str]) -> None:
        self.bucket = bucket
        self.key = key
        self.options = dict(options)

    def _at(self, key: str) -> ObjectPath:
        path = object.__new__(ObjectPath)
        path._set(self.bucket, key, self.options)
        return path

    def __truediv__(self, name: str) -> ObjectPath:
        return self._at(f"{self.key}/{name}".strip("/"))

    def __str__(self) -> str:
        query = f"?{urlencode(self.options, safe=':/')}" if self.options else ""
        return f"{self.uri}{query}"

    def __repr__(self) -> str:
        return f"ObjectPath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectPath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return ObjectPath, (str(self),)

    @property
    def uri(self) -> str:
        """The URL without its options."""
        return f"{SCHEME}{self.bucket}/{self.key}".rstrip("/")

    @property
    def name(self) -> str:
        """What stands behind the last slash."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> ObjectPath:
        """What stands before the last slash."""
        return self._at(self.key.rpartition("/")[0])

    def with_name(self, name: str) -> ObjectPath:
        """Return another object beside this one."""
        return self.parent / name

    def absolute(self) -> ObjectPath:
        """Say in the URL what is known from the environment alone, for those who have another."""
        path = self._at(self.key)
        environment = {
            "endpoint": os.environ.get("AWS_ENDPOINT_URL"),
            "region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        }
        path.options = {k: v for k, v in environment.items() if v} | self.options
        return path

    @property
    def storage_options(self) -> dict[str, str]:
        """The same for deltalake and polars; they look for secrets where we do."""
        options = self.absolute().options
        settings = {"aws_region": options.get("region", "us-east-1")}
        if "endpoint" in options:
            settings["aws_endpoint_url"] = options["endpoint"]
        if options.get("endpoint", "").startswith("http://"):
            settings["aws_allow_http"] = "true"
        return settings

    @property
    def has_single_committer(self) -> bool:
        """Whether nobody else is going to write, so that objects need not be created atomically."""
        return self.options.get("single_committer") == "true"

    @property
    def _store(self) -> S3Store:
        options = self.absolute().options
        return _open(self.bucket, options.get("endpoint"), options.get("region"), os.getpid())

    # ----- Reading

    def read_bytes(self) -> bytes:
        """Read the object."""
        import obstore

        with _translated():
            return bytes(obstore.get(self._store, self.key).bytes())

    def stat(self) -> Stored:
        """Ask for size, time and name of the content."""
        import obstore

        with _translated():
            return _stored(obstore.head(self._store, self.key))

    def exists(self) -> bool:
        """Whether there is such an object."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def blocks(self, nbytes: int, e_tag: str | None = None) -> Iterator[Any]:
        """Read the object block by block, or fail if its content has not the name ``e_tag``."""
        import obstore

        with _translated():
            found = obstore.get(
                self._store, self.key, options={"if_match": e_tag} if e_tag else None
            )
            yield from found.stream(min_chunk_size=nbytes)

    def tail(self, nbytes: int | None) -> tuple[bytes, int]:
        """Read the last bytes, or all; return them and the size of the object."""
        import obstore

        with _translated():
            options: Any = None if nbytes is None else {"range": {"suffix": nbytes}}
            found = obstore.get(self._store, self.key, options=options)
            return bytes(found.bytes()), int(found.meta["size"])

    def read_range(self, first: int, nbytes: int) -> bytes:
        """Read bytes from a position on; fewer where the object ends."""
        import obstore

        with _translated():
            found = obstore.get_range(self._store, self.key, start=first, length=nbytes)
            return bytes(found)

    def below(self) -> Iterator[tuple[str, Stored]]:
        """List the objects whose keys begin with this one's and a slash: rest of the key, facts."""
        import obstore

        with _translated():
            for entries in obstore.list(self._store, f"{self.key}/" if self.key else None):
                for entry in entries:
                    yield entry["path"][len(self.key) :].lstrip("/"), _stored(entry)

    # ----- Writing; an object appears whole or not at all

    def mkdir(self, parents: bool = True, exist_ok: bool = True) -> None:
        """Do nothing: buckets have no folders."""

    def write_bytes(self, content: bytes) -> None:
        """Write the object, in place of what is there."""
        import obstore

        with _translated():
            obstore.put(self._store, self.key, content)

    def write_new(self, content: bytes) -> bool:
        """Write the object unless it is there; whether it was written."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        with _translated():
            try:
                obstore.put(self._store, self.key, content, mode="create")
            except AlreadyExistsError:
                return False
        return True

    def upload(self) -> Upload:
        """Write an object that comes in pieces."""
        return Upload(self)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object."""
        import obstore

        with _translated():
            obstore.delete(self._store, self.key)

    def remove_below(self) -> None:
        """Remove all objects that :meth:`below` lists."""
        import obstore

        keys = [f"{self.key}/{rest}" for rest, _ in self.below()]
        with _translated():
            if keys:
                obstore.delete(self._store, keys)


class Upload:
    """An object that is sent in pieces, and is there once it is closed."""

    def __init__(self, path: ObjectPath) -> None:
        import obstore

        self._writer = obstore.open_writer(
            path._store, path.key, buffer_size=UPLOAD_NBYTES, max_concurrency=2
        )

    def write(self, content: bytes) -> None:
        """Append bytes."""
        with _translated():
            self._writer.write(content)

    def close(self) -> None:
        """Make the object appear."""
        with _translated():
            self._writer.close()


def _stored(meta: Any) -> Stored:
    return Stored(int(meta["size"]), meta["last_modified"].timestamp(), str(meta["e_tag"]))


@lru_cache(maxsize=32)
def _open(bucket: str, endpoint: str | None, region: str | None, process: int) -> S3Store:
    """Open a bucket; connections are not shared with a process that was forked."""
    try:
        from obstore.store import S3Store
    except ImportError as error:
        raise BucketError(
            errno.ENOPKG, "pip install 'atomlake[s3]' for places that begin with s3://"
        ) from error
    settings = {"endpoint": endpoint} if endpoint else {}
    with _translated():
        return S3Store(
            bucket,
            config={"region": region or "us-east-1", **settings},
            client_options={"allow_http": (endpoint or "").startswith("http://")},
        )


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what obstore raises into an OSError; that an object is missing is one already."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, NotImplementedError) as error:
        first_line = str(error).partition("\n")[0].partition("<?xml")[0]
        raise BucketError(errno.EIO, first_line) from error
