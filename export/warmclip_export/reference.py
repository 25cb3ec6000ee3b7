"""The reference: open_clip itself, in float32, without gradients, on the CPU or on MPS."""

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from open_clip import CLIP, CustomTextCLIP, SimpleTokenizer
from open_clip.tokenizer import HFTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from open_clip.transformer import TextTransformer
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import Compose, ToTensor  # type: ignore[import-untyped]  # it ships no types

from warmclip.inference.arrays import Crop, Features, OneHot, Pixels, TokenIds
from warmclip.inference.bundle import Logits
from warmclip_export.catalog import ModelRecipe, TokenizerSource
from warmclip_export.checkpoint import load_checkpoint
from warmclip_export.errors import ExportRefused
from warmclip_export.hf_tokenizer import open_hf_tokenizer

Device: TypeAlias = Literal["cpu", "mps"]
"""Where torch computes the reference."""

# open_clip's words for the token that the features are taken from, and ours.
_POOLS: dict[str, Literal["end", "first", "last"]] = {
    "argmax": "end", "eos": "end", "first": "first", "last": "last",
}  # fmt: skip
_NO_VECTOR = ("logit_scale", "logit_bias")


def find_device(wanted: Device | None) -> Device:
    """Where to compute the reference: what was asked for, else MPS where there is one.

    Raises:
        ExportRefused: torch has no MPS here.
    """
    there = torch.backends.mps.is_available() and _mps_computes()
    if wanted == "mps" and not there:
        raise ExportRefused(
            f"--against mps: torch {torch.__version__} has no MPS device here "
            f"({platform.system()} {platform.machine()}); it is there on Apple Silicon. "
            "--against cpu compares with open_clip on the CPU"
        )
    return wanted or ("mps" if there else "cpu")


def _mps_computes() -> bool:
    """Whether MPS does more than say that it is there: virtual Macs have it, and refuse to work."""
    try:
        ones = torch.ones(2, 2, device="mps")
        return bool((ones @ ones).sum().item() == 8.0)
    except RuntimeError:
        return False


