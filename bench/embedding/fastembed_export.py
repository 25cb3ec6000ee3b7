"""The model in the layout that fastembed loads from a folder, as its own CLIP is published.

Usage: python -m bench.embedding.fastembed_export BUNDLE CHECKPOINT STOCK FOLDER
It runs in the bench's own virtual environment. The image tower is the stock export of open_clip;
the text tower that of transformers, whose texts are as long as the longest of their batch.
"""

import json
import logging
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from bench.embedding.adapters.hugging_face import load_model, load_tokenizer
from bench.embedding.fixtures import Fixtures, captions

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


class _Text(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        found = self.model.get_text_features(input_ids=input_ids, attention_mask=attention_mask)
        features: Tensor = nn.functional.normalize(found.pooler_output, dim=-1)
        return features


def export(bundle: Path, checkpoint: Path, stock: Path, target: Path) -> None:
    """Write a folder for each tower; the whole is there or absent."""
    logging.disable(logging.WARNING)
    partial = target.with_name(f"{target.name}.partial")
    with TemporaryDirectory() as folder:
        fixtures = Fixtures.of_model(Path(folder), bundle, checkpoint)
    _write_image(stock, fixtures.side_px, partial / "image")
    _write_text(fixtures, partial / "text")
    partial.replace(target)


def _write_image(stock: Path, side_px: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(stock / "image.onnx", folder / "model.onnx")
    recipe = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side_px},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": side_px, "width": side_px},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": _MEAN,
        "image_std": _STD,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(recipe), encoding="utf-8")


def _write_text(fixtures: Fixtures, folder: Path) -> None:
    tokenizer = load_tokenizer(fixtures)
    tokenizer.save_pretrained(folder)
    example = tokenizer(captions(0, 2), padding=True, return_tensors="pt")
    longest = fixtures.architecture["text_cfg"].get("context_length", 77)
    shape = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("length", max=longest)}
    torch.onnx.export(
        _Text(load_model(fixtures)).eval(),
        (example["input_ids"], example["attention_mask"]),
        folder / "model.onnx",
        dynamo=True,
        input_names=["input_ids", "attention_mask"],
        output_names=["text_embeds"],
        dynamic_shapes=(shape, shape),
        external_data=False,
        verbose=False,
    )


if __name__ == "__main__":
    export(*(Path(argument) for argument in sys.argv[1:5]))
