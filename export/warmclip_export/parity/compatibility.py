"""Whether a bundle's vectors may share a collection with vectors that open_clip made."""

from dataclasses import dataclass
from typing import Any, Literal

from warmclip_export.parity.finding import Finding

Activation = Literal["gelu", "quick_gelu"]

ACTIVATION_NAMES: dict[Activation, str] = {"gelu": "GELU", "quick_gelu": "QuickGELU"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Compatibility:
    """One target, a provider with a precision, compared with open_clip in one activation.

    Attributes:
        target: such as "fp32 on cpu".
        is_served: whether the runtime ever uses the target; else only its towers were measured.
        activation: that open_clip computed with.
        is_own: whether it is the bundle's own activation too.
        made_by: the call of open_clip that makes such vectors; empty if there is none.
        findings: unit vectors, scores and searches against open_clip's.
        is_nearest: whether our vectors are nearer to these than to the other activation's.
    """

    target: str
    is_served: bool
    activation: Activation
    is_own: bool
    made_by: str
    findings: tuple[Finding, ...]
    is_nearest: bool

    @property
    def may_share(self) -> bool:
        """Whether they may."""
        return self.is_nearest and all(finding.passed for finding in self.findings)

    @property
    def reason(self) -> str:
        """Why not; empty if they may."""
        failed = [str(finding) for finding in self.findings if not finding.passed]
        if not self.is_nearest:
            failed.append("our vectors are nearer to those of the other activation")
        return "; ".join(failed)

    def as_json(self) -> dict[str, Any]:
        """As it stands in the report, where a target is called ``way``."""
        return {
            "way": self.target,
            "served": self.is_served,
            "activation": self.activation,
            "made_by": self.made_by,
            "may_share": self.may_share,
            "reason": self.reason,
            "figures": [finding.as_json() for finding in self.findings],
        }

    def __str__(self) -> str:
        of = f" ({self.made_by})" if self.made_by else ""
        return (
            f"{self.target}: may share a collection with vectors that torch made with "
            f"{ACTIVATION_NAMES[self.activation]}{of}: {'yes' if self.may_share else 'no'}"
        )