def describe_reference(recipe: ModelRecipe, device: Device) -> dict[str, str]:
    """The reference as it stands in a certificate."""
    return {
        "model": recipe.model,
        "pretrained": recipe.pretrained,
        "device": device,
        "dtype": "float32",
        "machine": platform.machine(),
        "system": platform.system(),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class TextParts:
    """The pieces of a text tower, which open_clip's CLIP and CustomTextCLIP keep apart."""

    lookup: nn.Embedding
    position: Tensor  # (context length, width)
    blocks: nn.ModuleList
    norm: nn.Module
    projection: nn.Linear | Tensor | None
    causal: bool
    pool: Literal["end", "first", "last"]  # the token that the features are taken from
    end_id: int | None  # of the token that ends a text; without one it has the highest id


class Reference:
    """open_clip's model as its users run it: preprocessing, tokenizer and the two towers."""

    def __init__(
        self,
        model: CLIP | CustomTextCLIP,
        preprocess: dict[str, Any],
        tokenizer: TokenizerSource | None = None,
        *,
        rgb_first: bool = False,
    ) -> None:
        source = tokenizer or TokenizerSource()
        self.model = model.eval().requires_grad_(False)
        self.device: Device = "cpu"
        base = merge_preprocess_dict(asdict(PreprocessCfg()), preprocess)
        self.preprocess = PreprocessCfg(**{**base, "size": model.visual.image_size})
        self.rgb_first = rgb_first
        transform = image_transform_v2(self.preprocess, is_train=False)
        self.transform = Compose([_in_rgb, *transform.transforms]) if rgb_first else transform
        self.text_parts = _text_parts(model)
        self.cleaning = source.cleaning
        self.tokenizer = _open_tokenizer(source, len(self.text_parts.position))

    @classmethod
    def build(cls, recipe: ModelRecipe, checkpoint: Path | None) -> Self:
        """Build the model and load its weights; without a checkpoint they are drawn by the seed.

        Raises:
            ExportRefused: open_clip cannot build such a model, or the file does not fit it.
        """
        config = dict(recipe.architecture)
        kind = CustomTextCLIP if config.pop("custom_text", False) else CLIP
        if recipe.activation.quick_gelu:  # it has no kinds, as GELU has
            for name in ("vision_cfg", "text_cfg"):
                section = config[name].items()
                config[name] = {key: value for key, value in section if key != "act_kwargs"}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(recipe.weights.name) if checkpoint is None else 0)
            try:
                model = kind(**config, quick_gelu=recipe.activation.quick_gelu)
            except (TypeError, ValueError, AssertionError) as exc:
                raise ExportRefused(f"open_clip cannot build {recipe.name}: {exc}") from exc
        if checkpoint is not None:
            load_checkpoint(model, checkpoint)
        return cls(model, recipe.preprocess, recipe.tokenizer, rgb_first=recipe.rgb_first)

    def move(self, device: Device) -> None:
        """Compute on another device from now on."""
        self.model.to(device)
        self.device = device

    def pixels(self, images: Sequence[Image.Image]) -> Pixels:
        """Preprocess pictures, (n, 3, S, S)."""
        stacked: Pixels = torch.stack([self.transform(image) for image in images]).numpy()
        return stacked

    def crop(self, image: Image.Image) -> Crop:
        """The picture as it is before it becomes a tensor, (S, S, 3)."""
        picture: Any = image
        for step in self.transform.transforms:
            if isinstance(step, ToTensor):
                break
            picture = step(picture)
        return np.asarray(picture)

    def token_ids(self, texts: Sequence[str]) -> TokenIds:
        """Tokenize texts, (n, context length)."""
        ids: TokenIds = self.tokenizer(list(texts)).numpy()
        return ids

    def eot_onehot(self, ids: TokenIds) -> OneHot:
        """Where open_clip takes each text's vector from, (n, 1, context length)."""
        match self.text_parts:
            case TextParts(pool="first"):
                places = np.zeros(len(ids), np.intp)
            case TextParts(pool="last"):
                places = np.full(len(ids), ids.shape[1] - 1, np.intp)
            case TextParts(end_id=None):
                places = ids.argmax(axis=1)  # the end-of-text token has the highest id
            case TextParts(end_id=end):
                places = (ids == end).argmax(axis=1)
        onehot: OneHot = np.eye(ids.shape[1], dtype=np.float32)[places][:, None]
        return onehot

    def logits(self) -> Logits | None:
        """What the model was trained to make of a cosine; None if that is not two numbers."""
        scale, bias = self.model.logit_scale, self.model.logit_bias
        if scale.numel() != 1:
            return None
        return Logits(
            scale=float(scale.detach().exp()), bias=None if bias is None else float(bias.detach())
        )

    @torch.inference_mode()
    def image_features(self, pixels: Pixels) -> Features:
        """Raw features of preprocessed pictures, (n, dim)."""
        features = self.model.encode_image(torch.from_numpy(pixels).to(self.device))
        on_host: Features = features.cpu().numpy()
        return on_host

    @torch.inference_mode()
    def text_features(self, ids: TokenIds) -> Features:
        """Raw features of tokenized texts, (n, dim)."""
        features = self.model.encode_text(torch.from_numpy(ids).to(self.device))
        on_host: Features = features.cpu().numpy()
        return on_host

    def tensors_sha256(self) -> str:
        """The digest of the towers' float32 tensors, whatever file they came from."""
        lines = [
            f"{name} {_tensor_sha256(tensor.detach().float().cpu().numpy())}"
            for name, tensor in sorted(self.model.state_dict().items())
            if tensor.is_floating_point() and name not in _NO_VECTOR
        ]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _in_rgb(image: Image.Image) -> Image.Image:
    """What applications do before they call open_clip's transform."""
    return image.convert("RGB")


def _text_parts(model: CLIP | CustomTextCLIP) -> TextParts:
    source = model.text if isinstance(model, CustomTextCLIP) else model
    if source is not model and not isinstance(source, TextTransformer):
        raise ExportRefused(f"its text tower is a {type(source).__name__}, not open_clip's own")
    pool = source.text_pool_type if source is model else source.pool_type
    end = source.text_eos_id if source is model else source.eos_id
    return TextParts(
        lookup=source.token_embedding,
        position=source.positional_embedding,
        blocks=source.transformer.resblocks,
        norm=source.ln_final,
        projection=source.text_projection,
        causal=source.attn_mask is not None,
        pool=_POOLS[pool],
        end_id=end if pool == "eos" else None,
    )


def _open_tokenizer(source: TokenizerSource, context_length: int) -> SimpleTokenizer | HFTokenizer:
    if source.name:
        return open_hf_tokenizer(source, context_length)
    return SimpleTokenizer(context_length=context_length, **dict(source.options))


def _tensor_sha256(array: npt.NDArray[np.float32]) -> str:
    little = np.ascontiguousarray(array, dtype="<f4")
    digest = hashlib.sha256(f"float32 {list(little.shape)} ".encode("ascii"))
    digest.update(little.tobytes())
    return digest.hexdigest()
