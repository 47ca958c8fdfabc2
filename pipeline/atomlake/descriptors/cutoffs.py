"""The cutoff functions a descriptor can be given."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from atomlake.kernels import cutoffs

_CODES = {
    "step": cutoffs.STEP,
    "cosine": cutoffs.COSINE,
    "shifted_cosine": cutoffs.SHIFTED_COSINE,
    "amp_polynomial": cutoffs.AMP_POLYNOMIAL,
    "poly2": cutoffs.POLY2,
    "poly3": cutoffs.POLY3,
    "exponential": cutoffs.EXPONENTIAL,
    "tanh3": cutoffs.TANH3,
}


class Cutoff(BaseModel):
    """How a neighbour's contribution fades out towards the cutoff, with ``x = r / cutoff``.

    ========================  ==================================================
    ``step``                  1; jumps to 0 at the cutoff, so not differentiable there
    ``cosine``                ½ (1 + cos πx); Behler, PRL 98, 146401 (2007)
    ``shifted_cosine``        1 up to ``cutoff - width``, then the half wave of ``cosine``
    ``amp_polynomial``        1 + γ x^(γ+1) - (γ+1) x^γ; Khorshidi & Peterson,
                              Comput. Phys. Commun. 207, 310 (2016)
    ``poly2``, ``poly3``      polynomials with 2 and 3 vanishing derivatives at both ends;
                              Singraber et al., J. Chem. Theory Comput. 15, 1827 (2019)
    ``exponential``           exp(1 - 1 / (1 - x²)); all derivatives vanish
    ``tanh3``                 tanh³(1 - x); Behler, J. Chem. Phys. 134, 074106 (2011);
                              tanh³(1) = 0.44 at x = 0
    ========================  ==================================================
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    function: Literal[
        "step",
        "cosine",
        "shifted_cosine",
        "amp_polynomial",
        "poly2",
        "poly3",
        "exponential",
        "tanh3",
    ] = Field(default="cosine", description="Name of the function.")
    width: float | None = Field(
        default=None,
        gt=0,
        description="Width in Å of the fading region of shifted_cosine; 0.5 if not given.",
    )
    gamma: float | None = Field(
        default=None, ge=1, description="Exponent of amp_polynomial; 4 if not given."
    )

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        """Fill the parameter that the function has, so that equal functions compare equal."""
        if isinstance(given, str):
            given = {"function": given}
        if isinstance(given, dict):
            if given.get("function") == "shifted_cosine" and given.get("width") is None:
                given = {**given, "width": 0.5}
            if given.get("function") == "amp_polynomial" and given.get("gamma") is None:
                given = {**given, "gamma": 4.0}
        return given

    @model_validator(mode="after")
    def _no_idle_parameter(self) -> Cutoff:
        if self.width is not None and self.function != "shifted_cosine":
            raise ValueError(f"{self.function} has no width; only shifted_cosine has one")
        if self.gamma is not None and self.function != "amp_polynomial":
            raise ValueError(f"{self.function} has no gamma; only amp_polynomial has one")
        return self

    @property
    def code(self) -> int:
        """The function, for :func:`atomlake.kernels.cutoffs.cutoff_function`."""
        return _CODES[self.function]

    @property
    def parameter(self) -> float:
        """The function's one parameter, for the same kernel; 0 where it has none."""
        return self.width or self.gamma or 0.0
