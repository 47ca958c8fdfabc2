"""Fixtures that several folders share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# A test states what is true, not how fast this machine is today.
settings.register_profile("atomlake", deadline=None)
settings.load_profile("atomlake")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"

# One kernel thread, as in production, and numbers that do not depend on the machine's cores.
for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real databases beside the project; the test is skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("real data is not beside this checkout (../shared/data)")
    return SHARED_DATA


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run."""
    return np.random.default_rng(20240229)
