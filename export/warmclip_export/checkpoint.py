"""A checkpoint file: its tensors under open_clip's names, and how they get into a model.

Files differ in what surrounds the tensors: a training run's record, prefixes of the wrappers that
a model was trained in, three sizes that OpenAI's archives hold. Code in a file is never run.
"""

import os
import pickle
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from open_clip.convert import convert_state_dict
from open_clip.model import (
    convert_to_custom_text_state_dict,
    resize_pos_embed,
    resize_text_pos_embed,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from warmclip_export.architecture import OpenClipModel
from warmclip_export.errors import ExportRefused

_UNSAFE_LOADING = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
_INSIDE = ("state_dict", "model_state_dict", "model")  # where training programs put the tensors
_WRAPPERS = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile, Lightning
_OPENAI_SIZES = ("input_resolution", "context_length", "vocab_size")
# Which transformers stored until 4.31: 0, 1, 2 and so on, no weights.
_POSITION_NUMBERS = "text.transformer.embeddings.position_ids"
_SHOWN = 3  # names of tensors in a message
# All that reading a file which is no checkpoint is known to raise.
_READING = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    pickle.UnpicklingError,
    SafetensorError,
)


def load_checkpoint(model: OpenClipModel, path: Path) -> None:
    """Put a file's tensors into a model, every one of them and nothing else.

    Raises:
        ExportRefused: the file is no checkpoint, or one of another model.
    """
    try:
        state = _fitted(model, name_tensors(_read(path)))
        found = model.load_state_dict(state, strict=False)
    except _READING as exc:
        raise ExportRefused(f"cannot load the checkpoint {path}: {explain(str(exc))}") from exc
    lacking, more = found.missing_keys, found.unexpected_keys
    if lacking or more:
        reasons = [
            *([f"it lacks {_some(lacking)}"] if lacking else []),
            *([f"the model has no place for {_some(more)}"] if more else []),
        ]
        raise ExportRefused(f"cannot load the checkpoint {path}: {' and '.join(reasons)}")


def name_tensors(content: object) -> dict[str, Tensor]:
    """The tensors of what a file holds, under the names that they have in a bare model.

    Raises:
        ValueError: it holds none, or something else among them.
    """
    state = content
    for key in _INSIDE:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
            break
    if not isinstance(state, Mapping) or not state:
        raise ValueError(f"it holds no tensors by name, but {type(state).__name__}")
    others = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    if others:
        raise ValueError(f"{_some(others)} in it are no tensors; save its state_dict alone")
    prefix = shared_prefix(state)
    bare = {str(name).removeprefix(prefix): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in bare.items() if name not in _OPENAI_SIZES}


def shared_prefix(names: Collection[str]) -> str:
    """The prefixes of wrapping modules that every name begins with, such as ``module.model.``."""
    prefix = ""
    while True:
        longer = [prefix + each for each in _WRAPPERS]
        shared = [it for it in longer if all(name.startswith(it) for name in names)]
        if not names or not shared:
            return prefix
        prefix = shared[0]


def explain(message: str) -> str:
    """Why a file could not be read, without torch's advice to run the code in it."""
    if "TorchScript" in message:
        return (
            "it is a TorchScript archive, which is a program. If you trust it, save its tensors: "
            "torch.save(torch.jit.load(FILE, map_location='cpu').state_dict(), 'weights.pt')"
        )
    if "weights_only" in message:
        found = re.search(r"GLOBAL (\S+)", message)
        if found is None:
            return "torch finds no tensors in it"
        return (
            f"it holds {found[1]} beside its tensors, and code in a file is never run. Where the "
            "model was made, save its tensors alone: torch.save(model.state_dict(), 'weights.pt')"
        )
    return " ".join(message.split())[:300] or "it is empty, or was cut short"


def _read(path: Path) -> Any:
    if path.suffix.lower() == ".safetensors":
        return load_file(path)
    if os.environ.get(_UNSAFE_LOADING):
        raise ExportRefused(
            f"{_UNSAFE_LOADING} is set, with which torch would run a checkpoint's code; unset it"
        )
    return torch.load(path, map_location="cpu", weights_only=True)  # torch's own allow-list


def _fitted(model: OpenClipModel, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in the form that open_clip's own loading gives them for a model."""
    state = convert_state_dict(model, state)
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    for name in ("logit_scale", "logit_bias"):  # a number for one version, a row for another
        parameter = getattr(model, name, None)
        if name in state and parameter is not None:
            state[name] = state[name].reshape(parameter.shape)
    if "logit_bias" not in state and model.logit_bias is not None:
        state["logit_bias"] = torch.zeros_like(model.logit_bias)
    state.pop(_POSITION_NUMBERS, None)
    resize_pos_embed(state, model)
    resize_text_pos_embed(state, model)
    return state


def _some(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
