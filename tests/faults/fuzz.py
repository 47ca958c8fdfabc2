"""Input that coverage leads to: atheris goes on from what brought a parser to new branches.

::

    python tests/faults/fuzz.py extxyz 120 FOLDER    for 120 seconds; "recipe" for recipes

Every input must be read or refused with a reason, in time. Else the program fails with the
exception, and leaves the input in FOLDER, in a file ``crash-…`` or ``timeout-…``. What led to new
branches stays in ``FOLDER/inputs``, and the next time is begun with.
"""

from __future__ import annotations

import importlib
import pkgutil
import shutil
import sys
import tempfile
from pathlib import Path

import atheris

import atomlake.kernels

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "sources")]

# Numba imports yaml, and cannot compile what atheris, which instruments whole packages, makes of
# a kernel: hence yaml first, then the kernels as they are, then the rest.
with atheris.instrument_imports(include=["yaml"]):
    import yaml  # noqa: F401
for module in pkgutil.iter_modules(atomlake.kernels.__path__):
    importlib.import_module(f"atomlake.kernels.{module.name}")
with atheris.instrument_imports(include=["atomlake"]):
    from damage import examples
    from test_fuzz import outcome

    import atomlake.sources.extxyz
    from test_recipe_fuzz import GOOD, assert_recipe_or_reason

#: Seconds after which an input is said to hang.
PATIENCE = 20


def main() -> None:
    """Fuzz one parser for so many seconds."""
    parser, seconds, name = sys.argv[1:]
    folder, inputs, file = Path(name), Path(name, "inputs"), Path(name, "fuzzed.xyz")
    inputs.mkdir(parents=True, exist_ok=True)

    def structures(content: bytes) -> None:
        file.write_bytes(content)
        outcome(file, "extxyz", folder)

    def recipe(content: bytes) -> None:
        assert_recipe_or_reason(content.decode(errors="replace"))

    if parser == "extxyz":
        with tempfile.TemporaryDirectory() as made:
            for path in examples(Path(made))["extxyz"]:
                shutil.copy(path, inputs)
    else:
        (inputs / "good").write_text(GOOD)
    options = [f"-max_total_time={seconds}", f"-timeout={PATIENCE}", f"-artifact_prefix={folder}/"]
    target = {"extxyz": structures, "recipe": recipe}[parser]
    atheris.Setup([sys.argv[0], *options, str(inputs)], target)
    atheris.Fuzz()  # ends the process


if __name__ == "__main__":
    main()
