import dataclasses
import logging
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from standins.faulty.faulty_providers import faulty
from warmclip import Encoder
from warmclip.activity import Stage
from warmclip.errors import BadVectors, ImagesUnreadable, ImageUnreadable
from warmclip.inference.arrays import unit_rows
from warmclip.inference.decoding import ImageSource
from warmclip.inference.encoder import Embedded
from warmclip.inference.providers import PROVIDERS
from warmclip.inference.reading import LazyImage
from warmclip.settings import Limits


@pytest.fixture(scope="module")
def encoder(demo_bundle: Path) -> Encoder:
    """The demo model in small batches, so that a few pictures fill several."""
    return Encoder.open(demo_bundle, batch_size=4, provider="cpu")


def picture(seed: int, size: tuple[int, int] = (90, 70)) -> Image.Image:
    """Noise: each seed another picture."""
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(noise)


def png(image: Image.Image, path: Path) -> Path:
    """A picture as a file."""
    image.save(path, "PNG")
    return path


def test_no_texts_and_no_images(encoder: Encoder) -> None:
    """Nothing in, nothing out, in the right shape."""
    assert encoder.encode_texts([]).shape == (0, encoder.dim)
    assert encoder.encode_images([]).shape == (0, encoder.dim)
    assert list(encoder.encode_each([])) == []


@pytest.mark.parametrize("n", [1, 3, 4, 9])
def test_unit_rows_whatever_the_batch(encoder: Encoder, n: int) -> None:
    """A row has length 1 and does not depend on its neighbours."""
    images = [picture(seed) for seed in range(n)]
    vectors = encoder.encode_images(images)
    alone = np.concatenate([encoder.encode_images([image]) for image in images])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(vectors, alone, atol=1e-6)


def test_every_kind_of_source_gives_the_same_vector(encoder: Encoder, tmp_path: Path) -> None:
    """A path, its text, its bytes, the picture, and one that is read later are one picture."""
    path = png(picture(0), tmp_path / "a.png")
    data = path.read_bytes()
    later = LazyImage("a.png", lambda: data)
    vectors = encoder.encode_images([path, str(path), data, picture(0), later])
    np.testing.assert_allclose(vectors, np.repeat(vectors[:1], 5, axis=0), atol=1e-6)


def test_unreadable_among_readable(encoder: Encoder, tmp_path: Path) -> None:
    """Results carry their key, so a picture that fails never shifts its neighbours."""
    good = [png(picture(seed), tmp_path / f"{seed}.png") for seed in range(6)]
    items: list[tuple[str, ImageSource]] = []
    for index, path in enumerate(good):
        items += [(f"bad-{index}", b"no picture"), (f"good-{index}", path)]
    results = dict(encoder.encode_each(items))
    assert set(results) == {key for key, _ in items}
    for index, path in enumerate(good):
        assert isinstance(results[f"bad-{index}"], ImageUnreadable)
        result = results[f"good-{index}"]
        assert isinstance(result, Embedded)
        np.testing.assert_allclose(result.vector, encoder.encode_images([path])[0], atol=1e-6)
        assert (result.width_px, result.height_px) == (90, 70)


def test_encode_images_names_what_failed(encoder: Encoder) -> None:
    """A call for vectors does not return fewer of them: it raises, with index and reason."""
    with pytest.raises(ImagesUnreadable) as caught:
        encoder.encode_images([picture(0), b"", picture(1), b"no picture"])
    assert set(caught.value.reasons) == {1, 3}


def test_one_in_place_of_a_list(encoder: Encoder, tmp_path: Path) -> None:
    """A bare str would be its letters: one text and one image are refused in the same way."""
    for one in ("a.png", b"a", tmp_path / "a.png", picture(0)):
        with pytest.raises(TypeError, match=r"a list of images is needed.*write \[image\]"):
            encoder.encode_images(one)  # type: ignore[arg-type]  # a caller without mypy
    for text in ("a", b"a"):
        with pytest.raises(TypeError, match=r"a list of texts is needed.*write \[text\]"):
            encoder.encode_texts(text)  # type: ignore[arg-type]  # as above


