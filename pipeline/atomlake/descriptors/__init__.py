"""Descriptors: one file per family, one line each in the registry below."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomlake.descriptors.base import Descriptor

_REGISTRY: dict[str, str] = {
    "ace": "atomlake.descriptors.ace:Ace",
    "amp_bispectrum": "atomlake.descriptors.so4_bispectrum:AmpBispectrum",
    "bispectrum": "atomlake.descriptors.bispectrum:Bispectrum",
    "chebyshev": "atomlake.descriptors.chebyshev:Chebyshev",
    "coulomb_matrix": "atomlake.descriptors.matrices:CoulombMatrix",
    "ewald_matrix": "atomlake.descriptors.matrices:EwaldMatrix",
    "lambda_soap": "atomlake.descriptors.lambda_soap:LambdaSoap",
    "lmbtr": "atomlake.descriptors.mbtr:Lmbtr",
    "mbtr": "atomlake.descriptors.mbtr:Mbtr",
    "radial_spectrum": "atomlake.descriptors.radial_spectrum:RadialSpectrum",
    "sine_matrix": "atomlake.descriptors.matrices:SineMatrix",
    "snap": "atomlake.descriptors.so4_bispectrum:Snap",
    "soap": "atomlake.descriptors.soap:Soap",
    "spherical_expansion": "atomlake.descriptors.spherical_expansion:SphericalExpansion",
    "symmetry_functions": "atomlake.descriptors.symmetry_functions:SymmetryFunctions",
    "zernike": "atomlake.descriptors.zernike:Zernike",
}


def names() -> list[str]:
    """Names of every descriptor, those of installed packages included."""
    return sorted({*_REGISTRY, *(e.name for e in entry_points(group="atomlake.descriptors"))})


@cache
def get(name: str) -> type[Descriptor]:
    """Return the class of a registered descriptor.

    Raises
    ------
    KeyError
        If no descriptor has that name.
    """
    if name in _REGISTRY:
        module, _, attribute = _REGISTRY[name].partition(":")
        return getattr(import_module(module), attribute)  # type: ignore[no-any-return]
    for entry in entry_points(group="atomlake.descriptors"):
        if entry.name == name:
            return entry.load()  # type: ignore[no-any-return]
    raise KeyError(f"no descriptor is called {name!r}; there are {names()}")


def __getattr__(name: str) -> Any:
    for path in _REGISTRY.values():
        module, _, attribute = path.partition(":")
        if attribute == name:
            return getattr(import_module(module), attribute)
    raise AttributeError(f"module 'atomlake.descriptors' has no attribute {name!r}")
