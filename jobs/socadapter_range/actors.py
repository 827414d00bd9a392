"""Who leaves rows in the telemetry: people at work, services, scanners, admins, and the actors of an alert's story.

Everyday rows never stand out; a story's rows do, in the two hours before its alert. Called by `world`.
"""

import random
from typing import Final

from socadapter_range.directory import Entity
from socadapter_range.stories import Story
from socadapter_range.telemetry import ACTIONS, DAY, HOUR, SOFTWARE, ZONES, Telemetry
from socadapter_range.vocabulary import MISSING, NO_TICKET, ORDINARY

_SERVERS: Final = ("build agent",)
_ADMINS: Final = ("jump host",)
_SCANNERS: Final = ("scanner",)
_PROBED_HOSTS: Final = 6
"""Fewer than what reads as a fan-out."""


def everyday(telemetry: Telemetry, entity: Entity, days: range, start: int, rng: random.Random) -> None:
    """Ordinary rows of one person and machine on most of `days`; `start` is when day 0 began."""
    for day in days:
        # Nobody misses the first days: they are what later activity is compared with.
        if day > 4 and rng.random() < 0.25:
            continue
        at = start + day * DAY + rng.randrange(6 * HOUR, 18 * HOUR)
        _person(telemetry, entity, at, rng)
        if entity.role in _SERVERS:
            _service(telemetry, entity, start + day * DAY, rng)
        elif entity.role in _SCANNERS:
            _scanner(telemetry, entity, start + day * DAY, rng)
        elif entity.role in _ADMINS:
            _admin(telemetry, entity, at, rng)


def _person(telemetry: Telemetry, entity: Entity, at: int, rng: random.Random) -> None:
    laptop = f"{entity.user}-laptop"
    telemetry.add("signins", at, entity.user, "10.1.0.4", "main", laptop, "sso", "ok", "browser")
    for image in rng.sample(SOFTWARE[ORDINARY], 2):
        telemetry.add("processes", at + rng.randrange(HOUR), entity.host, image, "desktop", "")
    size = rng.randint(900, 90_000)
    telemetry.add("flows", at + rng.randrange(HOUR), entity.host, "intra.corp", 443, size, "wired")
    if rng.random() < 0.6:
        action = rng.choice(ACTIONS[ORDINARY])
        telemetry.add("cloud_calls", at + rng.randrange(HOUR), entity.user, action, "main", "sdk")
    zone = rng.choice(ZONES[ORDINARY])
    telemetry.add("dns", at + rng.randrange(HOUR), entity.host, f"www.{zone}", zone, 1, "local")


def _service(telemetry: Telemetry, entity: Entity, midnight: int, rng: random.Random) -> None:
    """Health checks and metrics around the clock."""
    for hour in (3, 11, 19):
        at = midnight + hour * HOUR + rng.randrange(HOUR)
        telemetry.add("flows", at, entity.host, "health.corp", 443, rng.randint(200, 400), "wired")
        telemetry.add("cloud_calls", at, entity.user, "PutMetric", "main", "sdk")


def _scanner(telemetry: Telemetry, entity: Entity, midnight: int, rng: random.Random) -> None:
    """A nightly inventory of a few neighbours."""
    for index in range(_PROBED_HOSTS):
        at = midnight + 2 * HOUR + 10 * index
        telemetry.add("flows", at, entity.host, f"10.3.0.{rng.randrange(250)}", 9100, rng.randint(100, 200), "wired")


def _admin(telemetry: Telemetry, entity: Entity, at: int, rng: random.Random) -> None:
    """Two more sign-ins a day, and a look at the directory's own pages."""
    laptop = f"{entity.user}-laptop"
    for _ in range(2):
        later = at + rng.randrange(HOUR)
        telemetry.add("signins", later, entity.user, "10.1.0.4", "main", laptop, "sso", "ok", "browser")
    telemetry.add("dns", at + rng.randrange(HOUR), entity.host, "www.intra.corp", "intra.corp", 1, "local")


def enact(telemetry: Telemetry, story: Story, entity: Entity, indicator: str, ts: int, rng: random.Random) -> None:
    """The rows that `story` leaves before its alert at `ts`."""
    note_tool, note = story.note or ("", "")
    keys = {"signins": entity.user, "cloud_api": entity.user, "intel": indicator}
    for tool, phrase in story.phrases.items():
        at = ts - rng.randrange(60, 2 * HOUR)
        left = note if tool == note_tool else ""
        if phrase == MISSING:
            telemetry.gap(tool, keys.get(tool, entity.host), ts)
        elif phrase in (ORDINARY, NO_TICKET) or tool == "asset":
            continue
        elif tool == "signins":
            telemetry.signins(entity.user, at, phrase, left)
        elif tool == "cloud_api":
            telemetry.cloud_api(entity.user, at, phrase, left)
        elif tool == "processes":
            telemetry.processes(entity.host, at, phrase, left)
        elif tool == "flows":
            telemetry.flows(entity.host, at, phrase, indicator)
        elif tool == "dns":
            telemetry.dns(entity.host, at, phrase, indicator)
        elif tool == "intel":
            telemetry.intel(indicator, ts, phrase)
        else:
            telemetry.ticket(entity.host, entity.user, ts, phrase)
