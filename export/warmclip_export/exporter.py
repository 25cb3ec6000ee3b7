"""One export from beginning to end: weights, wrappers, graphs, gate, manifest."""

import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from warmclip.inference.arrays import Crop
from warmclip.inference.bundle import (
    FORMAT,
    MANIFEST,
    GraphRecord,
    ImageRecipe,
    Manifest,
    ModelBundle,
    Precision,
    TokenizerRecipe,
    Tower,
    Weights,
)
from warmclip.inference.text import Tokenizer
from warmclip_export import graph, onnx_file, quantize, samples, tokenizer
from warmclip_export.catalog import ModelRecipe
from warmclip_export.coreml import report
from warmclip_export.coreml.basic_passes import check_room
from warmclip_export.errors import ExportRefused, ParityFailed
from warmclip_export.fp16 import value_range
from warmclip_export.parity.finding import Finding
from warmclip_export.parity.gate import Gate
from warmclip_export.reference import Reference, describe_reference
from warmclip_export.registry import known_bytes, tower_bytes
from warmclip_export.versions import made_with
from warmclip_export.weights import fetch_checkpoint
from warmclip_export.writer import (
    check_target,
    check_target_room,
    file_sha256,
    staged_bundle,
    write_file,
)

Step: TypeAlias = Callable[[str], None]
"""Called with what is done next."""

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")  # of every bundle; int8 by request
_WEIGHT_BYTES: dict[Precision, int] = {"fp32": 4, "fp16": 2, "int8": 1}
# Of a text tower's residual stream in float16, where subnormals may be flushed to zero: enough for
# the layer norms' epsilon of 1e-5, and little of the room above.
_STREAM_SCALE = 4.0


def count_steps(*, int8: bool) -> int:
    """How many steps ``export_model`` takes at most."""
    return 6 + 2 * (len(PRECISIONS) + 2 * int8)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """A bundle that passed the gate, and what the gate found."""

    bundle: ModelBundle
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]  # what a person should know of it, though it passed


def export_model(
    recipe: ModelRecipe,
    target: Path,
    *,
    force: bool,
    step: Step,
    int8: bool = False,
    sizes: Mapping[Tower, int] | None = None,
) -> ExportResult:
    """Make a bundle of a model at ``target``, or leave everything as it was.

    Args:
        recipe: the model.
        target: the bundle's folder.
        force: whether a bundle that is there is replaced.
        step: called before each step.
        int8: whether both towers are made in int8 as well.
        sizes: what ``known_bytes`` has found of the model; None: it is asked.

    Raises:
        WeightsUnavailable: the weights of a tag could not be had.
        ExportRefused: the model cannot be re-expressed, or the target not be written, or a disk
            has no room.
        ParityFailed: a stage differs from open_clip by more than its threshold.
    """
    check_target(target, force=force)
    if sizes is None:
        sizes = known_bytes(recipe.architecture, recipe.text_model)
    if int8:
        _check_int8(sizes or tower_bytes(recipe.architecture, recipe.text_model))
    _check_disks(target, sizes, (*PRECISIONS, "int8") if int8 else PRECISIONS)
    step("fetch the weights")
    checkpoint = fetch_checkpoint(recipe.weights, file_options=recipe.file_options)
    step("build open_clip's model")
    reference = Reference.build(recipe, checkpoint)
    step("run open_clip on the samples")
    chosen = samples.load_samples()
    gate = Gate(reference, chosen)
    with staged_bundle(target, force=force) as folder:
        step("check tokens and pixels")
        tokens = _write_tokenizer(reference, folder, gate)
        image = derive_image_recipe(reference, load_truncated=recipe.load_truncated)
        crops = gate.check_pixels(image)
        towers = build_wrappers(reference)
        opset = graph.required_opset(*towers.values())
        graphs: dict[Tower, dict[Precision, GraphRecord]] = {}
        value_ranges: dict[Tower, tuple[value_range.ValueRange, ...]] = {}
        quantized: dict[Tower, quantize.Quantized] = {}
        for tower, wrapper in towers.items():
            graphs[tower], value_ranges[tower] = _write_tower(
                tower, wrapper, opset, folder, gate, step
            )
            if int8:
                graphs[tower]["int8"], quantized[tower] = _write_int8(tower, folder, gate, step)
        step("lint the graphs for CoreML")
        placements = report.lint_graphs(
            {
                record.file: folder / record.file
                for of_precision in graphs.values()
                for precision, record in of_precision.items()
                if precision in report.PRECISIONS
            },
            length=tokens.context_length,
        )
        step("write golden vectors, certificate and manifest")
        golden = write_file(folder / "golden.npz", _golden(gate, chosen, crops))
        certificate = write_file(
            folder / "certificate.json",
            _json_bytes(
                _certificate(recipe, gate, folder, graphs)
                | {
                    "float16": {
                        tower: value_range.ranges_as_json(of) for tower, of in value_ranges.items()
                    }
                }
                | ({"int8": quantize.quantized_as_json(quantized)} if int8 else {})
                | {"coreml": report.placements_as_json(placements)}
            ),
        )
        manifest = Manifest(
            format=FORMAT,
            name=target.name,
            architecture=_architecture(recipe, reference),
            activation="quick_gelu" if recipe.activation.quick_gelu else "gelu",
            weights=Weights(
                source=recipe.weights.kind,
                name=recipe.weights.name,
                sha256=file_sha256(checkpoint) if checkpoint else None,
            ),
            tensors_sha256=reference.tensors_sha256(),
            dim=gate.dim,
            image=image,
            tokenizer=tokens,
            logits=reference.logits(),
            opset=opset,
            graphs=graphs,
            golden=golden,
            certificate=certificate,
            versions=made_with(),
            fingerprint="0" * 64,
        )
        manifest = manifest.model_copy(update={"fingerprint": manifest.derive_fingerprint()})
        write_file(folder / MANIFEST, _json_bytes(manifest.model_dump(mode="json")))
    return ExportResult(
        bundle=ModelBundle.open(target),
        findings=tuple(gate.findings),
        notes=(
            *value_range.fp16_notes(value_ranges),
            *quantize.int8_notes(quantized),
            *report.coreml_notes(placements),
        ),
    )


