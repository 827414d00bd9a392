"""Names of versions: made of context, number and digest, and always a DNS label."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socadapter_api import digest
from socadapter_api.adapter import Pin, VersionSpec
from socadapter_api.names import CONTEXT_MAX_LENGTH, CONTEXT_PATTERN, VERSION_PATTERN, version_name

contexts = st.from_regex(CONTEXT_PATTERN.replace("$", r"\Z"), fullmatch=True).filter(
    lambda text: len(text) <= CONTEXT_MAX_LENGTH
)
DIGEST = digest.of_bytes(b"adapter")


@given(context=contexts, number=st.integers(1, 10_000_000), content=st.binary())
def test_name_is_a_label(context: str, number: int, content: bytes) -> None:
    """The name of any version of any context is a valid DNS label of the documented form."""
    name = version_name(context, number, digest.of_bytes(content))
    assert len(name) <= 63
    assert re.match(VERSION_PATTERN, name)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("sha256:abc", id="short"),
        pytest.param("md5:" + "0" * 64, id="another algorithm"),
        pytest.param("sha256:" + "A" * 64, id="upper case"),
    ],
)
def test_bad_digest_is_refused(text: str) -> None:
    """No name is made from what is not a digest."""
    with pytest.raises(ValueError, match="is not 'sha256:'"):
        version_name("cloud", 1, text)


def test_pin_names_its_digest() -> None:
    """A pin whose name and digest belong to different versions is refused."""
    name = version_name("cloud", 3, DIGEST)
    assert Pin(version=name, digest=DIGEST).version == name
    with pytest.raises(ValueError, match="does not name digest"):
        Pin(version=name, digest=digest.of_bytes(b"other"))


@pytest.mark.parametrize(
    ("context", "number"),
    [pytest.param("corporate", 3, id="another context"), pytest.param("cloud", 4, id="another number")],
)
def test_version_spec_bears_its_own_name(context: str, number: int) -> None:
    """A version's resource cannot claim the name of another version."""
    with pytest.raises(ValueError, match="must be named"):
        VersionSpec(
            version=version_name("cloud", 3, DIGEST),
            context=context,
            number=number,
            digest=DIGEST,
            uri="store/run",
            run_id="run",
            base_digest=DIGEST,
            training_hash=DIGEST,
            config_digest=DIGEST,
            code_digest=DIGEST,
        )
