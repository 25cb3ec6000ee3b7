"""The model bundle: a folder that describes itself.

The runtime knows no model by name. What a worker needs to know of a model, the shape of its
inputs, its preprocessing, its tokenizer, the digest of every file, stands in ``manifest.json``,
which the exporter writes last. ``docs/reference/bundle.md`` describes the format.
"""

import hashlib
import json
import math
import stat
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from warmclip.errors import BundleError
from warmclip.inference.external_files import external_files
from warmclip.settings import DecodeRule, ExifRule, absolute_path
from warmclip.shown import show_value

FORMAT = 2  # 1 had no tokenizers but open_clip's own, and no logits
MANIFEST = "manifest.json"

Tower = Literal["image", "text"]
Precision = Literal["fp32", "fp16", "int8"]
BY_REQUEST: tuple[Precision, ...] = ("int8",)  # what an export leaves out unless it is asked for
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# A plain name: nothing in a manifest leads out of its folder.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
# Bounds beyond any model's: a number that is none of a model would ask for all the memory.
Finite = Annotated[float, Field(allow_inf_nan=False)]
Deviation = Annotated[float, Field(gt=0, allow_inf_nan=False)]
TokenId = Annotated[int, Field(ge=-1, lt=2**31)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageRecipe(_Record):
    """How a picture becomes pixels: open_clip's evaluation transform, as data."""

    size_px: Annotated[int, Field(gt=0, le=4096)]
    resize_mode: Literal["shortest", "longest", "squash"]
    interpolation: Literal["bicubic", "bilinear"]
    fill: Annotated[int, Field(ge=0, le=255)] = 0
    mean: tuple[Finite, Finite, Finite]
    std: tuple[Deviation, Deviation, Deviation]
    # before_resize: as whoever hands ``Image.open(path).convert("RGB")`` to open_clip's transform
    rgb_conversion: Literal["after_crop", "before_resize"] = "after_crop"
    decode: DecodeRule = "full"  # scaled: large pictures by a shortcut that open_clip does not take
    exif: ExifRule = "ignore"
    # load: what is left of a picture that was cut off, as with Pillow's LOAD_TRUNCATED_IMAGES
    truncated: Literal["refuse", "load"] = "refuse"

    def identity(self) -> dict[str, Any]:
        """All that decides a vector, as JSON can carry it."""
        # The default is left out, so that bundles older than this field keep their fingerprint.
        return self.model_dump(mode="json", exclude={"truncated"}) | self.model_dump(
            mode="json", include={"truncated"}, exclude_defaults=True
        )


class FileRecord(_Record):
    """One file of the bundle, by name, digest and length in bytes."""

    file: FileName
    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0)]