def test_many_unreadable_in_a_row(encoder: Encoder) -> None:
    """A folder full of rubbish passes through and is all reported."""
    results = list(encoder.encode_each((index, b"rubbish") for index in range(100)))
    assert sorted(key for key, _ in results) == list(range(100))
    assert all(isinstance(result, ImageUnreadable) for _, result in results)


def test_slow_picture_holds_up_nothing(encoder: Encoder) -> None:
    """Pictures that come after one that takes long are embedded before it is there."""
    others = threading.Event()

    def slow() -> bytes:
        assert others.wait(30)
        return b"no picture"

    items: list[tuple[str, ImageSource]] = [("slow", LazyImage("slow.jpg", slow))]
    items += [(str(index), picture(index)) for index in range(12)]
    keys = []
    for key, result in encoder.encode_each(items):
        keys.append(key)
        if len(keys) == 4:  # a batch
            others.set()
        assert isinstance(result, Embedded) == (key != "slow")
    assert keys.index("slow") >= 4
    assert len(keys) == 13


def test_sources_are_read_only_a_little_ahead(encoder: Encoder) -> None:
    """A million pictures pass in bounded memory: the stream is consumed as results are taken."""
    taken = 0

    def endless() -> Iterator[tuple[int, ImageSource]]:
        nonlocal taken
        while True:
            taken += 1
            yield taken, picture(taken)

    results = encoder.encode_each(endless())
    next(results)
    assert taken <= 3 * 4 + 1
    results.close()  # type: ignore[attr-defined]  # a generator, promised only as an Iterator


def test_limits_reach_the_images(demo_bundle: Path) -> None:
    """The limit that was set is the one that refuses."""
    small = Encoder.open(demo_bundle, limits=Limits(image_pixels=100), provider="cpu")
    with pytest.raises(ImagesUnreadable, match="WARMCLIP_MAX_IMAGE_PIXELS"):
        small.encode_images([picture(0)])


def test_exif_rule_changes_fingerprint_and_vector(demo_bundle: Path, tmp_path: Path) -> None:
    """Turned pictures live in a space of their own."""
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    picture(0).save(path, exif=exif)
    plain, turned = (
        Encoder.open(demo_bundle, exif=rule, provider="cpu") for rule in ("ignore", "transpose")
    )
    assert plain.fingerprint != turned.fingerprint
    difference = plain.encode_images([path]) - turned.encode_images([path])
    assert np.abs(difference).max() > 1e-3


