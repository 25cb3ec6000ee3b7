"""Cleaning, splitting and encoding texts, over a vocabulary small enough to read."""

import html
import random
from pathlib import Path

import ftfy
import numpy as np
import pytest
import tokenizers

from warmclip.errors import BundleError, TextRefused
from warmclip.inference.bundle import FileRecord, TokenizerRecipe
from warmclip.inference.text import END, START, Tokenizer, byte_alphabet, clean, collapse, one_hot
from warmclip.settings import Limits

LENGTH = 8


def a_recipe(start_id: int, end_id: int) -> TokenizerRecipe:
    """A recipe with a short context."""
    return TokenizerRecipe(
        file=FileRecord(file="tokenizer.json", sha256="0" * 64, size_bytes=1),
        vocabulary_sha256="0" * 64,
        context_length=LENGTH,
        start_id=start_id,
        end_id=end_id,
    )


@pytest.fixture(scope="module")
def vocabulary() -> dict[str, int]:
    """Every byte, inside a word and at its end, and one whole word."""
    letters = list(byte_alphabet().values())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "ca", "cat</w>", START, END]
    return {piece: number for number, piece in enumerate(pieces)}


@pytest.fixture(scope="module")
def file(vocabulary: dict[str, int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer file of the exporter's form."""
    model = tokenizers.models.BPE(
        vocab=vocabulary, merges=[("c", "a"), ("ca", "t</w>")], end_of_word_suffix="</w>"
    )
    encoding = tokenizers.Tokenizer(model)
    encoding.add_special_tokens([START, END])
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    encoding.save(str(path))
    return path


@pytest.fixture(scope="module")
def tokenizer(file: Path, vocabulary: dict[str, int]) -> Tokenizer:
    """The tokenizer over that file."""
    recipe = a_recipe(vocabulary[START], vocabulary[END])
    return Tokenizer.open(file, recipe, Limits(text_chars=1000))


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", []),
        ("  CAT\n\tcat ", ["cat</w>", "cat</w>"]),
        ("cat&amp;amp;", ["cat</w>", "&</w>"]),
        ("cat's", ["cat</w>", "'", "s</w>"]),
        ("42", ["4</w>", "2</w>"]),
        ("é", ["Ã", "©</w>"]),
        ("Ã©", ["Ã", "©</w>"]),  # mojibake is repaired
        ("…", ["â", "Ģ", "¦</w>"]),
    ],
)
def test_pieces(
    tokenizer: Tokenizer, vocabulary: dict[str, int], text: str, pieces: list[str]
) -> None:
    """A text is start, its pieces, end, zeros; the mark stands at the end token."""
    ids, ends = tokenizer.encode([text])
    expected = [vocabulary[piece] for piece in [START, *pieces, END]]
    assert ids.tolist() == [expected + [0] * (LENGTH - len(expected))]
    assert ids.dtype == np.int64
    assert ends.dtype == np.float32
    assert ends.tolist() == one_hot([len(pieces) + 1], LENGTH).tolist()


def test_plain_texts_need_no_ftfy() -> None:
    """What is only printable ASCII is what ftfy and html make of it, without either."""
    symbols = [chr(code) for code in range(ord(" "), 0x7F) if chr(code) != "&"]
    chance = random.Random(0)
    for _ in range(5_000):
        text = "".join(chance.choices(symbols, k=40))
        repaired = html.unescape(html.unescape(ftfy.fix_text(text)))
        assert collapse(text) == " ".join(repaired.split())


@pytest.mark.parametrize("words", [5, 6, 7, 100])
def test_text_longer_than_the_context(
    tokenizer: Tokenizer, vocabulary: dict[str, int], words: int
) -> None:
    """What does not fit is cut, which can be told, and the end token stays last."""
    ids, ends = tokenizer.encode(["cat " * words])
    assert tokenizer.find_cut(["a", "cat " * words]) == ((1,) if words > LENGTH - 2 else ())
    kept = min(words, LENGTH - 2)
    assert ids[0, 1 : kept + 1].tolist() == [vocabulary["cat</w>"]] * kept
    assert ids[0, kept + 1] == vocabulary[END]
    assert ends[0, 0].argmax() == kept + 1


