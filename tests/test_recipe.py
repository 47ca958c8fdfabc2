"""A recipe is strict: whatever is wrong is named with its line and the fix, before any work."""

import pytest

from atomlake.errors import RecipeError
from atomlake.recipe import load, parse

GOOD = """\
lake: lake
sources:
  - path: ase:g2
    name: molecules
descriptors:
  - kind: soap
    gradients: pairs
    parameters: {species: [O, H, C], cutoff: 4.0, n_max: 4, l_max: 3, sigma: 0.5}
"""


def problem_of(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse(text, "r.yaml")
    return str(caught.value)


def test_a_good_recipe_is_read():
    recipe = parse(GOOD)
    descriptor = recipe.descriptors[0].build()
    assert descriptor.species == ("H", "C", "O")
    assert recipe.descriptors[0].wanted == ("pairs", True)
    assert recipe.entries_for(recipe.sources[0]) == list(recipe.descriptors)


def test_a_recipe_that_is_written_down_is_the_same_recipe():
    recipe = parse(GOOD + "cluster: {kind: slurm, workers: 2, memory: 1GB}\n")
    written = recipe.model_dump(mode="json", exclude_defaults=True)
    assert written["cluster"] == {"kind": "slurm", "workers": 2, "memory": 10**9}
    assert type(recipe).model_validate(written) == recipe


def test_the_recipe_hash_ignores_where_it_runs():
    elsewhere = parse(GOOD + "cluster: {kind: local, workers: 1}\n")
    assert elsewhere.recipe_hash == parse(GOOD).recipe_hash
    assert parse(GOOD.replace("4.0", "4.5")).recipe_hash != parse(GOOD).recipe_hash


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("name:", "nmae:"), "r.yaml:4: sources[0].nmae: unknown key; did you mean 'name'?"),
        (("lake: lake\n", ""), "r.yaml:1: lake: this key is required"),
        (
            ("cutoff: 4.0", "cutof: 4.0"),
            "r.yaml:8: descriptors[0].parameters.cutof: unknown key; did you mean 'cutoff'?",
        ),
        (("kind: soap", "kind: soup"), "r.yaml:6: descriptors[0]: no descriptor is called 'soup'"),
        (("cutoff: 4.0", "cutoff: -1"), "r.yaml:8: descriptors[0].parameters.cutoff:"),
        (("cutoff: 4.0", "cutoff: wide"), "but it is 'wide'"),
        (("[O, H, C]", "[O, H, Cc]"), "unknown chemical symbol 'Cc'"),
        (("[O, H, C]", "[O, H, H]"), "a species is listed twice"),
        (("gradients: pairs", "gradients: some"), "r.yaml:7: descriptors[0].gradients"),
        (("name: molecules", "name: [1"), "r.yaml:5: not valid YAML"),
    ],
)
def test_a_bad_recipe_is_refused_with_its_line(change, expected):
    assert expected in problem_of(GOOD.replace(*change))


def test_an_impossible_basis_is_refused():
    assert "l_max" in problem_of(GOOD.replace("l_max: 3", "l_max: 400"))
    assert "n_max" in problem_of(GOOD.replace("n_max: 4", "n_max: 60"))


def test_all_problems_are_listed_at_once():
    text = problem_of(GOOD.replace("name:", "nmae:").replace("cutoff:", "cutof:"))
    assert text.count("\n") >= 1


def test_a_key_given_twice_is_refused():
    assert "given twice" in problem_of(GOOD + "lake: other\n")


def test_cluster_settings_are_checked_by_their_kind():
    assert "did you mean 'workers'" in problem_of(GOOD + "cluster: {kind: local, workres: 2}\n")
    assert "no cluster kind is called 'slrum'" in problem_of(GOOD + "cluster: {kind: slrum}\n")


def test_sources_need_distinct_names_and_descriptors_known_ones():
    twice = GOOD.replace("descriptors:", "  - path: other.xyz\n    name: molecules\ndescriptors:")
    assert "two sources are called 'molecules'" in problem_of(twice)
    missing = GOOD.replace("gradients: pairs", "sources: [crystals]")
    assert "asks for source 'crystals'" in problem_of(missing)


def test_a_missing_file_and_a_list_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        load(tmp_path / "none.yaml")
    assert "a recipe is a mapping" in problem_of("- 1\n- 2\n")
