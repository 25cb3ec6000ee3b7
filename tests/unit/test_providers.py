import json

import pytest

from warmclip.errors import ProviderUnavailable, SettingsError
from warmclip.inference.providers import PROVIDERS, find_candidates
from warmclip.inference.selection.golden import TOLERANCES, tolerance

CPU_ONLY = ["AzureExecutionProvider", "CPUExecutionProvider"]
APPLE = ["CoreMLExecutionProvider", "CPUExecutionProvider"]
NVIDIA = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
OPENVINO = ["OpenVINOExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        (CPU_ONLY, ["cpu"]),
        (APPLE, ["coreml-fp16", "coreml-fp32", "cpu"]),
        (NVIDIA, ["cuda-fp16", "cuda-fp32", "cpu"]),
        (OPENVINO, ["openvino-bf16", "openvino", "cpu"]),
    ],
)
def test_auto_is_what_is_there(
    available: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU is always among the candidates; what is absent is said with its reason."""
    monkeypatch.setattr("warmclip.inference.providers.has_arm_bfloat16", lambda: False)
    found = find_candidates("auto", available, "1.32.0")
    assert [provider.name for provider in found.here] == expected
    assert all("does not have" in reason for reason in found.absent.values())


def test_family_stands_for_its_variants() -> None:
    """`coreml` asks for whichever CoreML is best, and for nothing else."""
    found = find_candidates("coreml", APPLE, "1.32.0")
    assert [it.name for it in found.here] == ["coreml-fp16", "coreml-ane", "coreml-fp32"]


def test_provider_that_is_not_there() -> None:
    """Asking by name and not getting it is an error that says what there is."""
    with pytest.raises(ProviderUnavailable, match="it has: AzureExecutionProvider, CPU"):
        find_candidates("coreml", CPU_ONLY, "1.32.0")


def test_onnxruntime_too_old_for_a_provider() -> None:
    """An old CoreML provider would cut the graphs up, so it says to upgrade."""
    with pytest.raises(ProviderUnavailable, match="pip install -U onnxruntime"):
        find_candidates("coreml-fp32", APPLE, "1.23.2")
    found = find_candidates("auto", APPLE, "1.23.2")
    assert found.here[0].name == "cpu"
    assert "pip install -U onnxruntime" in found.absent["coreml-fp16"]


def test_name_that_is_in_no_table() -> None:
    """The error lists the names, before anything is loaded."""
    with pytest.raises(SettingsError, match=r"'rocm'.*auto, coreml.*cpu"):
        find_candidates("rocm", APPLE, "1.32.0")


@pytest.mark.parametrize("name", ["coreml-fp16", "coreml-ane", "coreml-fp32"])
def test_coreml_is_asked_for_in_its_one_good_form(name: str) -> None:
    """MLProgram and static shapes: the default format cannot hold a transformer."""
    provider = PROVIDERS[name]
    assert provider.options["ModelFormat"] == "MLProgram"
    assert provider.options["RequireStaticInputShapes"] == "1"
    assert provider.disabled_optimizers == ("MatMulAddFusion",)
    assert provider.buckets
    assert provider.takes_all
    assert provider.is_exclusive


def test_neural_engine_gets_no_fp32() -> None:
    """It computes in fp16 only; an fp32 graph would silently stay off it, or lose precision."""
    for provider in PROVIDERS.values():
        units = provider.options.get("MLComputeUnits")
        assert provider.precision != "fp32" or units in (None, "CPUAndGPU")


def test_cpu_means_float32_alone() -> None:
    """int8 is another provider: the name `cpu` never stands for it, and "auto" never takes it."""
    assert [it.name for it in find_candidates("cpu", CPU_ONLY, "1.32.0").here] == ["cpu"]
    assert [it.name for it in find_candidates("cpu-int8", CPU_ONLY, "1.32.0").here] == ["cpu-int8"]
    assert PROVIDERS["cpu-int8"].precision == "int8"
    assert not PROVIDERS["cpu-int8"].is_reference


def test_bfloat16_is_judged_as_float16() -> None:
    """`openvino` means float32 alone; bfloat16 has a name, and is not judged as float32."""
    assert [it.name for it in find_candidates("openvino", OPENVINO, "1.24.1").here] == ["openvino"]
    (bfloat16,) = find_candidates("openvino-bf16", OPENVINO, "1.24.1").here
    assert tolerance(bfloat16) == TOLERANCES["fp16"]
    assert tolerance(PROVIDERS["openvino"]) == TOLERANCES["fp32"]
    assert json.loads(bfloat16.options["load_config"])["CPU"] == {
        "INFERENCE_PRECISION_HINT": "bf16"
    }


def test_bfloat16_of_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice `auto` tries it where a processor has it, judged as what it is."""
    monkeypatch.setattr("warmclip.inference.providers.has_arm_bfloat16", lambda: True)
    (found,) = find_candidates("cpu-bf16", CPU_ONLY, "1.32.0").here
    assert tolerance(found) == TOLERANCES["fp16"]
    assert not found.is_reference
    assert [it.name for it in find_candidates("cpu", CPU_ONLY, "1.32.0").here] == ["cpu"]
    both = find_candidates("auto", CPU_ONLY, "1.32.0").here
    assert [it.name for it in both] == ["cpu", "cpu-bf16"]
    monkeypatch.setattr("warmclip.inference.providers.has_arm_bfloat16", lambda: False)
    assert [it.name for it in find_candidates("auto", CPU_ONLY, "1.32.0").here] == ["cpu"]
    with pytest.raises(ProviderUnavailable, match="needs bfloat16 of an Arm processor"):
        find_candidates("cpu-bf16", CPU_ONLY, "1.32.0")
