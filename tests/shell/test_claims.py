"""Claims: what pools and adapters are shown of all the other adapters."""

from typing import Any

import pytest

from socadapter_operator.kube.resources import Object
from socadapter_operator.shell.claims import Claimed, Claims
from socadapter_operator.shell.contracts import model_of
from socadapter_operator.shell.packed import pack

SPEC = {"context": "cloud", "servingPoolRef": {"name": "base"}, "data": {"alerts": [{"uri": "a"}]}}


def adapter(version: int = 1, name: str = "cloud", spec: Any = None, **about: Any) -> Object:
    """An adapter as the API server would send it."""
    held = {"name": name, "namespace": "soc", "uid": f"uid-{name}", "resourceVersion": str(version), **about}
    return {"kind": "SocAdapter", "metadata": held, "spec": SPEC | (spec or {})}


def read(reader: Claims, *adapters: Object) -> Claimed:
    """The claims of `adapters`."""
    return reader.read(pack(one, {}) for one in adapters)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the adapters that a claim was made of, in order."""
    names: list[str] = []

    def noted(kind: Any, raw: Object) -> Any:
        names.append(raw["metadata"]["name"])
        return model_of(kind, raw)

    monkeypatch.setattr("socadapter_operator.shell.claims.model_of", noted)
    return names


def test_a_claim_is_made_once_for_each_version(made: list[str]) -> None:
    """A change of the adapter is seen, and nothing else costs anything."""
    reader = Claims()
    first = read(reader, adapter(1), adapter(1, "other"))
    assert first == read(reader, adapter(1), adapter(1, "other"))
    assert ["cloud", "other"] == made
    (changed, _) = read(reader, adapter(2, spec={"context": "mail"}), adapter(1, "other")).claims
    assert "mail" == changed.context
    assert ["cloud", "other", "cloud"] == made


def test_one_that_cannot_be_read_is_told_by_its_context() -> None:
    """Another operator's field, for instance: what serves its context goes on."""
    found = read(Claims(), adapter(spec={"lora": {"rank": "many"}}), adapter(1, "other"))
    assert (["other"], frozenset({"cloud"})) == ([claim.name for claim in found.claims], found.unreadable)


def test_one_that_is_being_deleted_claims_nothing() -> None:
    """Neither does it count as one that cannot be read: its context is free."""
    found = read(Claims(), adapter(deletionTimestamp="2026-01-01T00:00:00Z", spec={"lora": {"rank": "many"}}))
    assert Claimed((), frozenset()) == found


def test_one_that_is_gone_is_forgotten(made: list[str]) -> None:
    """Its claim is made anew where it comes back."""
    reader = Claims()
    read(reader, adapter(1))
    reader.forget("uid-cloud")
    read(reader, adapter(1))
    assert ["cloud", "cloud"] == made
