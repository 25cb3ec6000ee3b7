"""How the bench reckons: pure functions of `bench/`."""

import pytest

from bench.embedding.cases import (
    ANSWERS,
    COMMAND,
    CPU,
    FILL,
    FILTERED,
    HTTP,
    JOB,
    OPENED,
    PEAK,
    QUICK,
    SEARCH,
    SLOWEST,
    Case,
    cases,
)
from bench.embedding.contenders import LOADER, TORCH, WARM
from bench.embedding.fixtures import captions
from bench.embedding.flops import tower_shape
from bench.embedding.results import Results
from bench.embedding.targets import evaluate_targets


def _case(name: str) -> Case:
    return next(case for case in cases(QUICK) if case.name == name)


def test_times_as_fast_of_rates_and_of_latencies() -> None:
    """More pictures a second and fewer milliseconds are both faster, in the same round."""
    folder, query = _case("large-folder"), _case("query")
    results = Results([folder, query])
    for own, other in ((10.0, 5.0), (9.0, 3.0)):
        results.add_round(
            [
                (folder, WARM, {"images/s": own, CPU: 0.1}),
                (folder, TORCH, {"images/s": other, CPU: 0.2}),
                (query, WARM, {"p50, ms": other, "p99, ms": other}),
                (query, TORCH, {"p50, ms": own, "p99, ms": own}),
            ]
        )
    for case, column in (("large-folder", "images/s"), ("query", "p50, ms")):
        times = results.times_as_fast(case, column, WARM)
        assert times is not None
        assert (times.lowest, times.median, times.highest) == (2.0, 2.5, 3.0)
    cpu = results.times_as_fast("large-folder", CPU, WARM)
    assert cpu is not None
    assert cpu.median == 2.0


def test_figures_of_searches_over_http() -> None:
    """A median from one client; a rate, of which more is better, and the slowest from fifty."""
    http = _case("http")
    alone, over_http, crowded = http.steps
    answer = {"seconds": 2.0, "latencies": [0.01] * 99 + [0.5]}
    assert alone.read(answer) == {JOB: pytest.approx(10)}
    assert over_http.read(answer) == {HTTP: pytest.approx(10)}
    figures = crowded.read(answer)
    assert figures[ANSWERS] == 50
    assert 10 < figures[SLOWEST] <= 500
    assert [column for column in http.columns if http.is_rate(column)] == [ANSWERS]


def test_figures_of_a_library() -> None:
    """Medians of searches; a filling of an earlier round, or a command that is none, is absent."""
    library = _case("library")
    (step,) = library.steps
    answer = {
        "opened": 0.25,
        "latencies": [0.001, 0.002, 0.9],
        "filtered": [0.003],
        "command": None,
        "peak_mb": 100.0,
    }
    figures = {OPENED: 0.25, SEARCH: 2.0, FILTERED: 3.0, PEAK: 100.0}
    assert step.read(answer) == figures
    assert step.read(answer | {FILL: 7.0, "command": 0.5}) == {**figures, FILL: 7.0, COMMAND: 0.5}
    assert [column for column in library.columns if library.is_rate(column)] == [FILL]


def test_contender_that_failed_later() -> None:
    """Whoever fails in a later round has no figures: its rounds are not those of the others."""
    folder = _case("large-folder")
    results = Results([folder])
    results.add_round([(folder, WARM, {"images/s": 1.0}), (folder, TORCH, {"images/s": 1.0})])
    results.fail("large-folder", WARM, "it ended")
    assert results.spread("large-folder", "images/s", WARM) is None
    assert results.times_as_fast("large-folder", "images/s", WARM) is None
    assert results.failures() == {WARM: ["it ended"]}


def test_targets_of_the_cases_that_ran() -> None:
    """A target is reached by its median, missed, or not measured; others are not spoken of."""
    folder = _case("large-folder")
    results = Results([folder])
    results.add_round(
        [
            (folder, WARM, {"images/s": 18.0, CPU: 0.1}),
            (folder, TORCH, {"images/s": 10.0, CPU: 0.1}),
            (folder, LOADER, {"images/s": 17.0, CPU: 0.1}),
        ]
    )
    reached = [(target.words, target.is_reached) for target in evaluate_targets(results, cores=2)]
    assert reached == [
        ("large photographs: warmclip to a loop with open_clip in torch", True),
        ("large photographs: warmclip to open_clip with a DataLoader", False),
        ("large photographs: scaled decoding to exact", None),
        ("large photographs, int8: scaled decoding to exact", None),
        ("large folder: share of the cores that work", True),
    ]


def test_captions_are_never_repeated() -> None:
    """A contender that keeps the answers to former texts gains nothing by it."""
    texts = captions(0, 40_000)
    assert len(set(texts)) == len(texts)
    assert captions(100, 5) == texts[100:105]


def test_towers_whose_work_is_known() -> None:
    """ViT-B/32 takes 8.8 GFLOP a picture; of a ResNet the bench claims nothing."""
    vit = {
        "embed_dim": 512,
        "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
        "text_cfg": {"context_length": 77, "width": 512, "layers": 12},
    }
    shape = tower_shape(vit, "image")
    assert shape is not None
    assert shape.flops == pytest.approx(8.8e9, rel=0.01)
    resnet = vit | {"vision_cfg": {"image_size": 224, "layers": [3, 4, 6, 3], "width": 64}}
    assert tower_shape(resnet, "image") is None
