"""Every family of descriptors against the fastest codes of the field, on the same structures.

``python -m benchmarks.peers`` measures, compares the numbers, writes what it measured to
``docs/reference/benchmarks.json`` and draws the page and the plot beside it from that.
"""

import os

# Libraries read these when they are imported, which is after this.
for _library in ("NUMBA", "OMP", "OPENBLAS", "MKL", "RAYON"):
    os.environ[f"{_library}_NUM_THREADS"] = "1"
