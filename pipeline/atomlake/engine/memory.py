"""How much memory a worker needs for a unit, known before any work."""

from __future__ import annotations

import numpy as np

from atomlake.descriptors.base import BLOCK_NBYTES
from atomlake.engine.units import Unit
from atomlake.lake.groups import SHARD_NBYTES

#: A worker process with its libraries and compiled kernels loaded, measured.
PROCESS_NBYTES = 330 * 2**20
#: Index, shift, vector and distance of a pair; twice while a list is filtered.
PAIR_NBYTES = 2 * (8 + 12 + 24 + 8)
#: Positions, cells, labels and the parser's copies, per atom.
ATOM_NBYTES = 600


def project(unit: Unit) -> int:
    """Project the peak memory, in bytes, of a worker that does ``unit``.

    Output is streamed, so that of each descriptor only one block and the shards being
    filled and encoded are in memory, whatever the size of the part.
    """
    estimate = unit.estimate
    block = max(BLOCK_NBYTES, estimate.largest_row_nbytes)
    largest_array = max((t.descriptor.n_values for t in unit.tasks), default=0)
    row = 8 * largest_array * (3 if any(t.gradients.positions != "none" for t in unit.tasks) else 1)
    shards = 3 * max(SHARD_NBYTES, row) if unit.tasks else 0
    return int(
        np.ceil(
            PROCESS_NBYTES
            + ATOM_NBYTES * estimate.n_atoms
            + PAIR_NBYTES * estimate.n_pairs
            + 2 * block
            + min(shards, 3 * estimate.nbytes)
        )
    )
