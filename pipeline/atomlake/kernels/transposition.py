"""Eight blocks of eight numbers turned into their columns, within registers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from atomlake.kernels.lanes import _DOUBLES, LANES, _instruction, _lanes

_SHUFFLE = ir.VectorType(ir.IntType(32), LANES)


@_instruction
def store_columns(
    typing: Any,
    data: Any,
    index: Any,
    stride: Any,
    row_0: Any,
    row_1: Any,
    row_2: Any,
    row_3: Any,
    row_4: Any,
    row_5: Any,
    row_6: Any,
    row_7: Any,
) -> Any:
    """Write lane k of the eight rows to ``data[index + k * stride:][:8]``, for all k in order."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        base, first, step, *rows = arguments
        for distance in (1, 2, 4):
            # Swap the off-diagonal quarters of every square of 2 × distance rows and lanes.
            for k in range(LANES):
                if k & distance:
                    continue
                upper, lower = rows[k], rows[k + distance]
                lanes = range(LANES)
                kept = [lane if not lane & distance else LANES + lane - distance for lane in lanes]
                moved = [lane + distance if not lane & distance else LANES + lane for lane in lanes]
                rows[k] = builder.shuffle_vector(upper, lower, ir.Constant(_SHUFFLE, kept))
                rows[k + distance] = builder.shuffle_vector(
                    upper, lower, ir.Constant(_SHUFFLE, moved)
                )
        for k in range(LANES):
            offset = builder.add(first, builder.mul(step, ir.Constant(first.type, k)))
            address = builder.bitcast(builder.gep(base, [offset]), _DOUBLES.as_pointer())
            builder.store(rows[k], address, align=8)
        return context.get_dummy_value()

    return types.void(data, types.intp, types.intp, *[_lanes] * LANES), generate
