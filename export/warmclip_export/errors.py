"""What the exporter raises on purpose; a command shows it as one paragraph.

WarmclipError
├── ExportRefused        a model, a checkpoint or a target that cannot become a bundle
├── WeightsUnavailable   the weights of a tag are neither in the cache nor to be downloaded
└── ParityFailed         the exported model does not compute what open_clip computes
"""

from warmclip.errors import WarmclipError


class ExportRefused(WarmclipError):
    """The model, the checkpoint or the target folder cannot become a bundle, with the reason."""


class WeightsUnavailable(WarmclipError):
    """The weights of a tag are not in the cache and could not be downloaded."""

    exit_code = 3
    may_pass = True


class ParityFailed(WarmclipError):
    """A stage of the gate differs from open_clip by more than its threshold."""
