"""How a server's collections are made: said once, as JSON in Qdrant's own words."""

import json
from dataclasses import dataclass, field
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError
from qdrant_client import models

from warmclip.errors import SettingsError

VARIABLE = "WARMCLIP_QDRANT_COLLECTION"

_COUNT = TypeAdapter(int)
_KINDS: dict[str, TypeAdapter[Any]] = {
    "shard_number": _COUNT,
    "replication_factor": _COUNT,
    "write_consistency_factor": _COUNT,
    "on_disk_payload": TypeAdapter(bool),
    "hnsw_config": TypeAdapter(models.HnswConfigDiff),
    "optimizers_config": TypeAdapter(models.OptimizersConfigDiff),
    "quantization_config": TypeAdapter(models.QuantizationConfig),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionOptions:
    """What a server is told when a collection is made; what is not named is as it decides.

    A collection that is there stays as it is: Qdrant's own API changes it.
    """

    on_disk: bool | None = None  # the vectors
    values: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the setting, such as ``{"replication_factor": 2, "on_disk": true}``.

        Raises:
            SettingsError: it is no JSON, or has a value or a name that Qdrant does not know.
        """
        if not text:
            return cls()
        try:
            raw = dict(json.loads(text))
        except (ValueError, TypeError) as exc:
            raise SettingsError(
                f"{VARIABLE} is no JSON object, such as "
                '{"replication_factor": 2, "on_disk": true}'
            ) from exc
        unknown = sorted(raw.keys() - _KINDS.keys() - {"on_disk"})
        if unknown:
            allowed = ", ".join(sorted([*_KINDS, "on_disk"]))
            raise SettingsError(f"{VARIABLE}: {unknown[0]!r} is none of {allowed}")
        on_disk = raw.pop("on_disk", None)
        values = {name: _value(name, value) for name, value in raw.items()}
        return cls(on_disk=None if on_disk is None else bool(on_disk), values=values)

    def arguments(self) -> dict[str, Any]:
        """What the client is told besides the vectors."""
        return dict(self.values)

    def search_params(self) -> models.SearchParams | None:
        """How collections that are made so are searched: quantized hits are scored again."""
        if "quantization_config" not in self.values:
            return None
        return models.SearchParams(quantization=models.QuantizationSearchParams(rescore=True))


def _value(name: str, value: Any) -> Any:
    try:
        return _KINDS[name].validate_python(value, strict=isinstance(value, int | float | str))
    except ValidationError as exc:
        reason = exc.errors()[0]
        where = ".".join(map(str, (name, *reason["loc"])))
        raise SettingsError(f"{VARIABLE}: {where}: {reason['msg']}") from exc
