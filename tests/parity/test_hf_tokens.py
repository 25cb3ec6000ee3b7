"""Token ids of the tokenizers library alone against open_clip's HFTokenizer, for every string."""

import os
from pathlib import Path
from random import Random

import numpy as np
import pytest
from open_clip.tokenizer import HFTokenizer

from tiny_models import TINY_SIGLIP, varied, written
from tiny_tokenizers import KINDS, write_tokenizer
from warmclip.errors import BundleError
from warmclip.inference.text import Tokenizer
from warmclip_export.catalog import Cleaning, resolve_model
from warmclip_export.errors import ExportRefused, WeightsUnavailable
from warmclip_export.parity.tricky_texts import TRICKY_TEXTS
from warmclip_export.reference import Reference
from warmclip_export.samples import SENTENCES, hostile_text
from warmclip_export.tokenizer import write_tokenizer as write_bundled

# 6,000 for each kind, by hand.
STRINGS = int(os.environ.get("TOKEN_STRINGS", "300"))
_GLUE = ("", " ", "  ", "\n", "_", ".", "</s>", "<pad>", "[SEP]", "<eos>", "<mask>", "<0x41>")
_CLEANINGS: dict[str, Cleaning] = {"t5": "canonicalize", "gemma": "canonicalize", "plain": "lower"}


def _strings(rng: Random) -> list[str]:
    pieces = [*SENTENCES, *TRICKY_TEXTS]
    joined = [
        rng.choice(_GLUE).join(
            rng.choice((hostile_text(rng), hostile_text(rng), rng.choice(pieces)))
            for _ in range(rng.randrange(1, 6))
        )
        for _ in range(STRINGS)
    ]
    return [*pieces, *joined]


def _reference(kind: str, folder: Path, **text: object) -> Reference:
    """A model whose tokenizer lies in a folder, as open_clip loads it."""
    where = write_tokenizer(kind, folder / "tokenizer")
    options = {"clean": _CLEANINGS.get(kind, "whitespace"), "strip_sep_token": kind == "bert"}
    config = varied(
        TINY_SIGLIP,
        text_cfg={
            "hf_tokenizer_name": where, "vocab_size": 1000, "tokenizer_kwargs": options, **text
        },
    )  # fmt: skip
    return Reference.build(resolve_model(written(folder, "model", config), "random:1"), None)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_open_clip(kind: str, tmp_path: Path) -> None:
    """Cleaning, special tokens, cutting and padding are open_clip's, without transformers.

    Whether a text was cut can be told.
    """
    reference = _reference(kind, tmp_path)
    assert isinstance(reference.tokenizer, HFTokenizer)
    recipe = write_bundled(reference, tmp_path)
    tokenizer = Tokenizer.open(tmp_path / recipe.file.file, recipe)
    strings = _strings(Random(kind))

    ids, places = tokenizer.encode(strings)

    expected = reference.token_ids(strings)
    differ = (ids != expected).any(axis=1)
    assert [text for text, wrong in zip(strings, differ, strict=True) if wrong] == []
    np.testing.assert_array_equal(places, reference.eot_onehot(expected))
    assert len(np.unique(ids, axis=0)) > STRINGS / 2  # the strings were not all unknown to it
    assert tokenizer.find_cut(["a cat", "", "x " * 99]) == (2,)


def test_language_stands_before_a_text(tmp_path: Path) -> None:
    """A text's first token is its language, from which NLLB's vectors are taken: English."""
    reference = _reference("nllb", tmp_path, pool_type="first")
    recipe = write_bundled(reference, tmp_path)
    assert isinstance(reference.tokenizer, HFTokenizer)
    english = reference.tokenizer.tokenizer.convert_tokens_to_ids("eng_Latn")

    ids, _ = Tokenizer.open(tmp_path / recipe.file.file, recipe).encode(["un chat", ""])

    assert ids[:, 0].tolist() == [english, english]


def test_text_is_pooled_at_its_end_where_the_model_says_so(tmp_path: Path) -> None:
    """The first end token of each row is marked, in a text that is cut and in one that is not."""
    reference = _reference("t5", tmp_path, pool_type="eos", eos_id=1)
    recipe = write_bundled(reference, tmp_path)

    ids, places = Tokenizer.open(tmp_path / recipe.file.file, recipe).encode(["a cat", "x " * 99])

    np.testing.assert_array_equal(places, reference.eot_onehot(ids))
    assert places[1, 0].argmax() == ids.shape[1] - 1 > places[0, 0].argmax()


def test_file_of_another_length_is_refused(tmp_path: Path) -> None:
    """A file that cuts texts elsewhere than the manifest says would feed a tower wrong shapes."""
    recipe = write_bundled(_reference("t5", tmp_path), tmp_path)
    other = recipe.model_copy(update={"context_length": 20})

    with pytest.raises(BundleError, match=r"cuts texts to 16 tokens.*manifest says 20"):
        Tokenizer.open(tmp_path / recipe.file.file, other)


def test_tokenizer_out_of_reach_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network the answer is one sentence with three ways on; a bad folder is named."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = varied(TINY_SIGLIP, text_cfg={"hf_tokenizer_name": "nobody/nothing"})
    model = written(tmp_path, "model", config)

    with pytest.raises(WeightsUnavailable, match="--tokenizer FOLDER"):
        Reference.build(resolve_model(model, "random:1"), None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExportRefused, match=r"cannot read the tokenizer .*empty"):
        Reference.build(resolve_model(model, "random:1", tokenizer=str(tmp_path / "empty")), None)
