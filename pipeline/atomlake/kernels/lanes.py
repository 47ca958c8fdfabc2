"""Eight doubles in one SIMD register, for kernels whose inner loops are short.

The blocks of a density expansion are a few numbers long (8 radial functions, say), too
short for LLVM's loop vectoriser, whose checks before and after each loop would cost more
than the loop. Here a block is one value of type ``Lanes``, an LLVM vector: it stays in a
register over a whole sum, and every operation is one instruction (two or four where
registers are narrower). Arithmetic is written with ``+``, ``-``, ``*`` and ``/``; a float among
the operands stands for eight of it.

All functions take a :func:`pointer` and an index, without bounds checks.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.errors import TypingError
from numba.core.extending import intrinsic, lower_builtin, models, register_model
from numba.core.typing.templates import AbstractTemplate, infer_global, signature

#: Numbers in one block. Arrays that are read in blocks are padded to a multiple of it.
LANES = 8

_DOUBLES = ir.VectorType(ir.DoubleType(), LANES)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)


def _instruction(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark code that numba generates in place of a call."""
    return intrinsic(function)


class _LanesType(types.Type):
    def __init__(self) -> None:
        super().__init__(name="Lanes")


_lanes = _LanesType()


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, type_: Any) -> None:
        super().__init__(manager, type_, _DOUBLES)


def n_padded(n: int) -> int:
    """Smallest multiple of :data:`LANES` that is at least ``n``."""
    return -(-n // LANES) * LANES


@_instruction
def pointer(typing: Any, array: Any) -> Any:
    """Return the address of the first element of a C-contiguous array.

    ``pointer(array)[i]`` reads and writes the flat array. Helpers take pointers in place of
    arrays because numba counts references to every array argument, which costs more than a
    short loop. The array must be an argument of the kernel, whose caller keeps it alive.
    """
    if array.layout != "C":
        raise TypingError("a pointer is taken of a C-contiguous array, and this one has strides")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.make_array(array)(context, builder, arguments[0]).data

    return types.CPointer(array.dtype)(array), generate  # type: ignore[attr-defined]


@_instruction
def advanced(typing: Any, data: Any, n: Any) -> Any:
    """Return the pointer to ``data[n]``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.gep(arguments[0], [arguments[1]])

    return data(data, types.intp), generate


@_instruction
def aligned(typing: Any, data: Any) -> Any:
    """Return the pointer to the first whole line of the cache, at most 7 numbers further on.

    Blocks of lanes that are read and written from there never straddle two lines.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer = ir.IntType(64)
        line = 8 * LANES
        address = builder.ptrtoint(arguments[0], integer)
        after = builder.add(address, ir.Constant(integer, line - 1))
        first = builder.and_(after, ir.Constant(integer, -line))
        return builder.inttoptr(first, arguments[0].type)

    return data(data), generate


@_instruction
def load(typing: Any, data: Any, index: Any) -> Any:
    """Return ``data[index:index + 8]`` of float64 data."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = builder.bitcast(builder.gep(arguments[0], [arguments[1]]), _DOUBLES.as_pointer())
        return builder.load(address, align=8)

    return _lanes(data, types.intp), generate


@_instruction
def store(typing: Any, data: Any, index: Any, value: Any) -> Any:
    """Write all lanes to ``data[index:index + 8]`` of float64 or float32 data."""
    is_single = data.dtype == types.float32
    vector = _FLOATS if is_single else _DOUBLES

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        base, offset, value = arguments
        address = builder.bitcast(builder.gep(base, [offset]), vector.as_pointer())
        if is_single:
            value = builder.fptrunc(value, vector)
        builder.store(value, address, align=4 if is_single else 8)
        return context.get_dummy_value()

    return types.void(data, types.intp, _lanes), generate


@_instruction
def load_some(typing: Any, data: Any, index: Any, first: Any, last: Any) -> Any:
    """Return the lanes ``first:last`` of ``data[index:index + 8]`` of float64 data, else zeros.

    Nothing outside of ``data[index + first:index + last]`` is read.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        base, offset, first, last = arguments
        address = builder.bitcast(builder.gep(base, [offset]), _DOUBLES.as_pointer())
        mask = _mask(builder, first, last)
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(_DOUBLES, [_DOUBLES.as_pointer(), ir.IntType(32), mask.type, _DOUBLES]),
            "llvm.masked.load.v8f64.p0",
        )
        align, zeros = ir.Constant(ir.IntType(32), 8), ir.Constant(_DOUBLES, [0.0] * LANES)
        return builder.call(function, [address, align, mask, zeros])

    return _lanes(data, types.intp, types.intp, types.intp), generate


