"""Names of runs."""

import re

from hypothesis import given
from hypothesis import strategies as st

from socadapter_operator.domain import identity

NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)


@given(name=NAMES, uid=st.text(max_size=40), cause=st.text(max_size=40))
def test_a_run_id_is_a_name_that_every_backend_takes(name: str, uid: str, cause: str) -> None:
    """A DNS-1035 label of at most 47 characters, whatever the adapter is called."""
    found = identity.run_id(name, uid, "sha256:0", cause)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", found)
    assert len(found) <= identity.MAX_LENGTH


@given(
    parts=st.lists(st.tuples(st.uuids().map(str), st.text(max_size=8), st.text(max_size=8)), unique=True, max_size=20)
)
def test_run_ids_are_equal_for_equal_causes_alone(parts: list[tuple[str, str, str]]) -> None:
    """Same uid, hash and cause: same id; any other: another."""
    ids = [identity.run_id("cloud", *part) for part in parts]
    assert ids == [identity.run_id("cloud", *part) for part in parts]
    assert len(set(ids)) == len(parts)
