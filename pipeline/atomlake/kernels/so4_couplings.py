"""Tables of :mod:`atomlake.kernels.so4`: coupling coefficients, and which couplings are needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from atomlake.kernels.so4 import TILE, Couplings


class Channel(NamedTuple):
    """Part of the expansion: twice the angular momentum, and the density it describes."""

    j: int
    element: int = 0


def clebsch_gordan(j1: int, j2: int, j: int) -> NDArray[np.float64]:
    """Clebsch–Gordan coefficients of angular momenta ``j1/2`` and ``j2/2`` coupled to ``j/2``.

    Parameters
    ----------
    j1, j2, j : int
        Twice the angular momenta, with ``j1 + j2 + j`` even and the triangle inequality.

    Returns
    -------
    array, shape (j + 1, j1 + 1)
        ``[m, m1]`` with projections ``m - j/2`` and ``m1 - j1/2``; 0 where
        ``m2 = m + (j1 + j2 - j)/2 - m1`` is not in ``0..j2``. Racah's formula in integers
        (Varshalovich et al., Quantum Theory of Angular Momentum, 8.2.1), rounded once.
    """
    f = math.factorial
    a, b, c = (j1 + j2 - j) // 2, (j1 - j2 + j) // 2, (j2 - j1 + j) // 2
    denominator = f((j1 + j2 + j) // 2 + 1) * f(a) * f(b) * f(c)
    result = np.zeros((j + 1, j1 + 1))
    for m in range(j + 1):
        for m1 in range(max(0, m + a - j2), min(j1, m + a) + 1):
            m2 = m + a - m1
            total = sum(
                (-1) ** z * math.comb(a, z) * math.comb(b, j1 - m1 - z) * math.comb(c, m2 - z)
                for z in range(max(0, j1 - m1 - b, m2 - c), min(a, j1 - m1, m2) + 1)
            )
            factorials = f(m1) * f(j1 - m1) * f(m2) * f(j2 - m2) * f(m) * f(j - m)
            square = total * total * (j + 1) * factorials / denominator
            result[m, m1] = math.copysign(math.sqrt(square), total)
    return result


def couplings(
    twojmax: int,
    n_elements: int,
    triples: Sequence[tuple[Channel, Channel, Channel]],
    is_normalised: bool = False,
) -> Couplings:
    """Plan the features ``B = Σ conj(u^c) H u^a u^b`` of the triples ``(a, b, c)``.

    ``B / (j_c + 1)`` does not depend on the order of the triple, so triples that differ only in
    order share one component, which is coupled to the channel of the largest ``j``.

    Parameters
    ----------
    twojmax, n_elements : int
        Largest ``j``, and number of densities.
    triples : sequence of three channels
        One per linear feature.
    is_normalised : bool
        Whether features are ``B / (j_c + 1)``.
    """
    components = list(dict.fromkeys(_sorted(triple) for triple in triples))
    plan: dict[tuple[Channel, Channel, int], int] = {}
    for a, b, c in components:
        plan.setdefault((a, b, c.j), len(plan))
    n_value_couplings = len(plan)

    rows: dict[Channel, list[tuple[int, int, float]]] = {}
    for k, component in enumerate(components):
        largest = component[2].j
        for channel in dict.fromkeys(component):
            rest = list(component)
            rest.remove(channel)
            t = plan.setdefault((rest[0], rest[1], channel.j), len(plan))
            factor = component.count(channel) * (largest + 1) / (channel.j + 1)
            rows.setdefault(channel, []).append((k, t, factor))
    row_offsets, weight_offsets, padded = [0], [0], []
    for element in range(n_elements):
        for j in range(twojmax + 1):
            tiles = rows.get(Channel(j, element), [])
            while len(tiles) % TILE:
                tiles.append((len(components), tiles[-1][1], 0.0))
            padded += tiles
            row_offsets.append(len(padded))
            weight_offsets.append(weight_offsets[-1] + len(tiles) * (j + 1) ** 2)

    coefficients: list[NDArray[np.float64]] = []
    begins: dict[tuple[int, int, int], int] = {}
    for a, b, j in plan:
        if (a.j, b.j, j) not in begins:
            begins[a.j, b.j, j] = sum(table.size for table in coefficients)
            coefficients.append(clebsch_gordan(a.j, b.j, j))
    scale = [
        (1 if is_normalised else c.j + 1) / (_sorted((a, b, c))[2].j + 1) for a, b, c in triples
    ]
    position = {component: k for k, component in enumerate(components)}
    return Couplings(
        twojmax=twojmax,
        n_elements=n_elements,
        roots=np.sqrt(np.arange(twojmax + 2)),
        coefficients=np.concatenate([table.ravel() for table in coefficients]),
        coupling=np.array(
            [(a.element, a.j, b.element, b.j, j, begins[a.j, b.j, j]) for a, b, j in plan],
            dtype=np.int64,
        ),
        n_value_couplings=n_value_couplings,
        coupled_offsets=np.cumsum([0, *((j + 1) ** 2 for _, _, j in plan)], dtype=np.int64),
        component=np.array(
            [(plan[a, b, c.j], c.element) for a, b, c in components], dtype=np.int64
        ),
        row_offsets=np.array(row_offsets, dtype=np.int64),
        weight_offsets=np.array(weight_offsets, dtype=np.int64),
        row_component=np.array([k for k, _, _ in padded], dtype=np.int64),
        row_coupling=np.array([t for _, t, _ in padded], dtype=np.int64),
        row_factor=np.array([factor for _, _, factor in padded]),
        feature_component=np.array([position[_sorted(t)] for t in triples], dtype=np.int64),
        feature_scale=np.array(scale),
    )


def _sorted(triple: tuple[Channel, Channel, Channel]) -> tuple[Channel, Channel, Channel]:
    a, b, c = sorted(triple)
    return a, b, c
