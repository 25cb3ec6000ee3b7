"""Texts -> token ids, exactly as open_clip's SimpleTokenizer makes them.

Cleaning and splitting into words happen here, with the libraries that open_clip uses (ftfy, html,
regex), because no other regular expression engine agrees with them on hostile strings. Only the
byte-pair encoding of one word comes from the bundle's ``tokenizer.json``.
"""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import ftfy
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


def clean(text: str) -> str:
    """Repair mojibake, resolve HTML entities (twice), collapse white space, lower the case."""
    try:
        unescaped = html.unescape(html.unescape(ftfy.fix_text(text)))
    except ValueError as exc:  # a character reference of thousands of digits; open_clip fails too
        raise TextRefused(f"a text cannot be cleaned: {exc}") from exc
    return " ".join(unescaped.split()).lower()


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
    """open_clip's tokenizer over a bundle's ``tokenizer.json``; usable from any thread."""

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
            BundleError: it cannot be read, or its start and end tokens are not the recipe's.
        """
        try:
            encoding = tokenizers.Tokenizer.from_file(str(path))
        except (KeyboardInterrupt, SystemExit):
            raise
        # tokenizers raises the bare Exception, or for hostile files a panic, which is not even that
        except BaseException as exc:
            raise BundleError(f"cannot read {path}: {exc}; export the model again") from exc
        for token, number in ((START, recipe.start_id), (END, recipe.end_id)):
            found = encoding.token_to_id(token)
            if found != number:
                raise BundleError(
                    f"{path} numbers {token} {found}, the manifest {number}; export the model again"
                )
        return cls(encoding, recipe, limits)

    def encode(self, texts: Sequence[str]) -> tuple[TokenIds, OneHot]:
        """Encode n texts: ids, shape (n, context_length), and where each ends.

        A text that is too long is cut, and its last token is the end token. The mark stands at
        the first end token, which a literal ``<end_of_text>`` inside the text also is.

        Raises:
            TextRefused: one of them is no str, or longer than the limit.
            TypeError: there is no list of them.
        """
        if isinstance(texts, str | bytes):
            raise TypeError("a list of texts is needed, not one of them: write [text]")
        length = self._recipe.context_length
        ids = np.zeros((len(texts), length), dtype=np.int64)
        for row, (index, text) in zip(ids, enumerate(texts), strict=True):
            tokens = [self._recipe.start_id, *self._encode_text(index, text, length - 2)]
            row[: len(tokens)] = tokens
            row[len(tokens)] = self._recipe.end_id
        # argmax finds the first of equals, as in open_clip's pooling.
        ends = (ids == self._recipe.end_id).argmax(axis=1)
        return ids, one_hot(ends, length)

    def _encode_text(self, index: int, text: str, room: int) -> list[int]:
        """The first ``room`` tokens of one text."""
        if not isinstance(text, str):
            raise TextRefused(f"text {index} is of type {type(text).__name__}, not str")
        if len(text) > self._limits.text_chars:
            raise TextRefused(
                f"text {index} has {len(text):,} characters, more than the limit of "
                f"{self._limits.text_chars:,} (WARMCLIP_MAX_TEXT_CHARS)"
            )
        tokens: list[int] = []
        for word in _WORD.finditer(clean(text)):
            spelled = "".join(self._alphabet[byte] for byte in word.group().encode("utf-8"))
            tokens += self._encoding.encode(spelled, add_special_tokens=False).ids
            if len(tokens) >= room:
                break
        return tokens[:room]
