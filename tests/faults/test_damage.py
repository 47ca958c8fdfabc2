"""Whatever happens to a file of a lake is found, on reading or by verification; none reads wrong.

The short form runs with the fast tests. The long form, of some thousand injuries:

    pytest -m slow tests/faults/test_damage.py -s
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.io import write

from atomlake.engine.repair import repair
from atomlake.engine.run import run
from atomlake.errors import LakeError
from atomlake.lake import Lake
from atomlake.lake.verify import verify
from atomlake.recipe import Recipe


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A lake of real structures in two parts, with features and gradients of two descriptors."""
    folder = tmp_path_factory.mktemp("damage")
    structures = [molecule(name) for name in ("H2O", "NH3", "CH4", "CO2", "C2H6")]
    structures.append(bulk("Cu", cubic=True))
    write(folder / "structures.xyz", structures, format="extxyz")
    g2 = {"g2": [[0.05, 0.0], [0.5, 1.0]], "species": ["H", "C", "N", "O", "Cu"]}
    recipe = Recipe.model_validate(
        {
            "lake": str(folder / "lake"),
            "sources": [{"path": str(folder / "structures.xyz"), "name": "db"}],
            "descriptors": [
                {
                    "kind": "symmetry_functions",
                    "gradients": "pairs",
                    "parameters": {**g2, "cutoff": 3.0},
                },
                {"kind": "symmetry_functions", "parameters": {**g2, "cutoff": 4.0}},
            ],
            "parts": {"structures": 3},
        }
    )
    run(recipe, executor="synchronous")
    return recipe


@pytest.fixture
def recipe(undamaged: Recipe, tmp_path: Path) -> Recipe:
    shutil.copytree(undamaged.lake, tmp_path / "lake")
    return undamaged.model_copy(update={"lake": str(tmp_path / "lake")})


def everything(lake: Lake) -> dict[str, bytes]:
    """All that a reader can get, as bytes, by structure."""
    found: dict[str, bytes] = {}

    def take(name: str, data: Any) -> None:
        data = data.load()
        keys = [str(key) for key in data.key.values]
        offsets = data.structure_offsets.values
        pairs = data.pair_offsets.values if "pair_offsets" in data else None
        for variable in sorted(map(str, data.variables)):
            array = data[variable]
            if variable in ("structure_offsets", "structure_index", "pair_offsets"):
                continue
            for s, key in enumerate(keys):
                if array.dims[:1] == ("structure",):
                    value = array.values[s : s + 1]
                elif array.dims[:1] == ("atom",):
                    value = array.values[offsets[s] : offsets[s + 1]]
                elif array.dims[:1] == ("pair",) and pairs is not None:
                    value = array.values[pairs[offsets[s]] : pairs[offsets[s + 1]]]
                    value = value - offsets[s] if variable == "neighbour_index" else value
                else:
                    continue
                if value.dtype == object:
                    value = np.array([str(v) for v in value])
                found[f"{key} {name} {variable}"] = value.tobytes()

    take("structures", lake.structures())
    for row in lake.descriptors().iter_rows(named=True):
        take(row["descriptor_id"], lake.features(row["descriptor_id"]))
        if row["gradients"] != "none":
            take(f"{row['descriptor_id']} gradients", lake.gradients(row["descriptor_id"]))
    return found


