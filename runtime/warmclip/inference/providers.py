"""The execution providers that warmclip knows: one entry each, the preferred first.

This module is light, so that a command line can check a name before anything is loaded.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from warmclip.errors import ProviderUnavailable, SettingsError
from warmclip.inference.machine import has_arm_bfloat16

if TYPE_CHECKING:  # pydantic stays out of this import
    from warmclip.inference.bundle import Precision

AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """How one execution provider is asked for, and what it needs."""

    name: str  # "family" or "family-variant"
    execution_provider: str  # onnxruntime's name for it
    precision: "Precision" = "fp32"  # of the graph
    judged_as: "Precision | None" = None  # where it computes less finely than its graph
    options: dict[str, str] = field(default_factory=dict)
    session_config: dict[str, str] = field(default_factory=dict)  # of the session that it gets
    needs_arm_bfloat16: bool = False  # in the processor
    buckets: tuple[int, ...] = ()  # static batch sizes, ascending; none: any batch will do
    disabled_optimizers: tuple[str, ...] = ()
    since: tuple[int, int] = (1, 23)  # the oldest onnxruntime whose provider takes our graphs
    is_reference: bool = False  # its vectors need no comparison with the golden ones
    is_steady: bool = False  # what it computes right once it goes on computing right: no canaries
    in_auto: bool = True  # whether "auto" may choose it
    takes_all: bool = False  # it is refused if it leaves a node to the CPU, or cuts the graph up
    is_exclusive: bool = False  # one run at a time in the whole process
    cache_option: str | None = None  # the option that names a folder for what it compiles
    around: Callable[[Any], Any] | None = None  # what stands around onnxruntime's session

    def identity(self) -> dict[str, Any]:
        """All that decides what it computes and how fast, as JSON can carry it."""
        return {
            "name": self.name,
            "execution_provider": self.execution_provider,
            "precision": self.precision,
            "options": self.options,
            "session_config": self.session_config,
            "buckets": self.buckets,
            "disabled_optimizers": self.disabled_optimizers,
        }

    @property
    def family(self) -> str:
        """What its variants have in common: "coreml" of "coreml-fp16"."""
        return self.name.partition("-")[0]


# MLProgram with static shapes: the one form in which each tower is a single CoreML partition.
_COREML_FP16 = Provider(
    name="coreml-fp16",
    execution_provider="CoreMLExecutionProvider",
    precision="fp16",
    options={
        "ModelFormat": "MLProgram",
        "MLComputeUnits": "ALL",
        "RequireStaticInputShapes": "1",
    },
    buckets=(1, 8, 32),
    # It would turn linears into Gemm(transB=0), whose weights CoreML stores inline.
    disabled_optimizers=("MatMulAddFusion",),
    since=(1, 28),
    takes_all=True,
    is_exclusive=True,
    cache_option="ModelCacheDirectory",
)
# Off the GPU; "ALL" lets CoreML choose the Neural Engine as well, so "auto" does not try it apart.
_COREML_ANE = replace(
    _COREML_FP16,
    name="coreml-ane",
    options={**_COREML_FP16.options, "MLComputeUnits": "CPUAndNeuralEngine"},
    in_auto=False,
)
# The Neural Engine computes in fp16 only.
_COREML_FP32 = replace(
    _COREML_FP16,
    name="coreml-fp32",
    precision="fp32",
    options={**_COREML_FP16.options, "MLComputeUnits": "CPUAndGPU"},
)

# Where the build "onnxruntime-gpu" is installed. No GPU has run these: their trial decides.
_CUDA_FP16 = Provider(
    name="cuda-fp16",
    execution_provider="CUDAExecutionProvider",
    precision="fp16",
)
_CUDA_FP32 = replace(
    _CUDA_FP16,
    name="cuda-fp32",
    precision="fp32",
    options={"use_tf32": "0"},  # ten bits of mantissa, which it would use by itself
)
# It builds an engine for each batch size, which takes minutes: "auto" does not begin with that.
_TENSORRT_FP16 = Provider(
    name="tensorrt-fp16",
    execution_provider="TensorrtExecutionProvider",
    precision="fp16",
    options={"trt_engine_cache_enable": "1"},
    buckets=(1, 8, 32),
    in_auto=False,
    cache_option="trt_engine_cache_path",
)
_TENSORRT_FP32 = replace(_TENSORRT_FP16, name="tensorrt-fp32", precision="fp32")

# Where the build "onnxruntime-openvino" is installed. FP32 said aloud: on some processors it
# would compute in bfloat16 by itself.
_OPENVINO = Provider(
    name="openvino",
    execution_provider="OpenVINOExecutionProvider",
    options={"device_type": "CPU", "precision": "FP32"},
    takes_all=True,
)
# bfloat16 where the processor has it, else float32; the option "precision" does not know it.
# ViT-B-32 was at a cosine of 0.9999, which fp16 is allowed and fp32 is not. "auto" may choose it as
# it may choose coreml-fp16: with AMX it had 82 to 92 images/s where float32 had 21 to 24.
_OPENVINO_BF16 = replace(
    _OPENVINO,
    name="openvino-bf16",
    judged_as="fp16",
    options={
        "device_type": "CPU",
        "load_config": '{"CPU": {"INFERENCE_PRECISION_HINT": "bf16"}}',
    },
)

CPU = Provider(
    name="cpu", execution_provider="CPUExecutionProvider", is_reference=True, is_steady=True
)
# Only by its own name: its vectors are a little off, and few bundles have its graphs.
_CPU_INT8 = replace(CPU, name="cpu-int8", precision="int8", is_reference=False, in_auto=False)
# Matrices multiplied in bfloat16. The wheels of onnxruntime 1.32 for macOS and for Linux have the
# kernels; nobody has run them with warmclip: the trial decides, as it does of CUDA's.
_CPU_BF16 = replace(
    CPU,
    name="cpu-bf16",
    judged_as="fp16",
    session_config={"mlas.enable_gemm_fastmath_arm64_bfloat16": "1"},
    needs_arm_bfloat16=True,
    is_reference=False,
)

PROVIDERS = {
    provider.name: provider
    for provider in (
        *(_COREML_FP16, _COREML_ANE, _COREML_FP32),
        *(_CUDA_FP16, _CUDA_FP32, _TENSORRT_FP16, _TENSORRT_FP32),
        *(_OPENVINO_BF16, _OPENVINO),
        *(CPU, _CPU_BF16, _CPU_INT8),
    )
}


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


def asked_for(choice: str) -> tuple[Provider, ...]:
    """The providers that a choice means: the one of that name, else the family's, or "auto"'s.

    So "coreml" stands for its three variants, and "cpu" means float32 alone.

    Raises:
        SettingsError: there is no such choice.
    """
    check_choice(choice)
    if choice in PROVIDERS:
        return (PROVIDERS[choice],)
    return tuple(
        provider
        for provider in PROVIDERS.values()
        if (provider.in_auto if choice == AUTO else provider.family == choice)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """What a choice may come down to on this machine, and what it cannot."""

    here: tuple[Provider, ...]  # in the table's order; none: the choice cannot be met
    absent: dict[str, str]  # name -> why this onnxruntime does not have it


def find_candidates(choice: str, available: Sequence[str], onnxruntime_version: str) -> Candidates:
    """The providers that a choice asks for, in the onnxruntime that is installed.

    Args:
        choice: what the user asked for.
        available: what this onnxruntime has, in onnxruntime's names.
        onnxruntime_version: such as "1.32.0".

    Raises:
        SettingsError: there is no provider of that name.
        ProviderUnavailable: none of them is there; it says what is.
    """
    here, absent = [], {}
    for provider in asked_for(choice):
        refusal = _refusal(provider, available, onnxruntime_version)
        if refusal is None:
            here.append(provider)
        else:
            absent[provider.name] = refusal
    if not here:
        raise ProviderUnavailable(next(iter(absent.values())))
    return Candidates(here=tuple(here), absent=absent)


def _refusal(provider: Provider, available: Sequence[str], version: str) -> str | None:
    """Why this onnxruntime cannot be asked for the provider, or not on this machine."""
    if provider.needs_arm_bfloat16 and not has_arm_bfloat16():
        return (
            f"provider {provider.name!r} needs bfloat16 of an Arm processor, which this one "
            "does not have"
        )
    if provider.execution_provider not in available:
        return (
            f"provider {provider.name!r} needs {provider.execution_provider}, which this "
            f"onnxruntime {version} does not have; it has: {', '.join(available)}"
        )
    if major_minor(version) < provider.since:
        oldest = ".".join(map(str, provider.since))
        return (
            f"provider {provider.name!r} needs onnxruntime {oldest} or newer, "
            f"this is {version}: pip install -U onnxruntime"
        )
    return None


def major_minor(version: str) -> tuple[int, int]:
    """Of a version such as "1.32.0": (1, 32)."""
    major, minor = re.findall(r"\d+", version)[:2]
    return int(major), int(minor)