def test_end_token_inside_a_text(tokenizer: Tokenizer, vocabulary: dict[str, int]) -> None:
    """The literal is the token, as in open_clip, and the first one is where the text ends."""
    ids, ends = tokenizer.encode([f"cat{END}cat"])
    pieces = [START, "cat</w>", END, "cat</w>", END]
    assert ids[0, :5].tolist() == [vocabulary[piece] for piece in pieces]
    assert ends[0, 0].tolist() == [0, 0, 1, 0, 0, 0, 0, 0]


def test_texts_of_one_call(tokenizer: Tokenizer) -> None:
    """Rows do not depend on each other, and no texts make no rows."""
    texts = ["cat", "", "a cat", "cat " * 50]
    ids, ends = tokenizer.encode(texts)
    alone = [tokenizer.encode([text]) for text in texts]
    np.testing.assert_array_equal(ids, np.concatenate([one for one, _ in alone]))
    np.testing.assert_array_equal(ends, np.concatenate([one for _, one in alone]))
    ids, ends = tokenizer.encode([])
    assert ids.shape == (0, LENGTH)
    assert ends.shape == (0, 1, LENGTH)


def test_what_is_no_text(tokenizer: Tokenizer) -> None:
    """A text of another type is refused by its place and type."""
    with pytest.raises(TextRefused, match="text 1 is of type NoneType, not str"):
        tokenizer.encode(["cat", None])  # type: ignore[list-item]  # a caller without mypy
    with pytest.raises(TextRefused, match="text 0 is of type bytes, not str"):
        tokenizer.encode([b"cat"])  # type: ignore[list-item]  # a caller without mypy


def test_one_text_in_place_of_a_list(tokenizer: Tokenizer) -> None:
    """A bare str would be its letters: it is refused."""
    for one in ("cat", b"cat"):
        with pytest.raises(TypeError, match="a list of texts is needed"):
            tokenizer.encode(one)  # type: ignore[arg-type]  # a caller without mypy


def test_text_past_the_limit(tokenizer: Tokenizer) -> None:
    """A text that is too long is refused by its place, with the variable."""
    tokenizer.encode(["x" * 1000])
    with pytest.raises(TextRefused) as caught:
        tokenizer.encode(["cat", "x" * 1001])
    assert str(caught.value) == (
        "text 1 has 1,001 characters, more than the limit of 1,000 (WARMCLIP_MAX_TEXT_CHARS)"
    )


def test_lone_surrogate(tokenizer: Tokenizer) -> None:
    """Half a character becomes the replacement character, as ftfy makes it for open_clip."""
    np.testing.assert_array_equal(
        tokenizer.encode(["\ud800 \udfff"])[0], tokenizer.encode(["\ufffd \ufffd"])[0]
    )


def test_file_that_is_no_tokenizer(tmp_path: Path) -> None:
    """A missing or broken file is named."""
    for content in (None, "", "{}"):
        path = tmp_path / "tokenizer.json"
        if content is not None:
            path.write_text(content)
        with pytest.raises(BundleError, match=r"tokenizer\.json"):
            Tokenizer.open(path, a_recipe(1, 2))


def test_file_of_another_model(file: Path, vocabulary: dict[str, int]) -> None:
    """A vocabulary that numbers the end token otherwise would cut texts at the wrong place."""
    with pytest.raises(BundleError, match=f"numbers {END} {vocabulary[END]}, the manifest 49407"):
        Tokenizer.open(file, a_recipe(vocabulary[START], 49407))


def test_clean() -> None:
    """White space collapses, entities resolve twice, letters are lowered."""
    assert clean(" A&amp;lt;B\u3000\n&eacute;\u00a0C ") == "a<b é c"


def test_byte_alphabet() -> None:
    """Each byte has its own printable character."""
    letters = byte_alphabet()
    assert sorted(letters) == list(range(256))
    assert len(set(letters.values())) == 256
    assert all(len(letter) == 1 and not letter.isspace() for letter in letters.values())
    assert letters[ord("a")] == "a"
    assert letters[0] == "Ā"
    assert letters[ord(" ")] == "Ġ"
