"""What waits for the disk: every file that a commit names, and the name of every file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from lake_building import Builder

from atomlake.errors import LakeError
from atomlake.lake.durability import Disk


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Paths that were flushed, in order."""
    paths: list[Path] = []
    monkeypatch.setattr(
        os, "fsync", lambda file: paths.append(Path(os.readlink(f"/dev/fd/{file}")))
    )
    return paths


def test_files_come_before_the_folders_that_name_them(
    builder: Builder, flushed: list[Path]
) -> None:
    part_id, _ = builder.part()
    Disk(builder.lake.path).wait_for([f"parts/{part_id}/structures"])
    root = builder.lake.path / "parts" / part_id / "structures"
    files = {path for path in root.rglob("*") if path.is_file()}
    n = len(files)
    assert set(flushed[:n]) == files
    folders = flushed[n:]
    assert {root, root.parent, root.parent.parent, builder.lake.path} <= set(folders)
    assert all(b not in a.parents for a, b in zip(folders[1:], folders[:-1], strict=True))


def test_a_file_is_waited_for_once(builder: Builder, flushed: list[Path]) -> None:
    disk = Disk(builder.lake.path)
    builder.part()
    disk.wait_for(["catalogue"])
    before = len(flushed)
    disk.wait_for(["catalogue"])
    assert len(flushed) == before
    builder.part()
    disk.wait_for(["catalogue"])
    assert before < len(flushed) < 2 * before


def test_a_disk_that_refuses_stops_the_run(
    builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(5, "Input/output error")

    builder.part()
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(LakeError, match="cannot be written to the disk"):
        Disk(builder.lake.path).wait_for(["parts"])
