"""open_clip's HFTokenizer: found without asking the network first, and written as one file."""

import json
from pathlib import Path
from typing import Any

import tokenizers
from open_clip.tokenizer import HFTokenizer

from warmclip_export.catalog import TokenizerSource
from warmclip_export.errors import ExportRefused, WeightsUnavailable
from warmclip_export.weights import first_line

# What decides no id.
_IDLE = ("version", "decoder")


def open_hf_tokenizer(source: TokenizerSource, context_length: int) -> HFTokenizer:
    """open_clip's tokenizer over a folder, over Hugging Face's cache, or downloaded.

    Raises:
        WeightsUnavailable: it is not in the cache and could not be downloaded.
        ExportRefused: transformers cannot read it, or has no fast form of it.
    """
    try:
        found = _open(source, context_length)
    except (ImportError, KeyError, TypeError, AttributeError) as exc:
        raise ExportRefused(f"cannot read the tokenizer {source.name}: {first_line(exc)}") from exc
    except (OSError, ValueError) as exc:
        why = first_line(exc)
        if Path(source.name).is_dir():
            raise ExportRefused(f"cannot read the tokenizer {source.name}: {why}") from exc
        raise WeightsUnavailable(
            f"the tokenizer {source.name!r} is not in the cache and could not be downloaded from "
            f"huggingface.co ({why}). Run this where there is a network, or copy the cache "
            "of such a machine (~/.cache/huggingface), or name a folder that has its "
            "tokenizer.json and tokenizer_config.json with --tokenizer FOLDER"
        ) from exc
    if not getattr(found.tokenizer, "is_fast", False):
        raise ExportRefused(
            f"the tokenizer {source.name} is a {type(found.tokenizer).__name__}, a program in "
            "Python; warmclip runs those that the tokenizers library runs by itself"
        )
    return found


def build_hf_tokenizer_json(original: HFTokenizer) -> str:
    """The whole ``tokenizer.json``, which cuts and pads texts by itself."""
    model = original.tokenizer
    encoding = tokenizers.Tokenizer.from_str(model.backend_tokenizer.to_str())
    encoding.enable_truncation(original.context_length, direction=model.truncation_side)
    encoding.enable_padding(
        length=original.context_length,
        direction=model.padding_side,
        pad_id=model.pad_token_id,
        pad_type_id=model.pad_token_type_id,
        pad_token=model.pad_token,
    )
    return str(encoding.to_str()) + "\n"


def essence(tokenizer_json: str) -> dict[str, Any]:
    """All of a ``tokenizer.json`` that decides ids."""
    document: dict[str, Any] = json.loads(tokenizer_json)
    return {key: value for key, value in document.items() if key not in _IDLE}


def _open(source: TokenizerSource, context_length: int) -> HFTokenizer:
    # Unless it is told, transformers asks at a terminal whether to run what lies there.
    options = dict(source.options) | {"trust_remote_code": False}
    try:
        return HFTokenizer(source.name, context_length, local_files_only=True, **options)
    except (OSError, ValueError):
        if Path(source.name).is_dir():
            raise
        return HFTokenizer(source.name, context_length, **options)