class GraphRecord(FileRecord):
    """A tower's graph; its weights lie beside it where one file cannot hold them."""

    weights: FileRecord | None = None

    @property
    def digest(self) -> str:
        """Of all that is loaded: trials, and what is prepared of the graph, are kept under it."""
        if self.weights is None:
            return self.sha256
        return hashlib.sha256(f"{self.sha256} {self.weights.sha256}".encode()).hexdigest()

    @property
    def total_bytes(self) -> int:
        """With the weights, wherever they lie."""
        return self.size_bytes + (0 if self.weights is None else self.weights.size_bytes)

    @model_serializer(mode="wrap")
    def _without_nothing(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A runtime that knows no such field opens all bundles but those that need it.
        return {name: value for name, value in serialize(self).items() if value is not None}


class TokenizerRecipe(_Record):
    """How a text becomes token ids: cleaning in Python, the encoding from the file.

    With ``clip`` words are split in Python as well, and the file has the byte-pair encoding of one
    word. With ``huggingface`` the file does all but the cleaning, special tokens and padding too.
    """

    file: FileRecord
    vocabulary_sha256: Sha256  # over all that decides ids, whatever the file's layout
    kind: Literal["clip", "huggingface"] = "clip"
    cleaning: Literal["lower", "whitespace", "canonicalize"] = "lower"
    context_length: Annotated[int, Field(gt=1, le=2**16)]
    start_id: TokenId = -1  # clip's; -1 is no token
    end_id: TokenId = -1  # where a text is pooled at its end
    pool: Literal["end", "first", "last"] = "end"  # the token that a text's vector is taken from
    zeroed_id: TokenId | None = None  # of a token that the model does not see, but a 0


class Logits(_Record):
    """What the model was trained to make of a cosine: ``scale * cosine + bias``.

    A model with a bias was trained with a sigmoid over it, which is the probability of a match.
    """

    scale: Finite
    bias: Finite | None = None

    def probability(self, cosine: float) -> float | None:
        """Of a match of a text and a picture, from 0 to 1; None for a model without a sigmoid."""
        if self.bias is None:
            return None
        return (1 + math.tanh((self.scale * cosine + self.bias) / 2)) / 2  # never overflows


class Weights(_Record):
    """Where the numbers come from. Vectors of ``random`` weights carry no meaning."""

    source: Literal["tag", "file", "random"]
    name: str  # the tag, the file's name, or the seed
    sha256: Sha256 | None = None  # of the checkpoint file, where there is one


class Manifest(_Record):
    """What ``manifest.json`` holds. The fingerprint is derived from it, and checked."""

    format: int
    name: str
    architecture: dict[str, Any]  # open_clip's model config, without its activation flag
    activation: Literal["gelu", "quick_gelu"]
    weights: Weights
    tensors_sha256: Sha256  # over the fp32 tensors' own digests
    dim: Annotated[int, Field(gt=0, le=2**16)]
    image: ImageRecipe
    tokenizer: TokenizerRecipe
    logits: Logits | None = None  # of bundles since format 2; no vector depends on them
    opset: int
    graphs: dict[Tower, dict[Precision, GraphRecord]]
    golden: FileRecord
    certificate: FileRecord
    versions: dict[str, str]
    fingerprint: Sha256

    def image_with(self, exif: ExifRule, decode: DecodeRule) -> ImageRecipe:
        """How pictures become pixels where the settings say these two rules."""
        return self.image.model_copy(update={"exif": exif, "decode": decode})

    def derive_fingerprint(self, image: ImageRecipe | None = None) -> str:
        """The identity of the embedding space, 64 hexadecimal digits.

        It covers what decides a vector and nothing else: two exports of the same weights agree,
        and so does a bundle that gains a precision.

        Args:
            image: how pictures become pixels, if not as the manifest says.
        """
        identity = {
            "architecture": self.architecture,
            "activation": self.activation,
            "tensors": self.tensors_sha256,
            "tokenizer": self.tokenizer.model_dump(
                include={"vocabulary_sha256", "cleaning", "context_length", "start_id", "end_id"}
            )
            # Not there where they say what format 1 took for granted.
            | self.tokenizer.model_dump(
                include={"kind", "pool", "zeroed_id"}, exclude_defaults=True
            ),
            "image": (image or self.image).identity(),
        }
        canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()

    @property
    def is_random(self) -> bool:
        """Whether the weights are random numbers, so that vectors carry no meaning."""
        return self.weights.source == "random"

    @classmethod
    def parse(cls, text: str, where: Path) -> Self:
        """Read a manifest.

        Raises:
            BundleError: it is no JSON, of a newer format, or breaks the schema.
        """
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise BundleError(f"{where} is not valid JSON ({exc}); export the model again") from exc
        found = raw.get("format") if isinstance(raw, dict) else None
        if not isinstance(found, int) or found < 1:
            raise BundleError(f"{where} has no format number; it is not a warmclip manifest")
        if found > FORMAT:
            raise BundleError(
                f"{where} has format {found}, this warmclip reads up to {FORMAT}; upgrade warmclip"
            )
        try:
            manifest = cls.model_validate(raw)
        except ValidationError as exc:
            first = exc.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise BundleError(f"{where}: {field}: {first['msg']}; export the model again") from exc
        try:
            derived = manifest.derive_fingerprint()
        except (ValueError, RecursionError) as exc:  # NaN, which JSON has not, or too deep
            raise BundleError(f"{where}: architecture: {exc}; export the model again") from exc
        if derived != manifest.fingerprint:
            raise BundleError(
                f"{where} was edited: its fingerprint says {manifest.fingerprint[:12]}, "
                f"its contents {derived[:12]}; export the model again"
            )
        return manifest


class ModelBundle:
    """A folder under ``models/`` whose manifest was read and whose files are all there.

    What each file is and its length are checked on opening; its digest when it is first used, so
    that a worker does not hash the precisions that it will not load.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._verified: set[str] = set()

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open a bundle.

        Raises:
            BundleError: the folder, its manifest or one of its files is missing or wrong.
        """
        folder = Path(folder)
        where = folder / MANIFEST
        try:
            text = where.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError) as exc:
            hint = (
                "make one with `warmclip-export model` (`make export-model` in a checkout), or "
                "name one with WARMCLIP_BUNDLE or --bundle; `warmclip models` lists what is here"
            )
            here = absolute_path(folder)
            what = f"{here} holds no {MANIFEST}" if folder.is_dir() else f"no folder {here}"
            raise BundleError(f"{what}: there is no model there; {hint}") from exc
        except (OSError, UnicodeDecodeError) as exc:
            raise BundleError(f"cannot read {where}: {exc}") from exc
        bundle = cls(folder, Manifest.parse(text, where))
        for record in bundle.files():
            bundle._check_file(record)
        return bundle

    def files(self) -> list[FileRecord]:
        """Every file whose digest the manifest has."""
        manifest = self.manifest
        graphs = [record for tower in manifest.graphs.values() for record in tower.values()]
        weights = [record.weights for record in graphs if record.weights is not None]
        return [*graphs, *weights, manifest.tokenizer.file, manifest.golden, manifest.certificate]

    def graph(self, tower: Tower, precision: Precision) -> Path:
        """The verified graph file of one tower.

        Raises:
            BundleError: the bundle has no such precision, the file was altered, or it reads
                another one than that of its weights.
        """
        record = self.graph_record(tower, precision)
        if record.weights is not None:
            self._verify(record.weights)
        path = self._verify(record)
        try:
            named = external_files(path)
        except (ValueError, OSError) as exc:
            raise BundleError(f"{path} is no ONNX graph: {exc}; export the model again") from exc
        own = set() if record.weights is None else {record.weights.file}
        if strange := named - own:
            raise BundleError(
                f"{path} reads weights from {show_value(min(strange))}, which its manifest does "
                "not name; it was not opened: use this bundle no more, and export the model again"
            )
        return path

    def graph_record(self, tower: Tower, precision: Precision) -> GraphRecord:
        """What the manifest says of one tower's graph, which is not read.

        Raises:
            BundleError: the bundle has no such precision.
        """
        lack = self.lacks(tower, precision)
        if lack is not None:
            raise BundleError(lack)
        return self.manifest.graphs[tower][precision]

    def lacks(self, tower: Tower, precision: Precision) -> str | None:
        """Why there is no such graph, and how to get one; None if there is."""
        of_tower = self.manifest.graphs.get(tower, {})
        if precision in of_tower:
            return None
        has = ", ".join(sorted(of_tower)) or "none"
        lack = f"{self.folder} has no {tower} graph in {precision}; it has: {has}"
        if precision not in BY_REQUEST:
            return lack
        make = f"make export-model PRECISION={precision} EXPORT_FLAGS=--force"
        return f"{lack}. To have one, export again with `{make}`: collections stay as they are"

    def tokenizer(self) -> Path:
        """The verified ``tokenizer.json``."""
        return self._verify(self.manifest.tokenizer.file)

    def golden(self) -> Path:
        """The verified ``golden.npz``."""
        return self._verify(self.manifest.golden)

    def certificate(self) -> Path:
        """The verified ``certificate.json``."""
        return self._verify(self.manifest.certificate)

    def verify(self) -> None:
        """Check the digest of every file.

        Raises:
            BundleError: naming the first file that is not what the manifest says.
        """
        for record in self.files():
            self._verify(record)

    def _check_file(self, record: FileRecord) -> None:
        path = self.folder / record.file
        try:
            found = path.lstat()
        except FileNotFoundError as exc:
            raise BundleError(f"{path} is missing; export the model again") from exc
        except OSError as exc:
            raise BundleError(f"cannot read {path}: {exc}") from exc
        if not stat.S_ISREG(found.st_mode):  # a link may lead anywhere, and be turned later
            raise BundleError(
                f"{path} is a link, or no file; a bundle holds its files itself: copy them there, "
                "or export the model again"
            )
        if found.st_size != record.size_bytes:
            raise BundleError(
                f"{path} has {found.st_size} bytes, the manifest says {record.size_bytes}; "
                "it was cut short or altered: export the model again"
            )

    def _verify(self, record: FileRecord) -> Path:
        path = self.folder / record.file
        if record.file in self._verified:
            return path
        self._check_file(record)  # again: it may have changed since the bundle was opened
        try:
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as exc:
            raise BundleError(f"cannot read {path}: {exc}") from exc
        if found != record.sha256:
            raise BundleError(
                f"{path} was altered: sha256 {found[:12]}, the manifest says {record.sha256[:12]}; "
                "export the model again"
            )
        self._verified.add(record.file)
        return path
