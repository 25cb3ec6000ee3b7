"""Settings: one frozen value, made once from the environment by whoever starts a process.

Nothing here is read at import, and no other module reads the environment.
"""

import difflib
import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args
from urllib.parse import urlsplit

from warmclip.errors import SettingsError
from warmclip.shown import show_value

ExifRule = Literal["ignore", "transpose"]
DecodeRule = Literal["full", "scaled"]

D = TypeVar("D")

log = logging.getLogger(__name__)

_MODELS = "models"
_BUNDLE = "ViT-B-32-openai"
_QDRANT_PORT = 6333
_COLLECTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_SECRET_FILE_BYTES = 8192
_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:([A-Za-z_]\w*|\*)", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """A folder that pictures may come from, and the name that hosts agree on."""

    name: str  # empty: point ids are made of the whole path
    folder: Path


def _limit(default: int, variable: str, *, low: int = 1, high: int = 2**40) -> Any:
    return field(default=default, metadata={"variable": variable, "low": low, "high": high})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what is accepted. Each refusal names the bound and its variable."""

    image_pixels: int = _limit(210_000_000, "WARMCLIP_MAX_IMAGE_PIXELS")  # before decoding
    image_bytes: int = _limit(256 * 1024 * 1024, "WARMCLIP_MAX_IMAGE_BYTES")
    resized_side_px: int = _limit(16_384, "WARMCLIP_MAX_RESIZED_SIDE")  # a panorama's long side
    text_chars: int = _limit(100_000, "WARMCLIP_MAX_TEXT_CHARS")
    job_items: int = _limit(1_024, "WARMCLIP_MAX_JOB_ITEMS")  # paths or texts in one job
    read_s: int = _limit(60, "WARMCLIP_READ_SECONDS")  # for one file to arrive from its disk
    # 1: files that are only in iCloud or another cloud are downloaded as they are read
    cloud_files: int = _limit(0, "WARMCLIP_CLOUD_FILES", low=0, high=1)


