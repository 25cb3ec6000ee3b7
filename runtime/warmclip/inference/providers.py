"""The execution providers that warmclip knows: one entry each, the preferred first.

This module is light, so that a command line can check a name before anything is loaded.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from warmclip.errors import ProviderUnavailable, SettingsError

if TYPE_CHECKING:  # pydantic stays out of this import
    from warmclip.inference.bundle import Precision

AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """How one execution provider is asked for, and what it needs."""

    name: str  # "family" or "family-variant": the family's name asks for any of its variants
    execution_provider: str  # onnxruntime's name for it
    precision: "Precision" = "fp32"
    options: dict[str, str] = field(default_factory=dict)
    buckets: tuple[int, ...] = ()  # static batch sizes, ascending; none: any batch will do
    disabled_optimizers: tuple[str, ...] = ()
    since: tuple[int, int] = (1, 23)  # the oldest onnxruntime whose provider takes our graphs
    is_reference: bool = False  # its vectors need no comparison with the golden ones
    in_auto: bool = True  # whether "auto" may choose it
    around: Callable[[Any], Any] | None = None  # what stands around onnxruntime's session

    @property
    def family(self) -> str:
        """What its variants have in common: "coreml" of "coreml-fp16"."""
        return self.name.partition("-")[0]


# MLProgram with static shapes: the one form in which each tower is a single CoreML partition.
# fp32 stays off the Neural Engine, which computes in fp16 only.
COREML = Provider(
    name="coreml",
    execution_provider="CoreMLExecutionProvider",
    options={
        "ModelFormat": "MLProgram",
        "MLComputeUnits": "CPUAndGPU",
        "RequireStaticInputShapes": "1",
    },
    buckets=(1, 8, 32),
    # It would turn linears into Gemm(transB=0), whose weights CoreML stores inline.
    disabled_optimizers=("MatMulAddFusion",),
    since=(1, 28),
    in_auto=False,  # until a trial has spoken
)

CPU = Provider(name="cpu", execution_provider="CPUExecutionProvider", is_reference=True)

PROVIDERS = {provider.name: provider for provider in (COREML, CPU)}


def check_choice(choice: str) -> str:
    """Return the choice if it names a provider, a family of them, or "auto".

    Raises:
        SettingsError: listing the names.
    """
    names = list(dict.fromkeys([AUTO, *(p.family for p in PROVIDERS.values()), *PROVIDERS]))
    if choice not in names:
        raise SettingsError(
            f"provider {choice!r} (--provider, WARMCLIP_PROVIDER): use one of {', '.join(names)}"
        )
    return choice


def choose(choice: str, available: Sequence[str], onnxruntime_version: str) -> Provider:
    """The provider for a choice; asking for one that is not there is an error, not a fallback.

    Args:
        choice: what the user asked for.
        available: what this onnxruntime has, in onnxruntime's names.
        onnxruntime_version: such as "1.32.0".

    Raises:
        SettingsError: there is no provider of that name.
        ProviderUnavailable: saying what this onnxruntime has.
    """
    check_choice(choice)
    refusals = {}
    for provider in PROVIDERS.values():
        asked = provider.in_auto if choice == AUTO else choice in (provider.name, provider.family)
        if asked:
            refusal = _refusal(provider, available, onnxruntime_version)
            if refusal is None:
                return provider
            refusals[provider.name] = refusal
    raise ProviderUnavailable("; ".join(refusals.values()))


def _refusal(provider: Provider, available: Sequence[str], version: str) -> str | None:
    """Why this onnxruntime cannot be asked for the provider."""
    if provider.execution_provider not in available:
        return (
            f"provider {provider.name!r} needs {provider.execution_provider}, which this "
            f"onnxruntime {version} does not have; it has: {', '.join(available)}"
        )
    if _major_minor(version) < provider.since:
        oldest = ".".join(map(str, provider.since))
        return (
            f"provider {provider.name!r} needs onnxruntime {oldest} or newer, "
            f"this is {version}: pip install -U onnxruntime"
        )
    return None


def _major_minor(version: str) -> tuple[int, int]:
    major, minor = re.findall(r"\d+", version)[:2]
    return int(major), int(minor)
