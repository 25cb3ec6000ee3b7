"""Export open_clip's towers as torch.onnx.export does it, unchanged: what a user tries first.

Usage: python -m bench.embedding.stock_export BUNDLE CHECKPOINT FOLDER
The bundle only tells the architecture.
"""

import logging
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from bench.embedding.adapters.open_clip_torch import load
from bench.embedding.fixtures import Fixtures


class _Image(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.model.encode_image(pixels, normalize=True)
        return features


class _Text(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        features: Tensor = self.model.encode_text(ids, normalize=True)
        return features


def export(bundle: Path, checkpoint: Path, target: Path) -> None:
    """Write image.onnx and text.onnx, with weights inside; the folder is whole or absent."""
    logging.disable(logging.WARNING)  # torch is talkative about operators it did not need
    partial = target.with_name(f"{target.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        fixtures = Fixtures.of_model(Path(folder), bundle, checkpoint)
        model, _ = load(fixtures)
        side = fixtures.side_px
        length = fixtures.architecture["text_cfg"].get("context_length", 77)
        towers = {
            "image": (_Image(model), torch.zeros(2, 3, side, side), "pixels"),
            "text": (_Text(model), torch.ones(2, length, dtype=torch.int64), "ids"),
        }
        for name, (tower, example, argument) in towers.items():
            torch.onnx.export(
                tower.eval(),
                (example,),
                partial / f"{name}.onnx",
                dynamo=True,
                input_names=[argument],
                output_names=["vectors"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                external_data=False,
                verbose=False,
            )
    partial.replace(target)


if __name__ == "__main__":
    export(*(Path(argument) for argument in sys.argv[1:4]))
