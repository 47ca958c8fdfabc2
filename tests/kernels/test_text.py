"""Columns of text: every number as Python reads it, every line as numpy takes it apart."""

import struct
from decimal import Context, Decimal

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from atomlake.kernels import text

POWERS = text.powers()


def parse(lines, kinds):
    content = np.frombuffer("".join(f"{line}\n" for line in lines).encode("latin-1"), np.uint8)
    words = np.zeros(text.MAX_WORDS, np.uint64)
    word_index = np.full(len(lines), -1, np.int32)
    values = np.full((len(lines), kinds.count(text.NUMBER)), np.nan)
    understood = text.parse_lines(
        content, np.array(kinds, np.int8), POWERS, words, word_index, values
    )
    return understood, words, word_index, values


def number(token):
    """What a token is read as, None if it is refused."""
    understood, _, _, values = parse([token], [text.NUMBER])
    return values[0, 0] if understood else None


def same(a, b):
    return struct.pack("d", a) == struct.pack("d", b)


#: Where no power leaves the table: 19 digits and a power of 10^±100.
doubles = st.floats(-1e80, 1e80).filter(lambda x: x == 0 or abs(x) > 1e-80)


@settings(max_examples=1000)
@given(doubles, st.sampled_from([repr, "{:.16e}".format, "{:.8f}".format, "{:+.17g}".format]))
@example(0.0055093873214673295, repr)
@example(-0.0, repr)
def test_doubles_that_were_written_are_read_as_they_were(x, written):
    token = written(x)
    if sum(map(str.isdigit, token.lower().partition("e")[0].lstrip("+-0."))) <= 19:
        assert same(number(token), float(token))


@settings(max_examples=1000)
@given(
    st.from_regex(
        r"[-+]?([0-9]{1,12}\.?[0-9]{0,12}|\.[0-9]{1,20})([eE][-+]?[0-9]{1,3})?", fullmatch=True
    )
)
@example("0e99999")
@example("1e")
def test_decimal_numbers_are_read_as_python_reads_them(token):
    found = number(token)
    assert found is None or same(found, float(token))


@settings(max_examples=1000)
@given(st.floats(1e-60, 1e60), st.integers(-2, 2))
def test_numbers_next_to_half_way_are_rounded_to_the_nearer_double(x, n_units):
    half_way = (Decimal(x) + Decimal(np.nextafter(x, np.inf))) / 2
    rounded = half_way.normalize(Context(prec=19))
    token = str(rounded + n_units * Decimal((0, (1,), rounded.as_tuple().exponent)))
    found = number(token)
    assert found is None or found == float(token)


@pytest.mark.parametrize(
    "token", ["9007199254740993", "9007199254740993.0", "-18014398509481986e0"]
)
def test_numbers_half_way_to_an_even_one_below_are_refused(token):
    assert number(token) is None


@pytest.mark.parametrize(
    "token",
    ["nan", "inf", "-", ".", "", "+.e1", "1e", "1e+", "1.5d3", "1_0", "0x1p3", "1e99999", "1e200",
     "12345678901234567890", "1\x0b", "1\xa0", "1\x00", "1,5", "--1"],
)  # fmt: skip
def test_what_is_no_plain_number_is_refused(token):
    assert number(token) is None


def test_columns_of_every_kind():
    kinds = [text.WORD, text.NUMBER, text.LOGICAL, text.IGNORED, text.NUMBER]
    lines = ["Si 1 T any -2.5", "\tGe 3e1  f \t x1 .5 and more", "Si 0 t - 7\r"]
    understood, words, word_index, values = parse(lines, kinds)
    assert understood == 3
    assert words[:3].tobytes().split(b"\0" * 6)[:2] == [b"Si", b"Ge"]
    assert word_index.tolist() == [0, 1, 0]
    assert values.tolist() == [[1, -2.5], [30, 0.5], [0, 7]]


@pytest.mark.parametrize(
    "line",
    ["Si 1 T any", "", "Si", "Si 1 x any 2", "Si 1 TT any 2", "Si 1 T \xe9 2", "Si 1 T any 2\rx",
     "Si 1 T any 2 x\rx", "Si 1\rT any 2", "Si\x1c1 T any 2", "Unobtainium 1 T any 2"],
)  # fmt: skip
def test_a_line_that_is_refused_ends_the_parsing(line):
    kinds = [text.WORD, text.NUMBER, text.LOGICAL, text.IGNORED, text.NUMBER]
    assert parse(["Si 1 T any 2", line, "Si 1 T any 2"], kinds)[0] == 1


def test_more_words_than_there_is_room_for_are_refused():
    lines = [f"w{i}" for i in range(text.MAX_WORDS + 1)]
    assert parse(lines, [text.WORD])[0] == text.MAX_WORDS


def test_no_line_is_read_beyond_the_text():
    words = np.zeros(text.MAX_WORDS, np.uint64)
    rest = np.empty(3, np.int32), np.empty((3, 0))
    content = np.frombuffer(b"He\n", np.uint8)
    assert text.parse_lines(content, np.array([text.WORD], np.int8), POWERS, words, *rest) == 1


SNIPPETS = ["1", "-2.5e3", "0.1", "T", "f", "Si", " ", "  ", "\t", "\r", "\x0b", "\x1f", "\x85",
            "\xa0", "\xe9", "nan", "1d2", ",", '"', "#", "+", "e", "\0"]  # fmt: skip


@settings(max_examples=500)
@given(st.lists(st.lists(st.sampled_from(SNIPPETS), max_size=12).map("".join), min_size=1))
@example(["Si 1 T 2 x"])
def test_lines_that_are_understood_are_those_that_numpy_understands(lines):
    kinds = [text.WORD, text.NUMBER, text.IGNORED, text.NUMBER]
    n, words, word_index, values = parse(lines, kinds)
    if n:
        dtype = [("word", "U8"), ("ignored", "U1"), ("values", "f8", (2,))]
        table = np.loadtxt(lines[:n], dtype=dtype, usecols=[0, 2, 1, 3], comments=None, ndmin=1)
        found = [words[i].tobytes().rstrip(b"\0").decode() for i in word_index[:n]]
        assert found == table["word"].tolist()
        assert values[:n].tobytes() == np.ascontiguousarray(table["values"]).tobytes()
