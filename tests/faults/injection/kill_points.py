"""Ends this process, with no warning, when it reaches a chosen moment of its writing.

The moments, called points, are counted: one before each thing that this process does to
a file of the lake (open it for writing, rename, link, remove), which is also the moment after what
it did before, one while a file is being written, and one before, in the middle of and after each
commit and all else that changes a table. The interpreter's audit events tell of the files, so that
nothing of the package is changed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

#: Environment variable with the settings of :func:`arm`, as JSON.
VARIABLE = "ATOMLAKE_KILL_POINT"
#: Seconds into a commit, which takes some milliseconds.
MIDDLES = (0.001, 0.004, 0.010)
#: Seconds into the writing of a file.
HALF = 1e-4

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
#: Events, and where in their arguments the path and the folder that it is relative to are.
_ON_PATHS = {
    "os.rename": (1, 3),
    "os.link": (1, 3),
    "os.remove": (0, 1),
}
#: What commits to a table, or removes files of it, by class of deltalake.
_METHODS = {
    "DeltaTable": ("vacuum", "create_checkpoint", "cleanup_metadata"),
    "TableOptimizer": ("compact",),
    "TableAlterer": ("set_table_properties",),
}


class Points:
    """Counts the points that this process passes, and stops it at one of them."""

    def __init__(self) -> None:
        self.lake = ""
        self.role = "driver"
        self.nth = 0
        self.token = ""
        self.record = ""
        self.n_passed = 0
        self.armed_in = 0

    def arm(
        self, lake: str, *, role: str = "driver", nth: int = 0, token: str = "", record: str = ""
    ) -> None:
        """Begin to count.

        Parameters
        ----------
        lake : str
            Whose files count.
        role : {"driver", "worker"}
            A worker is a process that was forked after this call.
        nth : int
            The point at which the process is killed; none if 0.
        token : str
            File that the killed process makes; where it exists nobody else is killed.
        record : str
            File that the points are listed in.
        """
        self.lake, self.role, self.nth = lake, role, nth
        self.token, self.record = token, record
        self.n_passed, self.armed_in = 0, os.getpid()

    def pass_by(self, what: str, delay: float = 0.0) -> None:
        """Count a point; the chosen one ends the process, at once or ``delay`` seconds later."""
        if not self.lake or ("driver" if os.getpid() == self.armed_in else "worker") != self.role:
            return
        self.n_passed += 1
        if self.record:
            descriptor = os.open(self.record, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, f"{what}\n".encode())
            os.close(descriptor)
        if self.n_passed == self.nth:
            self.kill(delay)

    def kill(self, delay: float) -> None:
        """End this process as a power switch does, once."""
        try:
            os.close(os.open(self.token, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        if delay:
            # Unlike a thread the kernel does not wait for Python's lock, and nobody handles this.
            signal.setitimer(signal.ITIMER_REAL, delay)
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    def hear(self, event: str, arguments: tuple[object, ...]) -> None:
        """Take an audit event."""
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & _WRITING:
                return
        elif event in _ON_PATHS:
            path_at, folder_at = _ON_PATHS[event]
            path, folder = arguments[path_at], arguments[folder_at]
            if self.lake and isinstance(path, str) and isinstance(folder, int) and folder >= 0:
                path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
        else:
            return
        if self.lake and isinstance(path, str | os.PathLike) and str(path).startswith(self.lake):
            name = _kind(Path(path).relative_to(self.lake))
            self.pass_by(f"{event} {name}")
            if event == "open":
                self.pass_by(f"half of {name}", HALF)

    def commit(self, write, what="commit"):
        """Wrap a function that changes a table."""

        def wrapped(table, *arguments, **options):
            place = getattr(getattr(table, "table", table), "table_uri", table)
            name = f"{what} {str(place).rstrip('/').rpartition('/')[2]}"
            self.pass_by(f"before {name}")
            for delay in MIDDLES:
                self.pass_by(f"{1e3 * delay:.0f} ms into {name}", delay)
            result = write(table, *arguments, **options)
            self.pass_by(f"after {name}")
            return result

        return wrapped


def _kind(path: Path) -> str:
    """A path without what is random in it."""
    names = path.parts
    return "/".join(names[2:] if names and names[0] == "parts" and len(names) > 2 else names)


points = Points()
sys.addaudithook(points.hear)


def wrap_commits() -> None:
    """Wrap what changes tables; to be called before anybody else imports it from deltalake."""
    import deltalake

    deltalake.write_deltalake = points.commit(deltalake.write_deltalake)
    for owner, names in _METHODS.items():
        kind = getattr(deltalake.table, owner)
        for name in names:
            setattr(kind, name, points.commit(getattr(kind, name), name))


def arm_from_environment() -> None:
    """Arm as the environment says, if it says so."""
    if VARIABLE in os.environ:
        settings = json.loads(os.environ[VARIABLE])
        if settings.get("role") != "worker":  # which never commits
            wrap_commits()
        points.arm(**settings)
