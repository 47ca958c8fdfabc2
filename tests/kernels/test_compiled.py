"""Compiled kernels are cached, never stale, and a damaged cache heals."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from atomlake.errors import KernelCacheError
from atomlake.kernels import compiled

PROGRAM = """
import sys, types
sys.path.insert(0, {folder!r})
import numpy, atomlake.kernels
atomlake.kernels.__path__.insert(0, {folder!r})
from atomlake.kernels import compiled
compiled.__file__ = {folder!r} + "/compiled.py"
from atomlake.kernels.outer import outer
compiled.warm_up("outer", lambda: outer(1.0))
print(outer(1.0))
"""


@pytest.fixture
def run(tmp_path):
    """Run a program that calls ``outer``, which inlines a helper from another file."""
    (tmp_path / "outer.py").write_text(
        "from atomlake.kernels.compiled import kernel\n"
        "from atomlake.kernels.inner import inner\n\n\n"
        "@kernel\ndef outer(x):\n    return inner(x) + 1.0\n"
    )

    def result(factor):
        (tmp_path / "inner.py").write_text(
            "from atomlake.kernels.compiled import inlined\n\n\n"
            f"@inlined\ndef inner(x):\n    return {factor} * x\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(folder=str(tmp_path))],
            env={**os.environ, "ATOMLAKE_CACHE_DIR": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            check=True,
        )
        return float(done.stdout)

    return result


def test_a_helper_changed_in_another_file_changes_the_result(run, tmp_path):
    assert run(2.0) == 3.0
    assert run(60.0) == 61.0
    assert len(list((tmp_path / "cache" / "kernels").glob("outer-*"))) == 2


def test_a_truncated_cache_file_heals(run, tmp_path):
    assert run(2.0) == 3.0
    files = list((tmp_path / "cache").rglob("*.nb[ci]"))
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:20])
    assert run(2.0) == 3.0


def test_every_import_of_a_kernel_counts():
    found = compiled._sources("accumulate", {})
    assert set(found) == {"accumulate", "compiled"}


def test_importing_the_package_compiles_and_imports_no_numba():
    program = "import sys, atomlake, atomlake.cli; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_kernels_folder_is_flat():
    assert not [
        p
        for p in Path(compiled.__file__).parent.iterdir()
        if p.is_dir() and p.name != "__pycache__"
    ]


def test_what_was_never_compiled_is_not_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("ATOMLAKE_CACHE_DIR", str(tmp_path))
    calls = []
    assert not compiled.load("these", lambda: calls.append("too early"))
    compiled.warm_up("these", lambda: calls.append("compiled"))
    assert compiled.load("these", lambda: calls.append("loaded"))
    assert calls == ["compiled", "loaded"]


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770])
def test_machine_code_that_others_can_write_is_not_loaded(tmp_path, monkeypatch, mode):
    monkeypatch.setenv("ATOMLAKE_CACHE_DIR", str(tmp_path))
    folder = tmp_path / "kernels"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(KernelCacheError, match="ATOMLAKE_CACHE_DIR"), compiled.compiling_alone():
        pass
    compiled.cache_folder.cache_clear()
    with pytest.raises(KernelCacheError, match="written by others"):
        compiled.cache_folder("radial")


def test_machine_code_of_another_user_is_not_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("ATOMLAKE_CACHE_DIR", str(tmp_path))
    (tmp_path / "kernels").mkdir(mode=0o700)
    monkeypatch.setattr(compiled.os, "geteuid", lambda: 12345)
    monkeypatch.setattr(
        compiled.Path,
        "stat",
        lambda self, **_: os.stat_result((0o40700, 0, 0, 2, 54321, 0, 0, 0, 0, 0)),
    )
    compiled.cache_folder.cache_clear()
    with pytest.raises(KernelCacheError, match="another user"):
        compiled.cache_folder("radial")


def test_a_folder_that_cannot_be_written_is_refused(monkeypatch):
    monkeypatch.setenv("ATOMLAKE_CACHE_DIR", "/proc/atomlake")
    compiled.cache_folder.cache_clear()
    with pytest.raises(KernelCacheError, match="cannot be written"):
        compiled.cache_folder("radial")


def test_the_folder_of_machine_code_is_for_its_user_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("ATOMLAKE_CACHE_DIR", str(tmp_path / "new"))
    with compiled.compiling_alone():
        assert (tmp_path / "new" / "kernels").stat().st_mode & 0o777 == 0o700
