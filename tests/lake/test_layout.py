"""A folder is a lake or it is not, and nothing in a catalogue leads out of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from atomlake.errors import LakeError
from atomlake.lake import Lake, create, layout
from atomlake.lake import open as open_lake


def test_creating_twice_keeps_the_lake(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lake"
    marker = path / "atomlake.json"
    first = create(path)
    written = marker.read_bytes()
    second = create(path)
    assert first.version == second.version == "0.0.0.0.0"
    assert marker.read_bytes() == written
    assert json.loads(written)["format_version"] == layout.FORMAT_VERSION


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(LakeError, match=r"no lake and not empty.*thesis\.tex.*name a folder"):
        create(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_interrupted_creation_is_finished_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "lake"
    layout.create_marker(path)
    with pytest.raises(LakeError, match="creation was interrupted"):
        open_lake(path)
    assert create(path).version == "0.0.0.0.0"


def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LakeError, match="cannot be written"):
        create(tmp_path / "file" / "lake")


@pytest.mark.parametrize("name", ["100%", "a[0]", "a|b", "a\nb"])
def test_a_path_that_tables_cannot_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LakeError, match="cannot contain"):
        create(tmp_path / name)


def test_a_lake_that_has_become_read_only_is_refused_at_once(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(LakeError, match="Read-only file system"):
        create(lake.path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": "other"}', b"null"])
def test_a_marker_that_makes_no_sense_is_no_lake(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "atomlake.json").write_bytes(content)
    with pytest.raises(LakeError):
        open_lake(tmp_path)


def test_no_lake_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match=r"there is no atomlake\.json"):
        open_lake(tmp_path / "nowhere")


def test_a_lake_of_a_newer_format_asks_for_an_upgrade(lake: Lake) -> None:
    marker = lake.path / "atomlake.json"
    content = json.loads(marker.read_text()) | {"format_version": layout.FORMAT_VERSION + 1}
    marker.write_text(json.dumps(content))
    for access in (open_lake, create):
        with pytest.raises(LakeError, match="upgrade atomlake"):
            access(lake.path)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../other", "parts/../../other", "", ".", "parts\\..\\..\\x"]
)
def test_paths_that_leave_the_lake_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(LakeError, match="must stay inside"):
        layout.resolve(tmp_path, path)


def test_two_attempts_never_share_a_path() -> None:
    paths = {layout.new_features_path("part", "soap-0") for _ in range(1000)}
    assert len(paths) == 1000
