"""Radial functions from a table: quintic Hermite interpolation of all of them at once.

A table has shape ``(n_nodes, 3, n_columns)``: at each node, a distance ``node · spacing``,
the value, the first and the second derivative of every function, the derivatives times
``spacing`` and ``spacing²``. A function anywhere between two nodes is a sum of the six rows
of these nodes, so that one set of six weights per pair serves all functions.
"""

from __future__ import annotations

from atomlake.kernels.compiled import inlined

Six = tuple[float, float, float, float, float, float]


@inlined
def hermite_weights(t: float) -> Six:
    """Weights of the six rows at fraction ``t`` of the interval.

    Returns
    -------
    tuple of 6 float
        Of value, first and second derivative at the left node, then at the right node.
    """
    cube = t * t * t
    rise = cube * (10.0 - t * (15.0 - 6.0 * t))
    return (
        1.0 - rise,
        t - cube * (6.0 - t * (8.0 - 3.0 * t)),
        0.5 * (t * t - cube * (3.0 - t * (3.0 - t))),
        rise,
        -cube * (4.0 - t * (7.0 - 3.0 * t)),
        0.5 * cube * (1.0 - t * (2.0 - t)),
    )


@inlined
def hermite_weights_derivative(t: float) -> Six:
    """Derivatives by ``t`` of :func:`hermite_weights`."""
    square = t * t
    rise = 30.0 * square * (1.0 - t * (2.0 - t))
    return (
        -rise,
        1.0 - square * (18.0 - t * (32.0 - 15.0 * t)),
        t - 0.5 * square * (9.0 - t * (12.0 - 5.0 * t)),
        rise,
        -square * (12.0 - t * (28.0 - 15.0 * t)),
        0.5 * square * (3.0 - t * (8.0 - 5.0 * t)),
    )


@inlined
def scaled_weights(weights: Six, scale: float, others: Six, scale_of_others: float) -> Six:
    """Return ``scale · weights + scale_of_others · others``."""
    return (
        scale * weights[0] + scale_of_others * others[0],
        scale * weights[1] + scale_of_others * others[1],
        scale * weights[2] + scale_of_others * others[2],
        scale * weights[3] + scale_of_others * others[3],
        scale * weights[4] + scale_of_others * others[4],
        scale * weights[5] + scale_of_others * others[5],
    )
