"""transformers' CLIPModel in torch, over open_clip's weights under its own names."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from bench.embedding.adapters.adapter import Array, PeerAdapter, unit
from bench.embedding.fixtures import Fixtures

_START, _END = "<|startoftext|>", "<|endoftext|>"
_IN_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_OUTSIDE = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
_PROJECTIONS = {"visual.proj": "visual_projection", "text_projection": "text_projection"}


class Transformers(PeerAdapter):
    """As its documentation shows it: texts are padded to the longest of their batch."""

    def __init__(self, fixtures: Fixtures) -> None:
        super().__init__(fixtures)
        self._model = load_model(fixtures)
        self._tokenizer = load_tokenizer(fixtures)
        side = fixtures.side_px
        self._processor = transformers.CLIPImageProcessor(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        )

    def describe(self) -> dict[str, Any]:
        """See ``Adapter``."""
        return {
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    @torch.inference_mode()
    def pixels(self, pixels: Array) -> Array:
        """See ``Adapter``."""
        found = self._model.get_image_features(pixel_values=torch.from_numpy(pixels))
        return unit(found.pooler_output.numpy())

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Array:
        """See ``Adapter``."""
        tokens = self._tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        return unit(self._model.get_text_features(**tokens).pooler_output.numpy())

    def preprocess(self, path: str) -> Array:
        """See ``PeerAdapter``."""
        made = self._processor(images=Image.open(path).convert("RGB"), return_tensors="np")
        pixels: Array = np.asarray(made["pixel_values"])[0]
        return pixels


def load_model(fixtures: Fixtures) -> Any:
    """The model of the same architecture with the same weights."""
    architecture = fixtures.architecture
    image, text = architecture["vision_cfg"], architecture["text_cfg"]
    act = {"gelu": "gelu", "quick_gelu": "quick_gelu"}[fixtures.activation]
    config = transformers.CLIPConfig(
        projection_dim=fixtures.dim,
        vision_config={
            "hidden_size": image["width"],
            "intermediate_size": 4 * image["width"],
            "num_hidden_layers": image["layers"],
            "num_attention_heads": image["width"] // image.get("head_width", 64),
            "image_size": fixtures.side_px,
            "patch_size": image["patch_size"],
            "hidden_act": act,
            "projection_dim": fixtures.dim,
        },
        text_config={
            "hidden_size": text["width"],
            "intermediate_size": 4 * text["width"],
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "vocab_size": text["vocab_size"],
            "max_position_embeddings": text["context_length"],
            "hidden_act": act,
            "projection_dim": fixtures.dim,
            "bos_token_id": text["vocab_size"] - 2,
            "eos_token_id": text["vocab_size"] - 1,
        },
    )
    model = transformers.CLIPModel(config)
    missing, unknown = model.load_state_dict(_renamed(load_file(fixtures.checkpoint)), strict=False)
    wrong = [*unknown, *(name for name in missing if not name.endswith("position_ids"))]
    if wrong:
        raise RuntimeError(f"this transformers names its weights otherwise: {wrong[:3]}")
    return model.eval()


def load_tokenizer(fixtures: Fixtures) -> Any:
    """Transformers' own tokenizer over the vocabulary of the bundle."""
    file = json.loads((fixtures.bundle / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = file["model"]["vocab"]
    length = len(vocabulary)
    known = {word: number for word, number in vocabulary.items() if number < length - 2}
    return transformers.CLIPTokenizer(
        vocab=known | {_START: length - 2, _END: length - 1},
        merges=[tuple(pair) for pair in file["model"]["merges"]],
        model_max_length=fixtures.architecture["text_cfg"].get("context_length", 77),
    )


def _renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name in _OUTSIDE:
            named[_OUTSIDE[name]] = tensor
        elif name in _PROJECTIONS:
            named[f"{_PROJECTIONS[name]}.weight"] = tensor.T.contiguous()
        elif "transformer.resblocks." in name:
            named |= _renamed_in_block(name, tensor)
    return named


def _renamed_in_block(name: str, tensor: Tensor) -> dict[str, Tensor]:
    tower = "vision_model" if name.startswith("visual.") else "text_model"
    number, _, part = name.partition("resblocks.")[2].partition(".")
    block = f"{tower}.encoder.layers.{number}"
    if part.startswith("attn.in_proj_"):
        kind = part.removeprefix("attn.in_proj_")
        queries, keys, values = tensor.chunk(3)
        names = (f"{block}.self_attn.{one}_proj.{kind}" for one in "qkv")
        return dict(zip(names, (queries, keys, values), strict=True))
    stem, _, kind = part.rpartition(".")
    return {f"{block}.{_IN_BLOCK[stem]}.{kind}": tensor}