def default_home() -> Path:
    """Where warmclip keeps its state, unless told otherwise.

    Raises:
        SettingsError: this user has no home folder, as in some containers.
    """
    try:
        return Path("~/.warmclip").expanduser()
    except RuntimeError as exc:
        raise SettingsError(
            "this user has no home folder, and HOME is not set: say where to keep what warmclip "
            "keeps with WARMCLIP_HOME"
        ) from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that warmclip reads from its environment."""

    # WARMCLIP_HOME: embedded store, private Redis, what was found of providers
    home: Path = field(default_factory=default_home)
    bundle: Path  # WARMCLIP_BUNDLE: the model folder
    collection: str = "images"  # WARMCLIP_COLLECTION
    redis_url: str | None = field(default=None, repr=False)  # REDIS_URL; none: the private Redis
    qdrant_url: str | None = field(
        default=None, repr=False
    )  # QDRANT_URL, with its port; none: embedded
    qdrant_api_key: str | None = field(default=None, repr=False)  # QDRANT_API_KEY
    qdrant_collection: str = ""  # WARMCLIP_QDRANT_COLLECTION: JSON, how a server's are made
    roots: tuple[Root, ...] = ()  # WARMCLIP_ROOTS: [name=]/folder, more after a ":"
    provider: str = "auto"  # WARMCLIP_PROVIDER: a name of the providers table
    trial_s: int = 300  # WARMCLIP_TRIAL_SECONDS: for the trial of one provider on one tower
    canary_every: int = 64  # WARMCLIP_CANARY_EVERY: batches between golden rows; 0: none
    exif: ExifRule = "ignore"  # WARMCLIP_EXIF: part of the fingerprint
    decode: DecodeRule = "full"  # WARMCLIP_DECODE: part of the fingerprint
    batch_size: int = 32  # WARMCLIP_BATCH_SIZE: images in one run of the model
    threads: int = 0  # WARMCLIP_THREADS: of one session; 0: as many as there are usable cores
    jobs: tuple[str, ...] = ()  # WARMCLIP_JOBS; a module with ``:*`` lists all its functions
    hang_s: int = 30  # WARMCLIP_HANG_SECONDS: without a sign of life, a worker's horse is killed
    max_crashes: int = 2  # WARMCLIP_MAX_CRASHES: in a row, before a provider is quarantined
    token: str | None = field(default=None, repr=False)  # WARMCLIP_TOKEN: of `warmclip serve`
    limits: Limits = field(default_factory=Limits)

    @property
    def embedded_store(self) -> Path:
        """The folder of the embedded store."""
        return self.home / "qdrant"

    @property
    def bundle_folders(self) -> list[Path]:
        """Where bundles are looked for: beside the bundle, then as ``model_folders`` says."""
        folders = (self.bundle.parent, *model_folders(self.home))
        return list({absolute_path(folder): folder for folder in folders}.values())

    @property
    def missing_roots(self) -> list[Path]:
        """The folders of roots that do not exist now."""
        return [root.folder for root in self.roots if not root.folder.is_dir()]

    def warn_of_missing_roots(self) -> None:
        """Log the folders of roots that do not exist now."""
        for folder in self.missing_roots:
            log.warning("the root %s of WARMCLIP_ROOTS is not there; is it mounted?", folder)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Build settings from environment variables; a variable set to "" counts as unset.

        Raises:
            SettingsError: naming the variable, its value and what it may be.
        """
        _check_encoding_of_names(sys.getfilesystemencoding())
        env = _Environment({name: value for name, value in environ.items() if value})
        for variable in ("REDIS_URL", "QDRANT_URL", "QDRANT_API_KEY", "WARMCLIP_TOKEN"):
            env.read_file_of(variable)
        home = home_folder(env)
        default = cls(home=home, bundle=default_bundle(home))
        limits = {
            item.name: _count(
                env,
                item.metadata["variable"],
                getattr(default.limits, item.name),
                low=item.metadata["low"],
                high=item.metadata["high"],
            )
            for item in fields(Limits)
        }
        settings = cls(
            home=home,
            bundle=_path(env, "WARMCLIP_BUNDLE", default.bundle),
            collection=check_collection(env.get("WARMCLIP_COLLECTION", default.collection)),
            redis_url=_url(env, "REDIS_URL", ("redis", "rediss", "unix")),
            qdrant_url=_qdrant_url(env),
            qdrant_api_key=_secret(env, "QDRANT_API_KEY"),
            qdrant_collection=env.get("WARMCLIP_QDRANT_COLLECTION", ""),
            roots=_roots(env.get("WARMCLIP_ROOTS", "")),
            provider=env.get("WARMCLIP_PROVIDER", default.provider),
            trial_s=_count(env, "WARMCLIP_TRIAL_SECONDS", default.trial_s, high=24 * 3600),
            canary_every=_count(env, "WARMCLIP_CANARY_EVERY", default.canary_every, low=0),
            exif=_choice(env, "WARMCLIP_EXIF", get_args(ExifRule)),
            decode=_choice(env, "WARMCLIP_DECODE", get_args(DecodeRule)),
            batch_size=_count(env, "WARMCLIP_BATCH_SIZE", default.batch_size, high=4096),
            threads=_count(env, "WARMCLIP_THREADS", default.threads, low=0, high=1024),
            jobs=_functions(env.get("WARMCLIP_JOBS", "")),
            hang_s=_count(env, "WARMCLIP_HANG_SECONDS", default.hang_s, low=5, high=86_400),
            max_crashes=_count(env, "WARMCLIP_MAX_CRASHES", default.max_crashes, high=1000),
            token=_secret(env, "WARMCLIP_TOKEN"),
            limits=Limits(**limits),
        )
        env.warn_of_unknown()
        return settings

    def to_json(self) -> str:
        """All settings, secrets included, in one line: for a pipe to a child, never for a log."""
        return json.dumps(asdict(self), default=os.fspath)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of ``to_json``."""
        raw = json.loads(text)
        roots = (Root(name=root["name"], folder=Path(root["folder"])) for root in raw["roots"])
        parts = {
            "home": Path(raw["home"]),
            "bundle": Path(raw["bundle"]),
            "roots": tuple(roots),
            "jobs": tuple(raw["jobs"]),
            "limits": Limits(**raw["limits"]),
        }
        return cls(**raw | parts)


def _check_encoding_of_names(encoding: str) -> None:
    """Refuse to run where names of files are read otherwise than as they are stored.

    Raises:
        SettingsError: naming the encoding.
    """
    if encoding != "utf-8":  # one file would have two paths, and `--prune` take it for gone
        raise SettingsError(
            f"names of files are read as {encoding} here, by the locale, and are stored as UTF-8: "
            "set PYTHONUTF8=1, or a locale of UTF-8 such as LC_ALL=C.UTF-8"
        )


def home_folder(environ: Mapping[str, str]) -> Path:
    """The folder of everything that warmclip keeps for this user, absolute; it need not exist.

    Raises:
        SettingsError: nobody has said where, and this user has no home folder.
    """
    named = _path(environ, "WARMCLIP_HOME", None)
    return absolute_path(default_home() if named is None else named)


def absolute_path(path: Path) -> Path:
    """The absolute path; where the current folder was deleted, a relative one leads nowhere."""
    try:
        return path.absolute()
    except FileNotFoundError:
        return path


def model_folders(home: Path) -> list[Path]:
    """Where bundles are looked for: the current folder's ``models``, then the home's."""
    return [Path(_MODELS), home / _MODELS]


def export_folder(environ: Mapping[str, str]) -> Path:
    """Where an export puts bundles: the current folder's ``models`` if it is there, else home's."""
    here, at_home = model_folders(home_folder(environ))
    return here if here.is_dir() else at_home


def default_bundle(home: Path) -> Path:
    """The bundle that is used where none is named: the first that is there."""
    places = [folder / _BUNDLE for folder in model_folders(home)]
    return next((place for place in places if place.is_dir()), places[0])


class _Environment(dict[str, str]):
    """Variables, and which of them were read."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        super().__init__(variables)
        self._read: set[str] = set()

    def __contains__(self, name: object) -> bool:
        self._read.add(str(name))
        return super().__contains__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._read.add(name)
        return super().get(name, default)

    def read_file_of(self, variable: str) -> None:
        """Set a variable to what the file says that ``<variable>_FILE`` names.

        Raises:
            SettingsError: both are set, or the file cannot be read, is empty or is too large.
        """
        by_file = f"{variable}_FILE"
        name = self.get(by_file)
        if name is None:
            return
        if variable in self:
            raise SettingsError(f"{variable} and {by_file} are both set; unset one of them")
        self[variable] = _read_secret_file(by_file, _expanded(by_file, name))

    def warn_of_unknown(self) -> None:
        """Log each WARMCLIP_ variable that is no setting: a misspelt one would do nothing."""
        for name in sorted(self.keys() - self._read):
            if name.startswith("WARMCLIP_"):
                near = difflib.get_close_matches(name, self._read, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                log.warning("%s is no setting of this warmclip%s", name, hint)


@contextmanager
def _reading(told: str) -> Iterator[None]:
    """Say of a file, as the user named it, that it cannot be read; its content is not shown."""
    try:
        yield
    except OSError as exc:
        raise SettingsError(f"{told} cannot be read: {exc.strerror}") from exc
    except ValueError:  # the error holds the bytes, which may be a secret
        raise SettingsError(f"{told} is not UTF-8 text") from None


def _read_secret_file(variable: str, file: Path) -> str:
    """The text of a small file, without the line end that editors leave; never quoted in errors."""
    told = f"{variable}={file}"
    with _reading(told):
        if not file.is_file():  # a pipe could block for ever
            raise SettingsError(f"{told}: there is no such file")
        with file.open("rb") as opened:
            content = opened.read(_SECRET_FILE_BYTES + 1)
        if len(content) > _SECRET_FILE_BYTES:
            raise SettingsError(f"{told} has more than {_SECRET_FILE_BYTES} bytes")
        text = content.decode("utf-8").rstrip("\r\n")
    if not text.strip():
        raise SettingsError(f"{told} is empty")
    return text


def check_collection(name: Any) -> str:
    """Return a name that a collection can have.

    Raises:
        SettingsError: it is no text, empty, too long, or has characters that a store may not take.
    """
    # A job may bring anything in its place.
    if not isinstance(name, str) or not _COLLECTION.fullmatch(name) or "__" in name:
        raise SettingsError(
            f"collection {show_value(name)} (WARMCLIP_COLLECTION): "
            "use up to 100 letters, digits, '.', '-' and single '_'"
        )
    return name


def read_env_file(file: Path) -> dict[str, str]:
    """Read variables from a file, as pydantic-settings does: names in capitals or not.

    Args:
        file: such as ``.env``. A value may name other variables, as ``${HOME}/photos``.

    Raises:
        SettingsError: it cannot be read.
    """
    from dotenv import dotenv_values  # only who asks for it needs it

    with _reading(f"--env-file {file}"):
        text = file.read_text(encoding="utf-8-sig")
    values = dotenv_values(stream=io.StringIO(text))
    return {name.upper(): value for name, value in values.items() if value is not None}


def with_qdrant_port(url: str) -> str:
    """The address with the port that is dialled.

    One that names none is https, port 443; or has a path, as behind a proxy, port 80; or is
    Qdrant's own port.
    """
    parts = urlsplit(url)
    if parts.port is not None:
        return url
    default = 80 if parts.path.strip("/") else _QDRANT_PORT
    port = 443 if parts.scheme == "https" else default
    return parts._replace(netloc=f"{parts.netloc.rstrip(':')}:{port}").geturl()


def without_password(url: str) -> str:
    """An address without user, password and query, as it may be shown.

    A password that should have been percent-encoded is removed as well: everything up to the
    last "@" goes, wherever a parser would see the address end.
    """
    scheme, separator, rest = url.partition("://")
    _, at, address = rest.rpartition("@")
    return scheme + separator + ("***@" if at else "") + re.split(r"[?#]", address)[0]


def _url(env: Mapping[str, str], variable: str, schemes: tuple[str, ...]) -> str | None:
    url = env.get(variable)
    if url is None:
        return None
    # The value may hold a password: say what is wrong without repeating it.
    allowed = ", ".join(f"{scheme}://" for scheme in schemes)
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for what is no number
    except ValueError:
        raise SettingsError(f"{variable} is not a URL; it starts with one of {allowed}") from None
    if parts.scheme not in schemes:
        raise SettingsError(f"{variable} does not start with one of {allowed}")
    if parts.scheme != "unix" and "@" in parts.path + parts.query + parts.fragment:
        raise SettingsError(
            f"{variable} has an '@' after its address: a password with '/', '?' or '#' in it "
            "must be percent-encoded"
        )
    return url


def _qdrant_url(env: Mapping[str, str]) -> str | None:
    url = _url(env, "QDRANT_URL", ("http", "https"))
    if url is None:
        return None
    if not urlsplit(url).hostname:
        raise SettingsError(f"QDRANT_URL={without_password(url)} names no host")
    return with_qdrant_port(url)


def _secret(env: Mapping[str, str], variable: str) -> str | None:
    secret = env.get(variable, "").strip()
    if not (secret.isascii() and secret.isprintable()):
        raise SettingsError(f"{variable} has characters that no HTTP header can carry")
    return secret or None


def _path(env: Mapping[str, str], variable: str, default: D) -> Path | D:
    return _expanded(variable, env[variable]) if variable in env else default


def _expanded(variable: str, path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as exc:
        raise SettingsError(f"{variable}={path!r}: there is no such home folder") from exc


def _choice(env: Mapping[str, str], variable: str, allowed: tuple[str, ...]) -> Any:
    value = env.get(variable, allowed[0])
    if value not in allowed:
        raise SettingsError(f"{variable}={value!r}: use one of {', '.join(allowed)}")
    return value


def _count(
    env: Mapping[str, str], variable: str, default: int, *, low: int = 1, high: int = 2**40
) -> int:
    text = env.get(variable)
    if text is None:
        return default
    try:
        number = int(text)
    except ValueError:
        number = low - 1
    if not low <= number <= high:
        raise SettingsError(f"{variable}={text!r}: use a whole number from {low} to {high}")
    return number


def _roots(text: str) -> tuple[Root, ...]:
    roots = []
    for part in filter(None, text.split(os.pathsep)):
        name, equals, folder = part.partition("=")
        if not equals:
            name, folder = "", part
        if equals and not _COLLECTION.fullmatch(name):
            raise SettingsError(f"WARMCLIP_ROOTS: root name {name!r} is not letters and digits")
        if not Path(folder).is_absolute():
            raise SettingsError(f"WARMCLIP_ROOTS: {folder!r} is not an absolute path")
        roots.append(Root(name=name, folder=Path(folder)))
    if text and not roots:  # no roots would allow what was to be bounded
        raise SettingsError(f"WARMCLIP_ROOTS={text!r} names no folder; unset it to have no roots")
    named = [root.name for root in roots if root.name]
    if len(named) != len(set(named)):
        raise SettingsError(f"WARMCLIP_ROOTS: a root name stands twice in {named}")
    return tuple(roots)


def _functions(text: str) -> tuple[str, ...]:
    """Read ``module:function,...``; RQ's jobs name each as ``module.function``."""
    names = [part.strip() for part in text.split(",") if part.strip()]
    for name in names:
        if not _FUNCTION.fullmatch(name):
            raise SettingsError(
                f"WARMCLIP_JOBS: {name!r} is not module:function, such as myapp.training:train, or "
                "myapp.training:* for all that the module defines"
            )
    return tuple(name.replace(":", ".") for name in names)
