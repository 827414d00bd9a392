"""Digests: equal content has equal digests, however it was written or cut up."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socadapter_api import digest
from socadapter_api.names import DIGEST_PATTERN

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


def test_known_vector() -> None:
    """A digest is plain SHA-256, so that `sha256sum` gives the same."""
    assert digest.of_bytes(b"abc") == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@given(value=st.dictionaries(st.text(max_size=5), json_values, max_size=6))
def test_key_order_does_not_matter(value: dict[str, object]) -> None:
    """A mapping's digest does not depend on the order of its keys."""
    backwards = dict(reversed(value.items()))
    assert digest.of_json(value) == digest.of_json(backwards)


@given(value=json_values)
def test_round_trip_keeps_digest(value: object) -> None:
    """A value that went through JSON has the digest that it had before."""
    assert digest.of_json(json.loads(digest.canonical_json(value))) == digest.of_json(value)


@given(chunks=st.lists(st.binary(max_size=20), max_size=8))
def test_stream_is_its_concatenation(chunks: list[bytes]) -> None:
    """How a stream is cut does not change its digest."""
    assert digest.of_stream(chunks) == digest.of_bytes(b"".join(chunks))


def test_files_cover_names_and_contents() -> None:
    """A tree's digest changes with a file's name, its content, and which content has which name."""
    one, two = digest.of_bytes(b"1"), digest.of_bytes(b"2")
    trees = [{"a": one, "b": two}, {"a": two, "b": one}, {"a": one, "c": two}, {"a": one}, {"a/b": one, "b": two}]
    assert len({digest.of_files(tree) for tree in trees}) == len(trees)
    assert digest.of_files({"b": two, "a": one}) == digest.of_files({"a": one, "b": two})


def test_nan_has_no_digest() -> None:
    """NaN is not JSON: it is refused rather than written in one library's way."""
    with pytest.raises(ValueError, match=r"NaN|Out of range"):
        digest.of_json({"x": float("nan")})


def test_form() -> None:
    """Every digest has the form that the models demand."""
    assert re.match(DIGEST_PATTERN, digest.of_json(None))
