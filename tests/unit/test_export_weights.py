"""Unit: what the export makes of a network's answers, before it downloads anything."""

import ssl
from collections.abc import Callable
from typing import Any
from urllib.error import HTTPError, URLError

import pytest

from warmclip_export import weights
from warmclip_export.errors import WeightsUnavailable
from warmclip_export.weights import WeightsSource, fetch_checkpoint

TAG = WeightsSource(kind="tag", name="openai", tag={"url": "https://weights.example/ViT-B-32.pt"})
DOWNLOADED = "/the/cache/ViT-B-32.pt"


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
    """Sets what the address answers; the download itself succeeds."""
    open_clip = pytest.importorskip("open_clip.pretrained", reason="the export needs open_clip")
    monkeypatch.setattr(open_clip, "download_pretrained", lambda _tag: DOWNLOADED)
    monkeypatch.setattr(weights, "_cached", lambda _tag: None)

    def answer(error: Exception) -> None:
        def urlopen(*_: Any, **__: Any) -> Any:
            raise error

        monkeypatch.setattr(weights, "urlopen", urlopen)

    return answer


@pytest.mark.parametrize(
    "error",
    [
        HTTPError("https://weights.example", 405, "no HEAD", None, None),  # type: ignore[arg-type]
        URLError(ssl.SSLCertVerificationError("unable to get local issuer certificate")),
    ],
    ids=["refused", "certificate"],
)
def test_somebody_answered(answers: Callable[[Exception], None], error: Exception) -> None:
    """A refusal, or a certificate that this Python cannot check, is no missing network."""
    answers(error)
    assert str(fetch_checkpoint(TAG, file_options="--pretrained FILE")) == DOWNLOADED


def test_nobody_answered(answers: Callable[[Exception], None]) -> None:
    """Without a network the ways on are named, within seconds."""
    answers(URLError("Name or service not known"))
    with pytest.raises(WeightsUnavailable, match=r"Name or service.*--pretrained FILE"):
        fetch_checkpoint(TAG, file_options="--pretrained FILE")
