"""Where a model's numbers come from: a tag of open_clip, a file, or a seed."""

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from warmclip_export.errors import ExportRefused, WeightsUnavailable

CHECKPOINTS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
_RANDOM = "random:"
_MAX_SEED = 2**32 - 1
_PROBE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsSource:
    """Where the numbers come from: a tag of open_clip, a file, or a seed."""

    kind: Literal["tag", "file", "random"]
    name: str  # the tag, the file's name, or the seed
    path: Path | None = None  # of a file
    tag: Mapping[str, Any] = field(default_factory=dict)  # open_clip's record of a tag


def find_weights(model: str, pretrained: str) -> WeightsSource:
    """Tell a tag from a file and a seed; nothing is downloaded or read yet.

    Raises:
        ExportRefused: it is none of the three.
    """
    if pretrained.startswith(_RANDOM):
        seed = pretrained.removeprefix(_RANDOM)
        if not (seed.isascii() and seed.isdigit() and int(seed) <= _MAX_SEED):
            raise ExportRefused(f"{pretrained!r}: the seed is a whole number up to {_MAX_SEED}")
        return WeightsSource(kind="random", name=str(int(seed)))
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    tag = get_pretrained_cfg(model, pretrained)
    if tag:
        return WeightsSource(kind="tag", name=_tag_name(pretrained), tag=tag)
    path = _expanded(pretrained)
    if not path.is_file():
        tags = list_pretrained_tags_by_model(model)
        raise ExportRefused(explain_missing(pretrained, model, tags))
    if path.suffix.lower() not in CHECKPOINTS:
        raise ExportRefused(
            f"{path} is no checkpoint: its name ends in none of {', '.join(CHECKPOINTS)}"
        )
    return WeightsSource(kind="file", name=path.name, path=path)


def _expanded(path: str) -> Path:
    """A path with its ``~`` replaced by the folder that is meant; as it is, if there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def is_path(name: str) -> bool:
    """Whether a name can only be meant as the path of a file or a folder."""
    return (
        name.startswith(("/", "./", "../", "~"))
        or Path(name).suffix.lower() in CHECKPOINTS
        or Path(name).exists()
    )


def explain_missing(pretrained: str, model: str, tags: Sequence[str]) -> str:
    """Why something is neither a file nor a tag, and what may have been meant."""
    if is_path(pretrained):
        there = _expanded(pretrained).absolute()
        what = f"{there} is a folder: name the file" if there.is_dir() else f"no file {there}"
        return f"--pretrained {pretrained}: {what}"
    if not tags:
        known = "open_clip has no weights for it"
    else:
        near = get_close_matches(_tag_name(pretrained), tags, 1)
        known = f"did you mean {near[0]!r}? " if near else ""
        known += f"Its tags: {', '.join(tags)}"
    return f"{pretrained!r} is no tag of {model}, no file and not random:SEED; {known}"


def _tag_name(pretrained: str) -> str:
    """A tag's own spelling, which open_clip reads in any case and with hyphens too."""
    return pretrained.lower().replace("-", "_")


def fetch_checkpoint(weights: WeightsSource, *, file_options: str) -> Path | None:
    """The checkpoint file, downloaded by open_clip if it is a tag's; none for random weights.

    Args:
        weights: where the numbers come from.
        file_options: the options that name a file instead, for the message of an error.

    Raises:
        WeightsUnavailable: the tag's file is not in the cache and could not be downloaded.
    """
    if weights.kind != "tag":
        return weights.path
    from huggingface_hub.constants import ENDPOINT
    from open_clip.pretrained import download_pretrained

    cached = _cached(weights.tag)
    if cached:
        return cached
    address = ENDPOINT if weights.tag.get("hf_hub") else str(weights.tag.get("url"))
    try:
        _probe(address)
        return Path(download_pretrained(dict(weights.tag)))
    except (OSError, RuntimeError, ValueError) as exc:  # its two downloaders raise all of these
        raise WeightsUnavailable(
            f"the weights {weights.name!r} are not in the cache and could not be downloaded from "
            f"{urlsplit(address).netloc} ({first_line(exc)}). Three ways on: run this where there "
            "is a network, or copy the cache of such a machine (~/.cache/huggingface, "
            f"~/.cache/clip); name a checkpoint of them that you have, with {file_options} "
            "(or .pt, .ckpt, .bin); or use --pretrained random:0 to try the machinery with "
            "weights that mean nothing"
        ) from exc


def _cached(tag: Mapping[str, Any]) -> Path | None:
    """Where an earlier download lies, found without asking the network."""
    from huggingface_hub import try_to_load_from_cache
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    if not tag.get("hf_hub"):
        path = Path("~/.cache/clip").expanduser() / Path(urlsplit(str(tag.get("url"))).path).name
        return path if path.is_file() else None
    repository, _, name = str(tag["hf_hub"]).rpartition("/")
    names = (f"{Path(name).stem}.safetensors", name) if name else ()
    for each in names or (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME):
        found = try_to_load_from_cache(repository, each)
        if isinstance(found, str):
            return Path(found)
    return None


def _probe(address: str) -> None:
    """Fail within seconds where there is no network; the downloader tries for a minute.

    Raises:
        OSError: no answer.
    """
    request = Request(address, method="HEAD")  # noqa: S310  # open_clip's own https addresses
    try:
        with urlopen(request, timeout=_PROBE_TIMEOUT_S):  # noqa: S310  # as above
            pass
    except HTTPError:
        pass  # an answer, if only a refusal: the download itself will say more
    except URLError as exc:
        # Somebody answered. A Python may lack the certificates that the downloader brings along.
        if not isinstance(exc.reason, ssl.SSLError):
            raise


def first_line(exc: BaseException) -> str:
    """What an error says, without what follows its first line."""
    if isinstance(exc, URLError):
        return str(exc.reason)
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
