"""Small lakes to test against, and what must be found in them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import polars as pl
from pydantic import Field

from atomlake.descriptors.base import Citation, Descriptor, Gradients, LabelColumn, Rows
from atomlake.errors import SetAside
from atomlake.lake import Lake, parts
from atomlake.structures import Structures

#: Values that a careless writer or codec changes.
AWKWARD = [np.nan, -0.0, 5e-324, -np.inf, np.inf, 1e-45, 0.0]


class Toy(Descriptor):
    """Numbers that the tests choose, in any shape that a descriptor can have."""

    kind: ClassVar[str] = "toy"
    title: ClassVar[str] = "chosen numbers"
    citations: ClassVar[tuple[Citation, ...]] = (Citation("nobody", "10/0"),)

    cutoff: float = Field(default=3.0, description="of no meaning")
    width: int = Field(default=5, description="number of features")
    components: int = Field(default=1, description="number of components")

    @property
    def n_features(self) -> int:
        return self.width

    @property
    def n_components(self) -> int:
        return self.components

    def label_columns(self) -> dict[str, LabelColumn]:
        n = np.arange(self.width)
        return {
            "n": LabelColumn(n, long_name="number"),
            "species": LabelColumn(np.array([f"H{i}é" for i in n], dtype=object)),
        }


def structures_of(
    sizes: Sequence[int], rng: np.random.Generator, labels: Sequence[str] = ("energy", "forces")
) -> Structures:
    """Random structures with some values that are hard to keep."""
    result = []
    for n in sizes:
        positions = rng.normal(size=(n, 3))
        positions.flat[rng.integers(0, positions.size)] = rng.choice([-0.0, 5e-324])
        structure_labels = {"energy": rng.normal()} if "energy" in labels else {}
        if "gap" in labels:
            structure_labels["gap"] = rng.normal(size=2)
        atom_labels = {"forces": rng.normal(size=(n, 3))} if "forces" in labels else {}
        result.append(
            Structures.single(
                rng.integers(1, 90, n),
                positions,
                rng.normal(size=(3, 3)),
                rng.integers(0, 2, 3),
                structure_labels=structure_labels,
                atom_labels=atom_labels,
            )
        )
    return Structures.concatenate(result)


class Pairs(NamedTuple):
    """What a lake keeps of a neighbour list."""

    pair_offsets: np.ndarray
    neighbour_index: np.ndarray
    cell_shift: np.ndarray


def neighbours_of(structures: Structures, rng: np.random.Generator, most: int = 3) -> Pairs:
    """Random pairs inside each structure; some atoms have none."""
    counts = rng.integers(0, most + 1, structures.n_atoms)
    first = np.repeat(structures.structure_offsets[:-1][structures.structure_index], counts)
    sizes = np.repeat(structures.n_atoms_per_structure[structures.structure_index], counts)
    n = int(counts.sum())
    return Pairs(
        pair_offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        neighbour_index=(first + rng.integers(0, 1 << 30, n) % np.maximum(sizes, 1)).astype(
            np.int64
        ),
        cell_shift=rng.integers(-2, 3, (n, 3)).astype(np.int32),
    )


def rows_of(
    descriptor: Descriptor,
    structures: Structures,
    neighbours: Pairs,
    gradients: Gradients,
    rng: np.random.Generator,
) -> Rows:
    """Random features and gradients, some of them hard to keep."""
    n = structures.n_structures if descriptor.counts_structures(gradients) else structures.n_atoms
    arrays = []
    for shape in descriptor.row_shapes(structures, neighbours.pair_offsets, 0, n, gradients):
        values = rng.normal(size=shape).astype(descriptor.dtype)
        if values.size:
            where = rng.integers(0, values.size, len(AWKWARD))
            with np.errstate(under="ignore"):
                values.flat[where] = np.array(AWKWARD).astype(descriptor.dtype)
        arrays.append(values)
    return Rows(*arrays)


@dataclass
class Builder:
    """Publishes as the engine does, and remembers what."""

    lake: Lake
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    run_id: str = "run-1"
    n_keys: int = 0

    def part(
        self,
        sizes: Sequence[int] = (3, 1, 4),
        *,
        source: str = "db",
        location: str = "a.xyz",
        structures: Structures | None = None,
        labels: Sequence[str] = ("energy", "forces"),
    ) -> tuple[str, Structures]:
        """Write and publish a part."""
        structures = structures or structures_of(sizes, self.rng, labels)
        part_id = uuid.uuid4().hex
        record = parts.write_structures(self.lake.path, part_id, structures)
        rows = self.rows(part_id, structures, source, location)
        self.lake.catalogue.publish_structures(rows, parts=[record], run_id=self.run_id)
        return part_id, structures

    def rows(
        self, part_id: str, structures: Structures, source: str = "db", location: str = "a.xyz"
    ) -> pl.DataFrame:
        """Rows of the structures table for a part, under keys that are not taken."""
        n = structures.n_structures
        keys = [str(self.n_keys + i) for i in range(n)]
        self.n_keys += n
        return pl.DataFrame(
            {
                "structure_id": [f"{source}/{location}/{key}" for key in keys],
                "source": [source] * n,
                "location": [location] * n,
                "key": keys,
                "content_hash": [h.hex() for h in structures.content_hashes()],
                "part_id": [part_id] * n,
                "row": np.arange(n),
                "first_atom": structures.structure_offsets[:-1],
                "n_atoms": structures.n_atoms_per_structure,
                "formula": structures.formulas(),
                "labels": [[*structures.structure_labels, *structures.atom_labels]] * n,
                "status": ["ok"] * n,
            }
        )

    def features(
        self,
        part_id: str,
        structures: Structures,
        descriptor: Descriptor,
        gradients: Gradients = Gradients(),  # noqa: B008
        *,
        rows: Sequence[int] | None = None,
        set_aside: dict[int, SetAside] | None = None,
        block: int = 7,
    ) -> tuple[Rows, Pairs]:
        """Write and publish features of the structures at ``rows`` of a part."""
        covered = structures if rows is None else structures.take(rows)
        neighbours = neighbours_of(covered, self.rng)
        values = rows_of(descriptor, covered, neighbours, gradients, self.rng)
        record = write_features(
            self.lake.path,
            part_id,
            descriptor,
            gradients,
            covered,
            neighbours,
            values,
            rows,
            set_aside,
            block,
        )
        parts.write_descriptor(self.lake.path, descriptor)
        self.lake.catalogue.publish_features([record], run_id=self.run_id)
        return values, neighbours


def write_features(
    lake: Path,
    part_id: str,
    descriptor: Descriptor,
    gradients: Gradients,
    structures: Structures,
    neighbours: Pairs,
    values: Rows,
    rows: Sequence[int] | None = None,
    set_aside: dict[int, SetAside] | None = None,
    block: int = 7,
) -> parts.FeaturesRecord:
    """Write features as they come, in blocks of some rows of each array."""
    writer = parts.FeatureWriter(
        lake, part_id, descriptor, gradients, structures, neighbours.pair_offsets, rows
    )
    writer.append_pairs(neighbours)
    longest = max(len(value) for value in values)
    for start in range(0, longest, block):
        writer.append(Rows(*(value[start : start + block] for value in values)))
    return writer.close(seconds=1.0, set_aside=set_aside, versions={"atomlake": "0"})


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays agree in type, shape and every bit."""
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
