"""The drawings and sentences that the demo model is trained on, judged without any model."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from PIL import Image, ImageChops

from warmclip_export import captions, drawing, scenes
from warmclip_export.scenes import Scene

PLAIN = Scene(shape="star", colour="red", size="large", background="grey")


def drawn(scene: Scene, seed: int = 3, side_px: int = 96) -> bytes:
    """Draw a scene, as bytes to compare."""
    return drawing.draw_scene(scene, Random(seed), side_px).tobytes()


def ink_share(scene: Scene) -> float:
    """Measure the part of a picture that is not background, from 0 to 1."""
    picture = drawing.draw_scene(scene, Random(3), 96)
    backdrop = Image.new("RGB", picture.size, picture.getpixel((0, 0)))
    covered = ImageChops.difference(picture, backdrop).convert("L").point(lambda v: v > 24 and 255)
    return covered.histogram()[255] / (96 * 96)


def test_combinations_are_many_and_distinct() -> None:
    """There are at least 880 combinations besides the 200 held out, and none comes twice."""
    combinations = scenes.all_combinations()

    assert len(combinations) >= 880 + scenes.HELD_OUT
    assert len(set(combinations)) == len(combinations)


def test_split_is_disjoint_and_complete() -> None:
    """Each combination is either trained on or held out, never both."""
    held_out, training = set(scenes.held_out()), set(scenes.training())

    assert len(held_out) == scenes.HELD_OUT
    assert not held_out & training
    assert held_out | training == set(scenes.all_combinations())


def test_split_follows_its_seed() -> None:
    """The same seed holds out the same scenes, another seed holds out others."""
    scenes.held_out.cache_clear()
    first = scenes.held_out(seed=1)
    scenes.held_out.cache_clear()

    assert scenes.held_out(seed=1) == first
    assert set(scenes.held_out(seed=2)) != set(first)


def test_every_attribute_value_is_trained_on() -> None:
    """What is held out is only new as a combination: each word and look is in the training."""
    training = scenes.training()

    assert {scene.shape for scene in training} == set(scenes.SHAPES)
    assert {scene.colour for scene in training} == set(scenes.COLOURS)
    assert {scene.size for scene in training} == set(scenes.SIZES)
    assert {scene.background for scene in training} == set(scenes.BACKGROUNDS)


def test_families_share_all_but_the_shape() -> None:
    """Families hold every combination for training once, and within one only shapes differ."""
    families = scenes.families()

    assert sorted(map(repr, scenes.training())) == sorted(
        repr(scene) for family in families for scene in family
    )
    for family in families:
        assert {replace(scene, shape="star") for scene in family} == {
            replace(family[0], shape="star")
        }
        assert len({scene.shape for scene in family}) == len(family)


@pytest.mark.parametrize("count", [0, -1, 1080, 5000])
def test_split_without_a_side_is_refused(count: int) -> None:
    """Holding out nothing or everything is an error that names the number."""
    with pytest.raises(ValueError, match=str(count)):
        scenes.held_out(count)


def test_held_out_captions_are_distinct() -> None:
    """No two held-out scenes share their first caption, whatever their counts and positions."""
    arranged = [scenes.arrange(scene, Random(n)) for n, scene in enumerate(scenes.held_out())]

    assert len({captions.fixed_captions(scene)[0] for scene in arranged}) == scenes.HELD_OUT


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("shape", "teapot"),
        ("colour", "mauve"),
        ("size", "medium"),
        ("background", "plaid"),
        ("position", "outside"),
        ("count", 4),
    ],
)
def test_unknown_attribute_is_refused(attribute: str, value: str | int) -> None:
    """A scene that cannot be drawn is refused by attribute and value, with the choices."""
    with pytest.raises(ValueError, match=rf"{attribute} '?{value}'? .*choose one of"):
        replace(PLAIN, **{attribute: value})  # type: ignore[arg-type]  # that is the point


def test_large_group_in_a_corner_is_refused() -> None:
    """Three large shapes do not fit in a corner, and a scene does not pretend they do."""
    with pytest.raises(ValueError, match="position 'top left'"):
        replace(PLAIN, position="top left", count=3)


def test_arranged_scene_keeps_its_combination() -> None:
    """Arranging changes count and position only, and reaches every count and position."""
    rng = Random(5)
    arranged = [scenes.arrange(PLAIN, rng) for _ in range(200)]

    assert {(s.shape, s.colour, s.size, s.background) for s in arranged} == {
        ("star", "red", "large", "grey")
    }
    assert {s.count for s in arranged} == set(scenes.COUNTS)
    assert {s.position for s in arranged} == set(scenes.POSITIONS)


def test_drawing_follows_its_seed() -> None:
    """The same scene and seed give the same pixels; another seed gives another drawing."""
    assert drawn(PLAIN, seed=8) == drawn(PLAIN, seed=8)
    assert drawn(PLAIN, seed=8) != drawn(PLAIN, seed=9)


@pytest.mark.parametrize("side_px", [1, 64, 257])
def test_drawing_has_the_asked_size(side_px: int) -> None:
    """A drawing is an RGB square of the asked side."""
    picture = drawing.draw_scene(PLAIN, Random(1), side_px)

    assert (picture.mode, picture.size) == ("RGB", (side_px, side_px))


def test_different_attributes_give_different_pixels() -> None:
    """Changing any attribute changes the picture, with the same seed."""
    variants = [
        *(replace(PLAIN, shape=shape) for shape in scenes.SHAPES),
        *(replace(PLAIN, colour=colour) for colour in scenes.COLOURS),
        *(replace(PLAIN, background=background) for background in scenes.BACKGROUNDS),
        *(
            replace(PLAIN, size="small", position=position, count=count)
            for position in scenes.POSITIONS
            for count in scenes.COUNTS
        ),
    ]

    assert len({drawn(scene) for scene in variants}) == len(set(variants))


@pytest.mark.parametrize("shape", scenes.SHAPES)
def test_large_shape_covers_more_than_small(shape: str) -> None:
    """Large and small can be told apart by the share of the picture they cover."""
    large = replace(PLAIN, shape=shape)
    small = replace(large, size="small")

    assert 0.005 < ink_share(small) < ink_share(large) / 3


@pytest.mark.parametrize("combination", scenes.all_combinations()[::36])
def test_shapes_stay_inside_the_picture(combination: Scene) -> None:
    """However a scene is arranged, its border shows nothing but background."""
    rng = Random(11)
    for _ in range(10):
        picture = drawing.draw_scene(scenes.arrange(combination, rng), rng, 96)
        picture.paste(picture.crop((0, 0, 1, 1)).resize((94, 94)), (1, 1))
        assert len(picture.getcolors() or ()) == 1


def test_first_caption_is_plain_words() -> None:
    """The caption for evaluation names count, size, colour, shape and background."""
    group = Scene(
        shape="cross",
        colour="orange",
        size="small",
        background="navy",
        position="top left",
        count=2,
    )

    assert captions.fixed_captions(PLAIN)[0] == "a large red star on a grey background"
    assert captions.fixed_captions(group)[:2] == (
        "two small orange crosses on a navy background",
        "two small orange crosses at the top left on a navy background",
    )


@pytest.mark.parametrize(("count", "text"), [(1, "a red star"), (3, "red stars")])
def test_short_caption_is_a_search(count: int, text: str) -> None:
    """The short caption is what people type: a colour and a shape, fitting any size or ground."""
    scene = replace(PLAIN, count=count)
    caption = captions.short_caption(scene)

    assert caption.text == text
    assert caption.fits(scene, replace(scene, size="small", background="navy"))
    assert not caption.fits(scene, replace(scene, shape="moon"))


def test_captions_of_a_scene_differ() -> None:
    """A scene is described in several phrasings, and many more at random."""
    rng = Random(2)

    assert len(set(captions.fixed_captions(PLAIN))) >= 4
    assert len({captions.random_caption(PLAIN, rng).text for _ in range(200)}) > 50


def test_caption_follows_its_seed() -> None:
    """The same seed gives the same sentence."""
    assert captions.random_caption(PLAIN, Random(4)) == captions.random_caption(PLAIN, Random(4))


def test_caption_fits_what_it_describes() -> None:
    """A sentence is true of its own scene and of those that differ in what it leaves out."""
    red_star = captions.Caption(text="a red star", mentions=frozenset({"shape", "colour"}))

    assert red_star.fits(PLAIN, PLAIN)
    assert red_star.fits(PLAIN, replace(PLAIN, size="small", background="mint"))
    assert not red_star.fits(PLAIN, replace(PLAIN, colour="blue"))
    assert not red_star.fits(PLAIN, replace(PLAIN, count=2))


def test_article_fits_the_vowel() -> None:
    """It is "an orange star" and "an arrow", as people write it."""
    described = (replace(PLAIN, colour="orange"), replace(PLAIN, shape="arrow"))
    texts = {
        captions.random_caption(scene, Random(n)).text for scene in described for n in range(400)
    }

    assert any("an orange star" in text for text in texts)
    assert any("an arrow" in text for text in texts)
    assert not any("a orange" in text or "a arrow" in text for text in texts)


def test_gallery_writes_what_it_says(tmp_path: Path) -> None:
    """The gallery is that many PNG files of that size, named after what is in them."""
    paths = drawing.write_gallery(tmp_path / "new" / "pictures", count=20, seed=6, side_px=64)

    assert sorted(paths) == sorted((tmp_path / "new" / "pictures").iterdir())
    assert len(paths) == 20
    for number, path in enumerate(paths):
        assert path.stem.endswith(f"-{number:03d}")
        assert any(f"-{colour}-" in path.name for colour in scenes.COLOURS)
        with Image.open(path) as picture:
            assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (64, 64))


def test_gallery_follows_its_seed(tmp_path: Path) -> None:
    """The same seed writes the same names and bytes, without repeating a combination."""
    first = drawing.write_gallery(tmp_path / "a", count=10, seed=6, side_px=64)
    again = drawing.write_gallery(tmp_path / "b", count=10, seed=6, side_px=64)

    assert [(p.name, p.read_bytes()) for p in first] == [(p.name, p.read_bytes()) for p in again]


def test_gallery_beyond_the_held_out_scenes_is_refused(tmp_path: Path) -> None:
    """More pictures than held-out combinations is an error, and nothing is written."""
    with pytest.raises(ValueError, match="201 different held-out"):
        drawing.write_gallery(tmp_path / "pictures", count=201, seed=1)

    assert not (tmp_path / "pictures").exists()
