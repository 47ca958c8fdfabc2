"""A parser of others may hang, die or ask for too much memory: the caller goes on."""

from __future__ import annotations

import ctypes
import itertools
import os
import time
from collections import deque

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write

from atomlake import sources
from atomlake.errors import SourceError
from atomlake.sources.base import Guard, Source, Unreadable
from atomlake.sources.guarded import at_once, guarded


def counts(n):
    yield from range(n)


def hangs(n):
    yield from range(n)
    while True:
        time.sleep(1)


def hangs_in_c(n):
    yield from range(n)
    # One call that never returns to the interpreter, and so never looks at its signals.
    sum(itertools.repeat(0))


def crashes(n):
    yield from range(n)
    ctypes.string_at(0)


def leaves(n):
    yield from range(n)
    os._exit(3)


def allocates(n):
    yield from range(n)
    np.zeros(10**12)


def grows(n):
    yield from range(n)
    list(itertools.repeat(0, 10**9))


def raises(n):
    yield from range(n)
    raise RecursionError("too deep\nto go on")


def refuses(n):
    yield from range(n)
    raise SourceError("this is no file")


def numbers(function, n=3, seconds=0.5):
    """What comes out of a function, and how it ends."""
    items, found = guarded(Guard(seconds, 10**9), "", function, n), []
    with pytest.raises((Unreadable, SourceError)) as caught:
        deque(map(found.append, items))
    return found, caught.value


def test_what_ends_well():
    assert list(guarded(Guard(), "", counts, 1000)) == list(range(1000))
    assert list(guarded(Guard(), "", counts, 0)) == []


@pytest.mark.parametrize(
    ("function", "code", "reason"),
    [
        (hangs, "too_slow", "limits.seconds_per_structure"),
        (hangs_in_c, "too_slow", "not read within"),
        (crashes, "crashed_reader", "SIGSEGV"),
        (leaves, "crashed_reader", "exit status 3"),
        (allocates, "too_large", "limits.reader_memory"),
        (grows, "too_large", "more than 1.0 GB"),
        (raises, "malformed", "RecursionError: too deep to go on"),
    ],
)
def test_what_does_not(function, code, reason):
    found, problem = numbers(function)
    assert found == [0, 1, 2], "what precedes is kept"
    assert problem.problem.code == code
    assert reason in problem.problem.reason
    assert list(guarded(Guard(), "", counts, 3)) == [0, 1, 2], "the next call finds no trace"


def test_errors_of_the_source_come_through():
    assert str(numbers(refuses)[1]) == "this is no file"


def test_whoever_stops_listening_leaves_nothing_behind():
    items = guarded(Guard(), "", counts, 10**9)
    assert next(items) == 0
    items.close()
    assert list(guarded(Guard(), "", counts, 3)) == [0, 1, 2]


def test_calls_within_calls():
    for i, j in zip(guarded(Guard(), "", counts, 5), guarded(Guard(), "", counts, 5), strict=True):
        assert i == j
    nested = [
        (i, j) for i in guarded(Guard(), "", counts, 3) for j in guarded(Guard(), "", counts, 2)
    ]
    assert len(nested) == 6


def test_calls_at_once():
    calls = [(n,) for n in range(20)]
    assert sorted(at_once(counts, calls, 3)) == sorted(i for n in range(20) for i in range(n))
    assert list(at_once(counts, [], 3)) == []


@pytest.mark.parametrize("function", [crashes, leaves, raises, refuses])
def test_of_calls_at_once_what_fails_is_missing(function):
    assert sorted(at_once(function, [(2,), (3,)], 2)) == [0, 0, 1, 1, 2]
    assert list(at_once(function, [(2,)] * 9, 1))[:2] == [0, 1], "with every process gone it ends"


def test_whoever_stops_listening_to_calls_at_once_waits_for_none():
    items = at_once(hangs_in_c, [(1,), (1,)], 2)
    assert next(items) == 0
    start = time.monotonic()
    items.close()
    assert time.monotonic() - start < 10


def test_a_file_that_announces_absurd_counts(tmp_path):
    path = tmp_path / "XDATCAR"
    write(path, [bulk("Cu")] * 3, format="vasp-xdatcar")
    lines = path.read_text().splitlines()
    lines[6] = "   1000000000000"
    path.write_text("\n".join(lines))
    reader = sources.reader(str(path), Source(path=str(path)), tmp_path, Guard(2.0, 10**9))
    with pytest.raises(SourceError, match="XDATCAR cannot be read"):
        reader.index()


def test_a_pipe_that_nobody_writes_to(tmp_path):
    path = tmp_path / "POSCAR"
    os.mkfifo(path)
    reader = sources.reader(str(path), Source(path=str(path)), tmp_path, Guard(0.5, 10**9))
    with pytest.raises(SourceError, match="not read within"):
        reader.index()