@_instruction
def load_at(typing: Any, data: Any, indices: Any, first: Any, n: Any) -> Any:
    """Return ``data[indices[first:first + 8]]`` of int32 data, of which only ``n`` are read.

    The indices are int64; lanes from ``n`` on are 0.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        base, indices, first, n = arguments
        align = ir.Constant(ir.IntType(32), 4)
        integers, numbers = (ir.VectorType(ir.IntType(bits), LANES) for bits in (64, 32))
        addresses = ir.VectorType(base.type, LANES)
        mask = _mask(builder, ir.Constant(ir.IntType(64), 0), n)
        load_indices = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(integers, [integers.as_pointer(), align.type, mask.type, integers]),
            "llvm.masked.load.v8i64.p0",
        )
        address = builder.bitcast(builder.gep(indices, [first]), integers.as_pointer())
        zeros = ir.Constant(integers, [0] * LANES)
        index = builder.call(load_indices, [address, align, mask, zeros])
        gather = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(numbers, [addresses, align.type, mask.type, numbers]),
            "llvm.masked.gather.v8i32.v8p0",
        )
        # In bytes, because llvmlite takes no vector for an index.
        start = _splat(builder, builder.ptrtoint(base, ir.IntType(64)), integers)
        offset = builder.shl(index, ir.Constant(integers, [2] * LANES))
        where = builder.inttoptr(builder.add(start, offset), addresses)
        found = builder.call(gather, [where, align, mask, ir.Constant(numbers, [0] * LANES)])
        return builder.sitofp(found, _DOUBLES)

    return _lanes(data, indices, types.intp, types.intp), generate


@_instruction
def store_some(typing: Any, data: Any, index: Any, value: Any, first: Any, last: Any) -> Any:
    """Write the lanes ``first:last`` to ``data[index + first:index + last]``.

    The data are float64 or float32; nothing else of them is touched.
    """
    is_single = data.dtype == types.float32
    vector = _FLOATS if is_single else _DOUBLES

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        base, offset, value, first, last = arguments
        address = builder.bitcast(builder.gep(base, [offset]), vector.as_pointer())
        if is_single:
            value = builder.fptrunc(value, vector)
        mask = _mask(builder, first, last)
        suffix = "v8f32" if is_single else "v8f64"
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(
                ir.VoidType(), [vector, vector.as_pointer(), ir.IntType(32), mask.type]
            ),
            f"llvm.masked.store.{suffix}.p0",
        )
        align = ir.Constant(ir.IntType(32), 4 if is_single else 8)
        builder.call(function, [value, address, align, mask])
        return context.get_dummy_value()

    return types.void(data, types.intp, _lanes, types.intp, types.intp), generate


@_instruction
def append_between(
    typing: Any,
    values: Any,
    indices: Any,
    n: Any,
    value: Any,
    least: Any,
    limit: Any,
    first: Any,
    last: Any,
) -> Any:
    """Append the lanes from ``least`` to below ``limit`` to lists of ``n`` entries.

    Returns the new ``n``. Lane k has the index ``first + k``; it is left out if that is not
    below ``last``. The lists are float64 values and int32 indices, each with room for 8 more
    entries. There is no branch: where the processor can (AVX-512, SVE), the lanes that pass are
    moved to the front of the register by one instruction and the whole register is stored.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values, indices, n, value, least, limit, first, last = arguments
        mask = _mask_below(builder, value, limit, builder.sub(last, first))
        is_enough = builder.fcmp_ordered(">=", value, _splat(builder, least, _DOUBLES))
        mask = builder.and_(mask, is_enough)
        integers = ir.VectorType(ir.IntType(32), LANES)
        lane = ir.Constant(integers, list(range(LANES)))
        index = builder.add(lane, _splat(builder, builder.trunc(first, ir.IntType(32)), integers))
        for data, vector, suffix, align in (
            (values, value, "v8f64", 8),
            (indices, index, "v8i32", 4),
        ):
            function = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(vector.type, [vector.type, mask.type, vector.type]),
                f"llvm.experimental.vector.compress.{suffix}",
            )
            front = builder.call(function, [vector, mask, ir.Constant(vector.type, ir.Undefined)])
            address = builder.bitcast(builder.gep(data, [n]), vector.type.as_pointer())
            builder.store(front, address, align=align)
        n_passed = builder.ctpop(builder.bitcast(mask, ir.IntType(LANES)))
        return builder.add(n, builder.zext(n_passed, ir.IntType(64)))

    integer, double = types.intp, types.float64
    return integer(values, indices, integer, _lanes, double, double, integer, integer), generate


@_instruction
def pack_below(typing: Any, value: Any, test: Any, limit: Any, n: Any) -> Any:
    """Move the lanes of ``value`` whose ``test`` is below ``limit`` to the front.

    Only the first ``n`` lanes take part. What follows those that pass is undefined. As
    :func:`append_between`, for several values that pass or fail together.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, *condition = arguments
        mask = _mask_below(builder, *condition)
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(_DOUBLES, [_DOUBLES, mask.type, _DOUBLES]),
            "llvm.experimental.vector.compress.v8f64",
        )
        return builder.call(function, [value, mask, ir.Constant(_DOUBLES, ir.Undefined)])

    return _lanes(_lanes, _lanes, types.float64, types.intp), generate


@_instruction
def count_below(typing: Any, test: Any, limit: Any, n: Any) -> Any:
    """Return how many of the first ``n`` lanes are below ``limit``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        mask = _mask_below(builder, *arguments)
        n_passed = builder.ctpop(builder.bitcast(mask, ir.IntType(LANES)))
        return builder.zext(n_passed, ir.IntType(64))

    return types.intp(_lanes, types.float64, types.intp), generate


