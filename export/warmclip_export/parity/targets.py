"""What a bundle can be computed with on this machine: providers and precisions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from warmclip.errors import ProviderUnavailable
from warmclip.inference.bundle import ModelBundle, Precision
from warmclip.inference.ort.loading import find_provider
from warmclip.inference.providers import PROVIDERS, Provider
from warmclip_export.parity.bounds import Bounds, find_bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One provider with one precision."""

    provider: Provider
    precision: Precision
    bounds: Bounds

    @property
    def is_served(self) -> bool:
        """Whether the runtime uses this precision on the provider, or only the suite does."""
        return self.precision == self.provider.precision

    def __str__(self) -> str:
        return f"{self.precision} on {self.provider.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """The targets to measure, and why the others are not measured."""

    present: tuple[Target, ...]
    absent: Mapping[str, str]  # name of a provider -> reason


def find_targets(bundle: ModelBundle, device: str) -> Targets:
    """Every provider of this onnxruntime with its precision; the CPU with all that it alone has.

    Args:
        bundle: whose precisions count.
        device: where the reference runs, which decides what is near enough.
    """
    graphs = bundle.manifest.graphs
    has = [precision for precision in graphs["image"] if precision in graphs["text"]]
    present: list[Target] = []
    absent: dict[str, str] = {}
    # The reference first: what is wrong there is wrong everywhere.
    for name in sorted(PROVIDERS, key=lambda name: not PROVIDERS[name].is_reference):
        try:
            provider = find_provider(name)
        except ProviderUnavailable as exc:
            absent[name] = str(exc)
            continue
        wanted = _measured(provider, has) if provider.is_reference else [provider.precision]
        for precision in wanted:
            if precision not in has:
                absent[name] = f"the bundle has no {precision} of both towers, which {name} needs"
            else:
                bounds = find_bounds(provider, precision, device)
                present.append(Target(provider=provider, precision=precision, bounds=bounds))
    return Targets(present=tuple(present), absent=absent)


def _measured(reference: Provider, has: Sequence[Precision]) -> list[Precision]:
    """What of the bundle runs on the reference: its own, and what no entry beside it serves."""
    beside = {
        provider.precision
        for provider in PROVIDERS.values()
        if provider.execution_provider == reference.execution_provider
    }
    return [it for it in has if it == reference.precision or it not in beside]
