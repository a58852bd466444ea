"""The manifest: what is sealed can be read back, and anything else is rejected."""

import json
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bundle.errors import InvalidBundleError
from bundle.manifest import MAX_GOLDEN_IMAGES, MAX_INTEGER, SCHEMA_VERSION, Manifest, ModelMetadata
from common.atomic_files import sha256_bytes
from tests.bundle.making import HASHES, some_metadata

SEALED = Manifest.seal(some_metadata(), HASHES).to_bytes()

class_names = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200),
    min_size=2,
    max_size=12,
    unique=True,
)
finite = st.floats(min_value=0, allow_infinity=False)
fractions = st.floats(0, 1)
file_names = st.binary(min_size=1, max_size=8).map(os.fsdecode)  # with lone surrogates where it is no UTF-8
any_text = st.text() | file_names
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def metadata(draw: st.DrawFn) -> ModelMetadata:
    """Draw metadata with any class names, hyperparameters and numbers that the schema allows."""
    classes = draw(class_names)
    metrics = {
        "images": draw(st.integers(1, MAX_INTEGER)),
        "accuracy": draw(fractions),
        "nll": draw(finite),
        "ece": draw(fractions),
        "nll_calibrated": draw(finite),
        "ece_calibrated": draw(fractions),
    }
    return some_metadata(
        classes=tuple(classes),
        sample_label=draw(st.sampled_from(classes)),
        temperature=draw(st.floats(min_value=0, exclude_min=True, allow_infinity=False)),
        hyperparameters=draw(st.dictionaries(st.text(), json_values, max_size=4)),
        test=metrics,
        reference=some_metadata().reference.model_dump() | {"predicted": (3,) * len(classes)},
    )


def changed(**changes: Any) -> bytes:
    """Return the sealed document with other values, without sealing it again."""
    return json.dumps(json.loads(SEALED) | changes).encode()


def rejected(data: bytes) -> str:
    """Return the sentence with which the bytes are rejected."""
    with pytest.raises(InvalidBundleError) as refusal:
        Manifest.from_bytes(data)
    sentence = str(refusal.value)
    assert sentence.startswith("manifest.json")
    return sentence


@settings(deadline=None)
@given(metadata())
def test_what_is_sealed_comes_back(stated: ModelMetadata) -> None:
    """Any metadata survive the way to bytes and back, and the bytes are the same again."""
    sealed = Manifest.seal(stated, HASHES)
    read = Manifest.from_bytes(sealed.to_bytes())
    assert read == sealed
    assert read.to_bytes() == sealed.to_bytes()
    assert ModelMetadata.model_validate(read.model_dump(include=set(ModelMetadata.model_fields))) == stated
    assert read.files == HASHES


def test_a_gpu_is_named_where_there_was_one() -> None:
    """CUDA and the driver come back; where they are empty the file is as it was before there were such fields."""
    environment = some_metadata().environment
    gpu = environment.model_copy(update={"cuda": "13.0", "driver": "580.95.05 (CUDA 13.0)"})
    sealed = Manifest.seal(some_metadata(environment=gpu.model_dump()), HASHES)
    assert Manifest.from_bytes(sealed.to_bytes()).environment == gpu
    assert "driver" not in SEALED.decode()
    assert Manifest.from_bytes(SEALED).environment == environment


def test_what_rounding_changed_comes_back() -> None:
    """The metrics before; where nothing was rounded the file is as it was before there was such a field."""
    before = {"accuracy": 0.98, "nll": 0.07, "labels_differing": 3}
    sealed = Manifest.seal(some_metadata(quantisation=before), HASHES)
    read = Manifest.from_bytes(sealed.to_bytes())
    assert read.quantisation is not None
    assert read.quantisation.model_dump() == before
    assert "quantisation" not in SEALED.decode()
    assert Manifest.from_bytes(SEALED).quantisation is None


def test_the_digest_is_that_of_the_text_without_it() -> None:
    """Whoever has only sha256sum and a JSON library can compute the digest again."""
    document = json.loads(SEALED)
    digest = document.pop("digest")
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert digest == sha256_bytes(text.encode())


def test_every_single_flipped_bit_is_noticed() -> None:
    """Each byte of the manifest, with each of its bits flipped in turn, is rejected."""
    for position in range(len(SEALED)):
        for bit in range(8):
            data = bytearray(SEALED)
            data[position] ^= 1 << bit
            rejected(bytes(data))


@settings(deadline=None)
@given(st.data())
def test_any_other_bytes_are_rejected(data: st.DataObject) -> None:
    """A cut, a duplicated or an inserted piece of the manifest is rejected."""
    start = data.draw(st.integers(0, len(SEALED)))
    end = data.draw(st.integers(start, len(SEALED)))
    piece = data.draw(st.binary(max_size=20) | st.just(SEALED[start:end] * 2))
    spoiled = SEALED[:start] + piece + SEALED[end:]
    if spoiled != SEALED:
        rejected(spoiled)


