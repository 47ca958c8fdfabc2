"""kill -9 of a run, then the same command: the lake equals one that was never killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from ase.build import bulk, molecule
from ase.io import write

from atomlake.lake import Lake
from atomlake.lake.verify import verify


def make_recipe(folder, name, n_structures=400):
    rng = np.random.default_rng(7)
    file = folder / "structures.xyz"
    if not file.exists():
        templates = [molecule("CH3CH2OH"), molecule("C6H6"), bulk("Cu", cubic=True) * 2]
        structures = []
        for i in range(n_structures):
            atoms = templates[i % len(templates)].copy()
            atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
            structures.append(atoms)
        write(file, structures, format="extxyz")
    recipe = {
        "lake": str(folder / name),
        "sources": [{"path": str(file), "name": "db"}],
        "descriptors": [
            {
                "kind": "soap",
                "gradients": "pairs",
                "parameters": {
                    "species": ["H", "C", "O", "Cu"],
                    "cutoff": 3.5,
                    "n_max": 3,
                    "l_max": 3,
                    "sigma": 0.5,
                },
            }
        ],
        "cluster": {"kind": "local", "workers": 2, "dashboard": False},
        "parts": {"structures": 10},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def command(recipe):
    return [sys.executable, "-m", "atomlake", "run", str(recipe), "--quiet"]


def start(recipe):
    return subprocess.Popen(
        command(recipe),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_for_a_part(folder, process):
    """Until files of a part appear, so that the kill comes in the middle of the work."""
    while process.poll() is None and not list((folder / "parts").glob("*/*/zarr.json")):
        time.sleep(0.02)


def content(lake_path):
    """Everything that a reader sees, by structure."""
    lake = Lake.open(lake_path)
    features, gradients = lake.features("soap"), lake.gradients("soap")
    keys = [str(key) for key in features.key.values]
    assert len(set(keys)) == len(keys), "no structure twice"
    values, offsets = features.features.values, features.structure_offsets.values
    pairs, pair_offsets = gradients.gradient_positions.values, gradients.pair_offsets.values
    return {
        key: (
            values[first:last].tobytes(),
            pairs[pair_offsets[first] : pair_offsets[last]].tobytes(),
        )
        for key, first, last in zip(keys, offsets[:-1], offsets[1:], strict=True)
    }


@pytest.mark.parametrize("delay", [0.0, 0.3, 0.8])
def test_a_killed_run_is_completed_by_the_same_command(tmp_path, delay):
    killed = make_recipe(tmp_path, "killed")
    process = start(killed)
    wait_for_a_part(tmp_path / "killed", process)
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run(command(killed), check=True)
    subprocess.run(command(make_recipe(tmp_path, "whole")), check=True)
    found, expected = content(tmp_path / "killed"), content(tmp_path / "whole")
    assert len(found) == 400
    assert found == expected
    assert not verify(Lake.open(tmp_path / "killed")).problems
