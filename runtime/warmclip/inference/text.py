"""Texts -> token ids, exactly as open_clip's tokenizers make them.

Cleaning happens here, with the libraries that open_clip uses (ftfy, html). So does splitting into
words for its own SimpleTokenizer (regex), because no other regular expression engine agrees with
it on hostile strings: only the byte-pair encoding of one word comes from the bundle's
``tokenizer.json``. For its HFTokenizer all the rest comes from there, cutting and padding too.
"""

import html
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import regex
import tokenizers

from warmclip.errors import BundleError, TextRefused
from warmclip.inference.arrays import OneHot, TokenIds
from warmclip.inference.bundle import TokenizerRecipe
from warmclip.settings import Limits

START = "<start_of_text>"
END = "<end_of_text>"

# In open_clip's order: the two literals, English contractions, letters, single digits, the rest.
_WORD = regex.compile(
    rf"{START}|{END}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+",
    regex.IGNORECASE,
)


_NO_PUNCTUATION = str.maketrans("_", " ", string.punctuation.replace("_", ""))


def collapse(text: str) -> str:
    """Repair mojibake, resolve HTML entities (twice), collapse white space."""
    if text.isascii() and text.isprintable() and "&" not in text:
        return " ".join(text.split())  # neither of the libraries changes anything else in it
    # Here, since it takes as long to import as a tower takes to load, and few texts need it.
    import ftfy

    try:
        unescaped = html.unescape(html.unescape(ftfy.fix_text(text)))
    except ValueError as exc:  # a character reference of thousands of digits; open_clip fails too
        raise TextRefused(f"a text cannot be cleaned: {exc}") from exc
    return " ".join(unescaped.split())


def clean(text: str) -> str:
    """Collapse, and lower the case."""
    return collapse(text).lower()


def canonicalize(text: str) -> str:
    """Collapse, lower the case, and drop ASCII punctuation; an underscore becomes a space."""
    return " ".join(collapse(text).translate(_NO_PUNCTUATION).lower().split())


_CLEANERS: Mapping[str, Callable[[str], str]] = {
    "lower": clean,
    "whitespace": collapse,
    "canonicalize": canonicalize,
}


