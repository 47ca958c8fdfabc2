"""Columns of text, one atom a line: words to be looked up, and decimal numbers.

A decimal number ``w 10^q`` of up to 19 digits becomes the double that is nearest to it. Where w
and the power of ten are both doubles, one product or quotient of them is rounded once and
is right (Clinger, PLDI 1990, 92). Otherwise w is multiplied with the first 128 bits of ``5^q``,
of which 64 nearly always say how to round, and all of them do but where the number lies half
way between two doubles (Lemire, Software: Practice and Experience 51, 1700 (2021)).

What is rare is refused, so that the rest is short: more digits, powers beyond the table, half
way to an even double below, NaN and infinities, bytes that some take for blanks and others do
not. Whoever calls has a slower way for these.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from atomlake.kernels.compiled import inlined, kernel
from atomlake.kernels.lanes import pointer

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint64]
Floats = NDArray[np.float64]

#: What a column holds: nothing that matters, a word that is looked up, T or F, a number.
IGNORED, WORD, LOGICAL, NUMBER = 0, 1, 2, 3
#: Bytes of the longest word, and how many different words there may be.
MAX_WORD_NBYTES, MAX_WORDS = 8, 256

_TAB, _NEWLINE, _RETURN, _BLANK, _DELETE = 9, 10, 13, 32, 127
_PLUS, _MINUS, _POINT, _ZERO, _E, _F, _T, _LOWER = 43, 45, 46, 48, 101, 102, 116, 32
_MAX_DIGITS = 19
#: Powers of ten that are doubles, and powers of five in the table.
_LARGEST_EXACT_POWER, _LARGEST_POWER = 22, 100
_ONE, _TEN, _HALF_BITS, _HALF = np.uint64(1), np.uint64(10), np.uint64(32), np.uint64(2**32 - 1)
_TOP_BIT, _NINE, _UNDECIDED = np.uint64(63), np.uint64(9), np.uint64(0x1FF)
_FIRST_INEXACT, _ALL_ONES, _TWO_BITS = np.uint64(2**53), np.uint64(2**64 - 1), np.uint64(3)


class Powers(NamedTuple):
    """Powers that decimal numbers are multiplied with.

    Attributes
    ----------
    tens : float64 array, shape (23,)
        ``10^q``.
    high, low : uint64 array, shape (201,)
        The first 128 bits of ``5^q`` for q from -100 to 100, the highest bit set; rounded up
        where q is negative.
    """

    tens: Floats
    high: Words
    low: Words


def powers() -> Powers:
    """Return the table of powers."""
    high, low = [], []
    for q in range(-_LARGEST_POWER, _LARGEST_POWER + 1):
        power = 5 ** abs(q)
        n_bits = power.bit_length()
        if q >= 0:
            bits = power << 128 >> n_bits
        else:
            bits = (1 << 127 + n_bits) // power + 1
            bits >>= bits.bit_length() - 128
        high.append(bits >> 64)
        low.append(bits & (2**64 - 1))
    tens = [float(10**q) for q in range(_LARGEST_EXACT_POWER + 1)]
    return Powers(np.array(tens), np.array(high, np.uint64), np.array(low, np.uint64))


@kernel
def parse_lines(
    text: Bytes,
    kinds: NDArray[np.int8],
    powers: Powers,
    words: Words,
    word_index: NDArray[np.int32],
    values: Floats,
) -> int:
    """Parse lines whose columns are separated by blanks and tabs; return how many were understood.

    Parameters
    ----------
    text : uint8 array
        Lines, of which the last ends with a line feed, too. What follows the columns of a line
        is ignored.
    kinds : int8 array, shape (n_columns,)
        What each column holds, in the terms of this module.
    powers : Powers
        The table.
    words : uint64 array, shape (MAX_WORDS,)
        Zeros; becomes the different words in the order in which they are met, the first byte
        lowest.
    word_index : int32 array, shape (n_lines,)
        Becomes the word of each line; of several the last.
    values : float64 array, shape (n_lines, n_numbers)
        Becomes the numbers.
    """
    n_lines, n_columns, nbytes = len(word_index), len(kinds), len(text)
    text, kinds, words = pointer(text), pointer(kinds), pointer(words)
    word_index, values = pointer(word_index), pointer(values)
    tens, high, low = pointer(powers.tens), pointer(powers.high), pointer(powers.low)
    i = n_values = n_words = 0
    for line in range(n_lines):
        if i >= nbytes:
            return line
        for column in range(n_columns):
            while text[i] == _BLANK or text[i] == _TAB:
                i += 1
            kind = kinds[column]
            if kind == NUMBER:
                i, value = _number(text, i, tens, high, low)
                if i < 0:
                    return line
                values[n_values] = value
                n_values += 1
            else:
                start = i
                while _BLANK < text[i] < _DELETE:
                    i += 1
                if i == start:
                    return line
                if kind == LOGICAL and not (i == start + 1 and _is_logical(text[start])):
                    return line
                if kind == WORD:
                    place = _find_word(text, start, i, words, n_words)
                    if place < 0:
                        return line
                    word_index[line] = place
                    n_words = max(n_words, place + 1)
            # A return is part of the line's end and stands nowhere else.
            if not (
                text[i] == _BLANK
                or text[i] == _TAB
                or text[i] == _NEWLINE
                or (text[i] == _RETURN and text[i + 1] == _NEWLINE)
            ):
                return line
        while text[i] != _NEWLINE:
            if text[i] == _RETURN and text[i + 1] != _NEWLINE:
                return line
            i += 1
        i += 1
    return n_lines


@inlined
def _is_logical(byte: int) -> bool:
    lower = byte | _LOWER
    return lower in (_F, _T)


@inlined
def _find_word(text: Bytes, start: int, stop: int, words: Words, n_words: int) -> int:
    """Place of a word among those met, to which it is added; -1 where it does not fit."""
    if stop - start > MAX_WORD_NBYTES:
        return -1
    word = np.uint64(0)
    for i in range(start, stop):
        word |= np.uint64(text[i]) << np.uint64(8 * (i - start))
    for place in range(n_words):
        if words[place] == word:
            return place
    if n_words == MAX_WORDS:
        return -1
    words[n_words] = word
    return n_words


@inlined
def _number(text: Bytes, i: int, tens: Floats, high: Words, low: Words) -> tuple[int, float]:
    """Parse the number at i; return the place after it, -1 if it is refused, and its value."""
    is_negative = text[i] == _MINUS
    if is_negative or text[i] == _PLUS:
        i += 1
    start = i
    digits, i = _digits(text, i, np.uint64(0))
    n_digits, exponent = i - start, np.int64(0)
    if text[i] == _POINT:
        first = i + 1
        digits, i = _digits(text, first, digits)
        exponent = np.int64(first - i)
        n_digits += i - first
    if n_digits == 0:
        return -1, 0.0
    while n_digits > _MAX_DIGITS:  # of which those that lead may be zeros
        if text[start] != _ZERO and text[start] != _POINT:
            return -1, 0.0
        n_digits -= text[start] == _ZERO
        start += 1
    if text[i] | _LOWER == _E:
        i += 1
        is_small = text[i] == _MINUS
        if is_small or text[i] == _PLUS:
            i += 1
        first = i
        power, i = _digits(text, i, np.uint64(0))
        if i == first or i > first + 4:
            return -1, 0.0
        exponent += np.int64(-1 if is_small else 1) * np.int64(power)
    if digits == 0:
        value = 0.0
    elif digits < _FIRST_INEXACT and -_LARGEST_EXACT_POWER <= exponent <= _LARGEST_EXACT_POWER:
        value = np.float64(np.int64(digits))
        value = value * tens[exponent] if exponent >= 0 else value / tens[-exponent]
    elif -_LARGEST_POWER <= exponent <= _LARGEST_POWER:
        value = _nearest(
            digits, exponent, high[exponent + _LARGEST_POWER], low[exponent + _LARGEST_POWER]
        )
        if value < 0.0:
            return -1, 0.0
    else:
        return -1, 0.0
    return i, -value if is_negative else value


@inlined
def _digits(text: Bytes, i: int, digits: np.uint64) -> tuple[np.uint64, int]:
    """Append the digits at i to a number; return it, and the place after them."""
    while 0 <= text[i] - _ZERO <= 9:
        digits = digits * _TEN + np.uint64(text[i] - _ZERO)
        i += 1
    return digits, i


@inlined
def _nearest(
    digits: np.uint64, exponent: np.int64, power_high: np.uint64, power_low: np.uint64
) -> float:
    """The double nearest to ``digits 10^exponent``; -1 half way. Lemire (2021), algorithm 1."""
    n_zeros = 0
    while digits >> _TOP_BIT == 0:
        digits <<= _ONE
        n_zeros += 1
    high, low = _product(digits, power_high)
    if high & _UNDECIDED == _UNDECIDED:
        carry, _ = _product(digits, power_low)
        low += carry
        if low < carry:
            high += _ONE
        if low == _ALL_ONES and not -27 <= exponent <= 55:
            return -1.0
    top = high >> _TOP_BIT
    # 53 bits and one more, by which they are rounded.
    bits = high >> (top + _NINE)
    if low <= _ONE and bits & _TWO_BITS == _ONE and bits << (top + _NINE) == high:
        return -1.0
    bits = (bits + (bits & _ONE)) >> _ONE
    # floor(exponent log2(10)), exact in this range.
    binary = (exponent * 217706) >> 16
    shift = int(binary + np.int64(top)) + 11 - n_zeros
    return math.ldexp(np.float64(np.int64(bits)), shift)


@inlined
def _product(a: np.uint64, b: np.uint64) -> tuple[np.uint64, np.uint64]:
    """The 128 bits of a product, as two numbers of 64."""
    a_high, a_low, b_high, b_low = a >> _HALF_BITS, a & _HALF, b >> _HALF_BITS, b & _HALF
    low = a_low * b_low
    middle = a_high * b_low + (low >> _HALF_BITS)
    other = a_low * b_high + (middle & _HALF)
    high = a_high * b_high + (middle >> _HALF_BITS) + (other >> _HALF_BITS)
    return high, (other << _HALF_BITS) | (low & _HALF)
