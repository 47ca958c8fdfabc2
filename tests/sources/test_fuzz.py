"""Damaged files, thousands of them, through every reader: structures or a reason, in bounded time.

``pytest -m slow -s tests/sources/test_fuzz.py`` is the long form; it prints what it counted, and
``ATOMLAKE_FUZZ`` sets how many inputs each file gets.
"""

from __future__ import annotations

import os
import time
from collections import Counter

import numpy as np
import pytest
from damage import DAMAGES, examples

from atomlake import sources
from atomlake.engine.tasks import check_structures
from atomlake.errors import SetAside, SourceError
from atomlake.sources.base import Guard, LabelKeys, Source

#: Short, so that a file that makes a reader hang does not hold up the rest.
GUARD = Guard(seconds=3.0, nbytes=10**9)
LABELS = LabelKeys(structure=("gap",), atom=("charges",))
#: Own parsers pass a small file in milliseconds; what takes so long on any machine hangs.
HANG = 60.0


def outcome(path, format, scratch) -> str:
    """Read a file to the end; say how that went, in a code."""
    source = Source(path=str(path), format=format, labels=LABELS)
    started = time.monotonic()
    try:
        reader = sources.reader(str(path), source, scratch, GUARD)
        reader.fingerprint()
        index = reader.index()
        readable = [row for row in range(len(index)) if row not in index.set_aside]
        result = reader.read(index.locations[readable])
    except SourceError as error:
        reason = str(error)
        return next((code for word, code in WORDS.items() if word in reason), "refused as a whole")
    finally:
        assert time.monotonic() - started < HANG, f"{path} made the reader hang"
    assert sorted([*result.rows, *result.set_aside]) == list(range(len(readable)))
    expected = index.record_hashes[readable][result.rows]
    assert np.array_equal(result.record_hashes, expected), "read as it was indexed"
    problems = [*index.set_aside.values(), *result.set_aside.values()]
    problems += [problem for problem in check_structures(result.structures) if problem]
    for problem in problems:
        assert isinstance(problem, SetAside)
        assert problem.code
        assert problem.reason
    return problems[0].code if problems else "read"


WORDS = {
    "limits.seconds_per_structure": "too_slow",
    "limits.reader_memory": "too_large",
    "the reader crashed": "crashed_reader",
}


def fuzz(paths, n_inputs, tmp_path, seed=0) -> Counter[str]:
    """Put so many damaged copies of each file through its reader; count what came of them."""
    rng = np.random.default_rng(seed)
    counts: Counter[str] = Counter()
    for path in paths:
        format = path.suffix.removeprefix(".") if path.stem == "example" else "auto"
        content = path.read_bytes()
        for _ in range(n_inputs):
            damage = DAMAGES[rng.integers(len(DAMAGES))]
            damaged = tmp_path / path.name
            damaged.write_bytes(damage(content, rng))
            try:
                counts[outcome(damaged, format, tmp_path / "scratch")] += 1
            except Exception as error:
                error.add_note(f"{damage.__name__} of {path.name}: {damaged.read_bytes()!r:.20000}")
                raise
    return counts


#: Parsed without a file, so that there is none to damage.
FILELESS = {"ase_collection", "ase_server"}


@pytest.mark.parametrize("name", sorted(set(sources.names()) - FILELESS))
def test_damaged_files(name, tmp_path, tmp_path_factory):
    paths = examples(tmp_path_factory.mktemp("whole"))[name]
    counts = fuzz(paths, {"ase": 2, "ase_database": 20}.get(name, 60), tmp_path)
    assert counts["read"] < counts.total(), "the damage is felt"


def report(name, paths, n_inputs, tmp_path):
    started = time.monotonic()
    counts = fuzz(paths, n_inputs, tmp_path, seed=1)
    seconds = time.monotonic() - started
    print(f"\n{name}: {counts.total()} inputs in {seconds:.0f} s, hangs 0, crashes 0")
    for code, n in counts.most_common():
        print(f"  {code:24} {n}")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(sources.names()) - FILELESS))
def test_damaged_files_at_length(name, tmp_path, tmp_path_factory):
    n_inputs = int(os.environ.get("ATOMLAKE_FUZZ", "3000"))
    paths = examples(tmp_path_factory.mktemp("whole"))[name]
    report(name, paths, n_inputs // (30 if name == "ase" else 1), tmp_path)


@pytest.mark.slow
def test_damaged_real_files(shared_data, tmp_path):
    files = sorted((shared_data / "nasty").rglob("*.*"))
    paths = [path for path in files if path.is_file() and path.stat().st_size < 200_000]
    report("nasty", paths, int(os.environ.get("ATOMLAKE_FUZZ", "3000")) // 30, tmp_path)
