"""AIT-ADS: the alerts of eight organisations' networks under staged attacks (CC BY 4.0, Zenodo 8263181).

Reads the labelled alert lists in the layout of github.com/ait-aecid/alert-data-set: ``<organisation>_alerts.txt`` (or
``alerts_csv.zip`` with them), lines of ``time,name,ip,host,short,time_label,event_label``, and, where they lie beside
them, ``server_configs/<organisation>.yaml`` for what each host is. Run on all 2,655,821 lines of that repository. The
raw JSON alerts of the Zenodo record are not read: they carry no label of single events, only the attacks' time windows.

Alerts of one signature on one host within five minutes of the first are one case: an attack where any of its events is
labelled as one. Attacks come late in each recording, so neither a date nor how long it has been running is shown.
"""

import bisect
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import yaml

from socadapter_agent.replay import relative
from socadapter_api import digest
from socadapter_api.case import Case, Verdict
from socadapter_api.errors import EmptyData, MalformedRow
from socadapter_jobs.data.importers.imported import Imported, TextFile, text_files
from socadapter_jobs.data.titles import mark_ambiguous

WINDOW_S = 300
"""A case holds what one signature raised on one host within this time of its first alert."""

BEFORE_S = 1800
AFTER_S = 300
_TOP = 8
_HOUR_S = 3600
_DAY_S = 86_400
_LAST_S = 253_402_300_800
"""Seconds from 1970 to the end of year 9999."""
_COLUMNS = "time,name,ip,host,short,time_label,event_label"
_NO_EVENT = "-"
_LICENCE = "AIT-ADS, CC BY 4.0 (Zenodo 8263181)"


class Burst(NamedTuple):
    """How often one signature fired on one host within one second."""

    time: int
    alerts: int


