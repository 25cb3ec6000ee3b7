"""The whole suite on the committed demo bundle, and its command as a person runs it."""

import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from typer.testing import CliRunner

from cpu_targets import find_cpu_targets
from tiny_models import rewritten
from warmclip.inference.bundle import ModelBundle
from warmclip.inference.providers import CPU, PROVIDERS, Provider
from warmclip.inference.selection.quarantine import Quarantine
from warmclip.settings import Settings
from warmclip_export.__main__ import app
from warmclip_export.catalog import resolve_model
from warmclip_export.errors import ExportRefused
from warmclip_export.parity import corpus, suite
from warmclip_export.parity.corpus import Corpus
from warmclip_export.parity.input_stages import check_reference
from warmclip_export.parity.reference_outputs import compute_outputs
from warmclip_export.parity.result import Record, Result
from warmclip_export.reference import Reference

DEMO = Path(__file__).parents[2] / "models" / "demo"
MODEL, WEIGHTS = str(DEMO / "warmclip-demo.json"), str(DEMO / "warmclip-demo.safetensors")
SOURCES = ["--model", MODEL, "--pretrained", WEIGHTS]
PART = ["--every", "20"]  # what is about the command needs no more
# Fewer examples, as for the other suites of this tier, make a smaller corpus.
NTH = 1 if int(os.environ.get("PARITY_EXAMPLES", "1000")) >= 1000 else 6
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
MODES = {
    "1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV",
    "I", "F", "I;16", "I;16L", "I;16B",
}  # fmt: skip


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The whole corpus, for the demo model's size."""
    return corpus.build_corpus(tmp_path_factory.mktemp("corpus"), 64)


def _measure(bundle: ModelBundle, part: Corpus) -> Result:
    recipe = resolve_model(MODEL, WEIGHTS)
    targets = find_cpu_targets(bundle)
    return suite.check_bundle(bundle, recipe, part, targets, "cpu", step=lambda _what: None)


@pytest.fixture(scope="module")
def result(samples: Corpus) -> Result:
    """What the suite finds of the committed bundle."""
    return _measure(ModelBundle.open(DEMO / "bundle"), samples.part(NTH))


def test_corpus_is_large_and_varied(samples: Corpus) -> None:
    """At least 200 pictures of every mode, from 1 x 1 to panoramas; at least 300 texts."""
    opened = [entry.load() for entry in samples.pictures]
    sizes = {picture.size for picture in opened}

    assert len(opened) >= 200
    assert len(set(samples.texts)) >= 300
    assert {picture.mode for picture in opened} >= MODES
    assert {(1, 1), (4000, 60), (60, 4000)} <= sizes
    assert max(map(len, samples.texts)) > 5000
    assert {"", " ", "\ud800", "👩\u200d👩\u200d👧"} <= set(samples.texts)
    names = Counter(entry.name for entry in samples.pictures)
    assert [name for name, count in names.items() if count > 1] == []


def test_corpus_is_the_same_every_time(samples: Corpus, tmp_path: Path) -> None:
    """Figures of two runs can be compared: the same pictures, to the byte, and the same texts."""
    again = corpus.build_corpus(tmp_path, 64)

    assert again.texts == samples.texts
    for first, second in zip(samples.pictures, again.pictures, strict=True):
        assert first.name == second.name
        assert first.load().tobytes() == second.load().tobytes()


def test_demo_bundle_passes_every_stage(result: Result) -> None:
    """Inputs, both towers in both precisions, batches, runs, ends, scores, searches."""
    assert [str(finding) for finding in result.failed] == []
    assert list(dict.fromkeys(finding.stage for finding in result.record.findings)) == [
        "tokens",
        "crops",
        "pixels",
        "image fp32 on cpu",
        "text fp32 on cpu",
        "image fp32 on cpu, in batches",
        "image fp32 on cpu, 20 runs",
        "text fp32 on cpu, in batches",
        "text fp32 on cpu, 20 runs",
        "images end to end, fp32 on cpu",
        "texts end to end, fp32 on cpu",
        "scores, fp32 on cpu",
        "searches, fp32 on cpu",
        "other activation, fp32 on cpu",
        "image fp16 on cpu",
        "text fp16 on cpu",
        "image fp16 emulated",
        "text fp16 emulated",
        "image fp16 on cpu, in batches",
        "image fp16 on cpu, 20 runs",
        "text fp16 on cpu, in batches",
        "text fp16 on cpu, 20 runs",
        "scores, fp16 on cpu",
        "searches, fp16 on cpu",
        "other activation, fp16 on cpu",
    ]


