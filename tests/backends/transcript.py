"""Transcripts of KubeRay: what it wrote, in the order in which it did, and nothing of the cluster where it was seen.

A step is one change of one object that shows something new, `after_s` seconds from the scene's beginning. Names that
KubeRay made up are counted (``-cluster-1``), times are moved so that every scene begins at `EPOCH`. Steps of the kind
``Scene`` say what was done to it, those of the kind ``Ray`` what KubeRay asked Ray for the first time.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypedDict

Json = dict[str, Any]

FOLDER = Path(__file__).parent / "transcripts"
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
NAMESPACE = "soc"

_METADATA = ("name", "deletionTimestamp", "finalizers", "generation")
_LABELS = ("ray.io/node-type", "batch.kubernetes.io/job-name")
_NOISE = frozenset(
    {
        "lastUpdateTime", "stateTransitionTimes", "lastTransitionTime", "lastProbeTime", "endpoints", "head",
        "rayClusterStatus", "imageID", "hostIPs", "podIPs", "podIP", "qosClass", "image", "restartCount", "ready",
        "deployments", "uncountedTerminatedPods", "startedAt", "finishedAt", "observedGeneration", "terminating",
    }
)  # fmt: skip
_COUNTED = re.compile(r"^(desired|available|ready|min|max)[A-Z]")
_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?Z")
_PLAIN = re.compile(r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}")


class Step(TypedDict):
    """One change. `object` is what it has become, or was when it was deleted."""

    after_s: float
    change: str
    kind: str
    object: Json


@dataclass
class Transcript:
    """What was seen in one scene."""

    scene: str
    said: str
    versions: Mapping[str, str]
    steps: list[Step] = field(default_factory=list)

    def save(self, folder: Path = FOLDER) -> Path:
        """Writes it, a line for each step."""
        head = json.dumps({"scene": self.scene, "said": self.said, "versions": dict(self.versions)})
        lines = ",\n".join(json.dumps(step, sort_keys=True, separators=(",", ":")) for step in self.steps)
        path = folder / f"{self.scene}.json"
        path.write_text(f'{head[:-1]}, "steps": [\n{lines}\n]}}\n', "utf-8")
        return path

    def states(self) -> Iterator[tuple[Step, dict[tuple[str, str], Json]]]:
        """Each step, and every object that is there after it, by kind and name."""
        there: dict[tuple[str, str], Json] = {}
        for step in self.steps:
            key = (step["kind"], str(step["object"].get("metadata", {}).get("name", "")))
            if step["change"] == "DELETED":
                there.pop(key, None)
            else:
                there[key] = step["object"]
            yield step, dict(there)


def read(scene: str, folder: Path = FOLDER) -> Transcript:
    """The transcript of a scene."""
    return Transcript(**json.loads((folder / f"{scene}.json").read_text("utf-8")))


def compact(kind: str, item: Json) -> Json:
    """What a transcript keeps of an object."""
    held = item.get("metadata") or {}
    kept: Json = {"metadata": {key: held[key] for key in _METADATA if key in held}}
    labels = {key: value for key, value in (held.get("labels") or {}).items() if key in _LABELS}
    if labels:
        kept["metadata"]["labels"] = labels
    if kind == "Event":
        told = item.get("regarding") or {}
        about = f"{told.get('kind')} {told.get('name')}"
        return {key: item.get(key, "") for key in ("type", "reason", "action", "note")} | {"regarding": about}
    if kind == "Secret":
        owners = [owner["kind"] for owner in held.get("ownerReferences") or ()]
        return kept | {"keys": sorted(item.get("data") or {}), "owners": owners}
    if "suspend" in (item.get("spec") or {}) and kind in ("RayJob", "RayService"):
        kept["spec"] = {"suspend": item["spec"]["suspend"]}
    if kind == "RayService":
        kept.setdefault("spec", {})["table"] = _table(item)
    status = _quiet(item.get("status") or {})
    if kind == "RayService" and "observedGeneration" in (item.get("status") or {}):
        status["observedGeneration"] = item["status"]["observedGeneration"]
    return kept | ({"status": status} if status else {})


def settle(steps: Sequence[Step], namespace: str, began: datetime) -> list[Step]:
    """The steps without what belongs to one cluster: its namespace, its made-up names, its time, repetitions."""
    told = [step for step in steps if not _is_repeated(step, steps)]
    text = json.dumps(told)
    for name, alias in _aliases(told):
        text = text.replace(name, alias)
    text = _moved(text.replace(namespace, NAMESPACE), began)
    found: list[Step] = json.loads(text)
    return found


def _is_repeated(step: Step, steps: Sequence[Step]) -> bool:
    """Whether the change before of the same object showed the same."""
    if step["kind"] in ("Scene", "Ray"):
        return False
    if step["kind"] == "Event":
        return any(other["object"] == step["object"] for other in steps[: steps.index(step)])
    name = step["object"]["metadata"]["name"]
    before = [other for other in steps if other["kind"] == step["kind"] and other["object"]["metadata"]["name"] == name]
    place = before.index(step)
    return place > 0 and step["change"] == "MODIFIED" and before[place - 1]["object"] == step["object"]


def _aliases(steps: Sequence[Step]) -> Iterator[tuple[str, str]]:
    """Names that KubeRay and Kubernetes made up, the longest first, and what stands for them."""
    found: dict[str, str] = {}
    counts: dict[str, int] = {}
    for step in steps:
        name = step["object"].get("metadata", {}).get("name", "")
        if step["kind"] not in ("RayCluster", "Pod") or name in found:
            continue
        stem = name.rpartition("-")[0]
        if step["kind"] == "RayCluster":
            stem = f"{stem}-cluster"
        else:
            stem = next((alias + stem[len(known) :] for known, alias in found.items() if stem.startswith(known)), stem)
        counts[stem] = counts.get(stem, 0) + 1
        found[name] = f"{stem}-{counts[stem]}"
    return iter(sorted(found.items(), key=lambda pair: -len(pair[0])))


def _moved(text: str, began: datetime) -> str:
    """Every time in `text`, as if the scene had begun at `EPOCH`."""

    def rfc3339(match: re.Match[str]) -> str:
        there = datetime.fromisoformat(match.group().replace("Z", "+00:00"))
        return f"{_shifted(there, began):%Y-%m-%dT%H:%M:%SZ}"

    def plain(match: re.Match[str]) -> str:
        there = datetime.fromisoformat(match.group()).replace(tzinfo=UTC)
        return f"{_shifted(there, began):%Y-%m-%d %H:%M:%S}"

    return _PLAIN.sub(plain, _RFC3339.sub(rfc3339, text))


def _shifted(there: datetime, began: datetime) -> datetime:
    seconds = round((there - began).total_seconds())
    return EPOCH + timedelta(seconds=seconds)


def _quiet(held: Any) -> Any:
    if isinstance(held, dict):
        return {
            key: _quiet(value)
            for key, value in held.items()
            if key not in _NOISE and not _COUNTED.match(key) and value not in ({}, [], None)
        }
    return [_quiet(one) for one in held] if isinstance(held, list) else held


def _table(item: Json) -> int:
    """The generation of the serving table; -1 where the configuration has none."""
    try:
        config = json.loads(item["spec"]["serveConfigV2"])
        return int(config["applications"][0]["deployments"][0]["user_config"]["generation"])
    except (LookupError, TypeError, ValueError):
        return -1
