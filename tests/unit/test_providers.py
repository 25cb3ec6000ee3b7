import pytest

from warmclip.errors import ProviderUnavailable, SettingsError
from warmclip.inference.providers import choose

CPU_ONLY = ["AzureExecutionProvider", "CPUExecutionProvider"]
APPLE = ["CoreMLExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.parametrize("available", [CPU_ONLY, APPLE])
def test_auto_is_the_cpu(available: list[str]) -> None:
    """Nothing is trusted untried, and what onnxruntime lists first decides nothing."""
    assert choose("auto", available, "1.32.0").name == "cpu"


def test_provider_that_is_not_there() -> None:
    """Asking by name and not getting it is an error that says what there is."""
    with pytest.raises(ProviderUnavailable, match="it has: AzureExecutionProvider, CPU"):
        choose("coreml", CPU_ONLY, "1.32.0")


def test_onnxruntime_too_old_for_a_provider() -> None:
    """An old CoreML provider would cut the graphs up, so it says to upgrade."""
    with pytest.raises(ProviderUnavailable, match="pip install -U onnxruntime"):
        choose("coreml", APPLE, "1.23.2")


def test_coreml_is_asked_for_in_its_one_good_form() -> None:
    """MLProgram and static shapes: the default format cannot hold a transformer."""
    provider = choose("coreml", APPLE, "1.28.0+nightly")
    assert provider.options["ModelFormat"] == "MLProgram"
    assert provider.options["RequireStaticInputShapes"] == "1"
    assert provider.buckets


def test_name_that_is_in_no_table() -> None:
    """The error lists the names, before anything is loaded."""
    with pytest.raises(SettingsError, match=r"'cuda'.*auto, coreml.*cpu"):
        choose("cuda", APPLE, "1.32.0")
