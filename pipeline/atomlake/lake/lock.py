"""The lock that spares two runs on one machine from doing the same work.

What keeps the lake whole is the catalogue, which refuses the second of two writers wherever they
are (:meth:`atomlake.lake.catalogue.Catalogue.publish_structures`).
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from atomlake.errors import BusyError
from atomlake.lake import layout

#: File in the scratch folder whose lock whoever writes holds.
LOCK = "run.lock"


@contextmanager
def alone(lake: layout.Place | str, what: str = "run") -> Iterator[None]:
    """Hold the lake's lock; the kernel frees it when the process ends, however it ends.

    Parameters
    ----------
    lake : Path, ObjectPath or str
        The lake.
    what : str
        Who holds it, for those who find it held.

    Raises
    ------
    BusyError
        If another process holds it. A file system that has no locks lets everybody pass.
    """
    path = layout.scratch_path(lake) / LOCK
    with open(path, "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise BusyError(
                f"another run is at work in {lake} ({lock.read().strip() or 'unknown'}); "
                "wait for it to end, or stop it: this one would do the same work again"
            ) from None
        except OSError:
            pass
        lock.truncate(0)
        lock.write(f"{what}, process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield
