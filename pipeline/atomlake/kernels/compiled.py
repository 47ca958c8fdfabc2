"""How every kernel is compiled, and where its machine code is kept.

Numba keys its on-disk cache on the file that defines a function, so a kernel that
inlines a helper from another file would go stale when only the helper changes. The
machine code of each file therefore lives in a folder named by the hash of that file, of all
kernel files that it imports, and of the versions that generate code.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba

from atomlake.errors import KernelCacheError


def cache_root() -> Path:
    """Folder of the compiled kernels on this machine.

    ``ATOMLAKE_CACHE_DIR`` moves it (default ``$XDG_CACHE_HOME/atomlake`` or
    ``~/.cache/atomlake``); on a cluster it should be local to the node.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("ATOMLAKE_CACHE_DIR") or Path(home) / "atomlake") / "kernels"


def _own_folder() -> Path:
    """Make the folder of the compiled kernels, which nobody else may write.

    Machine code is run, and numba unpickles the index beside it: who can write there can run
    what they like in this process.

    Raises
    ------
    KernelCacheError
        If the folder belongs to somebody else than this user or root, or others may write it, or
        this user may not: numba would look for another place, where nothing tells old from new.
    """
    root = cache_root()
    with contextlib.suppress(OSError):
        root.parent.mkdir(parents=True, exist_ok=True)
        root.mkdir(mode=0o700, exist_ok=True)
    if not os.access(root, os.W_OK):
        raise KernelCacheError(
            f"the folder of compiled kernels {root} cannot be written; name one that can in "
            "ATOMLAKE_CACHE_DIR"
        )
    state = root.stat()
    if state.st_uid not in (os.geteuid(), 0) or state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise KernelCacheError(
            f"the folder of compiled kernels {root} belongs to another user or can be written "
            "by others, who could have their code run by it; remove it, or name a folder of "
            "your own in ATOMLAKE_CACHE_DIR"
        )
    return root


_IMPORT = re.compile(
    r"^from atomlake\.kernels(?:\.(\w+))? import ([\w, ]+|\([^)]*\))", re.MULTILINE
)


def _sources(module: str, found: dict[str, bytes]) -> dict[str, bytes]:
    """Add the source of a kernel module and of all that it imports, itself or through others."""
    path = Path(__file__).with_name(f"{module}.py")
    if module not in found and path.exists():
        found[module] = path.read_bytes()
        for name, imported in _IMPORT.findall(found[module].decode()):
            for other in [name] if name else re.findall(r"\w+", imported):
                _sources(other, found)
    return found


@cache
def cache_folder(module: str) -> Path:
    """Folder of the machine code of one kernel module as its sources are now.

    Raises
    ------
    KernelCacheError
        As :func:`_own_folder`.
    """
    versions = (sys.version_info[:3], numba.__version__, llvmlite.__version__, platform.machine())
    digest = hashlib.blake2b(repr(versions).encode(), digest_size=8)
    for name, source in sorted(_sources(module, {}).items()):
        digest.update(name.encode() + b"\0" + source)
    return _own_folder() / f"{module}-{digest.hexdigest()}"


def kernel[Function: Callable[..., Any]](function: Function) -> Function:
    """Compile ``function`` on its first call; release the GIL; cache the machine code.

    ``contract`` lets LLVM fuse multiply and add, which rounds once instead of twice;
    it neither reorders sums nor assumes finite numbers, so results do not depend on
    how a batch is cut. ``error_model="numpy"`` drops the zero-division branch that
    would keep loops from being vectorised.
    """
    # numba reads the setting when a function is decorated
    numba.config.CACHE_DIR = str(cache_folder(function.__module__.rpartition(".")[2]))
    compiled = numba.njit(
        function, nogil=True, cache=True, error_model="numpy", fastmath={"contract"}
    )
    compiled._cache = _SavedAlone(compiled._cache)
    return compiled  # type: ignore[no-any-return]


