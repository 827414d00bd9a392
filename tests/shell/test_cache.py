"""The cache: the newest of each object, whatever the order in which news arrives, and nothing that is gone."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socadapter_operator.kube.resources import ADAPTER, ADAPTER_VERSION, RAY_JOB, Object, ObjectKey
from socadapter_operator.shell.cache import Cache

KEY = ObjectKey("soc", "a")


def item(version: int, name: str = "a", uid: str = "", namespace: str = "soc", **more: Any) -> Object:
    about = {"namespace": namespace, "name": name, "uid": uid or f"uid-{name}", "resourceVersion": str(version)}
    return {"metadata": {**about, **more.pop("about", {})}, **more}


@pytest.fixture
def cache() -> Cache:
    return Cache()


def version_of(cache: Cache, key: ObjectKey = KEY) -> str | None:
    held = cache.get(ADAPTER, key)
    return None if held is None else held["metadata"]["resourceVersion"]


def test_older_news_changes_nothing(cache: Cache) -> None:
    """An event that comes late does not undo what is known since."""
    assert cache.upsert(ADAPTER, item(9))
    assert not cache.upsert(ADAPTER, item(9))
    assert not cache.upsert(ADAPTER, item(8))
    assert cache.upsert(ADAPTER, item(10))
    assert "10" == version_of(cache)


def test_deleted_object_does_not_come_back(cache: Cache) -> None:
    """An event of an object that was deleted does not bring it back; its successor of the same name is another."""
    cache.upsert(ADAPTER, item(5, uid="first"))
    assert cache.remove(ADAPTER, item(6, uid="first"))
    assert not cache.upsert(ADAPTER, item(5, uid="first"))
    assert cache.upsert(ADAPTER, item(7, uid="second"))
    assert not cache.remove(ADAPTER, item(6, uid="first"))
    assert "7" == version_of(cache)


def test_list_drops_what_no_event_told_of(cache: Cache) -> None:
    """What a full list no longer holds is gone, and told; what is newer than the list stays."""
    for number, name in enumerate(("a", "b", "c"), start=1):
        cache.upsert(ADAPTER, item(number, name))
    cache.upsert(ADAPTER, item(30, "new"))
    replaced = cache.replace(ADAPTER, [item(1, "a"), item(9, "b")], "20")
    assert (ObjectKey("soc", "b"),) == replaced.changed
    assert ["c"] == [gone["metadata"]["name"] for gone in replaced.pruned]
    assert ["a", "b", "new"] == [key.name for key in cache.keys(ADAPTER)]


def test_list_of_one_namespace_leaves_the_others(cache: Cache) -> None:
    """A list of one namespace says nothing about another."""
    cache.upsert(ADAPTER, item(1, "a"))
    cache.upsert(ADAPTER, item(2, "a", uid="other", namespace="lab"))
    cache.replace(ADAPTER, [], "9", namespace="lab")
    assert [KEY] == list(cache.keys(ADAPTER))


def test_objects_are_found_by_what_they_say(cache: Cache) -> None:
    """Adapters are found by pool, versions by context, children by owner; a change moves them."""
    cache.upsert(ADAPTER, item(1, "a", spec={"servingPoolRef": {"name": "base"}}))
    cache.upsert(ADAPTER, item(2, "b", spec={"servingPoolRef": {"name": "base"}}))
    cache.upsert(ADAPTER, item(3, "c", namespace="lab", spec={"servingPoolRef": {"name": "base"}}))
    cache.upsert(ADAPTER_VERSION, item(4, "cloud-v1", spec={"context": "cloud"}))
    cache.upsert(RAY_JOB, item(5, "run", about={"ownerReferences": [{"uid": "uid-a"}]}))
    assert ["a", "b"] == [key.name for key in cache.of_pool("soc", "base")]
    cache.upsert(ADAPTER, item(6, "a", spec={"servingPoolRef": {"name": "bigger"}}))
    assert ["b"] == [key.name for key in cache.of_pool("soc", "base")]
    assert 1 == len(cache.versions_of("soc", "cloud"))
    assert ["run"] == [found["metadata"]["name"] for found in cache.find(RAY_JOB, "owner", "uid-a")]
    with pytest.raises(KeyError, match="owner"):
        cache.find(RAY_JOB, "context", "x")


def test_managed_fields_are_not_kept(cache: Cache) -> None:
    """The bulk of an object that nobody reads is not held in memory, and the caller's object is left alone."""
    given_item = item(1, about={"managedFields": [{}]})
    cache.upsert(ADAPTER, given_item)
    held = cache.get(ADAPTER, KEY)
    assert held is not None
    assert "managedFields" not in held["metadata"]
    assert "managedFields" in given_item["metadata"]


def test_synced_means_listed(cache: Cache) -> None:
    """A kind is complete once a list was read, however empty, and no longer after its definition went."""
    cache.upsert(ADAPTER, item(1))
    assert not cache.synced(ADAPTER)
    cache.replace(ADAPTER, [], "5")
    assert cache.synced(ADAPTER)
    cache.forget(ADAPTER)
    assert not cache.synced(ADAPTER)


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=8, unique=True).flatmap(
        lambda history: st.tuples(st.just(history), st.permutations(range(len(history))))
    )
)
def test_order_of_news_does_not_matter(case: tuple[list[tuple[int, int]], list[int]]) -> None:
    """The events of one object, its deletions and its successors, in any order, end in the same state."""
    lives = sorted({life for life, _ in case[0]})
    events = []
    for number, (life, step) in enumerate(sorted(case[0])):
        events.append((number, f"uid-{life}", step == 3 and life != lives[-1]))
    last = [number for number, uid, _ in events if uid == f"uid-{lives[-1]}"][-1]
    cache = Cache()
    for position in case[1]:
        number, uid, deleted = events[position]
        if deleted:
            cache.remove(ADAPTER, item(number, uid=uid))
        else:
            cache.upsert(ADAPTER, item(number, uid=uid))
    assert str(last) == version_of(cache)
