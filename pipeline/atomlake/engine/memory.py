"""How much memory a worker needs for a unit, known before any work, and what it took."""

from __future__ import annotations

import resource
from pathlib import Path

from atomlake.engine.units import Unit

#: A worker process with its libraries, and while it compiles its kernels; measured.
PROCESS_NBYTES = 650 * 2**20
#: Chunks of each array of a descriptor, as they are and encoded, that wait to be written.
WAITING_NBYTES = 32 * 2**20
#: Part of a worker's memory at which its nanny ends it.
USABLE = 0.95
#: A worker that has less than this for its work is of no use.
LEAST_NBYTES = 2**25


def project(unit: Unit) -> int:
    """Project the peak memory, in bytes, of a worker that does ``unit``.

    Output is streamed: of each descriptor only one block, the scratch that makes it and a few
    chunks of each array are in memory, whatever the size of the part.
    """
    estimate = unit.estimate
    return PROCESS_NBYTES + WAITING_NBYTES + estimate.input_nbytes + estimate.working_nbytes


def available(memory_nbytes: int) -> int:
    """Bytes that a worker of so much memory has for structures, neighbour lists and output."""
    return int(USABLE * memory_nbytes) - PROCESS_NBYTES - WAITING_NBYTES


def forget_peak() -> None:
    """Let :func:`peak` count from this moment, where the operating system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak() -> int:
    """Most memory, in bytes, that this process had since :func:`forget_peak`."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
