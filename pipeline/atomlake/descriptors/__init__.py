"""Descriptors: one file per family, one line each in the registry below."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atomlake.registry import Registry

if TYPE_CHECKING:
    from atomlake.descriptors.base import Descriptor

_REGISTRY: Registry[Descriptor] = Registry(
    "descriptor",
    "atomlake.descriptors",
    {
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
    },
)

names = _REGISTRY.names
get = _REGISTRY.get
#: ``from atomlake.descriptors import Soap`` imports the class's module, and no other.
__getattr__ = _REGISTRY.attribute
