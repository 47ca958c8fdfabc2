"""Where everything is in a lake, and the only functions that touch its folders by name.

::

    <lake>/
      atomlake.json                          what this folder is; written once
      catalogue/<table>/                     Delta tables: the only truth about what exists
      descriptors/<descriptor_id>/           zarr group: feature labels and parameters
      parts/<part_id>/structures/            zarr group: the structures of a part
      parts/<part_id>/<descriptor_id>-<8 hex digits>/    zarr group: features of a part
      logs/<run_id>.jsonl                    what happened in a run; can be deleted
      scratch/                               decompressed sources; can be deleted between runs

Paths inside the catalogue are relative to the lake, with ``/`` between names.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath

from atomlake.errors import LakeError

#: Raised whenever lakes are written that an older atomlake cannot read.
FORMAT_VERSION = 1
#: What takes a lake from a format version to the next, by the version that it leaves. A function
#: that is killed is called again.
UPGRADES: dict[int, Callable[[Path], None]] = {}
#: File that makes a folder a lake.
MARKER = "atomlake.json"
#: What Delta tables do not allow in a path.
_IMPOSSIBLE = "%[]\\^|"
#: Folders of a lake.
CATALOGUE, DESCRIPTORS, PARTS, SCRATCH = "catalogue", "descriptors", "parts", "scratch"
LOGS = "logs"


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


def scratch_path(lake: Path | str) -> Path:
    """Folder for decompressed copies of sources."""
    return Path(lake, SCRATCH)


def log_path(lake: Path | str, run_id: str) -> Path:
    """File of what happened in a run, a line of JSON for each event."""
    return Path(lake, LOGS, f"{run_id}.jsonl")


def resolve(lake: Path | str, relative: str) -> Path:
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
    return Path(lake, *path.parts)


def is_lake(path: Path | str) -> bool:
    """Whether a folder is a lake, of whatever format."""
    return Path(path, MARKER).exists()


def create_marker(lake: Path | str) -> None:
    """Make a folder a lake, or do nothing if it is one.

    Raises
    ------
    LakeError
        If the folder holds something else, or cannot be written.
    """
    lake = Path(lake)
    marker = lake / MARKER
    odd = sorted({c for c in str(lake.absolute()) if c in _IMPOSSIBLE or ord(c) < 32})
    if odd:
        raise LakeError(f"the path of a lake cannot contain {odd}: name another than {lake}")
    try:
        if not marker.exists():
            lake.mkdir(parents=True, exist_ok=True)
            foreign = [p.name for p in lake.iterdir() if not p.name.startswith(f".{MARKER}")]
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
        scratch_path(lake).mkdir(exist_ok=True)
        probe = scratch_path(lake) / f".{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise LakeError(
            f"{lake} cannot be written ({error}); name a folder on a file system where you may "
            "write and that has space left"
        ) from error


def check_marker(lake: Path | str) -> None:
    """Refuse a folder that is no lake, or a lake of a newer format.

    Raises
    ------
    LakeError
        Saying what was found.
    """
    try:
        content = json.loads(Path(lake, MARKER).read_bytes())
        found = int(content["format_version"]) if content["format"] == "atomlake" else None
    except FileNotFoundError:
        raise LakeError(f"{lake} is no lake: there is no {MARKER} in it") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LakeError(f"{Path(lake, MARKER)} cannot be read ({error!r})") from error
    if found is None:
        raise LakeError(f"{lake} is no lake: its {MARKER} says {content['format']!r}")
    if found > FORMAT_VERSION:
        raise LakeError(
            f"{lake} has format version {found}, written by {content.get('created_by')}, and this "
            f"atomlake reads up to {FORMAT_VERSION}: upgrade atomlake"
        )


def upgrade(lake: Path | str) -> None:
    """Take a lake of an older format to this one, version by version; readers need not."""
    marker = Path(lake, MARKER)
    content = json.loads(marker.read_bytes())
    while content["format_version"] < FORMAT_VERSION:
        UPGRADES[content["format_version"]](Path(lake))
        content["format_version"] += 1
        write_whole(marker, json.dumps(content, indent=2).encode())


def write_new(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all; leave the one that is there."""
    temporary = _temporary(path, content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all, in place of what is there."""
    os.replace(_temporary(path, content), path)


def _temporary(path: Path, content: bytes) -> Path:
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    temporary.write_bytes(content)
    return temporary


def files(lake: Path | str, relative: str) -> Iterator[tuple[str, os.stat_result]]:
    """Walk over the files below a path of the lake: relative path and what stat says."""
    root = resolve(lake, relative)
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            try:
                yield path.relative_to(lake).as_posix(), path.stat()
            except FileNotFoundError:
                continue
