"""Tokenizers of the kinds that open_clip's models have, trained on little text."""

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers
from tokenizers import (
    AddedToken,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

VOCABULARY = 400
_TEXTS = [
    "a photo of a cat", "two small red circles on a white background", "the quick brown fox",
    "it's what they'd've done, isn't it?", "ein Bild von einer Straßenbahn über der Brücke",
    "une photo d'un château près de la rivière", "красный велосипед", "夕焼けの海辺を歩く人々",
    "صورة لقطة على الأريكة", "빨간 자전거", "1234567890 3.14159 50 %", string.printable,
]  # fmt: skip


def write_tokenizer(kind: str, folder: Path) -> str:
    """Train a tokenizer of a kind and write it as Hugging Face's hub has it; returns the folder."""
    _KINDS[kind]().save_pretrained(folder)
    return str(folder)


def _t5() -> transformers.PreTrainedTokenizerBase:
    """Unigram, as SigLIP and mT5 have it."""
    return transformers.T5Tokenizer(vocab=_pieces(["<pad>", "</s>", "<unk>"]), extra_ids=0)


def _xlm_roberta() -> transformers.PreTrainedTokenizerBase:
    """Unigram with tokens at both ends, as XLM-R and xlm-v have it."""
    return transformers.XLMRobertaTokenizer(vocab=_pieces(["<s>", "<pad>", "</s>", "<unk>"]))


def _nllb() -> transformers.PreTrainedTokenizerBase:
    """BPE with the code of a language first, as NLLB has it."""
    trained = _trained(
        models.BPE(unk_token="<unk>", fuse_unk=True),
        pre_tokenizers.Metaspace(),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
            show_progress=False,
        ),
    )
    model = _model(trained)
    return transformers.NllbTokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        extra_special_tokens=["eng_Latn", "fra_Latn"],
    )


def _gemma() -> transformers.PreTrainedTokenizerBase:
    """BPE with bytes for what is unknown, as SigLIP 2 has it: an end token, and no beginning."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{i:02X}>" for i in range(256))]
    trained = _trained(
        models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True),
        pre_tokenizers.Split(" ", "merged_with_previous"),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY + 256, special_tokens=special, show_progress=False
        ),
        normalizers.Replace(" ", "\u2581"),
    )
    model = _model(trained)
    return transformers.GemmaTokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        add_bos_token=False,
        add_eos_token=True,
        padding_side="right",
    )


def _bert() -> transformers.PreTrainedTokenizerBase:
    """WordPiece, as CLIPA has it."""
    trained = _trained(
        models.WordPiece(unk_token="[UNK]"),
        pre_tokenizers.BertPreTokenizer(),
        trainers.WordPieceTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
            show_progress=False,
        ),
        normalizers.BertNormalizer(),
    )
    return transformers.BertTokenizer(vocab=_model(trained)["vocab"])


def _roberta() -> transformers.PreTrainedTokenizerBase:
    """BPE over bytes, as RoBERTa has it."""
    trained = _trained(
        models.BPE(),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    model = _model(trained)
    return transformers.RobertaTokenizer(
        vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]]
    )


def _plain() -> transformers.PreTrainedTokenizerBase:
    """No class of its own: all there is stands in the file."""
    trained = _trained(
        models.BPE(unk_token="<unk>"),
        pre_tokenizers.Whitespace(),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=["<pad>", "<eos>", "<unk>"], show_progress=False
        ),
        normalizers.NFKC(),
    )
    trained.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    trained.add_tokens([AddedToken("cat", single_word=True)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=trained, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


_KINDS: dict[str, Callable[[], transformers.PreTrainedTokenizerBase]] = {
    "t5": _t5,
    "gemma": _gemma,
    "bert": _bert,
    "roberta": _roberta,
    "xlm-roberta": _xlm_roberta,
    "nllb": _nllb,
    "plain": _plain,
}
KINDS = tuple(_KINDS)


def _pieces(special: list[str]) -> list[tuple[str, float]]:
    """The vocabulary of a Unigram model, with these tokens first."""
    trained = _trained(
        models.Unigram(),
        pre_tokenizers.Metaspace(),
        trainers.UnigramTrainer(
            vocab_size=VOCABULARY,
            special_tokens=special,
            unk_token="<unk>",
            show_progress=False,
        ),
    )
    return [(piece, score) for piece, score in _model(trained)["vocab"]]


def _trained(
    model: Any, pre_tokenizer: Any, trainer: Any, normalizer: Any | None = None
) -> Tokenizer:
    encoding = Tokenizer(model)
    encoding.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        encoding.normalizer = normalizer
    encoding.train_from_iterator(_TEXTS * 3, trainer)
    return encoding


def _model(encoding: Tokenizer) -> dict[str, Any]:
    import json

    model: dict[str, Any] = json.loads(encoding.to_str())["model"]
    return model
