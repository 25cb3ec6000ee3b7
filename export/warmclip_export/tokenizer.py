"""A model's tokenizer as a ``tokenizers`` file, and what the runtime must know beside it.

Of open_clip's own byte-pair encoding, only the encoding goes into the file. Cleaning, splitting
into words and the byte table stay in Python (`warmclip.inference.text`), because the regular
expressions of ``tokenizers`` differ from open_clip's on hostile strings. So there is no normaliser,
no pre-tokeniser and no post-processor: the runtime hands over one byte-encoded word at a time.

A tokenizer of Hugging Face is written whole (``hf_tokenizer``).
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from open_clip.tokenizer import HFTokenizer

from warmclip.inference.bundle import TokenizerRecipe
from warmclip.inference.text import END, START
from warmclip_export.hf_tokenizer import build_hf_tokenizer_json, essence
from warmclip_export.reference import Reference
from warmclip_export.writer import write_file

_END_OF_WORD = "</w>"


def write_tokenizer(reference: Reference, folder: Path) -> TokenizerRecipe:
    """Write the tokenizer of a model into its bundle."""
    original = reference.tokenizer
    path = folder / "tokenizer.json"
    pool, end = reference.text_parts.pool, reference.text_parts.end_id
    if isinstance(original, HFTokenizer):
        document = build_hf_tokenizer_json(original)
        return TokenizerRecipe(
            file=write_file(path, document.encode("utf-8")),
            vocabulary_sha256=_sha256(essence(document)),
            kind="huggingface",
            cleaning=reference.cleaning,
            context_length=original.context_length,
            end_id=-1 if end is None else end,
            pool=pool,
            zeroed_id=original.tokenizer.sep_token_id if original.strip_sep_token else None,
        )
    document = build_tokenizer_json()
    start, end = special_ids(document)
    return TokenizerRecipe(
        file=write_file(path, document.encode("utf-8")),
        vocabulary_sha256=vocabulary_sha256(document),
        cleaning=reference.cleaning,
        context_length=original.context_length,
        start_id=start,
        end_id=end,
        pool=pool,
    )


def build_tokenizer_json() -> str:
    """The whole ``tokenizer.json``, byte for byte the same on every machine."""
    from open_clip.tokenizer import SimpleTokenizer

    original = SimpleTokenizer()
    vocabulary: dict[str, int] = original.encoder
    merges = sorted(original.bpe_ranks, key=original.bpe_ranks.__getitem__)
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        # open_clip, too, reads the literal "<end_of_text>" in a text as the token.
        "added_tokens": [_added(token, vocabulary[token]) for token in (START, END)],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": _END_OF_WORD,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": dict(sorted(vocabulary.items(), key=lambda item: item[1])),
            "merges": [list(pair) for pair in merges],
        },
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n"


def vocabulary_sha256(tokenizer_json: str) -> str:
    """The digest of the vocabulary and merges, 64 hexadecimal digits, whatever the layout."""
    model = json.loads(tokenizer_json)["model"]
    return _sha256({"vocab": model["vocab"], "merges": model["merges"]})


def _sha256(decisive: dict[str, Any]) -> str:
    canonical = json.dumps(decisive, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def special_ids(tokenizer_json: str) -> tuple[int, int]:
    """The ids of the start-of-text and end-of-text tokens."""
    vocabulary = json.loads(tokenizer_json)["model"]["vocab"]
    return vocabulary[START], vocabulary[END]


def _added(token: str, number: int) -> dict[str, Any]:
    return {
        "id": number,
        "content": token,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
