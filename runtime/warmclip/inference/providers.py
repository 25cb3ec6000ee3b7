"""The execution providers that warmclip knows: one entry each.

``auto`` is the CPU: no provider is trusted with vectors before a trial has compared them with
the golden ones, and a provider asked for by name passes that comparison when it is loaded.
"""

import re
from dataclasses import dataclass, field

from warmclip.errors import ProviderUnavailable
from warmclip.inference.bundle import Precision
from warmclip.settings import ProviderChoice


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """How one execution provider is asked for, and what it needs."""

    name: str
    execution_provider: str  # onnxruntime's name for it
    precision: Precision = "fp32"
    options: dict[str, str] = field(default_factory=dict)
    buckets: tuple[int, ...] = ()  # static batch sizes, ascending; none: any batch will do
    disabled_optimizers: tuple[str, ...] = ()
    since: tuple[int, int] = (1, 23)  # the oldest onnxruntime whose provider takes our graphs
    is_reference: bool = False  # its vectors need no comparison with the golden ones


CPU = Provider(name="cpu", execution_provider="CPUExecutionProvider", is_reference=True)

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
)

PROVIDERS = {provider.name: provider for provider in (CPU, COREML)}


def choose(choice: ProviderChoice, available: list[str], onnxruntime_version: str) -> Provider:
    """The provider for a choice; asking for one that is not there is an error, not a fallback.

    Args:
        choice: what the user asked for.
        available: what this onnxruntime has, in onnxruntime's names.
        onnxruntime_version: such as "1.32.0".

    Raises:
        ProviderUnavailable: saying what this onnxruntime has.
    """
    provider = CPU if choice == "auto" else PROVIDERS[choice]
    if provider.execution_provider not in available:
        raise ProviderUnavailable(
            f"provider {choice!r} needs {provider.execution_provider}, which this onnxruntime "
            f"{onnxruntime_version} does not have; it has: {', '.join(available)}"
        )
    if _major_minor(onnxruntime_version) < provider.since:
        oldest = ".".join(map(str, provider.since))
        raise ProviderUnavailable(
            f"provider {choice!r} needs onnxruntime {oldest} or newer, "
            f"this is {onnxruntime_version}: pip install -U onnxruntime"
        )
    return provider


def _major_minor(version: str) -> tuple[int, int]:
    major, minor = re.findall(r"\d+", version)[:2]
    return int(major), int(minor)
