"""The committed demo model, loaded as any user of open_clip would load it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from models.demo import train
from warmclip_export import scenes

DEMO = Path(__file__).parents[2] / "models" / "demo"


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    """Read what the training wrote about itself."""
    loaded: dict[str, Any] = json.loads((DEMO / "training.json").read_text("utf-8"))
    return loaded


@pytest.fixture(scope="module")
def score(record: dict[str, Any]) -> train.HeldOutScore:
    """Measure the committed checkpoint afresh."""
    return train.evaluate(*train.load(DEMO), record["plan"]["seed"])


def test_checkpoint_is_the_one_on_record(record: dict[str, Any]) -> None:
    """The committed weights are those that the record speaks of."""
    weights = (DEMO / record["checkpoint"]["file"]).read_bytes()

    assert len(weights) == record["checkpoint"]["bytes"]
    assert hashlib.sha256(weights).hexdigest() == record["checkpoint"]["sha256"]


def test_config_is_the_one_trained() -> None:
    """The committed architecture is the one in the trainer."""
    config = json.loads((DEMO / f"{train.NAME}.json").read_text("utf-8"))

    assert config == train.ARCHITECTURE


def test_split_is_the_one_on_record(record: dict[str, Any]) -> None:
    """The scenes held out today are as many as were held out in training."""
    assert record["combinations"] == {
        "all": len(scenes.all_combinations()),
        "training": len(scenes.training()),
        "held_out": len(scenes.held_out()),
    }


def test_held_out_scene_is_found_by_its_caption(
    score: train.HeldOutScore, record: dict[str, Any]
) -> None:
    """At least 90 % of 200 held-out captions find their picture first, as on record."""
    assert score.scenes == 200
    assert score.text_to_image_top1 >= train.WANTED_TOP1
    # Another processor or Pillow may tip a close call or two.
    assert score.text_to_image_top1 == pytest.approx(
        record["held_out"]["text_to_image_top1"], abs=0.01
    )


def test_caption_is_found_by_its_held_out_scene(
    score: train.HeldOutScore, record: dict[str, Any]
) -> None:
    """Pictures find their captions as often as on record."""
    assert score.image_to_text_top1 == pytest.approx(
        record["held_out"]["image_to_text_top1"], abs=0.01
    )
