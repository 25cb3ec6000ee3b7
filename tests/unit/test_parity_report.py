"""Figures, compatibility, searches and the page of the parity suite: all that needs no torch."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from warmclip.inference.arrays import Vectors, unit_rows
from warmclip.inference.bundle import Precision
from warmclip.inference.providers import CPU, PROVIDERS, Provider
from warmclip_export.errors import ExportRefused
from warmclip_export.parity import plots, report
from warmclip_export.parity.bounds import cpu_bounds, find_bounds
from warmclip_export.parity.comparison import BothTowers, Comparison, mean_distance, select_queries
from warmclip_export.parity.compatibility import Compatibility
from warmclip_export.parity.finding import ANY_COSINE, AT_LEAST, Finding, Measure
from warmclip_export.parity.result import Record, Result, Spread, WrongCrop
from warmclip_export.parity.retrieval import open_searches

NAN = float("nan")
HOSTILE = '<script>alert("x")</script> \u202egnp.exe \x1b[31m \ud800 &amp;'


def _rows(n: int, dim: int, seed: int) -> Vectors:
    rows = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return unit_rows(rows, dim)


def _moved(rows: Vectors, by: float, seed: int) -> Vectors:
    moved = rows + np.random.default_rng(seed).normal(size=rows.shape).astype(np.float32) * by
    return unit_rows(moved, rows.shape[1])


def _found(measure: Measure, figure: float, threshold: float, note: str = "") -> Finding:
    return Finding(stage="s", measure=measure, figure=figure, threshold=threshold, note=note)


@pytest.mark.parametrize("measure", ["largest difference", "lowest cosine", "rank correlation"])
def test_figure_that_is_no_number_never_passes(measure: Measure) -> None:
    """NaN is outside every threshold, and JSON says null."""
    found = _found(measure, NAN, 0.5, "why")

    assert not found.passed
    assert found.as_json()["figure"] is None
    assert found.as_json()["note"] == "why"


def test_which_way_a_threshold_lies() -> None:
    """Differences are allowed at most, agreements at least; both include the threshold."""
    assert _found("largest difference", 0.5, 0.5).passed
    assert not _found("largest difference", 0.51, 0.5).passed
    assert _found("largest difference", 0.4, 0.5).passed
    assert _found("top-10 overlap", 0.5, 0.5).passed
    assert _found("top-10 overlap", 0.6, 0.5).passed
    assert not _found("top-10 overlap", 0.49, 0.5).passed
    assert "at least" in str(_found("top-10 overlap", 0.4, 0.5))
    assert "at most" in str(_found("largest difference", 0.4, 0.5))


def test_figure_as_it_is_told() -> None:
    """With its threshold, unless that refuses nothing, and with its note, if it has one."""
    assert str(_found("lowest cosine", 0.4, 0.99)) == "s: lowest cosine 0.4, allowed at least 0.99"
    assert str(_found("lowest cosine", 0.4, float("-1"))) == "s: lowest cosine 0.4"
    told = str(_found("largest difference", 1e-6, 1e-5, "of few"))
    assert told == "s: largest difference 1e-06, allowed at most 1e-05 (of few)"
    assert _found("lowest cosine", -1.0, ANY_COSINE).passed


@pytest.mark.parametrize("note", ["", "why"])
def test_figure_in_a_certificate(note: str) -> None:
    """It stands there with what it was compared with."""
    assert _found("lowest cosine", 0.4, 0.99, note).as_json() == {
        "stage": "s",
        "measure": "lowest cosine",
        "figure": 0.4,
        "threshold": 0.99,
        "passed": False,
        **({"note": note} if note else {}),
    }
    assert _found("largest difference", -math.inf, 1.0).as_json()["figure"] is None


def test_certificate_keeps_its_fields() -> None:
    """A finding without a note has the five fields that bundles were written with."""
    assert set(_found("lowest cosine", 1.0, 0.9).as_json()) == {
        "stage", "measure", "figure", "threshold", "passed",
    }  # fmt: skip


def test_bounds_are_strictest_between_cpu_and_cpu() -> None:
    """What was measured is strict, what was only read about is not; int8 is the same everywhere."""
    strict = find_bounds(CPU, "fp32", "cpu")
    other = Provider(name="other", execution_provider="OtherExecutionProvider")
    elsewhere = find_bounds(other, "fp32", "cpu")
    against_mps = find_bounds(CPU, "fp32", "mps")

    assert strict == cpu_bounds("fp32")
    assert (strict.difference, strict.cosine, strict.runs) == (1e-5, 0.99999, 0.0)
    assert strict.difference < elsewhere.difference == against_mps.difference
    assert against_mps.runs == 0  # our own runs on the CPU do not depend on torch's device
    assert cpu_bounds("fp16").cosine == 0.999
    int8 = PROVIDERS["cpu-int8"]
    assert (
        find_bounds(int8, "int8", "cpu") == find_bounds(int8, "int8", "mps") == cpu_bounds("int8")
    )


@pytest.mark.parametrize("provider", [CPU, PROVIDERS["cpu-int8"]])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_no_bound_lets_everything_pass(
    provider: Provider, precision: Precision, device: str
) -> None:
    """What every target must hold, whoever computes, for its vectors to be of any use."""
    bounds = find_bounds(provider, precision, device)

    assert 0 < bounds.difference <= 0.04
    assert 0.995 <= bounds.cosine < 1
    assert 0 <= bounds.runs <= 0.01
    assert 0 < bounds.batches <= 0.01
    assert 0 < bounds.tie <= 0.005
    assert bounds.tie <= bounds.score <= 0.05
    assert 0.95 <= min(bounds.top1, bounds.top10) <= max(bounds.top1, bounds.top10) <= 1
    assert 0.98 <= bounds.rank_correlation < 1
    assert bounds.times_nearer >= 1


def test_same_vectors_find_the_same() -> None:
    """A collection mixed of equal vectors answers as the one it was made of."""
    stored, asked = _rows(40, 16, 1), _rows(9, 16, 2)
    with open_searches(stored, asked) as theirs:
        agreement = theirs.compare(stored, asked, 1e-6)

    assert (agreement.top1, agreement.top10, agreement.queries) == (1.0, 1.0, 9)
    assert agreement.rank_correlation == pytest.approx(1.0)


def test_other_vectors_find_something_else() -> None:
    """The further off, the less agrees; unrelated vectors agree by chance only."""
    stored, asked = _rows(60, 16, 1), _rows(30, 16, 2)
    with open_searches(stored, asked) as theirs:
        near = theirs.compare(_moved(stored, 0.02, 3), _moved(asked, 0.02, 4), 1e-6)
        far = theirs.compare(_rows(60, 16, 5), _rows(30, 16, 6), 1e-6)

    assert 0.6 < near.top10 < 1.0
    assert 0.9 < near.rank_correlation < 1.0
    assert far.top1 < 0.5
    assert far.top10 < 0.5
    assert abs(far.rank_correlation) < 0.5


def test_order_of_equals_means_nothing() -> None:
    """Points with one and the same vector may come in any order."""
    stored = np.repeat(_rows(4, 16, 1), 12, axis=0)
    asked = _rows(9, 16, 2)
    with open_searches(stored, asked) as theirs:
        agreement = theirs.compare(_moved(stored, 1e-8, 3), asked, 1e-6)

    assert (agreement.top1, agreement.top10) == (1.0, 1.0)


def test_missing_vector_fails_every_comparison_and_raises_nothing() -> None:
    """One row of NaN is a failed figure everywhere, with the reason."""
    theirs: BothTowers = {"image": _rows(12, 16, 1), "text": _rows(8, 16, 2)}
    ours: BothTowers = {tower: rows.copy() for tower, rows in theirs.items()}
    ours["image"][3] = NAN
    comparison = Comparison(stage="s", bounds=cpu_bounds("fp32"), note="one was refused")
    with open_searches(theirs["image"], select_queries(theirs)) as found:
        findings = (
            *comparison.of_vectors(ours["image"], theirs["image"]),
            *comparison.of_scores(ours, theirs),
            *comparison.of_searches(ours, found),
        )

    assert len(findings) == 6
    assert not any(finding.passed for finding in findings)
    assert {finding.note for finding in findings} == {"one was refused"}


def test_distance_is_that_of_the_tower_that_is_further_off() -> None:
    """A tower that the activation does not touch cannot hide the one that it does."""
    ours: BothTowers = {"image": _rows(8, 16, 1), "text": _rows(8, 16, 2)}
    theirs: BothTowers = {"image": ours["image"], "text": _moved(ours["text"], 0.1, 3)}

    assert mean_distance(ours, ours) == 0.0
    assert mean_distance(ours, theirs) > 0.1
    theirs["text"][0] = NAN
    assert math.isnan(mean_distance(ours, theirs))


def _compatibility(*, is_nearest: bool, figure: float = 1e-7) -> Compatibility:
    return Compatibility(
        target="fp32 on cpu",
        is_served=True,
        activation="gelu",
        is_own=True,
        made_by="open_clip.create_model('m')",
        findings=(_found("largest difference", figure, 1e-5),),
        is_nearest=is_nearest,
    )


def test_compatibility_asks_for_figures_and_for_nearness() -> None:
    """Within every threshold, but nearer to the other activation: no, and it says why."""
    assert _compatibility(is_nearest=True).may_share
    assert not _compatibility(is_nearest=True, figure=1e-3).may_share
    assert not _compatibility(is_nearest=False).may_share
    assert "nearer to those of the other" in _compatibility(is_nearest=False).reason
    assert str(_compatibility(is_nearest=True)).endswith("(open_clip.create_model('m')): yes")


def test_share_of_what_is_allowed() -> None:
    """Half the difference, half of what a cosine may lose, twice as near as is needed: half."""
    assert report.share_used(_found("largest difference", 5e-6, 1e-5)) == pytest.approx(0.5)
    assert report.share_used(_found("lowest cosine", 0.9995, 0.999)) == pytest.approx(0.5)
    assert report.share_used(_found("times nearer", 20.0, 10.0)) == pytest.approx(0.5)
    assert report.share_used(_found("top-1 agreement", 1.0, 1.0)) == 0.0
    assert report.share_used(_found("top-1 agreement", 0.99, 1.0)) == math.inf


def _result(tmp_path: Path, *, differences: list[float]) -> Result:
    """A result in which a stage failed, and a text means harm."""
    crops = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    findings = [
        Finding(stage="tokens", measure="texts that differ", figure=1, threshold=0, note=HOSTILE),
        _found("largest difference", NAN, 1e-5, "no vectors"),
        *(_found(measure, 0.5, 0.4) for measure in sorted(AT_LEAST)),
    ]
    spread = {"stage": "ends, fp32 on cpu", "target": "fp32 on cpu", "threshold": 1e-5}
    spreads = [
        Spread(tower="image", differences=np.array(differences), **spread),  # type: ignore[arg-type] # mixed
        Spread(tower="text", differences=np.array([0.0, NAN]), **spread),  # type: ignore[arg-type] # mixed
    ]
    return Result(
        bundle=str(tmp_path / "<b>"),
        fingerprint="ab" * 32,
        is_random=True,
        activation="GELU: equal",
        reference={
            "model": "m.json", "pretrained": "random:0", "device": "cpu", "dtype": "float32",
            "machine": "x86_64", "system": "Linux",
        },
        versions={"open_clip_torch": "3.3.0"},
        record=Record(
            findings=findings,
            compatibilities=[_compatibility(is_nearest=True), _compatibility(is_nearest=False)],
            spreads=spreads,
            wrong_crops=[WrongCrop(name="w", ours=None, theirs=crops[0], note="is truncated")],
        ),
        absent={"coreml": "not here"},
        pictures=("one", "two", HOSTILE),
        crops=crops,
        texts=("a cat", HOSTILE),
        every=5,
        seconds=12.3,
        measured_at="2026-11-25T12:00:00+00:00",
    )  # fmt: skip


class _Page(HTMLParser):
    """Notes what a browser would load, and whether every element is closed."""

    VOID = frozenset({"meta", "img", "br", "rect", "line", "circle"})

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:  # "<line/>" ends as well
            assert self.open.pop() == tag


def test_page_is_one_file_that_loads_nothing(tmp_path: Path) -> None:
    """No script, no address; pictures are inside; every element is closed; texts stay texts."""
    page = _Page()
    html = report.render_html(_result(tmp_path, differences=[1e-7, 2e-4, NAN]))
    page.feed(html)

    assert page.open == []
    assert page.loaded
    assert all(address.startswith("data:image/") for address in page.loaded)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"url\(|@import|https?://", html)
    assert "3 pictures, 2 texts: one in 5 of the corpus" in html
    assert "viewport" in html
    assert "prefers-color-scheme: dark" in html
    assert "alert(&#34;x&#34;)" in html
    assert "\x1b" not in html
    assert "\u202e" not in html
    html.encode("utf-8")  # a lone surrogate would have no place in the file


def test_page_names_the_first_stage_that_failed(tmp_path: Path) -> None:
    """The headline names the stage, and random weights are said."""
    html = report.render_html(_result(tmp_path, differences=[1e-7, 2e-4, NAN]))

    assert "it differs from open_clip at <em>tokens</em>" in html
    assert "weights are random" in html
    assert "1 without a vector" in html


def test_json_is_strict(tmp_path: Path) -> None:
    """NaN is null, bytes are ASCII, and the worst rows are named."""
    text = report.render_json(_result(tmp_path, differences=[1e-7, 2e-4, NAN]))

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    parsed = json.loads(text, parse_constant=refuse)
    text.encode("ascii")
    assert parsed["passed"] is False
    worst = parsed["spreads"][0]["worst"]
    assert [row["name"] for row in worst] == [HOSTILE, "two", "one"]
    assert worst[0]["difference"] is None
    assert parsed["rulings"][1]["may_share"] is False


def test_files_go_where_they_were_asked_for(tmp_path: Path) -> None:
    """A folder gets parity.html; a name that ends in .html is the page; JSON lies beside it."""
    page, data = report.report_paths(tmp_path / "new" / "folder")
    named = report.report_paths(tmp_path / "today.html")
    report.write_report(_result(tmp_path, differences=[0.0, 0.0, 0.0]), page, data)

    assert (page.name, data.name) == ("parity.html", "parity.json")
    assert [path.name for path in named] == ["today.html", "today.json"]
    assert sorted(path.name for path in page.parent.iterdir()) == ["parity.html", "parity.json"]


def test_place_that_cannot_be_written_is_refused_before_the_work(unprivileged: Path) -> None:
    """A file where a folder is needed, and a folder without permission, are named."""
    (unprivileged / "file").write_bytes(b"")
    locked = unprivileged / "locked"
    locked.mkdir(mode=0o500)

    with pytest.raises(ExportRefused, match=r"--report .*file"):
        report.report_paths(unprivileged / "file")
    with pytest.raises(ExportRefused, match="Permission denied"):
        report.report_paths(locked)


def test_histogram_tells_who_is_over_the_line() -> None:
    """Bars beyond the threshold have a colour of their own; without values there are none."""
    drawn = plots.histogram(np.array([0.0, 1e-7, 1e-3, NAN]), 1e-5, "label")

    assert drawn.count('class="bar"') == 2
    assert drawn.count('class="over"') == 1
    assert 'class="bar"' not in plots.histogram(np.array([NAN]), 1e-5, "label")


def test_track_ends_where_the_threshold_is() -> None:
    """What is beyond, and what is infinite, stands behind the line in another colour."""
    assert 'class="dot"' in plots.track(0.99, "label")
    assert 'class="dot over"' in plots.track(1.01, "label")
    assert 'class="dot over"' in plots.track(math.inf, "label")
    assert 'class="dot over"' in plots.track(NAN, "label")