def test_compatibility_tells_the_two_old_vectors_apart(result: Result) -> None:
    """Vectors that torch made with the bundle's activation may be joined, the others not."""
    may_share = {
        (compatibility.target, compatibility.activation): compatibility.may_share
        for compatibility in result.record.compatibilities
    }
    other = [
        compatibility for compatibility in result.record.compatibilities if not compatibility.is_own
    ]

    assert may_share == {
        ("fp32 on cpu", "gelu"): True,
        ("fp32 on cpu", "quick_gelu"): False,
        ("fp16 on cpu", "gelu"): True,
        ("fp16 on cpu", "quick_gelu"): False,
    }
    assert all("force_quick_gelu=True" in compatibility.made_by for compatibility in other)
    assert all("nearer" in compatibility.reason for compatibility in other)


def test_every_row_is_in_the_report(result: Result) -> None:
    """Errors are kept for each picture and text, so that the worst can be shown."""
    rows = {spread.stage: len(spread.differences) for spread in result.record.spreads}

    assert rows["images end to end, fp32 on cpu"] == len(result.pictures) == len(result.crops)
    assert rows["text fp16 on cpu"] == len(result.texts)


def _with_nan(bundle: ModelBundle, folder: Path, graph: str) -> ModelBundle:
    model = onnx.load(bundle.folder / graph)
    weight = next(it for it in model.graph.initializer if it.data_type in _FLOATS and it.dims)
    spoilt = np.full_like(numpy_helper.to_array(weight), np.nan)
    weight.CopyFrom(numpy_helper.from_array(spoilt, weight.name))
    return rewritten(bundle, folder, files={graph: model.SerializeToString()})


def test_graph_that_yields_no_numbers_is_reported_with_all_other_stages(
    samples: Corpus, tmp_path: Path
) -> None:
    """NaN in one tower of one precision: its stages fail with the reason, the rest is measured."""
    bundle = ModelBundle.open(DEMO / "bundle")
    wrong = _with_nan(bundle, tmp_path / "m", "text.fp16.onnx")

    result = _measure(wrong, samples.part(20))

    assert {finding.stage for finding in result.failed} == {
        "text fp16 on cpu",
        "text fp16 emulated",
        "scores, fp16 on cpu",
        "searches, fp16 on cpu",
        "other activation, fp16 on cpu",
    }
    assert all("unusable rows" in finding.note for finding in result.failed)
    assert "text fp32 on cpu, 20 runs" in {it.stage for it in result.record.findings}


