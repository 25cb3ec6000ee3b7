import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from warmclip.errors import BundleError
from warmclip.indexing.probability import with_probability
from warmclip.indexing.query import Query, Term
from warmclip.inference.bundle import FileRecord, GraphRecord, Logits, ModelBundle
from warmclip.store.protocol import Hit, Payload


@pytest.fixture
def bundle(demo_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the demo bundle that a test may spoil."""
    return Path(shutil.copytree(demo_bundle, tmp_path / "bundle"))


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest as somebody with an editor would."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_whole_bundle(bundle: Path) -> None:
    """The committed bundle opens, and every digest is right."""
    opened = ModelBundle.open(bundle)
    opened.verify()
    assert opened.manifest.derive_fingerprint() == opened.manifest.fingerprint


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    """The error says how to get a model."""
    with pytest.raises(BundleError, match="make export-model"):
        ModelBundle.open(tmp_path / "none")


@pytest.mark.parametrize("name", ["image.fp32.onnx", "tokenizer.json", "golden.npz"])
def test_missing_file(bundle: Path, name: str) -> None:
    """A bundle without one of its files does not open."""
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=rf"{name} is missing"):
        ModelBundle.open(bundle)


def test_truncated_file(bundle: Path) -> None:
    """A file that was cut short is noticed on opening."""
    graph = bundle / "text.fp32.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(BundleError, match="cut short or altered"):
        ModelBundle.open(bundle)


def test_altered_file(bundle: Path) -> None:
    """One changed byte is noticed before the file is used."""
    graph = bundle / "image.fp32.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    opened = ModelBundle.open(bundle)
    with pytest.raises(BundleError, match=r"image\.fp32\.onnx was altered"):
        opened.graph("image", "fp32")


def test_newer_format(bundle: Path) -> None:
    """A manifest from the future says to upgrade, whatever else it holds."""
    (bundle / "manifest.json").write_text('{"format": 99, "shape": "unknown"}')
    with pytest.raises(BundleError, match="upgrade warmclip"):
        ModelBundle.open(bundle)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"format": "1"}', '{"format": 1}', "[" * 200_000],
    ids=["empty", "cut", "list", "null", "text", "bare", "deep"],
)
def test_manifest_that_is_none(bundle: Path, text: str) -> None:
    """Whatever stands in the file, the answer is a BundleError that names it."""
    (bundle / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        ModelBundle.open(bundle)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("architecture.x", float("nan")),
        ("image.mean", [float("nan"), 0.5, 0.5]),
        ("image.std", [0.0, 0.5, 0.5]),
        ("image.size_px", 10**9),
        ("image.fill", 10**30),
        ("tokenizer.context_length", 10**12),
        ("tokenizer.start_id", 10**12),
        ("logits.scale", float("inf")),
        ("dim", 10**12),
    ],
)
def test_numbers_of_no_model(bundle: Path, where: str, value: Any) -> None:
    """They are refused by name, before a vector or a buffer is made of them."""
    *above, field = where.split(".")

    def put(manifest: dict[str, Any]) -> None:
        for name in above:
            manifest = manifest[name]
        manifest[field] = value

    edit(bundle, put)
    with pytest.raises(BundleError, match=rf"manifest\.json: {where.partition('.x')[0]}.*again"):
        ModelBundle.open(bundle)


def test_edited_preprocessing(bundle: Path) -> None:
    """The fingerprint covers what decides a vector, so an edited mean is refused."""
    edit(bundle, lambda manifest: manifest["image"].update(mean=[0.5, 0.5, 0.5]))
    with pytest.raises(BundleError, match="was edited"):
        ModelBundle.open(bundle)


def test_file_name_that_leads_out(bundle: Path) -> None:
    """A manifest cannot name a file outside its folder."""
    edit(bundle, lambda manifest: manifest["golden"].update(file="../golden.npz"))
    with pytest.raises(BundleError, match=r"golden\.file"):
        ModelBundle.open(bundle)


def weights_apart(bundle: Path, name: str = "image.fp32.onnx.weights") -> Path:
    """Have the manifest say that a graph's weights lie in a second file; returns that file."""
    weights = bundle / "image.fp32.onnx.weights"
    weights.write_bytes(b"numbers")
    record = {"file": name, "sha256": hashlib.sha256(b"numbers").hexdigest(), "size_bytes": 7}
    edit(bundle, lambda manifest: manifest["graphs"]["image"]["fp32"].update(weights=record))
    return weights


@pytest.mark.parametrize("name", ["../weights", "/etc/hostname", "sub/weights", "..", ".weights"])
def test_weights_elsewhere(bundle: Path, name: str) -> None:
    """Nor can it name a file of weights outside: the record is refused, and none is looked for."""
    weights_apart(bundle, name)
    with pytest.raises(BundleError, match=r"graphs\.image\.fp32\.weights\.file"):
        ModelBundle.open(bundle)


def test_weights_that_were_cut_short(bundle: Path) -> None:
    """The second file is as much part of the bundle as the first."""
    weights = weights_apart(bundle)
    opened = ModelBundle.open(bundle)
    weights.write_bytes(b"number")
    for look in (lambda: ModelBundle.open(bundle), lambda: opened.graph("image", "fp32")):
        with pytest.raises(BundleError, match=r"onnx\.weights has 6 bytes.*cut short"):
            look()


@pytest.mark.parametrize("name", ["image.fp32.onnx", "image.fp32.onnx.weights", "golden.npz"])
def test_file_that_is_a_link(bundle: Path, name: str) -> None:
    """It is not followed, on opening or when it was put there later; its content is the same."""
    weights_apart(bundle)
    opened = ModelBundle.open(bundle)
    outside = bundle.parent / "outside"
    (bundle / name).rename(outside)
    (bundle / name).symlink_to(outside)
    for look in (lambda: ModelBundle.open(bundle), opened.verify):
        with pytest.raises(BundleError, match=rf"{name} is a link"):
            look()


def test_record_of_a_graph_with_weights_beside_it() -> None:
    """Its key and its size are those of both files; one without them is written as ever."""
    plain = GraphRecord(file="a.onnx", sha256="0" * 64, size_bytes=5)
    one, other = (
        plain.model_copy(update={"weights": FileRecord(file="w", sha256=digit * 64, size_bytes=7)})
        for digit in "12"
    )
    assert len({plain.digest, one.digest, other.digest}) == 3
    assert (plain.digest, plain.total_bytes, one.total_bytes) == (plain.sha256, 5, 12)
    assert set(plain.model_dump()) == {"file", "sha256", "size_bytes"}
    assert GraphRecord.model_validate_json(one.model_dump_json()) == one


def test_exif_rule_is_part_of_the_identity(bundle: Path) -> None:
    """Turning pictures by their EXIF tag makes another embedding space."""
    manifest = ModelBundle.open(bundle).manifest
    assert manifest.derive_fingerprint(manifest.image) == manifest.fingerprint
    turned = manifest.image.model_copy(update={"exif": "transpose"})
    assert manifest.derive_fingerprint(turned) != manifest.fingerprint


def test_decode_rule_is_part_of_the_identity(bundle: Path) -> None:
    """Vectors of scaled pictures are another space; a manifest of full ones is what it was."""
    manifest = ModelBundle.open(bundle).manifest
    assert manifest.image.decode == "full"
    scaled = manifest.image.model_copy(update={"decode": "scaled"})
    assert manifest.derive_fingerprint(scaled) != manifest.fingerprint


def test_rule_for_truncated_pictures_is_part_of_the_identity(bundle: Path) -> None:
    """Loading them is another space; a bundle that does not speak of them refuses them."""
    manifest = ModelBundle.open(bundle).manifest
    assert manifest.image.truncated == "refuse"
    assert "truncated" not in manifest.image.identity()
    loading = manifest.image.model_copy(update={"truncated": "load"})
    assert manifest.derive_fingerprint(loading) != manifest.fingerprint


def test_graph_files_are_not_part_of_the_identity(bundle: Path) -> None:
    """Exporting again, or adding a precision, keeps the fingerprint."""
    edit(bundle, lambda manifest: manifest["graphs"]["image"].pop("fp16"))
    opened = ModelBundle.open(bundle)
    with pytest.raises(BundleError, match="no image graph in fp16; it has: fp32"):
        opened.graph("image", "fp16")


@pytest.mark.parametrize(
    "changed", [{"pool": "last"}, {"kind": "huggingface"}, {"cleaning": "whitespace"}]
)
def test_tokenizer_decides_the_space(bundle: Path, changed: dict[str, str]) -> None:
    """Another token to pool at, another kind or cleaning is another space."""
    manifest = ModelBundle.open(bundle).manifest
    tokenizer = manifest.tokenizer.model_copy(update=changed)

    other = manifest.model_copy(update={"tokenizer": tokenizer}).derive_fingerprint()

    assert other != manifest.fingerprint


def test_bundle_of_format_1_keeps_its_fingerprint(bundle: Path) -> None:
    """What format 2 added is not there, is not asked for, and changes no collection's name."""
    where = bundle / "manifest.json"
    raw = json.loads(where.read_text(encoding="utf-8"))
    for added in ("kind", "pool", "zeroed_id"):
        raw["tokenizer"].pop(added, None)
    raw.pop("logits", None)
    where.write_text(json.dumps({**raw, "format": 1}), encoding="utf-8")

    manifest = ModelBundle.open(bundle).manifest

    assert manifest.logits is None
    assert manifest.derive_fingerprint() == raw["fingerprint"]


@pytest.mark.parametrize(
    ("bias", "cosine", "expected"),
    [(-10.0, 0.1, 0.5), (-10.0, 0.11, 0.7310586), (-10.0, -1.0, 0.0), (None, 0.1, None)],
)
def test_probability_of_a_match(bias: float | None, cosine: float, expected: float | None) -> None:
    """It is the sigmoid that the model was trained with; a model without one says nothing."""
    found = Logits(scale=100.0, bias=bias).probability(cosine)
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-7))


def test_probability_of_hits() -> None:
    """Only a single text has one: the model learned nothing of pictures with pictures, or sums."""
    payload = Payload(
        path="/a", sha256="", size_bytes=1, mtime_ns=1, width_px=1, height_px=1, fingerprint="",
        provider="cpu", versions={}, indexed_at="",
    )  # fmt: skip
    hits = [Hit(score=0.1, id="a", payload=payload)]
    logits = Logits(scale=100.0, bias=-10.0)
    text, like = Term(text="a cat"), Term(like="b")
    told = [
        with_probability(hits, Query(terms=terms), logits)[0].probability
        for terms in ((text,), (like,), (text, text), (Term(text="a cat", weight=-1.0),))
    ]
    assert told == [0.5, None, None, None]
    for silent in (None, Logits(scale=100.0)):  # a model without a sigmoid
        assert with_probability(hits, Query(terms=(text,)), silent) == hits
    assert Hit.from_dict(replace(hits[0], probability=0.5).to_dict()).probability == 0.5
