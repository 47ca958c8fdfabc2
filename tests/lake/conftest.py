from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lake_building import Builder

from atomlake.lake import Lake


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """An empty lake."""
    return Lake.create(tmp_path / "lake")


@pytest.fixture
def builder(lake: Lake) -> Builder:
    """Fills the lake."""
    return Builder(lake)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
