"""Our token ids against open_clip's SimpleTokenizer, for every string."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from warmclip.inference.bundle import FileRecord, TokenizerRecipe
from warmclip.inference.text import Tokenizer
from warmclip_export.tokenizer import build_tokenizer_json

EXAMPLES = int(os.environ.get("PARITY_EXAMPLES", "1500"))

# What tokenizers disagree on: entities, mojibake, invisible and combining characters, scripts
# without spaces, emoji sequences, numbers of every kind, contractions, the special literals.
FRAGMENTS = [
    "&amp;amp;lt;", "&eacute;", "&#x1F600;", "&#0;", "&#xD800;", "&nbsp;", "&notanentity;",
    "<start_of_text>", "<end_of_text>", "<END_OF_TEXT>", "<\u017ftart_of_text>", "<|endoftext|>",
    "schÃ¶n", "â€œquotedâ€\x9d", "Ã©", "ï»¿", "\ufeff", "\u200b", "\u200d", "\u00ad", "\u2028",
    "\x00", "\x1b[31m", "\x85", "\t", "\r\n", "\u3000", "\ud800", "\udfff", "\ud83d\ude00",
    "e\u0301", "\u0130", "\u0131", "ß", "ẞ", "\u212a", "ǅ", "Σς", "ﬁ", "Å\u0325\u0301",
    "写真", "カタカナ", "ｶﾀ", "한국어", "ภาษาไทย", "हिन्दी", "עברית", "العربية", "\u202e",
    "👩\u200d👩\u200d👧", "🏳\ufe0f\u200d🌈", "🇩🇪", "1\ufe0f\u20e3", "👍🏽",
    "123", "٣٤", "½", "Ⅷ", "²", "1,000.50", "३", "it's", "DON'T", "we'LL", "'\u017f", "\u2019s",
    "''d",
    "!!!", "...", "_", "__init__", "a-b", "#tag", "@me", "§", "\\n", "~", " ", "  ", "a photo of",
]  # fmt: skip

hostile = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=4)), max_size=40)


@pytest.fixture(scope="module")
def reference() -> SimpleTokenizer:
    """open_clip's tokenizer, which takes a second to build."""
    return SimpleTokenizer()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Ours, over the file that the exporter writes."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(build_tokenizer_json(), encoding="utf-8")
    recipe = TokenizerRecipe(
        file=FileRecord(file="tokenizer.json", sha256="0" * 64, size_bytes=path.stat().st_size),
        vocabulary_sha256="0" * 64,
        context_length=77,
        start_id=49406,
        end_id=49407,
    )
    return Tokenizer.open(path, recipe)


def assert_same(tokenizer: Tokenizer, reference: SimpleTokenizer, text: str) -> None:
    """Same ids, and the same end as open_clip's pooling by argmax finds."""
    ids, ends = tokenizer.encode([text])
    expected = reference([text])
    np.testing.assert_array_equal(ids, expected.numpy())
    assert ends[0, 0].argmax() == int(expected.argmax(dim=-1)[0])
    assert ends.sum() == 1


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(text=st.text())
def test_any_text(tokenizer: Tokenizer, reference: SimpleTokenizer, text: str) -> None:
    """Ids equal open_clip's for whatever characters stand in a text."""
    assert_same(tokenizer, reference, text)


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(parts=hostile, glue=st.sampled_from(["", " ", "\n"]))
def test_hostile_text(
    tokenizer: Tokenizer, reference: SimpleTokenizer, parts: list[str], glue: str
) -> None:
    """Ids equal open_clip's where tokenizers usually part ways."""
    assert_same(tokenizer, reference, glue.join(parts))


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_each_fragment(tokenizer: Tokenizer, reference: SimpleTokenizer, fragment: str) -> None:
    """No fragment depends on luck in the search: alone, between words, doubled."""
    for text in (fragment, f"a {fragment} b", f"a{fragment}b", fragment * 2):
        assert_same(tokenizer, reference, text)


@pytest.mark.parametrize("words", [74, 75, 76, 77, 78, 500])
def test_length_around_the_context(
    tokenizer: Tokenizer, reference: SimpleTokenizer, words: int
) -> None:
    """A text that fills the context or passes it is cut as open_clip cuts it."""
    assert_same(tokenizer, reference, "cat " * words)
    assert_same(tokenizer, reference, "antidisestablishmentarianism " * words)


def test_one_long_word(tokenizer: Tokenizer, reference: SimpleTokenizer) -> None:
    """A word of hundreds of letters is merged in open_clip's order."""
    assert_same(tokenizer, reference, "abcdefghij" * 60)
    assert_same(tokenizer, reference, "a" * 700)
    assert_same(tokenizer, reference, "!?" * 300)


def test_batch(tokenizer: Tokenizer, reference: SimpleTokenizer) -> None:
    """A batch is its texts, in order."""
    texts = [fragment * 3 for fragment in FRAGMENTS]
    np.testing.assert_array_equal(tokenizer.encode(texts)[0], reference(texts).numpy())