def _check_disks(target: Path, sizes: Mapping[Tower, int], precisions: Iterable[Precision]) -> None:
    """Look for room before the work, since files come after minutes and the lint after hours."""
    largest = max(sizes.values(), default=0)
    check_room(largest)
    of_a_weight = sum(_WEIGHT_BYTES[it] for it in precisions)
    check_target_room(target, sum(sizes.values()) // 4 * of_a_weight, largest)


def _check_int8(sizes: Mapping[Tower, int]) -> None:
    """Refuse int8 for a tower whose layers could not be tried one by one in memory."""
    for tower, size in sizes.items():
        if size > onnx_file.MAX_BYTES:
            raise ExportRefused(
                f"--precision int8: the {tower} tower has {size / 1e9:.1f} GB of weights, and int8 "
                f"is made of up to {onnx_file.MAX_BYTES / 1e9:.1f} GB; leave the option out"
            )


def derive_image_recipe(reference: Reference, *, load_truncated: bool) -> ImageRecipe:
    """open_clip's evaluation transform as data, and what is done before it.

    Raises:
        ExportRefused: the runtime has no such transform.
    """
    config = reference.preprocess
    size = config.size if isinstance(config.size, int) else config.size[0]
    try:
        return ImageRecipe.model_validate(
            {
                "size_px": size,
                "resize_mode": config.resize_mode,
                "interpolation": config.interpolation,
                "fill": config.fill_color,
                "mean": config.mean,
                "std": config.std,
                "rgb_conversion": "before_resize" if reference.rgb_first else "after_crop",
                "truncated": "load" if load_truncated else "refuse",
            }
        )
    except ValueError as exc:
        raise ExportRefused(f"its preprocessing is not one that warmclip has: {exc}") from exc


def build_wrappers(reference: Reference) -> dict[Tower, nn.Module]:
    """Both towers as they are exported.

    Raises:
        ExportRefused: a tower has parts that no wrapper re-expresses.
    """
    return {
        "image": graph.build_image_tower(reference.model.visual),
        "text": graph.build_text_tower(reference.text_parts),
    }


def _architecture(recipe: ModelRecipe, reference: Reference) -> dict[str, Any]:
    """The model's configuration, and what decides vectors of a Hugging Face text tower."""
    settings = reference.text_settings()
    if not settings:
        return recipe.architecture
    return {**recipe.architecture, "hf_text_cfg": settings}


def _write_tokenizer(reference: Reference, folder: Path, gate: Gate) -> TokenizerRecipe:
    recipe = tokenizer.write_tokenizer(reference, folder)
    gate.check_tokens(Tokenizer.open(folder / recipe.file.file, recipe))
    return recipe


def _write_tower(
    tower: Tower, wrapper: nn.Module, opset: int, folder: Path, gate: Gate, step: Step
) -> tuple[dict[Precision, GraphRecord], tuple[value_range.ValueRange, ...]]:
    gate.check_wrapper(tower, wrapper)
    # Two rows: from one, torch would conclude that the batch is always 1.
    inputs = {name: torch.from_numpy(array[:2]) for name, array in gate.feeds[tower].items()}
    parts = [name for name, _ in wrapper.named_modules()]
    records: dict[Precision, GraphRecord] = {}
    value_ranges: tuple[value_range.ValueRange, ...] = ()
    for precision in PRECISIONS:
        step(f"export and check the {tower} tower in {precision}")
        path = folder / f"{tower}.{precision}.onnx"
        if precision == "fp16":
            kept = value_range.overflowing_parts(value_ranges)
            if value_range.EVERYTHING in kept:
                continue
            if value_range.has_room(value_ranges, _STREAM_SCALE):
                graph.scale_stream(wrapper, _STREAM_SCALE)
            graph.to_fp16(wrapper, kept)
        records[precision] = onnx_file.write_tower(wrapper, inputs, path, opset)
        gate.check_graph(tower, precision, path)
        if precision == "fp32":
            value_ranges = value_range.measure_ranges(path, gate.feeds[tower], parts)
    return records, value_ranges


def _write_int8(
    tower: Tower, folder: Path, gate: Gate, step: Step
) -> tuple[GraphRecord, quantize.Quantized]:
    step(f"quantize and check the {tower} tower in int8")
    path = folder / f"{tower}.int8.onnx"
    found = quantize.quantize_tower(
        folder / f"{tower}.fp32.onnx",
        gate.feeds[tower],
        gate.vectors[tower],
        tower,
        searching=lambda: step(f"try each layer of the {tower} tower in int8"),
    )
    record = write_file(path, found.model.SerializeToString(deterministic=True))
    try:
        gate.check_graph(tower, "int8", path)
    except ParityFailed as exc:
        raise ParityFailed(f"{exc}. Without --precision int8 the rest makes a bundle") from exc
    return GraphRecord(**record.model_dump()), found


def _golden(gate: Gate, chosen: samples.Samples, crops: Crop) -> bytes:
    """Fixed inputs and open_clip's answers, for the trial of a provider at start-up."""
    shown, said = list(chosen.golden_pictures), list(chosen.golden_texts)
    ids = gate.feeds["text"]["input_ids"][said]
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        crops=crops[shown],
        image_vectors=gate.vectors["image"][shown],
        image_norms=np.linalg.norm(gate.features["image"], axis=1)[shown],
        input_ids=ids,
        eot=gate.feeds["text"]["eot_onehot"][said, 0].argmax(axis=1),
        text_vectors=gate.vectors["text"][said],
        text_norms=np.linalg.norm(gate.features["text"], axis=1)[said],
    )
    return stream.getvalue()


def _certificate(
    recipe: ModelRecipe,
    gate: Gate,
    folder: Path,
    graphs: dict[Tower, dict[Precision, GraphRecord]],
) -> dict[str, Any]:
    return {
        "reference": describe_reference(recipe, "cpu"),
        "versions": made_with(),
        "activation": recipe.matches,
        "samples": {tower: len(rows) for tower, rows in gate.vectors.items()},
        "stages": [finding.as_json() for finding in gate.findings],
        "operators": {
            tower: {
                name: onnx_file.count_operators(folder / record.file) for name, record in of.items()
            }
            for tower, of in graphs.items()
        },
    }


def _json_bytes(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
