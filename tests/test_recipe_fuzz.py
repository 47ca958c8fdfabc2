"""Recipes that nobody would write: refused with a reason, in bounded time, whatever they are.

``ATOMLAKE_FUZZ=3000 pytest -s tests/test_recipe_fuzz.py`` is the long form; it prints its counts.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from atomlake import descriptors
from atomlake.errors import RecipeError
from atomlake.recipe import Recipe, parse

GOOD = """\
lake: lake
sources:
  - path: ase:g2
    name: molecules
    labels: {energy: e, structure: [gap]}
descriptors:
  - kind: soap
    gradients: pairs
    parameters: {species: [O, H, C], cutoff: 4.0, n_max: 4, l_max: 3, sigma: 0.5}
cluster: {kind: local, workers: 2, memory: 2GB}
limits: {max_neighbours: 100, seconds_per_structure: 5}
parts: {nbytes: 10MB, seconds: 3}
"""

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.dates()
    | st.binary(max_size=8)
    | st.text(max_size=8)
    | st.sampled_from(["1e309", ".nan", "-1GB", "H", "scan", "auto", "../..", "\0", "9" * 5000]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8) | st.integers() | st.none(), inner, max_size=4)
    ),
    max_leaves=8,
)


def places(content, key=()):
    """Every place in a recipe, as the keys that lead there."""
    yield key
    if isinstance(content, dict | list):
        for name in content if isinstance(content, dict) else range(len(content)):
            yield from places(content[name], (*key, name))


def replaced(content, key, value):
    if not key:
        return value
    copy = content.copy()
    copy[key[0]] = replaced(content[key[0]], key[1:], value)
    return copy


#: Recipes of each kind.
N_RECIPES = int(os.environ.get("ATOMLAKE_FUZZ", "150"))
#: What became of them.
OUTCOMES: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def counts():
    yield
    print(f"\nrecipes: {OUTCOMES.total()} inputs, hangs 0, crashes 0")
    for outcome, n in OUTCOMES.most_common():
        print(f"  {outcome:40} {n}")


def assert_recipe_or_reason(text):
    try:
        assert isinstance(parse(text, "r.yaml"), Recipe)
        OUTCOMES["read"] += 1
    except RecipeError as error:
        assert str(error).startswith("r.yaml")  # noqa: PT017
        OUTCOMES["refused with a line and a reason"] += 1


@settings(max_examples=N_RECIPES)
@given(st.data())
def test_any_value_in_any_place(data):
    content = yaml.safe_load(GOOD)
    key = data.draw(st.sampled_from(list(places(content))))
    assert_recipe_or_reason(yaml.dump(replaced(content, key, data.draw(VALUES))))


@settings(max_examples=N_RECIPES)
@given(st.data())
def test_any_value_for_any_parameter_of_any_descriptor(data):
    kind = data.draw(st.sampled_from(descriptors.names()))
    field = data.draw(st.sampled_from(list(descriptors.get(kind).model_fields)))
    absurd = st.sampled_from([0, -1, 10**9, 2**40, 10**30, 1e-300, 1e300, float("nan"), [], {}])
    entry = {"kind": kind, "parameters": {"species": ["H"], field: data.draw(VALUES | absurd)}}
    content = {"lake": "l", "sources": [{"path": "ase:g2"}], "descriptors": [entry]}
    assert_recipe_or_reason(yaml.dump(content))


@settings(max_examples=2 * N_RECIPES)
@given(
    st.integers(0, len(GOOD)),
    st.integers(0, 20),
    st.text("{}[]&*!|>-:,#'\"\n \t%@a0.~", max_size=6),
)
def test_any_edit_of_the_text(start, length, text):
    assert_recipe_or_reason(GOOD[:start] + text + GOOD[start + length :])


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "&a [*a]",
        "lake: &a {b: *a}",
        "[" * 5000,
        "{a: " * 5000,
        "!!python/object/apply:os.system [ls]",
        "lake: !!binary x",
        "? [a, b]\n: c",
        "? {a: b}\n: c",
        "1: 2",
        "lake: 2001-13-41",
        "lake: 0o99",
        "lake: " + "9" * 5000,
        "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
        "\0",
        "",
        "--- a\n--- b\n",
        "<<: 5",
        "<<: [1]",
    ],
    ids=lambda text: repr(text[:20]),
)
def test_what_breaks_other_parsers(text):
    with pytest.raises(RecipeError, match=r"r\.yaml"):
        parse(text, "r.yaml")