def test_random_weights_are_said_aloud(
    demo_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody takes vectors of random weights for meaning."""
    bundle = Path(shutil.copytree(demo_bundle, tmp_path / "bundle"))
    manifest = bundle / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"source": "file"', '"source": "random"'))
    with caplog.at_level(logging.WARNING):
        Encoder.open(bundle, provider="cpu")
    assert "RANDOM" in caplog.text


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_features_that_are_no_vector(value: float) -> None:
    """NaN, infinity and zero never become a vector."""
    features = np.ones((3, 8), np.float32)
    features[1] = value
    with pytest.raises(BadVectors, match="row 1"):
        unit_rows(features, 8)


def test_features_of_the_wrong_width() -> None:
    """A model of another dimension is noticed at once."""
    with pytest.raises(BadVectors, match="expected"):
        unit_rows(np.ones((2, 7), np.float32), 8)


class Watch:
    """An activity that keeps what it was told, and how much went on at once."""

    def __init__(self, *, one_at_a_time: bool) -> None:
        self.one_at_a_time = one_at_a_time
        self.begun: list[tuple[str, str]] = []
        self.most_at_once = 0
        self._lock = threading.Lock()
        self._open = 0

    @contextmanager
    def during(
        self, stage: Stage, what: str, *, rows: int = 1, provider: str = ""
    ) -> Iterator[None]:
        """Count."""
        assert rows >= 1
        assert (provider == "cpu") == (stage != "decode")
        if what.endswith("2.png"):
            raise ImageUnreadable("was set aside")
        with self._lock:
            self.begun.append((stage, what))
            self._open += 1
            self.most_at_once = max(self.most_at_once, self._open)
        time.sleep(0.01)
        yield
        with self._lock:
            self._open -= 1


@pytest.mark.parametrize("one_at_a_time", [True, False])
def test_native_work_is_announced(
    demo_bundle: Path, tmp_path: Path, *, one_at_a_time: bool
) -> None:
    """Each picture and batch is told before it begins; if asked for, nothing overlaps; a picture
    that is refused then costs itself.
    """
    watch = Watch(one_at_a_time=one_at_a_time)
    encoder = Encoder.open(demo_bundle, batch_size=2, activity=watch, provider="cpu")
    encoder.warm()
    assert ("load", "image.fp32.onnx") in watch.begun
    watch.begun.clear()
    paths = [png(picture(seed), tmp_path / f"{seed}.png") for seed in range(6)]
    results = dict(encoder.encode_each((path.name, path) for path in paths))
    decoded = [what for stage, what in watch.begun if stage == "decode"]
    assert sorted(decoded) == [str(path) for path in paths if path.name != "2.png"]
    assert [stage for stage, _ in watch.begun].count("run") == 3
    assert str(results["2.png"]) == "was set aside"
    assert (watch.most_at_once == 1) == one_at_a_time


def test_repeated_text(demo_bundle: Path) -> None:
    """The same words are computed once, in one call and in the next; so are words that are
    cleaned to the same.
    """
    watch = Watch(one_at_a_time=False)
    encoder = Encoder.open(demo_bundle, batch_size=2, activity=watch, provider="cpu")
    vectors = encoder.encode_texts(["a red star", "a blue star", "a red star", "A  RED star"])
    assert [stage for stage, _ in watch.begun].count("run") == 1
    np.testing.assert_array_equal(vectors[[2, 3]], vectors[[0, 0]])
    assert not np.allclose(vectors[0], vectors[1])
    again = encoder.encode_texts(["a blue star", "a green star"])
    assert [stage for stage, _ in watch.begun].count("run") == 2
    np.testing.assert_array_equal(again[0], vectors[1])
    again[0] = 0  # the caller's
    np.testing.assert_array_equal(encoder.encode_texts(["a blue star"])[0], vectors[1])


def test_texts_of_a_distrusted_provider(
    demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a provider has computed is remembered for that provider: once it is left, the CPU
    computes the same text again.
    """
    monkeypatch.setitem(PROVIDERS, "faulty-drift", faulty("drift"))
    encoder = Encoder.open(demo_bundle, provider="faulty-drift", home=tmp_path, canary_every=0)
    # As if "auto" had chosen it, which would go on with the CPU.
    encoder._context = dataclasses.replace(encoder._context, is_insisted=False)
    expected = Encoder.open(demo_bundle, provider="cpu").encode_texts(["a red star"])
    monkeypatch.setenv("FAULTY_N", "1000")
    encoder.encode_texts(["right for the golden texts"])
    monkeypatch.setenv("FAULTY_N", "1")  # and wrong by 1 % from here on
    wrong = encoder.encode_texts(["a red star"])
    assert np.abs(wrong - expected).max() > 1e-4
    np.testing.assert_array_equal(encoder.encode_texts(["a red star"]), wrong)
    encoder._context.distrusted["faulty-drift"] = "seen by the other tower"
    np.testing.assert_allclose(encoder.encode_texts(["a red star"]), expected, atol=1e-6)
    assert encoder.providers["text"] == "cpu"


def test_texts_are_forgotten(demo_bundle: Path) -> None:
    """Any number of texts passes through in bounded memory: the oldest is computed again."""
    watch = Watch(one_at_a_time=False)
    encoder = Encoder.open(demo_bundle, activity=watch, provider="cpu")
    encoder.encode_texts([f"star {number}" for number in range(1025)])
    runs = len(watch.begun)
    encoder.encode_texts(["star 1024"])
    assert len(watch.begun) == runs
    encoder.encode_texts(["star 0"])
    assert len(watch.begun) == runs + 1
