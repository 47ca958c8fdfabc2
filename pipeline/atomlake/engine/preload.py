"""Imported by the process that local workers are forked from, for all of them."""

from atomlake.engine import tasks

tasks.load_common_kernels()
