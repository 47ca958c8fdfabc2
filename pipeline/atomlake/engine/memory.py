"""How much memory a worker needs for a unit, known before any work."""

from __future__ import annotations

from atomlake.descriptors.base import BLOCK_NBYTES
from atomlake.engine.units import Unit

#: A worker process with its libraries, and while it compiles its kernels; measured.
PROCESS_NBYTES = 650 * 2**20
#: Chunks of each array of a descriptor, as they are and encoded, that wait to be written.
WAITING_NBYTES = 32 * 2**20


def project(unit: Unit) -> int:
    """Project the peak memory, in bytes, of a worker that does ``unit``.

    Output is streamed: of each descriptor only one block, the scratch that makes it and a few
    chunks of each array are in memory, whatever the size of the part. Sums over centres are made
    in double precision beside it.
    """
    block = max(BLOCK_NBYTES, unit.estimate.largest_row_nbytes) if unit.tasks else 0
    return PROCESS_NBYTES + unit.estimate.input_nbytes + 3 * block + WAITING_NBYTES
