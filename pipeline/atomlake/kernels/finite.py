"""Whether all of many numbers are finite."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from atomlake.kernels.compiled import kernel, summing


@kernel
def all_finite(values: NDArray[Any]) -> bool:
    """Return whether none of the numbers is NaN or infinite.

    Parameters
    ----------
    values : float32 or float64 array, shape (n,)
        Contiguous.
    """
    return bool(_sum_of_nothing(values) == 0.0)


@summing
def _sum_of_nothing(values: NDArray[Any]) -> Any:
    """Add up all numbers times zero: NaN where one of them is not finite, whatever their size."""
    # Zero of the numbers' own type: float32 is not widened.
    nothing = total = values.dtype.type(0)
    for i in range(values.size):
        total += values[i] * nothing
    return total
