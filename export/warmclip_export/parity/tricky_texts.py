"""Texts that tokenizers disagree on, each for a reason of its own."""

# Nothing, or what looks like it.
_EMPTY = (
    "", " ", "   ", "\t", "\n\n", "\r\n", "\u00a0", "\u200b", "\u200d", "\ufeff", "\u3000", "\x00",
    "\x1b", "\u2028", "\u00ad", "&nbsp;", "&#0;", "&#32;", "\u202e", ".", "'", "<", "&",
)  # fmt: skip
# One character, and what the cleaning makes of several.
_MARKS = (
    "a", "Z", "7", "é", "ß", "ẞ", "İ", "ı", "ﬁ", "ǅ", "K", "Ω", "猫", "ก", "ह", "א", "ع", "½", "Ⅷ",
    "²", "e\u0301", "Å\u0325\u0301", "Σς", "ｶﾀ", "schÃ¶n", "â€œquotedâ€\x9d", "Ã©", "ï»¿",
    "&amp;amp;lt;", "&eacute;", "&#x1F600;", "&#xD800;", "&notanentity;", "\ud800", "\udfff",
    "<start_of_text>", "<end_of_text>", "<END_OF_TEXT> a cat", "<|endoftext|>", "<ſtart_of_text>",
    "a<end_of_text>b <end_of_text> c",
)  # fmt: skip
_EMOJI = (
    "😀", "👍🏽", "👩\u200d👩\u200d👧", "🏳\ufe0f\u200d🌈", "🇩🇪🇫🇷", "1\ufe0f\u20e3", "a 🐱 on a 🚲",
    "🐱🐶🐭🐹🐰🦊🐻🐼", "🔥" * 90, "love ❤️ and ♥",
)  # fmt: skip
_WORDS = (
    "it's we'll they'd I'm you've", "DON'T SHOUT", "rock'n'roll", "''d", "’s", "'ſ",
    "1,000.50 euros", "٣٤ and ३", "2026-11-25T12:00:00Z", "3.14159265358979", "0000000000",
    "#tag @me https://example.org/a?b=c&d=e", "C:\\path\\to\\file.png", "__init__ --flag -x",
    "a-b_c.d/e", "!!!???...", "~`^|{}[]", "\\n is no line feed", "tab\tand\nline",
    "supercalifragilisticexpialidocious", "Donaudampfschifffahrtsgesellschaftskapitän",
    "antidisestablishmentarianism " * 3, "camelCaseWordsAndHTMLParserXML",
)  # fmt: skip
_LANGUAGES = (
    "Ein Fahrrad lehnt an der Mauer", "un chat noir sur un toit", "una taza de café",
    "кошка сидит на окне", "γάτα στο παράθυρο", "猫が窓辺に座っている", "一只猫坐在窗台上",
    "고양이가 창가에 앉아 있다", "แมวนั่งอยู่ที่หน้าต่าง", "बिल्ली खिड़की पर बैठी है", "חתול יושב על החלון",
    "قطة تجلس على النافذة", "con mèo ngồi bên cửa sổ", "kedi pencerede oturuyor",
)  # fmt: skip
# About the length of the context, below it, at it and beyond.
_LONG = (
    *("cat " * count for count in (10, 73, 74, 75, 76, 77, 78, 150, 2000)),
    "a" * 700,
    "!?" * 300,
    "猫" * 120,
    "a photo of a cat and a dog and a horse, " * 40,
    "x " * 74 + "the last word",
)

TRICKY_TEXTS = (*_EMPTY, *_MARKS, *_EMOJI, *_WORDS, *_LANGUAGES, *_LONG)
"""More than a hundred texts."""
