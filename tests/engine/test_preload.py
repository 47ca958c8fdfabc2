"""What a worker process carries: every import is paid for by each run, before its first unit."""

from __future__ import annotations

import subprocess
import sys

#: Needed by readers of a lake, by no worker.
READERS = {"xarray", "pandas", "zarr", "pyarrow"}


def test_workers_and_runs_import_nothing_that_only_readers_need():
    modules = "atomlake.engine.tasks, atomlake.engine.run, distributed.nanny, distributed.worker"
    program = f"import sys, {modules}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert READERS.isdisjoint(done.stdout.split())


def test_a_descriptor_says_what_its_features_are_without_them():
    program = (
        "import sys\n"
        "from atomlake import descriptors\n"
        "for name in descriptors.names():\n"
        "    descriptors.get(name).examples(('H', 'O'))[0].label_columns()\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert READERS.isdisjoint(done.stdout.split())
