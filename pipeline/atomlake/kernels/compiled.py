"""How every kernel is compiled, and where its machine code is kept.

Numba keys its on-disk cache on the file that defines a function, so a kernel that
inlines a helper from another file would go stale when only the helper changes. The
cache therefore lives in a folder named by the hash of all kernel sources and of the
versions that generate code: any change there is a new, empty folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llvmlite
import numba


def cache_folder() -> Path:
    """Folder of the compiled kernels of this source tree on this machine.

    ``ATOMLAKE_CACHE_DIR`` moves it (default ``$XDG_CACHE_HOME/atomlake`` or
    ``~/.cache/atomlake``); on a cluster it should be local to the node.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(os.environ.get("ATOMLAKE_CACHE_DIR") or Path(home) / "atomlake")
    digest = hashlib.blake2b(digest_size=8)
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    versions = (sys.version_info[:3], numba.__version__, llvmlite.__version__, platform.machine())
    digest.update(repr(versions).encode())
    return root / f"kernels-{digest.hexdigest()}"


CACHE_FOLDER = cache_folder()
numba.config.CACHE_DIR = str(CACHE_FOLDER)


def kernel[Function: Callable[..., Any]](function: Function) -> Function:
    """Compile ``function`` on its first call; release the GIL; cache the machine code.

    ``contract`` lets LLVM fuse multiply and add, which rounds once instead of twice;
    it neither reorders sums nor assumes finite numbers, so results do not depend on
    how a batch is cut. ``error_model="numpy"`` drops the zero-division branch that
    would keep loops from being vectorised.
    """
    return numba.njit(  # type: ignore[no-any-return]
        function, nogil=True, cache=True, error_model="numpy", fastmath={"contract"}
    )


def inlined[Function: Callable[..., Any]](function: Function) -> Function:
    """Compile a small helper so that LLVM always inlines it into the calling kernel."""
    return numba.njit(  # type: ignore[no-any-return]
        function,
        nogil=True,
        error_model="numpy",
        fastmath={"contract"},
        forceinline=True,
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
    process at a time. A cache that cannot be read (numba does not recover from a
    truncated file) is emptied, so that the caller's second attempt compiles afresh.
    """
    import fcntl

    CACHE_FOLDER.mkdir(parents=True, exist_ok=True)
    with open(CACHE_FOLDER / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def empty_cache() -> None:
    """Remove every compiled kernel of this source tree; the lock file stays."""
    for entry in CACHE_FOLDER.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)


def warm_up(first_calls: Callable[[], object]) -> None:
    """Run ``first_calls`` so that later calls find compiled kernels.

    Parameters
    ----------
    first_calls : callable
        Calls each kernel that will be needed, on tiny input.
    """
    with compiling_alone():
        try:
            first_calls()
        except (EOFError, ImportError, KeyError, ValueError, OSError, AttributeError) as problem:
            if "pickle" not in f"{type(problem).__name__}{problem}".lower() and not isinstance(
                problem, EOFError | OSError
            ):
                raise
            empty_cache()
            first_calls()
