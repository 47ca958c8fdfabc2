"""Where everything is in a lake, and the only functions that touch its folders by name.

::

    <lake>/
      atomlake.json                          what this folder is; written once
      catalogue/<table>/                     Delta tables: the only truth about what exists
      descriptors/<descriptor_id>/           zarr group: feature labels and parameters
      parts/<part_id>/structures/            zarr group: the structures of a part
      parts/<part_id>/<descriptor_id>-<8 hex digits>/    zarr group: features of a part
      logs/<run_id>.jsonl                    what happened in a run; can be deleted
      shares/                                what jobs of an array have done and nobody published
      scratch/                               decompressed sources; can be deleted between runs

Paths inside the catalogue are relative to the lake, with ``/`` between names. A lake in a bucket
has the same objects, except that its scratch folder is on each machine's own disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath

from atomlake.buckets import ObjectPath, Stored, is_url
from atomlake.errors import LakeError

#: A folder or a file of a lake, wherever the lake is.
Place = Path | ObjectPath

#: Raised whenever lakes are written that an older atomlake cannot read.
FORMAT_VERSION = 1
#: What takes a lake from a format version to the next, by the version that it leaves. A function
#: that is killed is called again.
UPGRADES: dict[int, Callable[[Place], None]] = {}
#: File that makes a folder a lake.
MARKER = "atomlake.json"
#: What Delta tables do not allow in a path.
_IMPOSSIBLE = "%[]\\^|"
#: Folders of a lake.
CATALOGUE, DESCRIPTORS, PARTS, SCRATCH = "catalogue", "descriptors", "parts", "scratch"
LOGS, SHARES = "logs", "shares"


def structures_path(part_id: str) -> str:
    """Path of the structures of a part, relative to the lake."""
    return f"{PARTS}/{part_id}/structures"


def new_features_path(part_id: str, descriptor_id: str) -> str:
    """Path for the features of a part, relative to the lake, that nobody else uses."""
    return f"{PARTS}/{part_id}/{descriptor_id}-{uuid.uuid4().hex[:8]}"


def descriptor_path(descriptor_id: str) -> str:
    """Path of the labels of a descriptor, relative to the lake."""
    return f"{DESCRIPTORS}/{descriptor_id}"


def table_path(table: str) -> str:
    """Path of a table of the catalogue, relative to the lake."""
    return f"{CATALOGUE}/{table}"


def place(lake: Place | str) -> Place:
    """Return where a lake is.

    Raises
    ------
    LakeError
        If it is given by a URL that cannot be one.
    """
    if isinstance(lake, ObjectPath) or not is_url(lake):
        return lake if isinstance(lake, ObjectPath) else Path(lake)
    try:
        return ObjectPath(str(lake))
    except ValueError as error:
        raise LakeError(f"{lake} can be no lake: {error}") from error


def scratch_path(lake: Place | str) -> Path:
    """Folder for decompressed copies of sources, on a file system."""
    where = place(lake)
    if isinstance(where, Path):
        return where / SCRATCH
    identity = f"{where.uri} {where.absolute().options.get('endpoint')}"
    name = hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()
    folder = Path(tempfile.gettempdir(), f"atomlake-{os.getuid()}", name)
    folder.mkdir(parents=True, exist_ok=True)
    folder.parent.chmod(0o700)  # of somebody else: refused
    return folder


def log_path(lake: Place | str, run_id: str) -> Path:
    """File of what happens in a run, a line of JSON for each event."""
    where = place(lake)
    folder = where / LOGS if isinstance(where, Path) else scratch_path(where)
    return folder / f"{run_id}.jsonl"


def keep_log(lake: Place | str, run_id: str) -> None:
    """Put the log of a run that has ended where it stays."""
    where, path = place(lake), log_path(lake, run_id)
    if isinstance(where, ObjectPath) and path.exists():
        write_whole(where / LOGS / path.name, path.read_bytes())


def newest_log(lake: Place | str) -> tuple[str, str] | None:
    """Return the newest run that kept a log, and the log.

    Of a lake in a bucket the log of a run at work is on the machine where it runs.
    """
    where = place(lake)
    logs: dict[str, Place] = {p.name: p for p in log_path(lake, "").parent.glob("*.jsonl")}
    if isinstance(where, ObjectPath) and not logs:
        logs = {name: where / LOGS / name for name, _ in (where / LOGS).below()}
    if not logs:
        return None
    name = max(logs)
    return name.removesuffix(".jsonl"), logs[name].read_bytes().decode()


def resolve(lake: Place | str, relative: str) -> Place:
    """Return the place of a path that the catalogue names.

    Raises
    ------
    LakeError
        If the path is absolute or leaves the lake.
    """
    path = PurePosixPath(relative)
    if path.is_absolute() or ".." in path.parts or "\\" in relative or not path.parts:
        raise LakeError(
            f"the catalogue of {lake} names {relative!r}, and every path in it must stay inside "
            "the lake: the catalogue was tampered with, restore it from a copy"
        )
    return place(lake) / str(path)


def is_lake(lake: Place | str) -> bool:
    """Whether a folder is a lake, of whatever format."""
    return (place(lake) / MARKER).exists()


def create_marker(lake: Place | str) -> None:
    """Make a folder a lake, or do nothing if it is one.

    Raises
    ------
    LakeError
        If the folder holds something else, or cannot be written, or is in a store that cannot
        keep two writers apart.
    """
    where = place(lake)
    marker = where / MARKER
    odd = sorted({c for c in str(where.absolute()) if c in _IMPOSSIBLE or ord(c) < 32})
    if odd:
        raise LakeError(f"the path of a lake cannot contain {odd}: name another than {lake}")
    try:
        if isinstance(where, ObjectPath):
            _require_creation(where)
        if not marker.exists():
            where.mkdir(parents=True, exist_ok=True)
            foreign = [name for name in _names(where) if not name.startswith(f".{MARKER}")]
            if foreign and not marker.exists():
                raise LakeError(
                    f"{lake} is no lake and not empty: it holds {sorted(foreign)[:3]}; "
                    "name a folder that is empty or does not exist"
                )
            write_new(
                marker,
                json.dumps(
                    {
                        "format": "atomlake",
                        "format_version": FORMAT_VERSION,
                        "created": datetime.now(UTC).isoformat(timespec="seconds"),
                        "created_by": f"atomlake {version('atomlake')}",
                    },
                    indent=2,
                ).encode(),
            )
        if isinstance(where, Path):
            scratch_path(where).mkdir(exist_ok=True)
            probe = scratch_path(where) / f".{uuid.uuid4().hex}"
            probe.touch()
            probe.unlink()
    except OSError as error:
        raise LakeError(
            f"{lake} cannot be written ({error}); name a place where you may write and that has "
            "space left"
        ) from error


def _names(where: Place) -> Iterator[str]:
    """What is in the folder of a lake, or the first of what is in a bucket below it."""
    if isinstance(where, Path):
        yield from (path.name for path in where.iterdir())
        return
    for name, _ in where.below():
        yield name
        if not name.startswith(f".{MARKER}"):
            return


def _require_creation(where: ObjectPath) -> None:
    """Write and remove an object, and see that it cannot be created twice.

    Raises
    ------
    LakeError
        If it can, and others may write to the lake.
    """
    probe = where / f".{MARKER}-{uuid.uuid4().hex[:8]}"
    try:
        probe.write_bytes(b"first")
        is_safe = where.has_single_committer or not probe.write_new(b"second")
    finally:
        probe.unlink()
    if not is_safe:
        raise LakeError(
            f"the store of {where} replaces an object although it was told to create it only if "
            "there is none (If-None-Match), so that two runs could undo each other's commits. "
            "Take a store that can, or say with single_committer=true behind the question mark "
            "of the URL that never more than one process writes to this lake"
        )


def check_marker(lake: Place | str) -> None:
    """Refuse a folder that is no lake, or a lake of a newer format.

    Raises
    ------
    LakeError
        Saying what was found.
    """
    try:
        content = json.loads((place(lake) / MARKER).read_bytes())
        found = int(content["format_version"]) if content["format"] == "atomlake" else None
    except FileNotFoundError:
        raise LakeError(f"{lake} is no lake: there is no {MARKER} in it") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LakeError(f"{lake}/{MARKER} cannot be read ({error!r})") from error
    if found is None:
        raise LakeError(f"{lake} is no lake: its {MARKER} says {content['format']!r}")
    if found > FORMAT_VERSION:
        raise LakeError(
            f"{lake} has format version {found}, written by {content.get('created_by')}, and this "
            f"atomlake reads up to {FORMAT_VERSION}: upgrade atomlake"
        )


def upgrade(lake: Place | str) -> int:
    """Take a lake of an older format to this one, version by version; return which it had.

    Raises
    ------
    LakeError
        If it is no lake, or one of a newer format.
    """
    check_marker(lake)
    marker = place(lake) / MARKER
    content = json.loads(marker.read_bytes())
    found = int(content["format_version"])
    while content["format_version"] < FORMAT_VERSION:
        UPGRADES[content["format_version"]](place(lake))
        content["format_version"] += 1
        write_whole(marker, json.dumps(content, indent=2).encode())
    return found


def write_new(path: Place, content: bytes) -> None:
    """Write a file that appears whole or not at all; leave the one that is there."""
    if isinstance(path, ObjectPath):
        path.write_new(content)
        return
    temporary = _temporary(path, content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def write_whole(path: Place, content: bytes) -> None:
    """Write a file that appears whole or not at all, in place of what is there."""
    if isinstance(path, ObjectPath):
        path.write_bytes(content)
    else:
        os.replace(_temporary(path, content), path)


def _temporary(path: Path, content: bytes) -> Path:
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    temporary.write_bytes(content)
    return temporary


def files(lake: Place | str, relative: str) -> Iterator[tuple[str, Stored]]:
    """Walk over the files below a path of the lake: relative path, size and time."""
    root = resolve(lake, relative)
    if isinstance(root, ObjectPath):
        for name, stored in root.below():
            yield f"{relative}/{name}", stored
        return
    top = Path(str(place(lake)))
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            yield path.relative_to(top).as_posix(), Stored(stat.st_size, stat.st_mtime, "")


def remove(path: Place) -> None:
    """Remove a folder and everything in it."""
    if isinstance(path, ObjectPath):
        path.remove_below()
    else:
        shutil.rmtree(path)
