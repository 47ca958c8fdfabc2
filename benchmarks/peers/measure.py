"""Time the codes of a family on structures of one kind, and compare their numbers."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

import ase

from .codes import Code, Family, Impossible, difference
from .structures import Group

#: Order in which quantities are measured and shown.
QUANTITIES = ("features", "positions", "strain", "pairs")
#: Largest array that a code may ask for.
MAX_NBYTES = 3e9
#: How the reason of a record begins that makes the run fail.
DISAGREES = "disagrees with atomlake"


class Budget(NamedTuple):
    """How long a measurement may take.

    Attributes
    ----------
    seconds : float
        Processor time in which calls are repeated.
    longest : float
        A code that needs longer than this for one call is measured on fewer atoms.
    """

    seconds: float
    longest: float


class Record(NamedTuple):
    """What was found out about one code on one group of structures.

    Attributes
    ----------
    family, kind, quantity, code : str
        What was measured.
    n_atoms : int
        On how many atoms; 0 where nothing could be measured.
    microseconds : float or None
        Processor time per atom, the least of several calls.
    difference : float or None
        Largest difference to atomlake's numbers, relative to the norm of a row.
    reason : str
        Why the code was not measured, or not on all atoms.
    """

    family: str
    kind: str
    quantity: str
    code: str
    n_atoms: int
    microseconds: float | None
    difference: float | None
    reason: str


def compared(peer: Code, quantity: str) -> tuple[float | None, str]:
    """Return how far a peer is from atomlake, and the complaint if that is too far.

    The distance is None where conventions differ.
    """
    twin = peer.twin(quantity)
    if twin is None:
        return None, ""
    gap = difference(peer.numbers(quantity), twin.numbers(quantity))
    is_gradient = quantity in ("positions", "strain")
    tolerance = peer.gradient_tolerance if is_gradient else peer.tolerance
    if gap <= tolerance:
        return gap, ""
    return gap, f"{DISAGREES}: {quantity} by {gap:.1e} of a row's norm, more than {tolerance:.0e}"


def seconds_of_call(code: Code, quantity: str) -> float:
    """Return the processor time of one call."""
    code.prepare(quantity)
    start = time.process_time()
    code.compute(quantity)
    return time.process_time() - start


def least_seconds(code: Code, quantity: str, first: float, budget: Budget) -> float:
    """Return the least processor time of two calls, or more where that is short.

    The first of all calls does not count: it is given its memory page by page.
    """
    times: list[float] = []
    if first > budget.longest:
        return first
    while len(times) < 2 or sum(times) < budget.seconds:
        times.append(seconds_of_call(code, quantity))
    return min(times)


class Ladder:
    """One code on ever more atoms, up to where it takes too long."""

    def __init__(
        self, set_up: Callable[[list[ase.Atoms]], Code], groups: list[Group], budget: Budget
    ) -> None:
        self.set_up, self.groups, self.budget = set_up, groups, budget
        self.codes: dict[int, Code] = {}
        #: Seconds of a call for the features, by rung.
        self.of_features: dict[int, float] = {}

    def code(self, rung: int) -> Code:
        """Return the code, set up for the structures of a rung."""
        if rung not in self.codes:
            self.codes = {rung: self.set_up(self.groups[rung].structures)}
            gc.collect()
        return self.codes[rung]

    def warm_up(self, quantity: str) -> None:
        """Let kernels be compiled for the smallest group, if it can be described."""
        with suppress(Impossible):
            seconds_of_call(self.code(0), quantity)

    def climb(self, quantity: str) -> tuple[int, float | None, str]:
        """Return the highest rung, microseconds per atom there, and why it is not the last."""
        reached, seconds, reason = -1, 0.0, ""
        for rung, group in enumerate(self.groups):
            try:
                code = self.code(rung)
            except Impossible as impossible:
                reason = str(impossible)
                break
            if reached >= 0:
                expected = seconds * _ratio(self.groups[reached], group, code.growth(quantity))
            else:
                expected = self.of_features.get(rung, 0.0) * code.effort(quantity)
            if expected > self.budget.longest:
                reason = f"{group.n_atoms:,} atoms would take about {expected:.0f} s"
                break
            nbytes = code.nbytes(quantity)
            if nbytes > MAX_NBYTES:
                reason = f"{group.n_atoms:,} atoms would need {nbytes / 1e9:.0f} GB"
                break
            reached, seconds = rung, seconds_of_call(code, quantity)
            if quantity == "features":
                self.of_features[rung] = seconds
        if reached < 0:
            return reached, None, reason
        return reached, self.microseconds(reached, quantity, seconds), reason

    def microseconds(self, rung: int, quantity: str, first: float | None = None) -> float:
        """Return the time per atom of a rung, after a first call."""
        code = self.code(rung)
        if first is None:
            first = seconds_of_call(code, quantity)
        return 1e6 * least_seconds(code, quantity, first, self.budget) / self.groups[rung].n_atoms


def _ratio(before: Group, after: Group, growth: float) -> float:
    """Return how many times longer ``after`` takes."""
    efforts = (sum(len(atoms) ** growth for atoms in g.structures) for g in (before, after))
    smaller, larger = efforts
    return float(larger / smaller)


def measure(family: Family, groups: list[Group], budget: Budget) -> Iterator[Record]:
    """Yield a record for every quantity and code, atomlake's first.

    Where a peer is measured on fewer atoms, atomlake is so too, beside all atoms.
    """
    kind = groups[0].kind
    ours = Ladder(family.ours, groups, budget)
    peers = [(peer, Ladder(peer, groups, budget)) for peer in family.peers]
    for quantity in (q for q in QUANTITIES if q in family.targets):
        where = family.name, kind, quantity
        found: dict[int, float] = {}
        ours.warm_up(quantity)
        rung, time_ours, reason = ours.climb(quantity)
        n_atoms = groups[rung].n_atoms if rung >= 0 else 0
        yield Record(*where, "atomlake", n_atoms, time_ours, None, reason)
        if rung < 0:
            continue
        found[rung] = time_ours or 0.0
        for peer, ladder in (entry for entry in peers if quantity in entry[0].quantities):
            rung, time_theirs, reason = ladder.climb(quantity)
            if rung < 0:
                yield Record(*where, peer.name, 0, None, None, reason)
                continue
            gap, complaint = compared(ladder.code(0), quantity)
            n_atoms = groups[rung].n_atoms
            if complaint:
                yield Record(*where, peer.name, n_atoms, None, gap, complaint)
                continue
            if rung not in found:
                found[rung] = ours.microseconds(rung, quantity)
                yield Record(*where, "atomlake", n_atoms, found[rung], None, "")
            yield Record(*where, peer.name, n_atoms, time_theirs, gap, reason)
