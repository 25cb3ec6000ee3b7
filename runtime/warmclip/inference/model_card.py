"""A bundle in a few figures, for a list of what lies in the folders of models."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from warmclip.errors import BundleError
from warmclip.inference.bundle import MANIFEST, ModelBundle


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a bundle says of itself; of one that cannot be used only the folder and the problem."""

    folder: str
    problem: str | None = None
    weights: str | None = None  # the tag, the file's name, or "random:SEED"
    dim: int | None = None
    size_px: int | None = None  # of the square that a picture becomes
    context_length: int | None = None  # tokens of a text
    activation: str | None = None
    precisions: tuple[str, ...] = ()  # that both towers have
    size_bytes: int | None = None
    fp32_difference: float | None = None  # the largest to open_clip's vectors, at the export
    fp16_cosine: float | None = None  # the lowest, where a device rounds each result to float16
    coreml_whole: bool | None = None  # each tower in one piece, by the exporter's lint
    fingerprint: str | None = None

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the manifest and the certificate of a folder; digests of graphs are not checked."""
        try:
            bundle = ModelBundle.open(folder)
            certificate = json.loads(bundle.certificate().read_text(encoding="utf-8"))
            stages = certificate["stages"]
            coreml_whole = certificate.get("coreml", {}).get("whole")
            differences = _figures(stages, " fp32", "largest difference")
            cosines = _figures(stages, " fp16 emulated", "lowest cosine")
        except BundleError as exc:
            return cls(folder=str(folder), problem=str(exc))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
            problem = f"its certificate cannot be read ({exc!r}); export the model again"
            return cls(folder=str(folder), problem=problem)
        manifest = bundle.manifest
        weights = manifest.weights
        graphs = manifest.graphs.values()
        common = set.intersection(*(set(tower) for tower in graphs)) if graphs else set()
        return cls(
            folder=str(folder),
            weights=f"random:{weights.name}" if weights.source == "random" else weights.name,
            dim=manifest.dim,
            size_px=manifest.image.size_px,
            context_length=manifest.tokenizer.context_length,
            activation=manifest.activation,
            precisions=tuple(sorted(common)),
            size_bytes=sum(record.size_bytes for record in bundle.files()),
            fp32_difference=max(differences, default=None),
            fp16_cosine=min(cosines, default=None),
            coreml_whole=None if coreml_whole is None else bool(coreml_whole),
            fingerprint=manifest.fingerprint,
        )


def find_bundles(folders: Iterable[Path]) -> list[Path]:
    """The bundles in these folders, sorted in each of them; a folder that is not there has none."""
    found = []
    for folder in folders:
        if folder.is_dir():
            found += sorted(it.parent for it in folder.glob(f"*/{MANIFEST}"))
    return found


def _figures(stages: Sequence[Any], part: str, measure: str) -> list[float]:
    return [
        float(it["figure"]) for it in stages if part in it["stage"] and it["measure"] == measure
    ]
