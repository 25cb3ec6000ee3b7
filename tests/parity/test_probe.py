"""torch and open_clip in the doctor's cells."""

import sys
import threading

import pytest

from warmclip.doctor.probe import ProbeResult, run_probe


def probe(stage: str, process: str) -> ProbeResult:
    """One cell, on the CPU."""
    command = [sys.executable, "-P", "-m", "warmclip_export", "probe", "--stage", stage]
    return run_probe([*command, "--process", process], deadline_s=120, stop=threading.Event())


def test_import_tells_the_reference_device() -> None:
    """The doctor learns from it whether there is an MPS to try."""
    cell = probe("import", "main")
    assert cell.is_ok, cell
    assert isinstance(cell.facts["mps_available"], bool)
    assert cell.facts["version"]


@pytest.mark.parametrize("process", ["exec", "horse"])
def test_model_in_a_process_that_was_started(process: str) -> None:
    """OpenCLIP works in a new program, cold and warm, whatever its launcher did before."""
    cell = probe("open_clip", process)
    assert cell.is_ok, cell


@pytest.mark.skipif(sys.platform != "linux", reason="measured on Linux; a Mac dies otherwise")
def test_model_in_a_forked_child() -> None:
    """The third of the three subprocess tests: creating the model again in a fork never ends well.

    On Linux the forked child waits for threads of GNU OpenMP that its parent had.
    """
    import torch

    if torch.get_num_threads() == 1:
        pytest.skip("one core: there are no threads to lose")
    cell = probe("open_clip", "fork")
    assert (cell.status, cell.step) == ("hang", "makes it anew")