def injuries(files: list[Path], rng: np.random.Generator, n_flips: int) -> Any:
    """Ways to hurt each file: its name, the file, and what does it."""
    for path in files:
        size = path.stat().st_size
        places = {0, size - 1, size // 2, *rng.integers(0, max(1, size), n_flips).tolist()}
        for place in sorted(p for p in places if 0 <= p < size):
            bit = 1 << int(rng.integers(8))
            yield "flip", path, lambda c, p=place, b=bit: c[:p] + bytes([c[p] ^ b]) + c[p + 1 :]
        for n in sorted({0, size - 1, int(rng.integers(0, max(1, size)))}):
            if 0 <= n < size:
                yield "truncate", path, lambda c, n=n: c[:n]
        yield "delete", path, lambda c: None
        other = files[int(rng.integers(len(files)))]
        if other.read_bytes() != path.read_bytes():
            yield "exchange", path, lambda c, o=other: o.read_bytes()


def campaign(path: Path, n_flips: int, n_most: int | None = None) -> Counter[tuple[str, str, str]]:
    """Hurt one file after the other, and say how each injury was found."""
    rng = np.random.default_rng(0)
    expected = everything(Lake.open(path))
    files = sorted(p for p in path.rglob("*") if p.is_file() and "scratch" not in p.parts)
    cases = list(injuries(files, rng, n_flips))
    if n_most is not None:
        cases = [cases[i] for i in sorted(rng.permutation(len(cases))[:n_most])]
    counts: Counter[tuple[str, str, str]] = Counter()
    for what, file, change in cases:
        before = file.read_bytes()
        after = change(before)
        file.unlink() if after is None else file.write_bytes(after)
        kind = file.relative_to(path).parts[0]
        try:
            counts[kind, what, found_by(path, expected, file)] += 1
        finally:
            file.write_bytes(before)
    return counts


def found_by(path: Path, expected: dict[str, bytes], file: Path) -> str:
    """Say how an injury shows: on reading, by verification, or not, where nothing reads wrong."""
    folder, name, *_ = (*file.relative_to(path).parts, "")
    try:
        seen = everything(Lake.open(path))
    except LakeError as error:
        return "reading" if folder != "parts" or name in str(error) else "reading, unnamed"
    try:
        report = verify(Lake.open(path), deep=True)
    except LakeError:
        return "verification"
    if report.problems:
        if folder == "parts":
            assert {problem.part_id for problem in report.problems} == {name}
            (damage,) = report.damaged
            assert damage.part_id == name
            assert damage.structures
        return "verification" if seen == expected else "verification, reads wrong"
    assert seen == expected, f"{file} is damaged, reads wrong, and verification finds nothing"
    return "harmless"


def check(counts: Counter[tuple[str, str, str]]) -> None:
    """Print the counts; what happens to a part is always found, and never reads wrong before."""
    for key, n in sorted(counts.items()):
        print(f"  {' '.join(f'{k:12}' for k in key)} {n:5}")
    print(f"  {sum(counts.values())} injuries, none reads wrong and passes verification")
    found = {how for kind, _, how in counts if kind == "parts"}
    assert found <= {"reading", "verification"}


def test_damage_is_found_or_harmless(recipe: Recipe) -> None:
    check(campaign(Path(recipe.lake), n_flips=1, n_most=25))


@pytest.mark.slow
def test_much_damage_is_found_or_harmless(recipe: Recipe) -> None:
    counts = campaign(Path(recipe.lake), n_flips=12)
    check(counts)
    assert sum(counts.values()) > 1000


# ----- Repair


def hurt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_damaged_features_are_computed_again_and_nothing_else(recipe: Recipe) -> None:
    expected = everything(Lake.open(recipe.lake))
    before = Lake.open(recipe.lake)
    groups = sorted(Path(recipe.lake).glob("parts/*/symmetry_functions-*"))
    hurt(next((groups[0] / "features").rglob("c/0/*")))
    result = repair(recipe.lake)
    assert result.features == [groups[0].relative_to(recipe.lake).as_posix()]
    assert (result.problems, result.labels, result.n_structures) == ([], [], 0)
    assert everything(Lake.open(recipe.lake)) == expected
    with pytest.raises(LakeError, match=groups[0].name):
        everything(before)


def test_damaged_labels_are_written_again(recipe: Recipe) -> None:
    labels = next(Path(recipe.lake).glob("descriptors/*"))
    expected = everything(Lake.open(recipe.lake))
    hurt(labels / "zarr.json")
    result = repair(recipe.lake)
    assert (result.problems, result.labels, result.features) == ([], [labels.name], [])
    assert everything(Lake.open(recipe.lake)) == expected


def test_damaged_structures_are_read_from_their_source_again(recipe: Recipe) -> None:
    expected = everything(Lake.open(recipe.lake))
    hurt(next(Path(recipe.lake).glob("parts/*/structures/positions/c/0/0")))
    assert repair(recipe.lake).problems, "without a recipe nobody knows where they come from"
    result = repair(recipe.lake, recipe, executor="synchronous")
    assert (result.problems, result.features, result.n_structures) == ([], [], 3)
    found = everything(Lake.open(recipe.lake))
    assert found == expected


def test_a_lake_in_order_is_left_alone(recipe: Recipe) -> None:
    version = Lake.open(recipe.lake).version
    result = repair(recipe.lake, recipe, executor="synchronous")
    assert (result.labels, result.features, result.n_structures) == ([], [], 0)
    assert Lake.open(recipe.lake).version == version
