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
from open_clip import CLIP, SimpleTokenizer
from open_clip.hf_model import HFTextEncoder
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from open_clip.transformer import TextTransformer
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import Compose, ToTensor  # type: ignore[import-untyped]  # it ships no types

from warmclip.inference.arrays import Crop, Features, OneHot, Pixels, TokenIds
from warmclip.inference.bundle import Logits
from warmclip_export.architecture import DECODER, OpenClipModel, build_model, decisive_settings
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
_NO_VECTOR = ("logit_scale", "logit_bias", DECODER)  # how such tensors' names begin


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
    """What is known of a text tower of any kind."""

    context_length: int  # in tokens, of every text
    vocabulary: int
    padding_id: int
    pool: Literal["end", "first", "last"]  # the token that the features are taken from
    end_id: int | None = None  # of the token that ends a text; without one it has the highest id


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnText(TextParts):
    """The pieces of open_clip's text tower, which CLIP and CustomTextCLIP keep apart."""

    lookup: nn.Embedding
    position: Tensor  # (context length, width); with a class token, one more
    blocks: nn.ModuleList
    norm: nn.Module
    projection: nn.Linear | Tensor | None
    causal: bool
    class_token: Tensor | None = None  # (width,), appended to each text; it gives the features
    corrects_class_mask: bool = False  # whether that token sees itself


@dataclass(frozen=True, slots=True, kw_only=True)
class HuggingFaceText(TextParts):
    """A text tower of Hugging Face, which pools for itself."""

    encoder: HFTextEncoder


class Reference:
    """open_clip's model as its users run it: preprocessing, tokenizer and the two towers."""

    def __init__(
        self,
        model: OpenClipModel,
        preprocess: dict[str, Any],
        tokenizer: TokenizerSource | None = None,
        *,
        context_length: int = 0,
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
        self.text_parts = _text_parts(model, context_length)
        self.cleaning = source.cleaning
        self.tokenizer = _open_tokenizer(source, self.text_parts.context_length)

    @classmethod
    def build(cls, recipe: ModelRecipe, checkpoint: Path | None) -> Self:
        """Build the model and load its weights; without a checkpoint they are drawn by the seed.

        Raises:
            ExportRefused: open_clip cannot build such a model, or the file does not fit it.
            WeightsUnavailable: the configuration of its text tower could not be had.
        """
        config = dict(recipe.architecture)
        if recipe.activation.quick_gelu:  # it has no kinds, as GELU has
            for name in ("vision_cfg", "text_cfg"):
                section = config[name].items()
                config[name] = {key: value for key, value in section if key != "act_kwargs"}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(recipe.weights.name) if checkpoint is None else 0)
            quick_gelu = recipe.activation.quick_gelu
            model = build_model(config, recipe.text_model, quick_gelu=quick_gelu)
        if checkpoint is not None:
            load_checkpoint(model, checkpoint)
        return cls(
            model,
            recipe.preprocess,
            recipe.tokenizer,
            context_length=config["text_cfg"].get("context_length", 0),
            rgb_first=recipe.rgb_first,
        )

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

    def text_settings(self) -> dict[str, Any]:
        """What decides vectors of a text tower of Hugging Face beside its tensors; else nothing."""
        if not isinstance(self.text_parts, HuggingFaceText):
            return {}
        return decisive_settings(self.text_parts.encoder.config)

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
        images = torch.from_numpy(pixels).to(self.device)
        features = self.model.encode_image(images, normalize=False)  # CoCa would
        on_host: Features = features.cpu().numpy()
        return on_host

    @torch.inference_mode()
    def text_features(self, ids: TokenIds) -> Features:
        """Raw features of tokenized texts, (n, dim)."""
        features = self.model.encode_text(torch.from_numpy(ids).to(self.device), normalize=False)
        on_host: Features = features.cpu().numpy()
        return on_host

    def tensors_sha256(self) -> str:
        """The digest of the towers' float32 tensors, whatever file they came from."""
        lines = [
            f"{name} {_tensor_sha256(tensor.detach().float().cpu().numpy())}"
            for name, tensor in sorted(self.model.state_dict().items())
            if tensor.is_floating_point() and not name.startswith(_NO_VECTOR)
        ]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _in_rgb(image: Image.Image) -> Image.Image:
    """What applications do before they call open_clip's transform."""
    return image.convert("RGB")


def _text_parts(model: OpenClipModel, context_length: int) -> TextParts:
    if isinstance(model, CLIP):
        return _own_text(model, model.text_pool_type, model.text_eos_id)
    match model.text:
        case TextTransformer() as tower:
            return _own_text(tower, tower.pool_type, tower.eos_id)
        case HFTextEncoder() as tower if hasattr(tower, "proj"):
            return HuggingFaceText(
                context_length=context_length or DEFAULT_CONTEXT_LENGTH,
                vocabulary=tower.vocab_size,
                padding_id=tower.config.pad_token_id,
                pool="first",
                encoder=tower,
            )
        case HFTextEncoder():
            raise ExportRefused("its text tower lacks the projection to the length of a vector")
        case tower:
            raise ExportRefused(f"its text tower is a {type(tower).__name__}, not open_clip's own")


def _own_text(tower: Any, pool: str, end: int) -> OwnText:
    """Of a ``TextTransformer``, or of a CLIP, which has the same parts and no class token."""
    class_token = getattr(tower, "cls_emb", None)
    return OwnText(
        context_length=tower.context_length,
        vocabulary=tower.token_embedding.num_embeddings,
        padding_id=getattr(tower, "pad_id", 0),
        pool=_POOLS[pool] if class_token is None else "last",
        end_id=end if pool == "eos" else None,
        lookup=tower.token_embedding,
        position=tower.positional_embedding,
        blocks=tower.transformer.resblocks,
        norm=tower.ln_final,
        projection=tower.text_projection,
        causal=tower.attn_mask is not None,
        class_token=class_token,
        corrects_class_mask=getattr(tower, "correct_cls_mask", False),
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
