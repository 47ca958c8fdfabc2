"""The lake as its readers see it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from atomlake.errors import LakeError
from atomlake.lake import layout
from atomlake.lake.catalogue import Catalogue, create_tables, reporting
from atomlake.lake.chunks import Files
from atomlake.lake.parts import read_descriptor

# Readers of arrays need xarray, writers do not: views are imported where they are made.
if TYPE_CHECKING:
    import xarray as xr

    from atomlake.lake.batches import Batches, Shuffle


class Lake:
    """One state of a lake: it does not change while it is held, whoever writes meanwhile.

    Structures come in the order in which they were published: what is added later comes after
    what is there. Datasets are lazy: they read what is asked for, when it is asked for. For
    dask, ``dataset.chunk(dataset.encoding["preferred_chunks"])`` cuts where the files are cut.

    Attributes
    ----------
    path : Path or ObjectPath
        Where it is.
    catalogue : Catalogue
        Its tables, as polars frames.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.path = catalogue.lake
        self.catalogue = catalogue
        self._files = Files(catalogue.lake)

    @classmethod
    def create(cls, path: layout.Place | str) -> Lake:
        """Make an empty lake, or open the one that is there to write to it.

        Raises
        ------
        LakeError
            If the folder holds something else, cannot be written, or has a newer format.
        """
        layout.create_marker(path)
        layout.upgrade(path)
        create_tables(path)
        return cls.open(path)

    @classmethod
    def open(cls, path: layout.Place | str, as_of: str | datetime | None = None) -> Lake:
        """Open a lake as it is, or as it was.

        Parameters
        ----------
        path : Path, ObjectPath or str
            The lake.
        as_of : str or datetime, optional
            A :attr:`version`, or a time as ISO text or datetime; UTC if it has no zone.

        Raises
        ------
        LakeError
            If there is no lake of a known format, or no such version of it.
        """
        layout.check_marker(path)
        return cls(Catalogue.open(path, as_of))

    def refresh(self) -> Lake:
        """Return the newest state."""
        return type(self).open(self.path)

    @property
    def version(self) -> str:
        """Which state this is; :meth:`open` takes it as ``as_of``."""
        return self.catalogue.version

    def __repr__(self) -> str:
        return f"<Lake {self.path} version {self.version}>"

    # ----- Arrays

    def structures(
        self, *, source: str | None = None, location: str | None = None, key: str | None = None
    ) -> xr.Dataset:
        """Return structures with their labels.

        Parameters
        ----------
        source, location, key : str, optional
            Only structures of this source, of this file of it, of this name in its file.

        Returns
        -------
        xarray.Dataset
            ``positions`` and ``forces`` per ``atom``; ``cells``, ``pbc``, ``energy`` and ``stress``
            per ``structure``; atoms of structure ``s`` are
            ``structure_offsets[s]:structure_offsets[s + 1]``. NaN where a label is absent.

        Raises
        ------
        LakeError
            If a source, location or key is given and there is nothing under it.
        """
        from atomlake.lake import views

        return views.structures_view(self.catalogue, self._files, self._live(source, location, key))

    def structure(self, source: str, key: str, location: str | None = None) -> xr.Dataset:
        """Return one structure.

        Raises
        ------
        LakeError
            If there is none, or one in each of several locations.
        """
        result = self.structures(source=source, location=location, key=key)
        if result.sizes["structure"] > 1:
            raise LakeError(
                f"source {source!r} has a structure {key!r} in each of "
                f"{sorted(result['location'].values.tolist())}; name one as location"
            )
        return result

    def features(
        self,
        name: str,
        *,
        source: str | None = None,
        location: str | None = None,
        key: str | None = None,
    ) -> xr.Dataset:
        """Return the features of a descriptor.

        Parameters
        ----------
        name : str
            Its kind or its descriptor_id.
        source, location, key : str, optional
            As for :meth:`structures`.

        Returns
        -------
        xarray.Dataset
            ``features`` per ``atom`` or per ``structure``, with the labels of every feature as
            coordinates. Only structures that have them; ``n_structures_missing`` and
            ``n_structures_set_aside`` in the attributes count the others.

        Raises
        ------
        LakeError
            If there is no such descriptor, or more than one of this kind.
        """
        from atomlake.lake import views

        descriptor_id, newest = self._newest_records(name)
        labels = read_descriptor(self.path, descriptor_id)
        live = self._live(source, location, key)
        return views.features_view(self.catalogue, self._files, live, newest, labels)

    def gradients(
        self,
        name: str,
        *,
        form: Literal["pairs", "summed"] | None = None,
        source: str | None = None,
        location: str | None = None,
        key: str | None = None,
    ) -> xr.Dataset:
        """Return the gradients of a descriptor.

        Parameters
        ----------
        name : str
            Its kind or its descriptor_id.
        form : {"pairs", "summed"}, optional
            Form of the gradients with respect to positions; what was published last if not given.
        source, location, key : str, optional
            As for :meth:`structures`.

        Returns
        -------
        xarray.Dataset
            ``gradient_positions``, ``gradient_strain`` or both. In pairs form
            ``neighbour_index`` counts the atoms of this dataset.

        Raises
        ------
        LakeError
            If there is no such descriptor, more than one of this kind, or none with gradients.
        """
        from atomlake.lake import views

        descriptor_id, records = self._gradient_records(name, form)
        labels = read_descriptor(self.path, descriptor_id)
        live = self._live(source, location, key)
        return views.gradients_view(self.catalogue, self._files, live, records, labels)

    def batches(
        self,
        name: str,
        *,
        n_structures: int = 32,
        shuffle: Shuffle = "blocks",
        seed: int = 0,
        gradients: bool = False,
        form: Literal["pairs", "summed"] | None = None,
        arrays: Sequence[str] | None = None,
        source: str | None = None,
        location: str | None = None,
        rank: int = 0,
        world_size: int = 1,
        memory_nbytes: int = 2**28,
        n_threads: int = 1,
    ) -> Batches:
        """Return batches of whole structures for training, read ahead while the caller computes.

        Parameters
        ----------
        name : str
            Kind or descriptor_id of the descriptor.
        n_structures : int
            Structures of a batch, at most.
        shuffle : {"blocks", "all", "none"}
            ``"blocks"`` shuffles blocks of 4 MB and then structures within a window, so that
            every chunk is read once in an epoch; ``"all"`` is a random permutation, which reads
            for each structure all chunks that it touches; ``"none"`` is the order of publishing.
        seed : int
            Of the shuffling.
        gradients : bool
            Also read gradients; only structures that have them.
        form : {"pairs", "summed"}, optional
            As for :meth:`gradients`.
        arrays : sequence of str, optional
            Arrays of :meth:`structures` to read with them; ``numbers`` and all labels if not
            given. NaN where a label is absent.
        source, location : str, optional
            As for :meth:`structures`.
        rank, world_size : int
            Which share of the structures to read, of how many: each epoch is shared out anew.
        memory_nbytes : int
            Memory for decoded chunks, which stay from one epoch to the next if all of them
            fit, and for batches that are read ahead; ``"blocks"`` shuffles over half of it.
        n_threads : int
            Threads that read ahead while the caller computes; 0 to read when asked. More than
            one helps where storage is slow: decoded from memory, one is the fastest.

        Returns
        -------
        Batches
            To be iterated over epoch by epoch.

        Raises
        ------
        LakeError
            If there is no such descriptor, array or source, or there are no such gradients.
        ValueError
            If an option is out of its range.

        Examples
        --------
        >>> batches = lake.batches("soap", n_structures=32, seed=7)
        >>> for epoch in range(10):
        ...     for batch in batches.epoch(epoch):
        ...         train(batch["features"], batch["structure_offsets"], batch["energy"])
        """
        from atomlake.lake import views
        from atomlake.lake.batches import Batches

        if gradients:
            descriptor_id, records = self._gradient_records(name, form)
        else:
            descriptor_id, records = self._newest_records(name)
        what = views.batch_arrays(
            self.catalogue,
            self._files,
            self._live(source, location, None),
            records,
            read_descriptor(self.path, descriptor_id),
            gradients=gradients,
            names=arrays,
        )
        return Batches(
            what,
            n_structures=n_structures,
            shuffle=shuffle,
            seed=seed,
            rank=rank,
            world_size=world_size,
            memory_nbytes=memory_nbytes,
            n_threads=n_threads,
        )

    # ----- Tables

    def descriptors(self) -> pl.DataFrame:
        """One row per descriptor and form of gradients: how much of it there is."""
        return self._features.group_by(
            "descriptor_id", "kind", "gradients", "strain", maintain_order=True
        ).agg(
            n_parts=pl.len(),
            n_structures=pl.col("n_structures").sum(),
            n_rows=pl.col("n_rows").sum(),
            n_set_aside=pl.col("set_aside").list.len().sum(),
            nbytes=pl.col("nbytes").sum(),
            seconds=pl.col("seconds").sum(),
        )

    def descriptor(self, name: str) -> xr.Dataset:
        """Return labels and parameters of a descriptor, given its kind or its id.

        Raises
        ------
        LakeError
            If there is no such descriptor, or more than one of this kind.
        """
        return read_descriptor(self.path, self._records(name)[0])

    def rejected(self) -> pl.DataFrame:
        """What was set aside and why.

        One row per structure that no descriptor can describe (``descriptor_id`` is null), and
        per structure and descriptor that cannot describe it: ``source``, ``location``, ``key``,
        ``structure_id``, ``descriptor_id``, ``code``, ``reason``, ``run_id``.
        """
        columns = [
            "source",
            "location",
            "key",
            "structure_id",
            "descriptor_id",
            "code",
            "reason",
            "run_id",
        ]
        with reporting(self.path):
            structures = self.catalogue.structures().sort("sequence")
            whole = structures.filter(pl.col("status") == "set_aside").with_columns(
                descriptor_id=pl.lit(None, pl.String)
            )
            some = (
                self._features.unique(
                    ["descriptor_id", "part_id"], keep="last", maintain_order=True
                )
                .select("descriptor_id", "part_id", "set_aside", "run_id")
                .lazy()
                .explode("set_aside")
                .drop_nulls("set_aside")
                .unnest("set_aside")
                .join(
                    structures.select(
                        "source", "location", "key", "structure_id", "part_id", "row"
                    ),
                    on=["part_id", "row"],
                    maintain_order="left",
                )
            )
            return pl.concat([whole.select(columns), some.select(columns)]).collect()

    def runs(self) -> pl.DataFrame:
        """Runs, the newest last; ``recipe``, ``versions`` and ``counts`` are YAML or JSON text."""
        with reporting(self.path):
            return self.catalogue.runs().collect()

    # ----- What the methods above share

    @cached_property
    def _features(self) -> pl.DataFrame:
        with reporting(self.path):
            return self.catalogue.features().drop("files").collect()

    @cached_property
    def _everything(self) -> pl.DataFrame:
        from atomlake.lake import views

        with reporting(self.path):
            return views.live_structures(self.catalogue, None, None, None)

    def _live(self, source: str | None, location: str | None, key: str | None) -> pl.DataFrame:
        from atomlake.lake import views

        if source is None and location is None and key is None:
            return self._everything
        with reporting(self.path):
            live = views.live_structures(self.catalogue, source, location, key)
        if live.is_empty():
            self._explain_absence(source, location, key)
        return live

    def _explain_absence(self, source: str | None, location: str | None, key: str | None) -> None:
        asked = {"source": source, "location": location, "key": key}
        asked = {name: value for name, value in asked.items() if value is not None}
        text = ", ".join(f"{name} {value!r}" for name, value in asked.items())
        rejected = self.rejected().filter(
            pl.col("descriptor_id").is_null(), *(pl.col(k) == v for k, v in asked.items())
        )
        if len(rejected):
            raise LakeError(f"{text} was set aside: {rejected['reason'][0]}")
        with reporting(self.path):
            sources = self.catalogue.structures(["source"]).unique().collect()["source"]
        raise LakeError(
            f"{self.path} holds no structure of {text}; its sources are {sorted(sources)}"
        )

    def _records(self, name: str) -> tuple[str, pl.DataFrame]:
        """Return the descriptor_id that is meant and its rows of the features table."""
        found = self._features.filter((pl.col("descriptor_id") == name) | (pl.col("kind") == name))
        ids = found["descriptor_id"].unique(maintain_order=True).to_list()
        if name in ids:
            return name, found.filter(pl.col("descriptor_id") == name)
        if len(ids) == 1:
            return ids[0], found
        if ids:
            raise LakeError(
                f"{self.path} holds {len(ids)} descriptors of kind {name!r}; name one by its id: "
                + "; ".join(f"{i} with {json.dumps(p)}" for i, p in self._differences(ids).items())
            )
        known = self._features["descriptor_id"].unique(maintain_order=True).to_list()
        raise LakeError(f"{self.path} holds no features of {name!r}; it holds {known}")

    def _newest_records(self, name: str) -> tuple[str, pl.DataFrame]:
        """Return the descriptor_id and one row for each part."""
        descriptor_id, records = self._records(name)
        return descriptor_id, records.unique("part_id", keep="last", maintain_order=True)

    def _gradient_records(self, name: str, form: str | None) -> tuple[str, pl.DataFrame]:
        """Return the descriptor_id and the rows that hold one form of gradients."""
        descriptor_id, records = self._records(name)
        is_wanted = pl.col("strain") | (pl.col("gradients") != "none")
        if form is not None:
            is_wanted = pl.col("gradients") == form
        records = records.filter(is_wanted)
        if records.is_empty():
            raise LakeError(
                f"{self.path} holds no {form or ''} gradients of {descriptor_id}: "
                "ask for them in the recipe"
            )
        newest = records.row(-1, named=True)
        return descriptor_id, records.filter(
            pl.col("gradients") == newest["gradients"], pl.col("strain") == newest["strain"]
        )

    def _differences(self, ids: list[str]) -> dict[str, dict[str, Any]]:
        """Parameters in which descriptors differ."""
        parameters = {i: json.loads(read_descriptor(self.path, i).attrs["parameters"]) for i in ids}
        names = sorted({name for p in parameters.values() for name in p})
        differing = [
            n for n in names if len({json.dumps(p.get(n)) for p in parameters.values()}) > 1
        ]
        return {i: {n: p.get(n) for n in differing} for i, p in parameters.items()}