def _mask_below(builder: Any, test: Any, limit: Any, n: Any) -> Any:
    """One bit for each of the first ``n`` lanes that is below the limit."""
    zero = ir.Constant(ir.IntType(64), 0)
    is_below = builder.fcmp_ordered("<", test, _splat(builder, limit, _DOUBLES))
    return builder.and_(is_below, _mask(builder, zero, n))


def _mask(builder: Any, first: Any, last: Any) -> Any:
    """One bit for each lane, set from ``first`` to ``last``."""
    integers = ir.VectorType(ir.IntType(64), LANES)
    lane = ir.Constant(integers, list(range(LANES)))
    return builder.and_(
        builder.icmp_signed(">=", lane, _splat(builder, first, integers)),
        builder.icmp_signed("<", lane, _splat(builder, last, integers)),
    )


def _splat(builder: Any, scalar: Any, vector: Any) -> Any:
    undefined = ir.Constant(vector, ir.Undefined)
    zero = ir.Constant(ir.IntType(32), 0)
    single = builder.insert_element(undefined, scalar, zero)
    mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(single, undefined, mask)


@_instruction
def broadcast(typing: Any, scalar: Any) -> Any:
    """Return the same float64 number in all lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _splat(builder, arguments[0], _DOUBLES)

    return _lanes(types.float64), generate


@_instruction
def lane_sum(typing: Any, value: Any) -> Any:
    """Return the sum of all lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.DoubleType(), [ir.DoubleType(), _DOUBLES]),
            "llvm.vector.reduce.fadd.v8f64",
        )
        zero = ir.Constant(ir.DoubleType(), 0.0)
        # reassoc: in pairs, in place of one lane after the other.
        return builder.call(function, [zero, arguments[0]], fastmath=("reassoc",))

    return types.float64(_lanes), generate


@_instruction
def square_root(typing: Any, value: Any) -> Any:
    """Return the square root of every lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_DOUBLES, [_DOUBLES]), "llvm.sqrt.v8f64"
        )
        return builder.call(function, arguments)

    return _lanes(_lanes), generate


@_instruction
def larger(typing: Any, value: Any, limit: Any) -> Any:
    """Return ``value``, a float or lanes, or the float ``limit`` where that is larger."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, limit = arguments
        if signature.return_type == _lanes:
            limit = _splat(builder, limit, _DOUBLES)
        return builder.select(builder.fcmp_ordered(">", value, limit), value, limit)

    return value(value, types.float64), generate


@_instruction
def smaller(typing: Any, value: Any, limit: Any) -> Any:
    """Return ``value``, a float or lanes, or the float ``limit`` where that is smaller."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, limit = arguments
        if signature.return_type == _lanes:
            limit = _splat(builder, limit, _DOUBLES)
        return builder.select(builder.fcmp_ordered("<", value, limit), value, limit)

    return value(value, types.float64), generate


@_instruction
def power_of_two(typing: Any, value: Any) -> Any:
    """Return 2 to the integer in the lowest bits of a float, or of each lane.

    Such a number is the integer plus 1.5 · 2**52; the integer is between -1022 and 1023.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def constant(number: int) -> Any:
            if signature.return_type == _lanes:
                return ir.Constant(ir.VectorType(ir.IntType(64), LANES), [number] * LANES)
            return ir.Constant(ir.IntType(64), number)

        bits = builder.bitcast(arguments[0], constant(0).type)
        exponent = builder.shl(bits, constant(52))
        # The exponent field of 1.0.
        power = builder.add(exponent, constant(0x3FF0000000000000))
        return builder.bitcast(power, arguments[0].type)

    return value(value), generate


def _arithmetic(symbol: Any, instruction: str) -> None:
    @infer_global(symbol)
    class Typing(AbstractTemplate):  # type: ignore[misc]
        def generic(self, arguments: Any, keywords: Any) -> Any:
            if _lanes in arguments and set(arguments) <= {_lanes, types.float64}:
                return signature(_lanes, *arguments)
            return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        operands = [
            value if type_ == _lanes else _splat(builder, value, _DOUBLES)
            for value, type_ in zip(arguments, signature.args, strict=True)
        ]
        return getattr(builder, instruction)(*operands, flags=("contract",))

    for operands in (
        (_LanesType, _LanesType),
        (_LanesType, types.Float),
        (types.Float, _LanesType),
    ):
        lower_builtin(symbol, *operands)(generate)


_arithmetic(operator.add, "fadd")
_arithmetic(operator.sub, "fsub")
_arithmetic(operator.mul, "fmul")
_arithmetic(operator.truediv, "fdiv")
