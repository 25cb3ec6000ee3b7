"""What the parity suite measures on a machine that has the CPU alone."""

from dataclasses import replace

from warmclip.inference.bundle import ModelBundle
from warmclip.inference.providers import CPU
from warmclip_export.parity.targets import Targets, find_targets


def find_cpu_targets(bundle: ModelBundle) -> Targets:
    """The bundle's targets on the CPU: on a Mac, CoreML would be measured as well."""
    targets = find_targets(bundle, "cpu")
    present = tuple(
        target
        for target in targets.present
        if target.provider.execution_provider == CPU.execution_provider
    )
    return replace(targets, present=present)
