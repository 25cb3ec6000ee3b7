"""torch and open_clip as the doctor's subjects: what dies in which kind of process.

The three stages are those of a service that embeds with OpenCLIP: import torch, put a tensor on
the device, create the model there. The weights are random, so nothing is downloaded.
"""

import sys
import warnings
from collections.abc import Mapping
from typing import Any, Literal, get_args

from warmclip.doctor import processes
from warmclip.doctor.processes import Kind, Subject

Stage = Literal["import", "tensor", "open_clip"]
Device = Literal["cpu", "mps"]
STAGES: tuple[Stage, ...] = get_args(Stage)

MODEL = "ViT-B-32"
NEEDED: dict[Stage, tuple[str, ...]] = {
    "import": ("torch",),
    "tensor": ("torch",),
    "open_clip": ("torch", "open_clip"),
}


def run_probe(stage: Stage, device: Device, kind: Kind, slack_s: float) -> int:
    """Do one stage in one kind of process, told as JSON lines on stdout; returns the exit code."""
    command = [sys.executable, "-P", "-m", "warmclip_export", "probe"]
    command += ["--stage", stage, "--device", device, "--slack", str(slack_s)]
    subject = _subject(stage, device, command, slack_s)
    return processes.run(subject, kind)


def _subject(stage: Stage, device: Device, command: list[str], slack_s: float) -> Subject:
    match stage:
        case "import":
            return Subject(make=_import, use=_availability, command=command, slack_s=slack_s)
        case "tensor":
            return Subject(make=lambda: _tensor(device), use=_add, command=command, slack_s=slack_s)
        case "open_clip":
            return Subject(
                make=lambda: _model(device),
                use=lambda model: _embed(model, device),
                command=command,
                slack_s=slack_s,
            )


def _import() -> Any:
    import torch

    return torch


def _availability(torch: Any) -> Mapping[str, Any]:
    mps = torch.backends.mps
    return {
        "version": torch.__version__,
        "mps_built": mps.is_built(),
        "mps_available": mps.is_available(),
    }


def _tensor(device: Device) -> Any:
    return _import().ones(10, device=device)


def _add(tensor: Any) -> None:
    (tensor + tensor).sum().item()


def _model(device: Device) -> Any:
    import open_clip

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the weights are random is what we want
        model, _, _ = open_clip.create_model_and_transforms(MODEL, pretrained=None, device=device)
    return model.eval()


def _embed(model: Any, device: Device) -> None:
    torch = _import()
    with torch.no_grad():
        pixels = torch.zeros(1, 3, 224, 224, device=device)
        model.encode_image(pixels).sum().item()
