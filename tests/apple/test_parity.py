"""The whole parity suite, with open_clip on the CPU and on MPS as the reference."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from apple.conftest import Trials
from apple.machine import GPU, VARIANTS, gpu_fault
from apple.table import MEASURED
from warmclip.inference.bundle import ModelBundle
from warmclip_export.catalog import resolve_model
from warmclip_export.parity import corpus, report, suite
from warmclip_export.parity.targets import find_targets
from warmclip_export.reference import find_device

Record = Callable[[str, object], None]

DEMO = Path(__file__).parents[2] / "models" / "demo"
SOURCES = {
    "demo": (str(DEMO / "warmclip-demo.json"), str(DEMO / "warmclip-demo.safetensors")),
    "full": ("ViT-B-32", "random:0"),
}
# A model of full size is measured on a part of the corpus, of all kinds.
EVERY = {"demo": 1, "full": 6}


@pytest.mark.parametrize("against", dict.fromkeys(("cpu", GPU)))
@pytest.mark.parametrize("name", SOURCES)
def test_parity(
    trials: Trials,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    name: str,
    against: str,
    record_property: Record,
) -> None:
    """Every stage of every provider that may serve is within its bounds; a report is written."""
    if against == GPU and (fault := gpu_fault()):
        pytest.skip(f"torch does not compute on {GPU} here: {fault}")
    bundle: ModelBundle = request.getfixturevalue(name)
    device = find_device("mps" if against == "mps" else "cpu")
    refused = {it for it in VARIANTS if trials.refusal(bundle, it)}
    targets = find_targets(bundle, device)
    targets = replace(
        targets,
        present=tuple(target for target in targets.present if target.provider.name not in refused),
    )
    samples = corpus.build_corpus(tmp_path, bundle.manifest.image.size_px).part(EVERY[name])
    recipe = resolve_model(*SOURCES[name])

    found = suite.check_bundle(bundle, recipe, samples, targets, device, step=lambda _what: None)

    page, figures = report.report_paths(trials.home.parent / f"parity-{name}-{against}")
    report.write_report(found, page, figures)
    for finding in found.record.findings:
        if finding.measure == "lowest cosine" and "end to end" in finding.stage:
            record_property(MEASURED, f"{finding.stage} {finding.figure:.7f}")
    record_property(MEASURED, f"report: {page}")
    assert [str(finding) for finding in found.failed] == []