class _SavedAlone:
    """A cache of numba's whose entries are saved by one process of the machine at a time.

    Saving reads the index, chooses a file name and writes both: two processes that save
    different signatures at once would choose the same name (numba #10128).
    """

    def __init__(self, cache: Any) -> None:
        self._numba_cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._numba_cache, name)

    def save_overload(self, signature: Any, data: Any) -> None:
        """Save the machine code of one signature; where nothing can be written, do without."""
        with contextlib.suppress(OSError), open(_own_folder() / ".saving", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._numba_cache.save_overload(signature, data)


def inlined[Function: Callable[..., Any]](function: Function) -> Function:
    """Compile a small helper so that LLVM always inlines it into the calling kernel."""
    return numba.njit(  # type: ignore[no-any-return]
        function,
        nogil=True,
        error_model="numpy",
        fastmath={"contract"},
        forceinline=True,
    )


def called[Function: Callable[..., Any]](function: Function) -> Function:
    """Compile a large part of a kernel as a function of its own, which the kernel calls.

    LLVM shares out the registers of a function among everything in it: a part that is long
    itself is better, and leaves more for the rest, where it stands alone. A call takes some
    tens of nanoseconds.
    """
    return numba.njit(  # type: ignore[no-any-return]
        function, nogil=True, error_model="numpy", fastmath={"contract"}
    )


def uncontracted[Function: Callable[..., Any]](function: Function) -> Function:
    """Inline a helper in which every operation rounds by itself, wherever it is inlined.

    Whether LLVM fuses a multiplication with an addition can depend on the code around it, so
    kernels that must agree on a number to the last bit compute it in such a helper.
    """
    return numba.njit(  # type: ignore[no-any-return]
        function, nogil=True, error_model="numpy", forceinline=True
    )


def summing[Function: Callable[..., Any]](function: Function) -> Function:
    """Inline a helper that sums over contiguous arrays in all SIMD lanes at once.

    LLVM may reorder the sum. The order depends on the number of terms alone, so results
    still do not depend on how a batch is cut.
    """
    return numba.njit(  # type: ignore[no-any-return]
        function,
        nogil=True,
        error_model="numpy",
        fastmath={"contract", "reassoc"},
        forceinline=True,
    )


@contextlib.contextmanager
def compiling_alone() -> Iterator[None]:
    """Hold the machine-wide lock under which kernels may be compiled and cached.

    Two processes that add different signatures of one kernel to the cache at once can
    leave an index that points at the other's machine code, so first calls run one
    process at a time.
    """
    with open(_own_folder() / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def empty_cache() -> None:
    """Remove all compiled kernels of this machine; the lock files stay."""
    for path in cache_root().iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in (".lock", ".saving"):
            path.unlink(missing_ok=True)


def warm_up(name: str, first_calls: Callable[[], object]) -> None:
    """Run ``first_calls`` so that later calls find compiled kernels.

    What was compiled before, by whichever process, is loaded without waiting for others. Numba
    does not recover from a cache file that was cut short: if the calls fail, the cache is
    emptied and they are made once more. Calls that fail for a reason of their own are left
    to fail where their result is wanted.

    Parameters
    ----------
    name : str
        Tells these calls, and the signatures that they compile, from others.
    first_calls : callable
        Calls each kernel that will be needed, on tiny input.
    """
    if load(name, first_calls):
        return
    with compiling_alone():
        try:
            first_calls()
        except Exception:
            empty_cache()
            with contextlib.suppress(Exception):
                first_calls()
        _is_compiled(name).touch()


def load(name: str, first_calls: Callable[[], object]) -> bool:
    """Run ``first_calls`` if what they need was compiled before; say whether they succeeded.

    Parameters
    ----------
    name, first_calls
        As in :func:`warm_up`.
    """
    if _is_compiled(name).exists():
        with contextlib.suppress(Exception):
            first_calls()
            return True
    return False


def _is_compiled(name: str) -> Path:
    """File that exists once the kernels of these calls were compiled, as their sources are now.

    Within the folder of a module numba tells sources apart by their path and time of change too:
    another installation of the same sources compiles its own.
    """
    digest = hashlib.blake2b(name.encode(), digest_size=8)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        source = f"{cache_folder(path.stem).name} {path} {path.stat().st_mtime_ns}"
        digest.update(source.encode())
    return cache_root() / f"compiled-{digest.hexdigest()}"