@dataclass(slots=True)
class _Signature:
    """One signature on one host: its bursts in order, and when labelled events happened."""

    name: str
    host: str
    ip: str
    bursts: list[Burst] = field(default_factory=list)
    attacks: dict[int, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Group:
    """Bursts that make one case."""

    signature: _Signature
    first: int
    last: int
    count: int
    attack: str


def import_ait_ads(uri: str, *, max_per_title: int = 50, seed: int = 0) -> Imported:
    """The cases of every organisation found at `uri`.

    `max_per_title` bounds the cases of one title and label in one organisation (0: all), since scans repeat a
    signature for hours.

    Raises:
        MalformedRow: the first wrong line, by file and line.
        EmptyData: there is no alert.
    """
    assets = _assets(uri)
    cases: list[Case] = []
    spare = 0
    for file in text_files(uri, "_alerts.txt"):
        organisation = PurePosixPath(file.path).name.removesuffix("_alerts.txt")
        signatures = list(_read(file))
        groups = [group for signature in signatures for group in _groups(signature)]
        chosen = _choose(groups, max_per_title, random.Random(f"{seed}/{organisation}"))
        spare += len(groups) - len(chosen)
        network = _Network(signatures)
        cases += [_case(organisation, group, network, assets.get(organisation, {})) for group in chosen]
    if not cases:
        raise EmptyData(f"{uri} holds no alert: every list is empty, or has no line after {_COLUMNS!r}")
    return Imported(mark_ambiguous(cases), {"more of a title and label than asked for": spare} if spare else {})


def _read(file: TextFile) -> Iterator[_Signature]:
    """All signatures of one organisation, each with its bursts in order."""
    counts: dict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    found: dict[tuple[str, str], _Signature] = {}
    with file.open() as lines:
        for number, line in enumerate(lines, 1):
            if number == 1:
                if line.strip() != _COLUMNS:
                    raise MalformedRow(f"{file.shown}:1: the first line is {line.strip()!r}, not {_COLUMNS!r}")
                continue
            time, name, ip, host, event = _parse(f"{file.shown}:{number}", line)
            counts[name, host][time] += 1
            signature = found.get((name, host))
            if signature is None:
                signature = found[name, host] = _Signature(name, host, ip)
            if event != _NO_EVENT:
                signature.attacks[time] = event
    for key, signature in found.items():
        signature.bursts = [Burst(time, counts[key][time]) for time in sorted(counts[key])]
        yield signature


def _parse(where: str, line: str) -> tuple[int, str, str, str, str]:
    parts = line.rstrip("\r\n").split(",")
    if len(parts) < 7:
        raise MalformedRow(f"{where}: {len(parts)} fields, not the seven of {_COLUMNS!r} (line {line.strip()[:80]!r})")
    try:
        time = int(parts[0])
    except ValueError:
        raise MalformedRow(f"{where}: field 'time' is no number of seconds (value {parts[0][:80]!r})") from None
    if not 0 <= time < _LAST_S:
        raise MalformedRow(f"{where}: field 'time' is out of range (value {parts[0][:80]!r})")
    name = ",".join(parts[1:-5])
    ip, host, _, _, event = parts[-5:]
    return time, name, ip, host, event


def _groups(signature: _Signature) -> Iterator[_Group]:
    current: _Group | None = None
    for burst in signature.bursts:
        attack = signature.attacks.get(burst.time, "")
        if current is not None and burst.time - current.first <= WINDOW_S:
            current.last = burst.time
            current.count += burst.alerts
            current.attack = current.attack or attack
            continue
        if current is not None:
            yield current
        current = _Group(signature, burst.time, burst.time, burst.alerts, attack)
    if current is not None:
        yield current


def _choose(groups: Sequence[_Group], most: int, rng: random.Random) -> list[_Group]:
    """At most `most` groups of each title and label, in order of time."""
    by_kind: dict[tuple[str, bool], list[_Group]] = defaultdict(list)
    for group in groups:
        by_kind[group.signature.name, bool(group.attack)].append(group)
    chosen: list[_Group] = []
    for kind in sorted(by_kind):
        members = by_kind[kind]
        chosen += members if not most or len(members) <= most else rng.sample(members, most)
    return sorted(chosen, key=lambda group: (group.last, group.signature.name, group.signature.host))


class _Network:
    """What the tools of one organisation can look up: how often what fired where, and when."""

    def __init__(self, signatures: Sequence[_Signature]) -> None:
        self._signatures = signatures
        self._times = [[burst.time for burst in signature.bursts] for signature in signatures]
        self._sums = [_running(signature.bursts) for signature in signatures]
        self._by_name: dict[str, list[int]] = defaultdict(list)
        for index, signature in enumerate(signatures):
            self._by_name[signature.name].append(index)

    def _between(self, index: int, start: int, end: int) -> tuple[int, int, int]:
        """Count, first and last time of a signature's alerts in [start, end)."""
        times = self._times[index]
        low, high = bisect.bisect_left(times, start), bisect.bisect_left(times, end)
        if low == high:
            return 0, 0, 0
        return self._sums[index][high] - self._sums[index][low], times[low], times[high - 1]

    def history(self, group: _Group) -> dict[str, int]:
        """How often the signature fired before this case."""
        before = {index: self._between(index, 0, group.first)[0] for index in self._by_name[group.signature.name]}
        here = [index for index in before if self._signatures[index].host == group.signature.host]
        return {
            "prior_total": sum(before.values()),
            "prior_on_this_host": sum(before[index] for index in here),
            "prior_hosts": sum(count > 0 for count in before.values()),
            "last_1h": sum(self._between(index, group.first - _HOUR_S, group.first)[0] for index in before),
            "last_24h": sum(self._between(index, group.first - _DAY_S, group.first)[0] for index in before),
        }

    def around(self, group: _Group, host: str | None) -> dict[str, Any]:
        """Other alerts from half an hour before to five minutes after, on `host` or in the whole network."""
        found: list[tuple[int, int, int, _Signature]] = []
        for index, signature in enumerate(self._signatures):
            if signature is group.signature or (host is not None and signature.host != host):
                continue
            count, first, last = self._between(index, group.first - BEFORE_S, group.last + AFTER_S)
            if count:
                found.append((count, first, last, signature))
        found.sort(key=lambda row: (-row[0], row[3].name, row[3].host))
        top = [
            {
                "signature": signature.name,
                **({} if host is not None else {"host": signature.host}),
                "count": count,
                "first": relative(first - group.last),
                "last": relative(last - group.last),
            }
            for count, first, last, signature in found[:_TOP]
        ]
        return {"total": sum(row[0] for row in found), "distinct": len(found), "top": top}


def _running(bursts: Sequence[Burst]) -> list[int]:
    sums = [0]
    for burst in bursts:
        sums.append(sums[-1] + burst.alerts)
    return sums


def _case(organisation: str, group: _Group, network: _Network, assets: Mapping[str, Any]) -> Case:
    signature = group.signature
    identity = digest.of_json([organisation, signature.name, signature.host, group.first]).removeprefix("sha256:")[:12]
    detector = signature.name.split(":", 1)[0]
    return Case(
        id=f"ait-{organisation}-{identity}",
        context=f"corporate_network/{organisation}",
        alert={
            "title": signature.name,
            "detector": detector,
            "host": signature.host,
            "ip": signature.ip,
            "alert_count": group.count,
            "lasted": f"{group.last - group.first}s",
        },
        evidence={
            "get_asset": assets.get(signature.host, {"host": signature.host}),
            "signature_history": network.history(group),
            "alerts_on_host": network.around(group, signature.host),
            "alerts_in_network": network.around(group, None),
        },
        label=Verdict.TRUE_POSITIVE if group.attack else Verdict.FALSE_POSITIVE,
        observed_at=datetime.fromtimestamp(group.last, UTC),
        entities=(f"{organisation}/{signature.host}",),
        group=detector,
        source=f"{_LICENCE}; {group.attack or 'no labelled event'}",
    )


def _assets(uri: str) -> dict[str, dict[str, Any]]:
    """What each host of each organisation is, from the server configurations that lie beside the alerts."""
    try:
        files = text_files(uri, ".yaml")
    except EmptyData:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        if PurePosixPath(file.path).parent.name != "server_configs":
            continue
        with file.open() as text:
            try:
                servers = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise MalformedRow(f"{file.shown} is no YAML: {error}") from None
        if not isinstance(servers, Mapping) or not all(isinstance(server, Mapping) for server in servers.values()):
            raise MalformedRow(f"{file.shown}: expected a mapping of host names to their settings")
        found[PurePosixPath(file.path).stem] = {host: _asset(host, server) for host, server in servers.items()}
    return found


def _asset(host: str, server: Mapping[str, Any]) -> dict[str, Any]:
    system = f"{server.get('distribution', '')} {server.get('distribution_version', '')}".strip()
    return {"host": host, "groups": server.get("groups", []), "os": system, "fqdns": server.get("fqdns", [])}
