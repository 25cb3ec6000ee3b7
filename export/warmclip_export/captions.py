"""Sentences that describe scenes, in several phrasings."""

from dataclasses import dataclass
from random import Random

from warmclip_export.scenes import ATTRIBUTES, PLURALS, Scene

_SYNONYMS = {
    "small": ("small", "small", "little", "tiny"),
    "large": ("large", "large", "big"),
    "grey": ("grey", "grey", "gray"),
    1: ("a", "a", "one", "a single"),
    2: ("two", "two", "2"),
    3: ("three", "three", "3"),
}
_OPENINGS = ("", "", "", "a picture of ", "a photo of ", "a drawing of ", "an image of ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """A sentence that is true of a scene, and what it speaks of.

    Attributes:
        text: The sentence.
        mentions: The attributes it names. Besides, a singular or plural noun always tells one
            shape from several.
    """

    text: str
    mentions: frozenset[str]

    def fits(self, described: Scene, other: Scene) -> bool:
        """Tell whether the sentence, written for one scene, is true of another."""
        return (described.count == 1) == (other.count == 1) and all(
            getattr(described, name) == getattr(other, name) for name in self.mentions
        )


def fixed_captions(scene: Scene) -> tuple[str, ...]:
    """Describe a scene in fixed phrasings; the first, without position, is for evaluation."""
    things = _things(scene, frozenset(ATTRIBUTES), None)
    place, ground = _place_words(scene, None), f"on a {scene.background} background"
    return (
        f"{things} {ground}",
        f"{things} {place} {ground}",
        f"a picture of {things} {ground}",
        f"a {scene.background} background with {things} {place}",
        f"{things} on {scene.background}",
    )


def short_caption(scene: Scene) -> Caption:
    """Describe a scene as people search: "a red star", "blue circles"."""
    mentions = frozenset({"colour", "shape"})
    return Caption(text=_things(scene, mentions, None), mentions=mentions)


def random_caption(scene: Scene, rng: Random) -> Caption:
    """Describe a scene as somebody might: in a random phrasing, often leaving things out."""
    mentions = frozenset(
        name
        for name, probability in (
            ("shape", 0.95),
            ("colour", 0.9),
            ("size", 0.75),
            ("background", 0.75),
            ("position", 0.3),
            ("count", 0.75),
        )
        if rng.random() < probability
    )
    things = _things(scene, mentions, rng)
    place = f" {_place_words(scene, rng)}" if "position" in mentions else ""
    if "background" not in mentions:
        return Caption(text=f"{rng.choice(_OPENINGS)}{things}{place}", mentions=mentions)
    ground = _word(scene.background, rng)
    sentence = rng.choice(
        (
            f"{things}{place} on a {ground} background",
            f"{things}{place} on a {ground} background",
            f"{things}{place} on {ground}",
            f"a {ground} background with {things}{place}",
        )
    )
    return Caption(text=f"{rng.choice(_OPENINGS)}{sentence}", mentions=mentions)


def _word(word: str | int, rng: Random | None) -> str:
    choices = _SYNONYMS.get(word, (str(word),))
    return choices[0] if rng is None else rng.choice(choices)


def _things(scene: Scene, mentions: frozenset[str], rng: Random | None) -> str:
    """Name the shapes, as in "two small blue circles" or, with less said, "blue circles"."""
    one = scene.count == 1
    words = [_word(scene.count, rng)] if "count" in mentions else ["a"] if one else []
    if "size" in mentions:
        words.append(_word(scene.size, rng))
    if "colour" in mentions:
        words.append(scene.colour)
    if "shape" in mentions:
        words.append(scene.shape if one else PLURALS[scene.shape])
    else:
        words.append("shape" if one else "shapes")
    phrase = " ".join(words)
    return f"an {phrase[2:]}" if phrase.startswith(("a orange", "a arrow")) else phrase


def _place_words(scene: Scene, rng: Random | None) -> str:
    choices = (
        ("in the centre", "in the middle", "in the center")
        if scene.position == "centre"
        else (f"at the {scene.position}", f"in the {scene.position} corner")
    )
    return choices[0] if rng is None else rng.choice(choices)
