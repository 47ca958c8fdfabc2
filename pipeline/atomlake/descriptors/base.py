"""What a descriptor is: frozen parameters, labels, and a map from environments to features."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from atomlake.errors import SetAside, StructureError
from atomlake.kernels import accumulate
from atomlake.neighbours import Neighbours, find_neighbours
from atomlake.structures import CHEMICAL_SYMBOLS, Structures, check, species_numbers
from atomlake.variables import PAIR_VARIABLES, feature_variables

if TYPE_CHECKING:
    import ase
    import xarray as xr

Array = NDArray[Any]

#: Everything that :attr:`Descriptor.symmetries` may hold.
SYMMETRIES = frozenset({"translation", "rotation", "reflection", "permutation", "cell"})
#: Bytes of one block's arrays when a larger computation is cut into blocks: few enough to stay in
#: the processor's cache until they are checked and encoded, enough for calls to cost nothing.
BLOCK_NBYTES = 4 * 2**20
#: Bytes of the rows per centre that are summed into structures at a time.
RUN_NBYTES = 2**20


class LabelColumn(NamedTuple):
    """One thing that is said of every feature.

    Attributes
    ----------
    values : array of shape (n_features,)
        Numbers or text.
    units, long_name : str
        Unit of the numbers and a line for people; empty where the name says it all.
    """

    values: Array
    units: str = ""
    long_name: str = ""

    @property
    def attributes(self) -> dict[str, str]:
        """What is known of unit and meaning."""
        known = {"units": self.units, "long_name": self.long_name}
        return {name: text for name, text in known.items() if text}


class Gradients(NamedTuple):
    """Which derivatives are wanted.

    Attributes
    ----------
    positions : {"none", "summed", "pairs"}
        ``pairs``: one row per centre and neighbour, ``d p_i / d r_j`` for that image of
        ``j``; the centre's own row is minus the sum of the others and is left out.
        ``summed``: one row per atom ``a`` and centre species, the derivative of the sum of
        ``p_i`` over all centres of that species with respect to ``r_a``, the form that
        linear models need. Descriptors of whole structures have one row per atom in
        either form.
    strain : bool
        ``d p / d strain``, where strain maps ``r`` to ``(1 + strain) r``.
    """

    positions: Literal["none", "summed", "pairs"] = "none"
    strain: bool = False

    @property
    def any(self) -> bool:
        """Whether any derivative is wanted."""
        return self.positions != "none" or self.strain


class Citation(NamedTuple):
    """Where a descriptor comes from."""

    text: str
    doi: str


class Rows(NamedTuple):
    """Arrays for the features and gradients of a range of centres or of structures.

    ``features`` has shape (n, n_values). An array that was not asked for has no rows.
    Shapes of the gradients follow :func:`atomlake.variables.feature_variables` with all
    of a feature's components flattened into the last axis.
    """

    features: Array
    gradient_positions: Array
    gradient_strain: Array

    @property
    def has_gradients(self) -> bool:
        """Whether any gradient was asked for."""
        return len(self.gradient_positions) > 0 or len(self.gradient_strain) > 0


class Descriptor(BaseModel, ABC):
    """A parametrised map from environments, or from whole structures, to features.

    A subclass is frozen parameters (pydantic fields) and three methods:
    :attr:`n_features`, :meth:`labels` and :meth:`_environments`
    (or :meth:`_whole_structures` where :attr:`native_rows` is ``"structure"``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # ----- What every family states about itself

    #: Name in recipes and in the registry.
    kind: ClassVar[str]
    #: Branch of the family tree.
    family: ClassVar[str]
    #: One line.
    title: ClassVar[str]
    #: Papers that define it.
    citations: ClassVar[tuple[Citation, ...]]
    #: Raised whenever numbers change for the same parameters.
    kernel_version: ClassVar[int] = 1
    #: What the kernel maps: one atom's environment, or a whole structure.
    native_rows: ClassVar[Literal["atom", "structure"]] = "atom"
    #: Most atoms that one feature correlates, the centre included.
    body_order: ClassVar[str] = ""
    #: What the environment is expanded in.
    basis: ClassVar[str] = ""
    #: Forms of the average over a structure that the family has.
    averages: ClassVar[tuple[str, ...]] = ("none", "outer")
    #: Gradients the family has; an empty tuple where the map is not differentiable.
    gradients: ClassVar[tuple[str, ...]] = ("positions", "strain")
    #: Why gradients are missing, if they are.
    not_differentiable: ClassVar[str] = ""
    #: Where the gradients that the family has do not exist, if anywhere, and what is given there.
    differentiable_except: ClassVar[str] = ""
    #: Ready parameter sets, named after the code they reproduce.
    presets: ClassVar[dict[str, dict[str, Any]]] = {}

    species: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="Chemical symbols that may occur; sorted by atomic number.",
    )
    dtype: Literal["float32", "float64"] = Field(
        default="float64", description="Type of the stored numbers; kernels compute in float64."
    )
    average: Literal["none", "inner", "outer"] = Field(
        default="none",
        description="One row per structure: the mean of the features (outer) or the features "
        "of the mean expansion (inner).",
    )

    @field_validator("species", mode="after")
    @classmethod
    def _sorted_species(cls, species: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if species is None:
            return None
        return tuple(CHEMICAL_SYMBOLS[z] for z in np.sort(species_numbers(species)))

    @field_validator("average", mode="after")
    @classmethod
    def _known_average(cls, average: str) -> str:
        if average not in cls.averages:
            raise ValueError(f"{cls.kind} has no {average!r} average; use one of {cls.averages}")
        return average

    @classmethod
    def preset(cls, name: str, /, **parameters: Any) -> Self:
        """Return the descriptor of a preset, with ``parameters`` added or put in its place.

        Raises
        ------
        ValueError
            If there is no such preset, or the parameters are not valid.
        """
        if name not in cls.presets:
            raise ValueError(f"{cls.kind} has no preset {name!r}; it has {sorted(cls.presets)}")
        return cls.model_validate({**cls.presets[name], **parameters})

    # ----- What a family implements

    @classmethod
    def examples(cls, species: tuple[str, ...]) -> list[Self]:
        """Return small descriptors of these species that between them use every option.

        The contract tests run all of them; the first one is what listings count features of.
        """
        presets = (cls.preset(name, species=species) for name in cls.presets)
        return [cls.model_validate({"species": species}), *presets]

    if TYPE_CHECKING:
        # A field of most families, a property of some: at run time it is theirs alone,
        # because a field must not shadow an attribute of a parent.
        @property
        def cutoff(self) -> float:
            """Distance in Å within which neighbours are needed; 0 where none are."""

    @property
    @abstractmethod
    def n_features(self) -> int:
        """Number of features, known before any compute."""

    @abstractmethod
    def label_columns(self) -> dict[str, LabelColumn]:
        """Say what each feature is, in one or more columns that together tell all apart."""

    def _environments(
        self,
        structures: Structures,
        neighbours: Neighbours,
        first: int,
        last: int,
        rows: Rows,
    ) -> None:
        """Write features and gradients of the centres ``first:last``.

        Parameters
        ----------
        structures : Structures
            The batch, checked.
        neighbours : Neighbours
            Pairs within :attr:`cutoff`.
        first, last : int
            Range of atoms of the batch.
        rows : Rows
            ``features`` (n, n_values); ``gradient_positions`` (n_pairs of the range, 3,
            n_values) or no rows; ``gradient_strain`` (n, 3, 3, n_values) or no rows. float32
            or float64, of any content on entry; every element must be written.
        """
        raise NotImplementedError

    def _environments_again(
        self,
        structures: Structures,
        neighbours: Neighbours,
        first: int,
        last: int,
        rows: Rows,
        held: NDArray[np.int64],
    ) -> None:
        """As :meth:`_environments`, into memory that this method may have written before.

        A family most of whose rows are zeros overrides this, to leave those that are there.

        Parameters
        ----------
        held : int64 array, shape (n_pairs of the range or 0,)
            What the family itself noted here of each row of ``gradient_positions`` when it last
            wrote to it; -1 for a row of any content.
        """
        self._environments(structures, neighbours, first, last, rows)

    def _whole_structures(
        self,
        structures: Structures,
        neighbours: Neighbours,
        first: int,
        last: int,
        rows: Rows,
    ) -> None:
        """Write features and gradients of the structures ``first:last``.

        As :meth:`_environments`, with ``features`` (n, n_values), ``gradient_positions``
        (n_atoms of the range, 3, n_values) and ``gradient_strain`` (n, 3, 3, n_values).
        """
        raise NotImplementedError

    def _inner_average(
        self,
        structures: Structures,
        neighbours: Neighbours,
        first: int,
        last: int,
        rows: Rows,
    ) -> None:
        """As :meth:`_whole_structures`, for ``average="inner"``."""
        raise NotImplementedError

    def cost(self, n_neighbours: float, gradients: Gradients) -> float:
        """Estimate seconds per atom on one core; only ratios between units matter.

        Parameters
        ----------
        n_neighbours : float
            Mean number of neighbours within :attr:`cutoff`.
        gradients : Gradients
            Derivatives that are wanted.
        """
        per_value = 2e-9 * self.n_values
        positions = 3 * n_neighbours * (gradients.positions != "none")
        return 1e-6 + 5e-8 * n_neighbours + per_value * (1 + positions + 9 * gradients.strain)

    # ----- Most families need not override what follows

    def labels(self) -> xr.Dataset:
        """Return :meth:`label_columns` as coordinates over ``feature``."""
        import xarray as xr

        return xr.Dataset(
            coords={
                name: ("feature", column.values, column.attributes)
                for name, column in self.label_columns().items()
            }
        )

    def scratch_nbytes(self, n_atoms: Array, n_neighbours: Array, gradients: Gradients) -> Array:
        """Bytes that making a block of rows takes beside the rows.

        Copies of the block itself in double precision are not counted.

        Parameters
        ----------
        n_atoms : float array, shape (n_structures,)
            Atoms of each structure.
        n_neighbours : float array, shape (n_structures,)
            Neighbours of its atoms within :attr:`cutoff`.
        gradients : Gradients
            Derivatives that are wanted.
        """
        if not self.counts_structures(gradients):
            return np.zeros_like(n_atoms)
        positions = 3 * n_neighbours * (gradients.positions != "none")
        run = 8 * self.n_values * (1 + positions + 9 * gradients.strain)
        result: Array = np.maximum(run, RUN_NBYTES)
        return result

    @property
    def n_components(self) -> int:
        """Equivariant components of each feature; 1 for invariants."""
        return 1

    @property
    def symmetries(self) -> frozenset[str]:
        """What may be done to a structure without changing its features.

        Of ``translation``, ``rotation``, ``reflection``, ``permutation`` (of the atoms), and
        ``cell`` (another cell of the same lattice). Where there are several components, they
        rotate like the real harmonics of that many components, and a reflection does to them
        what it does to these; a label ``parity`` of -1 says that it changes the sign beside.
        """
        return SYMMETRIES

    @property
    def is_continuous(self) -> bool:
        """Whether features change continuously as an atom crosses the cutoff."""
        return True

    @property
    def n_centre_species(self) -> int:
        """Groups of centres whose gradients are summed; 1 where any species may occur."""
        return len(self.species or ("any",))

    @property
    def n_values(self) -> int:
        """Numbers per row: features times components."""
        return self.n_features * self.n_components

    @property
    def per(self) -> Literal["atom", "structure"]:
        """What one row of features describes."""
        return "structure" if self.average != "none" else self.native_rows

    @property
    def parameters(self) -> dict[str, Any]:
        """Canonical parameters: every field, defaults included, as plain JSON values."""
        return self.model_dump(mode="json")

    @property
    def descriptor_id(self) -> str:
        """Name and hash of everything that decides the numbers."""
        canonical = json.dumps(
            {"kind": self.kind, "version": self.kernel_version, "parameters": self.parameters},
            sort_keys=True,
        )
        return f"{self.kind}-{hashlib.blake2b(canonical.encode(), digest_size=6).hexdigest()}"

    @property
    def species_numbers(self) -> NDArray[np.int32]:
        """Atomic numbers of :attr:`species`, ascending; empty where any species may occur."""
        return species_numbers(self.species or ())

    def check(self, structures: Structures) -> list[SetAside | None]:
        """Say of each structure why this descriptor cannot describe it, or None."""
        result: list[SetAside | None] = [None] * structures.n_structures
        if self.species is None:
            return result
        unknown = ~np.isin(structures.numbers, self.species_numbers)
        for s in np.unique(structures.structure_index[unknown]):
            atoms = slice(structures.structure_offsets[s], structures.structure_offsets[s + 1])
            found = sorted({int(z) for z in structures.numbers[atoms][unknown[atoms]]})
            result[s] = SetAside(
                "unknown_species",
                f"{self.kind} is set up for {list(self.species)} and the structure also holds "
                f"{[CHEMICAL_SYMBOLS[z] for z in found]}; add them to species",
            )
        return result

    @property
    def species_table(self) -> NDArray[np.int64]:
        """Position in :attr:`species` of every atomic number, -1 where it is not among them."""
        table = np.full(len(CHEMICAL_SYMBOLS), -1, dtype=np.int64)
        table[self.species_numbers] = np.arange(len(self.species_numbers))
        return table

    def species_index(self, structures: Structures) -> NDArray[np.int64]:
        """Position of each atom's species in :attr:`species`, shape (n_atoms,)."""
        return self.species_table[structures.numbers]

    def centre_group(self, structures: Structures) -> NDArray[np.int64]:
        """Group of :attr:`n_centre_species` that each atom's gradients are summed in."""
        if self.n_centre_species == 1:
            return np.zeros(structures.n_atoms, dtype=np.int64)
        return self.species_index(structures)

    def row_shapes(
        self,
        structures: Structures,
        pair_offsets: NDArray[np.int64],
        first: int,
        last: int,
        gradients: Gradients,
    ) -> Rows:
        """Shapes of the arrays of rows ``first:last``, as a :class:`Rows` of tuples."""
        n, f, s = last - first, self.n_values, self.n_centre_species
        bounds = structures.structure_offsets if self.counts_structures(gradients) else None
        n_atoms = n if bounds is None else int(bounds[last] - bounds[first])
        shapes: tuple[tuple[int, ...], ...]
        if self.per == "structure":
            shapes = (n, f), (n_atoms, 3, f), (n, 3, 3, f)
        elif gradients.positions == "summed":
            shapes = (n_atoms, f), (n_atoms, s, 3, f), (n, s, 3, 3, f)
        else:
            n_pairs = int(pair_offsets[last] - pair_offsets[first])
            shapes = (n, f), (n_pairs, 3, f), (n, 3, 3, f)
        features, positions, strain = shapes
        if gradients.positions == "none":
            positions = (0, *positions[1:])
        if not gradients.strain:
            strain = (0, *strain[1:])
        return Rows(features, positions, strain)  # type: ignore[arg-type]

    def counts_structures(self, gradients: Gradients) -> bool:
        """Whether ranges of rows are ranges of structures (else of atoms)."""
        return self.per == "structure" or gradients.positions == "summed"

    def blocks(
        self,
        structures: Structures,
        neighbours: Neighbours,
        gradients: Gradients,
        max_nbytes: int = BLOCK_NBYTES,
    ) -> Iterator[tuple[int, int]]:
        """Cut all rows into ranges whose arrays stay below ``max_nbytes`` where one row can."""
        counts = (
            structures.n_atoms_per_structure
            if self.counts_structures(gradients)
            else np.diff(neighbours.pair_offsets)
        )
        of_one = self.row_shapes(structures, neighbours.pair_offsets, 0, 0, gradients)
        has_positions, has_strain = gradients.positions != "none", gradients.strain
        features, positions, strain = (int(np.prod(shape[1:])) for shape in of_one)
        is_summed = self.per == "atom" and gradients.positions == "summed"
        values = (
            features * (counts if is_summed else 1)
            + positions * has_positions * counts
            + strain * has_strain
        )
        yield from cut(values * np.dtype(self.dtype).itemsize, max_nbytes)

    def compute_rows(
        self,
        structures: Structures,
        neighbours: Neighbours,
        first: int,
        last: int,
        gradients: Gradients,
        rows: Rows,
        held: NDArray[np.int64] | None = None,
    ) -> None:
        """Write the rows ``first:last`` into arrays of the shapes of :meth:`row_shapes`.

        Parameters
        ----------
        structures : Structures
            The batch; every structure passed the checks.
        neighbours : Neighbours
            Pairs within exactly :attr:`cutoff`.
        first, last : int
            Range of structures where :meth:`counts_structures`, else of atoms.
        gradients : Gradients
            Derivatives that are wanted.
        rows : Rows
            Contiguous arrays to write into.
        held : int64 array, shape (n_pairs of the rows or 0,), optional
            Notes of the descriptor's own on ``rows.gradient_positions``, which stay with that
            memory; see :class:`RowMemory`. Without them it may be of any content.
        """
        if not self.counts_structures(gradients):
            if held is None:
                self._environments(structures, neighbours, first, last, rows)
            else:
                self._environments_again(structures, neighbours, first, last, rows, held)
        elif self.native_rows == "structure":
            self._whole_structures(structures, neighbours, first, last, rows)
        elif self.average == "inner":
            self._inner_average(structures, neighbours, first, last, rows)
        else:
            self._accumulate(structures, neighbours, first, last, gradients, rows)

    def _accumulate(
        self,
        structures: Structures,
        neighbours: Neighbours,
        first: int,
        last: int,
        gradients: Gradients,
        rows: Rows,
    ) -> None:
        """Sum centres into structures: the outer average, or gradients summed over centres."""
        is_averaged = self.average == "outer"
        n_groups = 1 if is_averaged else self.n_centre_species
        group = (
            np.zeros(structures.n_atoms, dtype=np.int64)
            if is_averaged
            else self.centre_group(structures)
        )
        weights = (
            1.0 / structures.n_atoms_per_structure
            if is_averaged
            else np.ones(structures.n_structures)
        )
        structure_index = structures.structure_index
        f = self.n_values
        features = np.zeros((last - first if is_averaged else 0, f))
        positions = rows.gradient_positions.reshape(-1, n_groups, 3, f)
        if positions.dtype != np.float64:
            positions = np.empty(positions.shape)
        positions[...] = 0.0
        strain = np.zeros((len(rows.gradient_strain), n_groups, 3, 3, f))
        of_centres = Gradients(
            "none" if gradients.positions == "none" else "pairs", gradients.strain
        )
        first_atom, last_atom = structures.structure_offsets[[first, last]].tolist()
        for lower, upper in self._runs(neighbours, first_atom, last_atom, of_centres):
            n_pairs = int(neighbours.pair_offsets[upper] - neighbours.pair_offsets[lower])
            run = Rows(
                np.empty((upper - lower, f)),
                np.empty((n_pairs if of_centres.positions == "pairs" else 0, 3, f)),
                np.empty((upper - lower if of_centres.strain else 0, 3, 3, f)),
            )
            self._environments(structures, neighbours, lower, upper, run)
            if is_averaged:
                accumulate.sum_features(
                    run.features, structure_index, weights, lower, first, features
                )
            else:
                rows.features[lower - first_atom : upper - first_atom] = run.features
            if of_centres.positions == "pairs":
                accumulate.sum_pair_gradients(
                    run.gradient_positions,
                    neighbours.pair_offsets,
                    neighbours.neighbour_index,
                    structure_index,
                    group,
                    weights,
                    lower,
                    upper,
                    first_atom,
                    positions,
                )
            if of_centres.strain:
                accumulate.sum_strain_gradients(
                    run.gradient_strain,
                    structure_index,
                    group,
                    weights,
                    lower,
                    first,
                    strain,
                )
        if is_averaged:
            rows.features[...] = features
        if positions.dtype != rows.gradient_positions.dtype:
            rows.gradient_positions[...] = positions.reshape(rows.gradient_positions.shape)
        rows.gradient_strain[...] = strain.reshape(rows.gradient_strain.shape)

    def _runs(
        self, neighbours: Neighbours, first: int, last: int, gradients: Gradients
    ) -> Iterator[tuple[int, int]]:
        """Cut centres into runs whose double precision rows fit in the processor's cache."""
        n_pairs = np.diff(neighbours.pair_offsets[first : last + 1])
        values = self.n_values * (
            1 + 3 * n_pairs * (gradients.positions != "none") + 9 * gradients.strain
        )
        for lower, upper in cut(8 * values, RUN_NBYTES):
            yield first + lower, first + upper

    def compute(
        self,
        structures: Structures | ase.Atoms | Sequence[ase.Atoms],
        gradients: Sequence[Literal["positions", "strain"]] = (),
        *,
        rows: Literal["pairs", "summed"] = "pairs",
        max_neighbours: int = 2000,
    ) -> xr.Dataset:
        """Compute features in memory, with no lake.

        Parameters
        ----------
        structures : Structures, ase.Atoms or sequence of ase.Atoms
            What to describe. Nothing is modified.
        gradients : sequence of {"positions", "strain"}
            Derivatives to compute beside the features.
        rows : {"pairs", "summed"}
            Form of the gradients with respect to positions; see :class:`Gradients`.
        max_neighbours : int
            Most neighbours of an atom that are accepted.

        Returns
        -------
        xarray.Dataset
            ``features`` and what was asked for, labelled, with units in the attributes.

        Raises
        ------
        StructureError
            If a structure cannot be described; the message names it and says why.
        ValueError
            If the descriptor has no such gradient.
        """
        batch = (
            structures if isinstance(structures, Structures) else Structures.from_ase(structures)
        )
        wanted = self.wanted(gradients, rows)
        problems = check(batch)
        _refuse(problems)
        _refuse(self.check(batch))
        neighbours, problems = find_neighbours(batch, self.cutoff, max_neighbours=max_neighbours)
        _refuse(problems)
        n = batch.n_structures if self.counts_structures(wanted) else batch.n_atoms
        result = empty_rows(self, batch, neighbours, 0, n, wanted)
        self.compute_rows(batch, neighbours, 0, n, wanted, result)
        return self._dataset(batch, neighbours, wanted, result)

    def wanted(self, names: Sequence[str], rows: Literal["pairs", "summed"]) -> Gradients:
        """Turn names of gradients into :class:`Gradients`, refusing what there is not."""
        for name in names:
            if name not in self.gradients:
                raise ValueError(
                    f"{self.kind} has no gradient with respect to {name!r}: "
                    + (self.not_differentiable or f"it has {list(self.gradients)}")
                )
        return Gradients(rows if "positions" in names else "none", "strain" in names)

    @property
    def attributes(self) -> dict[str, Any]:
        """Provenance that travels with every array of this descriptor."""
        return {
            "descriptor": self.kind,
            "descriptor_id": self.descriptor_id,
            "title": self.title,
            "parameters": json.dumps(self.parameters, sort_keys=True),
            "citations": [f"{c.text} doi:{c.doi}" for c in self.citations],
        }

    def _dataset(
        self, structures: Structures, neighbours: Neighbours, gradients: Gradients, rows: Rows
    ) -> xr.Dataset:
        import xarray as xr

        equivariant = self.n_components > 1
        tail = (self.n_components, self.n_features) if equivariant else (self.n_features,)
        arrays = {
            name: (variable.dims, value.reshape(*value.shape[:-1], *tail), variable.attributes)
            for (name, variable), value in zip(
                feature_variables(self.per, gradients.positions, equivariant).items(),
                rows,
                strict=True,
            )
            if name == "features"
            or (name == "gradient_positions" and gradients.positions != "none")
            or (name == "gradient_strain" and gradients.strain)
        }
        if self.per == "atom" and gradients.positions == "pairs":
            for name, variable in PAIR_VARIABLES.items():
                arrays[name] = (variable.dims, getattr(neighbours, name), variable.attributes)
        coordinates: dict[str, Any] = {"xyz": list("xyz"), "xyz2": list("xyz")}
        if self.per == "atom" and gradients.positions == "summed":
            coordinates["centre_species"] = list(self.species or ("any",))
        coordinates = {
            k: v for k, v in coordinates.items() if any(k in dims for dims, *_ in arrays.values())
        }
        if any("atom" in dims for dims, *_ in arrays.values()):
            coordinates["structure_index"] = ("atom", structures.structure_index)
            coordinates["numbers"] = ("atom", structures.numbers)
        labelled: dict[Any, Any] = {**coordinates, **self.labels().variables}
        return xr.Dataset(arrays, coords=labelled, attrs=self.attributes)


def empty_rows(
    descriptor: Descriptor,
    structures: Structures,
    neighbours: Neighbours,
    first: int,
    last: int,
    gradients: Gradients,
) -> Rows:
    """Allocate the arrays of the rows ``first:last`` without filling them."""
    shapes = descriptor.row_shapes(structures, neighbours.pair_offsets, first, last, gradients)
    return Rows(*(np.empty(shape, dtype=descriptor.dtype) for shape in shapes))


class RowMemory:
    """Memory that one block of rows after the other is computed in.

    Parameters
    ----------
    descriptor : Descriptor
        What is computed.
    gradients : Gradients
        Derivatives that are wanted.
    max_nbytes : int
        As of :meth:`Descriptor.blocks`.

    Examples
    --------
    >>> memory = RowMemory(soap, gradients)
    >>> for first, last in soap.blocks(structures, neighbours, gradients):
    ...     rows = memory.compute(structures, neighbours, first, last)
    """

    def __init__(
        self, descriptor: Descriptor, gradients: Gradients, max_nbytes: int = BLOCK_NBYTES
    ) -> None:
        self.descriptor = descriptor
        self.gradients = gradients
        self.max_nbytes = max_nbytes
        self._arrays = [np.empty(0, descriptor.dtype)] * len(Rows._fields)
        self._held = np.empty(0, np.int64)

    def compute(
        self, structures: Structures, neighbours: Neighbours, first: int, last: int
    ) -> Rows:
        """Return the rows ``first:last``, read-only and valid until the next call.

        Parameters
        ----------
        structures, neighbours, first, last
            As of :meth:`Descriptor.compute_rows`.
        """
        descriptor, gradients = self.descriptor, self.gradients
        shapes = descriptor.row_shapes(structures, neighbours.pair_offsets, first, last, gradients)
        views = []
        for i, shape in enumerate(shapes):
            size = math.prod(shape)
            if self._arrays[i].size < size:
                # Room for any block but one larger row; pages that are not used cost nothing.
                least = self.max_nbytes // np.dtype(descriptor.dtype).itemsize
                self._arrays[i] = np.empty(max(size, least), descriptor.dtype)
                if Rows._fields[i] == "gradient_positions":
                    self._held = np.full(self._arrays[i].size // math.prod(shape[1:]), -1)
            views.append(self._arrays[i][:size].reshape(shape))
        rows = Rows(*views)
        held = self._held[: len(rows.gradient_positions)]
        descriptor.compute_rows(structures, neighbours, first, last, gradients, rows, held)
        for array in rows:
            # What is held must stay true.
            array.flags.writeable = False
        return rows


def cut(nbytes: NDArray[np.int64], max_nbytes: int) -> Iterator[tuple[int, int]]:
    """Cut rows of given sizes into runs of at most ``max_nbytes``, or of one larger row."""
    if len(nbytes) > 0 and nbytes.sum() <= max_nbytes:
        # One run needs no list of where every row ends, which takes longer than all else here.
        yield 0, len(nbytes)
        return
    ends = np.cumsum(nbytes).tolist()
    first, before = 0, 0
    while first < len(ends):
        last = max(bisect_right(ends, before + max_nbytes), first + 1)
        yield first, last
        first, before = last, ends[last - 1]


def _refuse(problems: Sequence[SetAside | None]) -> None:
    for s, problem in enumerate(problems):
        if problem is not None:
            raise StructureError(f"structure {s} cannot be described: {problem.reason}")