def test_quarantine_is_neither_heeded_nor_filled(
    samples: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What workers pass over is measured; a wrong bundle takes no provider from them."""
    for name in ("static", "other"):
        static = replace(CPU, name=name, is_reference=False, buckets=(1, 8, 32))
        monkeypatch.setitem(PROVIDERS, name, static)
    monkeypatch.setenv("HOME", str(tmp_path))
    quarantine = Quarantine(Settings.from_env({}).home)
    quarantine.add("static", "it crashed")
    before = quarantine.active()
    bundle = ModelBundle.open(DEMO / "bundle")
    wrong = _with_nan(bundle, tmp_path / "m", "text.fp32.onnx")

    result = _measure(wrong, samples.part(40))

    for name in ("static", "other"):
        (end,) = {
            it.note for it in result.failed if it.stage == f"texts end to end, fp32 on {name}"
        }
        assert f"{name!r} was asked for by name and failed" in end
    assert quarantine.active() == before


def test_graph_that_cannot_be_loaded_is_reported(samples: Corpus, tmp_path: Path) -> None:
    """A file that is no graph fails its stages, and the encoder that needs it, with the reason."""
    bundle = ModelBundle.open(DEMO / "bundle")
    wrong = rewritten(bundle, tmp_path / "m", files={"image.fp32.onnx": b"no graph"})

    result = _measure(wrong, samples.part(20))

    assert result.failed[0].stage == "image fp32 on cpu"
    assert "is no ONNX graph" in result.failed[0].note
    assert all(finding.stage.endswith("fp32 on cpu") for finding in result.failed)


def test_other_provider_is_measured_end_to_end(
    samples: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider with static shapes, entered into the table: padded batches and the encoder too."""
    static = Provider(name="static", execution_provider="CPUExecutionProvider", buckets=(1, 8, 32))
    monkeypatch.setitem(PROVIDERS, "static", static)

    result = _measure(ModelBundle.open(DEMO / "bundle"), samples.part(20))

    of_static = [it for it in result.record.findings if it.stage.endswith("fp32 on static")]
    runs = [it for it in result.record.findings if "static, 20 runs" in it.stage]
    assert result.passed
    assert "images end to end, fp32 on static" in {finding.stage for finding in of_static}
    # Every bit is asked of the CPU alone.
    assert {finding.measure for finding in runs} == {"largest difference"}


def test_reference_on_another_device_is_compared_with_itself(samples: Corpus) -> None:
    """Where torch runs on MPS, how far it is from itself is a stage, and comes first."""
    recipe = resolve_model(MODEL, WEIGHTS)
    reference = Reference.build(recipe, recipe.weights.path)
    expected = compute_outputs(reference, samples.part(40))
    expected.vectors["text"][0] *= -1.0
    reference.device = "mps"  # its name: there is none here
    record = Record()

    check_reference(record, reference, expected)

    assert [finding.stage for finding in record.findings if not finding.passed] == [
        "open_clip on mps, text",
        "open_clip on mps, text",
    ]


def test_other_weights_are_not_the_bundle_s(samples: Corpus) -> None:
    """Checking a bundle against other weights is refused before any figure."""
    bundle = ModelBundle.open(DEMO / "bundle")
    recipe = resolve_model(MODEL, "random:6")

    with pytest.raises(ExportRefused, match="not the weights"):
        suite.check_bundle(
            bundle, recipe, samples, find_cpu_targets(bundle), "cpu", step=lambda _what: None
        )


def test_command_passes_and_writes_its_report(tmp_path: Path) -> None:
    """Exit code 0, all figures and compatibilities on stdout, a page and JSON in the folder."""
    report = tmp_path / "report"
    ran = CliRunner().invoke(
        app, ["parity", str(DEMO / "bundle"), *SOURCES, *PART, "--report", str(report)]
    )

    assert ran.exit_code == 0, ran.output
    assert "11 pictures, 18 texts: one in 20 of the corpus" in ran.stdout
    assert "passed  tokens: texts that differ 0" in ran.stdout
    assert "GELU (open_clip.create_model('warmclip-demo'" in ran.stdout
    assert "not measured: coreml" in ran.stdout or "fp32 on coreml" in ran.stdout
    assert str(report / "parity.html") in ran.stdout
    written = json.loads((report / "parity.json").read_text("utf-8"))
    assert written["passed"] is True
    assert written["samples"] == {"image": 11, "text": 18}
    assert written["every"] == 20
    assert "may share a collection" in (report / "parity.html").read_text("utf-8")


def test_command_ends_with_1_where_a_stage_fails(tmp_path: Path) -> None:
    """A bundle with another mean: JSON says which stage was first, and the page is written."""
    bundle = ModelBundle.open(DEMO / "bundle")
    image = bundle.manifest.image.model_copy(update={"mean": (0.5, 0.5, 0.5)})
    rewritten(bundle, tmp_path / "m", image=image)

    ran = CliRunner().invoke(
        app,
        [
            *("parity", str(tmp_path / "m"), *SOURCES, *PART),
            *("--json", "--report", str(tmp_path / "r.html")),
        ],
    )

    report = json.loads(ran.stdout)
    failed = [stage["stage"] for stage in report["stages"] if not stage["passed"]]
    assert ran.exit_code == 1
    assert report["passed"] is False
    assert failed[0] == "pixels"
    # Not even where the graph alone was measured.
    assert not any(compatibility["may_share"] for compatibility in report["rulings"])
    assert report == json.loads((tmp_path / "r.json").read_text("utf-8"))
    assert "differs from open_clip at <em>pixels</em>" in (tmp_path / "r.html").read_text("utf-8")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="here there is MPS")
def test_reference_device_that_is_not_there_is_refused() -> None:
    """--against mps insists; a device that torch never had is bad usage too."""
    bundle = str(DEMO / "bundle")
    missing = CliRunner().invoke(app, ["parity", bundle, *SOURCES, "--against", "mps"])
    unknown = CliRunner().invoke(app, ["parity", bundle, *SOURCES, "--against", "tpu"])

    assert (missing.exit_code, unknown.exit_code) == (2, 2)
    assert "no MPS device here" in missing.stderr


def test_bundle_of_a_file_needs_the_file() -> None:
    """Where the weights lie is no business of a certificate: it is asked for."""
    ran = CliRunner().invoke(app, ["parity", str(DEMO / "bundle")])

    assert ran.exit_code == 2
    assert "--model and --pretrained" in ran.stderr


def test_altered_bundle_is_refused(tmp_path: Path) -> None:
    """A file that is not the manifest's has no figures: exit code 2 and its name."""
    shutil.copytree(DEMO / "bundle", tmp_path / "m")
    golden = tmp_path / "m" / "golden.npz"
    content = bytearray(golden.read_bytes())
    content[100] ^= 1
    golden.write_bytes(content)

    ran = CliRunner().invoke(app, ["parity", str(tmp_path / "m"), *SOURCES])

    assert ran.exit_code == 2
    assert "golden.npz was altered" in ran.stderr
