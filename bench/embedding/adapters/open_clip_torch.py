"""open_clip in torch, as its README shows it: eager, compiled, behind a DataLoader."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from bench.embedding.adapters.adapter import BATCH, Array, PeerAdapter, Skipped
from bench.embedding.fixtures import Fixtures

_MODEL = "bench-model"


def register(fixtures: Fixtures) -> str:
    """Let open_clip know the model by a name, which is returned."""
    config = fixtures.architecture | {"quick_gelu": fixtures.activation == "quick_gelu"}
    config.pop("hf_text_cfg", None)  # which a bundle says beside it
    if fixtures.tokenizer:
        named = config["text_cfg"].keys() & {"hf_tokenizer_name", "hf_model_name"}
        config["text_cfg"] = config["text_cfg"] | dict.fromkeys(named, fixtures.tokenizer)
    path = fixtures.folder / f"{_MODEL}.json"
    if not path.exists():
        path.write_text(json.dumps(config), encoding="utf-8")
    open_clip.add_model_config(path)
    return _MODEL


def load(fixtures: Fixtures) -> tuple[Any, Any]:
    """The model and its transform."""
    model, _, transform = open_clip.create_model_and_transforms(
        register(fixtures), pretrained=str(fixtures.checkpoint)
    )
    return model.eval(), transform


class OpenClip(PeerAdapter):
    """Both towers in float32.

    Args:
        fixtures: the weights.
        compiled: whether through ``torch.compile``.
        loaders: processes that decode, of a DataLoader; 0: none.
    """

    def __init__(self, fixtures: Fixtures, *, compiled: bool = False, loaders: int = 0) -> None:
        super().__init__(fixtures)
        self._model, self._transform = load(fixtures)
        self._tokenizer = open_clip.get_tokenizer(_MODEL)
        self._loaders = loaders
        self._encode_image = self._model.encode_image
        self._encode_text = self._model.encode_text
        if compiled:
            # Batches differ, which torch would else find out by compiling once more.
            self._encode_image = torch.compile(self._encode_image, dynamic=True)
            self._encode_text = torch.compile(self._encode_text, dynamic=True)
            try:
                self.pixels(np.zeros((2, 3, fixtures.side_px, fixtures.side_px), np.float32))
            except Exception as exc:
                lines = str(exc).strip().splitlines()
                why = lines[0] if lines else type(exc).__name__
                raise Skipped(f"torch.compile does not work here: {why[:120]}") from exc

    def describe(self) -> dict[str, Any]:
        """See ``Adapter``."""
        return {
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "open_clip": open_clip.__version__,
        }

    @torch.inference_mode()
    def pixels(self, pixels: Array) -> Array:
        """See ``Adapter``."""
        vectors: Array = self._encode_image(torch.from_numpy(pixels), normalize=True).numpy()
        return vectors

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Array:
        """See ``Adapter``."""
        ids = self._tokenizer(list(texts))
        vectors: Array = self._encode_text(ids, normalize=True).numpy()
        return vectors

    def preprocess(self, path: str) -> Array:
        """See ``PeerAdapter``."""
        pixels: Array = self._transform(Image.open(path)).numpy()
        return pixels

    def embed(self, paths: Sequence[str]) -> Array:
        """See ``PeerAdapter``."""
        if not self._loaders:
            return super().embed(paths)
        loader = DataLoader(
            _Pictures(paths, self._transform), batch_size=BATCH, num_workers=self._loaders
        )
        return np.concatenate([self.pixels(batch.numpy()) for batch in loader])


class _Pictures(Dataset[torch.Tensor]):
    def __init__(self, paths: Sequence[str], transform: Any) -> None:
        self._paths = paths
        self._transform = transform

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        pixels: torch.Tensor = self._transform(Image.open(self._paths[index]))
        return pixels
