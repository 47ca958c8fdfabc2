"""The lake as its readers see it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal

import polars as pl
import xarray as xr

from atomlake.lake.catalogue import Catalogue


class Lake:
    """One state of a lake: it never changes while it is held.

    Attributes
    ----------
    path : Path
        Where it is.
    version : str
        Which state this is; :meth:`open` takes it as ``as_of``.
    catalogue : Catalogue
        Its tables, as polars frames.
    """

    path: Path
    version: str
    catalogue: Catalogue

    @classmethod
    def create(cls, path: Path | str) -> Lake:
        """Make an empty lake, or open the one that is there; refuse what cannot be written."""
        raise NotImplementedError

    @classmethod
    def open(cls, path: Path | str, as_of: str | datetime | None = None) -> Lake:
        """Open a lake, as it is now or as it was."""
        raise NotImplementedError

    def refresh(self) -> Lake:
        """Return the newest state."""
        raise NotImplementedError

    def structures(
        self, *, source: str | None = None, location: str | None = None, key: str | None = None
    ) -> xr.Dataset:
        """Structures, lazily."""
        raise NotImplementedError

    def structure(self, source: str, key: str, location: str | None = None) -> xr.Dataset:
        """One structure."""
        raise NotImplementedError

    def features(
        self,
        name: str,
        *,
        source: str | None = None,
        location: str | None = None,
        key: str | None = None,
    ) -> xr.Dataset:
        """Features of a descriptor (its kind or its id), lazily."""
        raise NotImplementedError

    def gradients(
        self,
        name: str,
        *,
        form: Literal["pairs", "summed"] | None = None,
        source: str | None = None,
        location: str | None = None,
        key: str | None = None,
    ) -> xr.Dataset:
        """Gradients of a descriptor, lazily."""
        raise NotImplementedError

    def descriptors(self) -> pl.DataFrame:
        """One row per descriptor: what it is and how much of it there is."""
        raise NotImplementedError

    def descriptor(self, name: str) -> xr.Dataset:
        """Labels and parameters of a descriptor."""
        raise NotImplementedError

    def rejected(self) -> pl.DataFrame:
        """What was set aside, with the reason: structures, and structures per descriptor."""
        raise NotImplementedError

    def runs(self) -> pl.DataFrame:
        """Runs, the oldest first."""
        raise NotImplementedError