def byte_alphabet() -> dict[int, str]:
    """GPT-2's printable character for each of the 256 byte values.

    The visible Latin-1 characters stand for themselves, the other 68 bytes for U+0100 onwards.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    shifted = {byte: chr(0x100 + index) for index, byte in enumerate(others)}
    return {byte: chr(byte) for byte in visible} | shifted


def one_hot(positions: npt.ArrayLike, context_length: int) -> OneHot:
    """Mark one position a row, shape (n, 1, context_length), float32."""
    columns = np.asarray(positions, dtype=np.int64)
    marks = np.zeros((len(columns), 1, context_length), dtype=np.float32)
    marks[np.arange(len(columns)), 0, columns] = 1.0
    return marks


class Tokenizer:
    """A model's tokenizer over a bundle's ``tokenizer.json``; usable from any thread."""

    def __init__(
        self, encoding: tokenizers.Tokenizer, recipe: TokenizerRecipe, limits: Limits | None = None
    ) -> None:
        self._encoding = encoding
        self._recipe = recipe
        self._limits = limits or Limits()
        self._alphabet = byte_alphabet()

    @classmethod
    def open(cls, path: Path, recipe: TokenizerRecipe, limits: Limits | None = None) -> Self:
        """Open a ``tokenizer.json``.

        Raises:
            BundleError: it cannot be read, or is not as the recipe says.
        """
        try:
            encoding = tokenizers.Tokenizer.from_file(str(path))
        except (KeyboardInterrupt, SystemExit):
            raise
        # tokenizers raises the bare Exception, or for hostile files a panic, which is not even that
        except BaseException as exc:
            raise BundleError(f"cannot read {path}: {exc}; export the model again") from exc
        if recipe.kind == "huggingface":
            _check_lengths(encoding, path, recipe.context_length)
            return cls(encoding, recipe, limits)
        for token, number in ((START, recipe.start_id), (END, recipe.end_id)):
            found = encoding.token_to_id(token)
            if found != number:
                raise BundleError(
                    f"{path} numbers {token} {found}, the manifest {number}; export the model again"
                )
        return cls(encoding, recipe, limits)

    def encode(self, texts: Sequence[str]) -> tuple[TokenIds, OneHot]:
        """Encode n texts: ids, shape (n, context_length), and where each one's vector is taken.

        A text that is too long is cut, and its last token is the end token. The mark stands at
        the first end token, which a literal ``<end_of_text>`` inside the text also is, or at the
        first or last token of all, as the recipe says.

        Raises:
            TextRefused: one of them is no str, or longer than the limit.
            TypeError: there is no list of them.
        """
        if isinstance(texts, str | bytes):
            raise TypeError("a list of texts is needed, not one of them: write [text]")
        length = self._recipe.context_length
        ids = np.zeros((len(texts), length), dtype=np.int64)
        for row, (index, text) in zip(ids, enumerate(texts), strict=True):
            cleaned = self._clean(index, text)
            if self._recipe.kind == "huggingface":
                row[:] = self._encoding.encode(cleaned).ids
            else:
                tokens = [self._recipe.start_id, *self._encode_words(cleaned, length - 2)]
                row[: len(tokens)] = tokens
                row[len(tokens)] = self._recipe.end_id
        if self._recipe.zeroed_id is not None:
            ids[ids == self._recipe.zeroed_id] = 0
        return ids, one_hot(self._places(ids), length)

    def find_cut(self, texts: Sequence[str]) -> tuple[int, ...]:
        """The places of those texts that are longer than the model reads, so that ``encode`` cuts.

        Raises:
            TextRefused: as ``encode``.
        """
        return tuple(
            index for index, text in enumerate(texts) if self._is_cut(self._clean(index, text))
        )

    def _is_cut(self, cleaned: str) -> bool:
        if self._recipe.kind == "huggingface":
            return bool(self._encoding.encode(cleaned).overflowing)
        room = self._recipe.context_length - 2
        return len(self._encode_words(cleaned, room + 1)) > room

    def _places(self, ids: TokenIds) -> npt.NDArray[np.intp]:
        match self._recipe.pool:
            case "end":  # argmax finds the first of equals, as in open_clip's pooling
                ends: npt.NDArray[np.intp] = (ids == self._recipe.end_id).argmax(axis=1)
                return ends
            case "first":
                return np.zeros(len(ids), np.intp)
            case "last":
                return np.full(len(ids), ids.shape[1] - 1, np.intp)

    def _clean(self, index: int, text: str) -> str:
        if not isinstance(text, str):
            raise TextRefused(f"text {index} is of type {type(text).__name__}, not str")
        if len(text) > self._limits.text_chars:
            raise TextRefused(
                f"text {index} has {len(text):,} characters, more than the limit of "
                f"{self._limits.text_chars:,} (WARMCLIP_MAX_TEXT_CHARS)"
            )
        return _CLEANERS[self._recipe.cleaning](text)

    def _encode_words(self, cleaned: str, room: int) -> list[int]:
        """The first ``room`` tokens of one text."""
        tokens: list[int] = []
        for word in _WORD.finditer(cleaned):
            spelled = "".join(self._alphabet[byte] for byte in word.group().encode("utf-8"))
            tokens += self._encoding.encode(spelled, add_special_tokens=False).ids
            if len(tokens) >= room:
                break
        return tokens[:room]


def _check_lengths(encoding: tokenizers.Tokenizer, path: Path, context_length: int) -> None:
    """See that every text will have the model's length."""
    cut, padded = encoding.truncation or {}, encoding.padding or {}
    if cut.get("max_length") != context_length or padded.get("length") != context_length:
        raise BundleError(
            f"{path} cuts texts to {cut.get('max_length')} tokens and pads them to "
            f"{padded.get('length')}, the manifest says {context_length}; export the model again"
        )