@settings(deadline=None)
@given(st.binary() | st.text().map(str.encode) | json_values.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_manifest_is_rejected(data: bytes) -> None:
    """Arbitrary bytes and arbitrary JSON are rejected with a sentence, never with another exception."""
    rejected(data)


def test_a_newer_schema_is_rejected_with_the_remedy() -> None:
    """A manifest of a later schema names both versions and says to upgrade."""
    sentence = rejected(changed(schema_version=SCHEMA_VERSION + 1))
    assert f"schema version {SCHEMA_VERSION + 1} " in sentence
    assert "upgrade Glyph" in sentence


@pytest.mark.parametrize("version", [0, -1, "1", 1.5, None, True, [1], 10**400])
def test_a_schema_version_that_is_none_is_rejected(version: object) -> None:
    """A schema version that is not the integer 1 is rejected."""
    rejected(changed(schema_version=version))


@pytest.mark.parametrize("depth", [60, 200, 260, 2000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_deep_nesting_is_rejected(depth: int, opening: bytes, closing: bytes) -> None:
    """Nesting of any depth, alone or as a hyperparameter, is rejected in a sentence of sane length."""
    nested = opening * depth + b"1" + closing * depth
    rejected(nested)
    hyperparameters = json.dumps(json.loads(SEALED)["hyperparameters"]).encode()
    plain = json.dumps(json.loads(SEALED)).encode()
    assert plain.count(hyperparameters) == 1
    assert len(rejected(plain.replace(hyperparameters, b'{"x":' + nested + b"}"))) < 500


@pytest.mark.parametrize(
    "document", [b"[]", b"3", b"null", b'"text"', b"", b"{", b"{}", b"\xff\xfe", b"\x00"]
)
def test_what_is_no_object_is_rejected(document: bytes) -> None:
    """JSON that is no object, half of one, an empty one, and no JSON at all are rejected."""
    rejected(document)


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_numbers_that_are_none_are_rejected(number: bytes) -> None:
    """NaN and the infinities are rejected as a fact and as a hyperparameter."""
    assert b"1.25" in SEALED
    assert "temperature" in rejected(SEALED.replace(b"1.25", number))
    assert "hyperparameters" in rejected(SEALED.replace(b'"dropout": 0.2', b'"dropout": ' + number))


def test_an_unknown_and_a_missing_field_are_named() -> None:
    """A field too many and a field too few are rejected by name, at any level."""
    assert "surplus" in rejected(changed(surplus=1))
    assert "golden.surplus" in rejected(changed(golden={"images": 4, "tolerance": 1e-4, "surplus": 1}))
    assert "golden.tolerance" in rejected(changed(golden={"images": 4}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "../elsewhere"),
        ("name", "Shapes"),
        ("name", "shapes\n"),
        ("name", ""),
        ("classes", ["one"]),
        ("classes", ["one", "one"]),
        ("classes", ["one", ""]),
        ("classes", ["one", "two", "x" * 201]),
        ("sample_label", "seven"),
        ("temperature", 0),
        ("golden", {"images": 0, "tolerance": 1e-4}),
        ("golden", {"images": 4, "tolerance": 0.5}),
        ("golden", {"images": MAX_GOLDEN_IMAGES + 1, "tolerance": 1e-4}),
        ("created", "yesterday"),
        ("created", "2026\n11"),
        ("environment", {**json.loads(SEALED)["environment"], "threads": MAX_INTEGER + 1}),
        ("files", HASHES | {"model.onnx": "AB" * 32}),
        ("files", {}),
        ("files", HASHES | {"../model.onnx": "ab" * 32}),
        ("files", HASHES | {"manifest.json": "ab" * 32}),
        ("input", {"polarity": "white-on-black", "height": 32}),
        ("input", {"polarity": "grey"}),
    ],
)
def test_values_out_of_range_are_rejected(field: str, value: object) -> None:
    """Each promise of the schema is kept by a reader, not by the writer's good will alone."""
    sentence = rejected(changed(**{field: value}))
    assert "digest" not in sentence  # the value itself is what is wrong


@pytest.mark.parametrize("edges", [(0.0, 1.0), (0.0, 2.0, 1.0), (0.0, 0.0, 1.0)])
def test_histograms_have_increasing_edges_one_more_than_counts(edges: tuple[float, ...]) -> None:
    """Edges that do not increase, or are not one more than the counts, are rejected."""
    broken = {"edges": edges, "counts": (1, 2)}
    with pytest.raises(ValidationError, match="histogram"):
        some_metadata(reference=some_metadata().reference.model_dump() | {"confidence": broken})


def test_a_refusal_is_short_and_of_one_line() -> None:
    """Whatever a manifest calls its fields, and however many it has."""
    for document in (changed(**{"x\x1b[2J\n" * 10_000: 1}), changed(files={"\u202e" * 100_000: "ab" * 32})):
        assert len(rejected(document)) < 800
        assert rejected(document).isprintable()


def test_class_names_are_text_that_can_be_written() -> None:
    """A lone surrogate, which no JSON answer could carry, is rejected as a class name from the start."""
    with pytest.raises(ValidationError, match="unicode"):
        some_metadata(classes=("\ud800", "one", "two"))


def test_a_manifest_cannot_be_changed_in_memory() -> None:
    """A manifest is frozen."""
    manifest = Manifest.from_bytes(SEALED)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(manifest, "name", "other")  # noqa: B010 - mypy knows it, too
