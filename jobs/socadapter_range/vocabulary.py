"""The range's evidence words, what they mean in each business context, and the alert types.

Every tool answers with one *phrase* that says what stands out, beside neutral attributes. A context's `Policy` says
which phrases are suspicious there and which tickets or roles cover an action. Half of the phrases mean the same in
both contexts; the others are routine in one and an attack in the other, so that a context has to be learned.
How phrases come out of raw telemetry is `tools`' business; how stories choose them is `stories`'.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from socadapter_api.errors import SpecError

CLOUD: Final = "cloud-infrastructure"
CORPORATE: Final = "corporate-network"
CONTEXTS: Final = (CLOUD, CORPORATE)

ORDINARY: Final = "ordinary"
"""The phrase of a tool that saw nothing but everyday rows."""
MISSING: Final = "missing"
"""The phrase of a tool whose log does not reach the alert's time."""
NO_TICKET: Final = "no ticket"
STANDING: Final = "standing approval by role"

Phrase = tuple[str, str]
"""A tool's name and what stood out in its answer."""


@dataclass(frozen=True, slots=True)
class Words:
    """One tool's phrases. `bad` and `good` hold in both contexts, the other two in the named context only.

    For telemetry *good* is harmless and *bad* is suspicious; for `tickets` and `asset` *good* covers an action.
    """

    bad: tuple[str, ...]
    good: tuple[str, ...]
    good_in_cloud: tuple[str, ...]
    good_in_corporate: tuple[str, ...]

    def good_for(self, context: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The phrases that are good in `context`: those of both contexts, then those of this one alone."""
        return self.good, self.good_in_cloud if context == CLOUD else self.good_in_corporate

    def bad_for(self, context: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The phrases that are bad in `context`: those of both contexts, then those that only the other allows."""
        return self.bad, self.good_in_corporate if context == CLOUD else self.good_in_cloud


WORDS: Final[dict[str, Words]] = {
    "signins": Words(
        bad=("mfa denied x5 then ok",),
        good=("typo then ok",),
        good_in_cloud=("token from many regions",),
        good_in_corporate=("password typed by hand",),
    ),
    "processes": Words(
        bad=("memory dump",),
        good=("software update",),
        good_in_cloud=("unattended script",),
        good_in_corporate=("remote desktop",),
    ),
    "flows": Words(
        bad=("steady beacon",),
        good=("mail sync",),
        good_in_cloud=("bulk copy",),
        good_in_corporate=("file share fan-out",),
    ),
    "cloud_api": Words(
        bad=("logging disabled",),
        good=("list calls",),
        good_in_cloud=("role chain",),
        good_in_corporate=("console edits",),
    ),
    "dns": Words(
        bad=("very long labels",),
        good=("update site",),
        good_in_cloud=("short lived names",),
        good_in_corporate=("directory lookups",),
    ),
    "intel": Words(
        bad=("known malware",),
        good=("popular service",),
        good_in_cloud=("rented server",),
        good_in_corporate=("home line",),
    ),
    "tickets": Words(
        bad=("change expired",),
        good=("change approved",),
        good_in_cloud=("pipeline record",),
        good_in_corporate=("helpdesk request",),
    ),
    "asset": Words(
        bad=("workstation",),
        good=("scanner",),
        good_in_cloud=("build agent",),
        good_in_corporate=("jump host",),
    ),
}
TELEMETRY: Final = ("signins", "processes", "flows", "cloud_api", "dns", "intel")
TOOLS: Final = (*TELEMETRY, "tickets", "asset")


@dataclass(frozen=True, slots=True)
class AlertType:
    """One detection rule: its visible text, the tool that shows the behaviour, the second tool, the covering tool."""

    key: str
    title: str
    first: str
    second: str
    cover: str
    details: tuple[str, ...]


ALERT_TYPES: Final = (
    AlertType("odd-sign-in", "Unusual sign-in", "signins", "intel", "tickets",
              ("sign-in differs from profile", "sign-in score above limit", "session flagged by risk engine")),
    AlertType("sign-in-failures", "Repeated sign-in failures", "signins", "flows", "asset",
              ("failure count above limit", "failures in a short time", "lockout counter rising")),
    AlertType("admin-session", "New admin session", "signins", "cloud_api", "tickets",
              ("admin group member active", "elevated session opened", "privileged role in use")),
    AlertType("odd-command", "Suspicious command line", "processes", "intel", "tickets",
              ("command differs from profile", "command score above limit", "rare command arguments")),
    AlertType("memory-access", "Process memory access", "processes", "signins", "asset",
              ("memory of a system process read", "handle to a protected process", "protected process opened")),
    AlertType("remote-execution", "Remote execution", "processes", "flows", "asset",
              ("process started from another host", "remote service created", "remote command seen")),
    AlertType("large-transfer", "Large outbound transfer", "flows", "intel", "tickets",
              ("bytes out above limit", "transfer larger than usual", "long upload session")),
    AlertType("port-sweep", "Internal port sweep", "flows", "processes", "asset",
              ("many ports contacted", "connection fan-out above limit", "unused addresses contacted")),
    AlertType("permission-change", "Permission change", "cloud_api", "signins", "tickets",
              ("policy attached to account", "group membership changed", "permission scope widened")),
    AlertType("secret-reads", "Burst of secret reads", "cloud_api", "dns", "asset",
              ("secret reads above limit", "many secrets in a short time", "secret store usage spike")),
    AlertType("rare-domain", "Rare domain lookup", "dns", "intel", "asset",
              ("domain not seen before", "domain rank very low", "first lookup of a domain")),
    AlertType("dns-volume", "High DNS volume", "dns", "processes", "tickets",
              ("query count above limit", "many lookups in a short time", "resolver usage spike")),
)  # fmt: skip
BY_TITLE: Final = {kind.title: kind for kind in ALERT_TYPES}
BY_KEY: Final = {kind.key: kind for kind in ALERT_TYPES}


@dataclass(frozen=True, slots=True)
class Policy:
    """What one context takes for suspicious, and what covers an action there."""

    context: str
    suspicious: frozenset[Phrase]
    covering: frozenset[Phrase]

    def good(self, tool: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Harmless (or covering) phrases of `tool`: those of both contexts, and those of this context alone."""
        return self._split(tool, good=True)

    def bad(self, tool: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Suspicious (or not covering) phrases of `tool`, in the same two parts."""
        return self._split(tool, good=False)

    def _split(self, tool: str, *, good: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
        words = WORDS[tool]
        shared = (*words.bad, *words.good)
        own = (*words.good_in_cloud, *words.good_in_corporate)
        return (
            tuple(phrase for phrase in shared if self._is_good((tool, phrase)) is good),
            tuple(phrase for phrase in own if self._is_good((tool, phrase)) is good),
        )

    def _is_good(self, phrase: Phrase) -> bool:
        return phrase in self.covering if phrase[0] in ("tickets", "asset") else phrase not in self.suspicious


def policy_of(context: str) -> Policy:
    """The policy of `context` without any drift.

    Raises:
        SpecError: the range has no such context.
    """
    if context not in CONTEXTS:
        raise SpecError(f"context {context!r} is not one of the range's: {', '.join(CONTEXTS)}")
    suspicious = {(tool, phrase) for tool in TELEMETRY for part in WORDS[tool].bad_for(context) for phrase in part}
    covering = {
        (tool, phrase) for tool in ("tickets", "asset") for part in WORDS[tool].good_for(context) for phrase in part
    }
    return Policy(context, frozenset(suspicious), frozenset(covering))


@dataclass(frozen=True, slots=True)
class Drift:
    """A change of what is routine, from the start of `day` on. `day` None is the first day of the holdout."""

    name: str
    day: int | None = None

    @property
    def text(self) -> str:
        """The form that `parse_drift` reads."""
        return self.name if self.day is None else f"{self.name}@{self.day}"


_ROUTINE: Final[dict[str, dict[str, tuple[Phrase, ...]]]] = {
    "new-backup-tool": {
        CORPORATE: (
            ("processes", "unattended script"),
            ("flows", "bulk copy"),
            ("signins", "token from many regions"),
        ),
        CLOUD: (("flows", "file share fan-out"), ("processes", "remote desktop"), ("dns", "directory lookups")),
    },
    "moved-scanner": {CORPORATE: (("asset", "build agent"),), CLOUD: (("asset", "jump host"),)},
}
"""What each drift makes routine, per context."""
_SUSPECT: Final[dict[str, dict[str, tuple[Phrase, ...]]]] = {
    "new-backup-tool": {
        CORPORATE: (("flows", "file share fan-out"), ("signins", "password typed by hand")),
        CLOUD: (("flows", "bulk copy"), ("dns", "short lived names")),
    },
    "moved-scanner": {CORPORATE: (("asset", "scanner"),), CLOUD: (("asset", "scanner"),)},
}
"""What each drift puts an end to: nobody does it for good reasons any more."""
DRIFTS: Final = tuple(_ROUTINE)


def parse_drift(text: str) -> Drift:
    """A drift from ``NAME`` or ``NAME@DAY``.

    Raises:
        SpecError: an unknown name, or a day that is not a number of days since the world began.
    """
    name, _, day = text.partition("@")
    if name not in _ROUTINE or (day and not day.isdigit()):
        raise SpecError(f"drift {text!r} is not NAME or NAME@DAY with NAME one of: {', '.join(DRIFTS)}")
    return Drift(name, int(day) if day else None)


def drifted(policy: Policy, drifts: Iterable[Drift]) -> Policy:
    """`policy` after `drifts`: some phrases became routine, others stopped being so."""
    for drift in drifts:
        routine = frozenset(_ROUTINE[drift.name][policy.context])
        suspect = frozenset(_SUSPECT[drift.name][policy.context])
        policy = replace(
            policy,
            suspicious=(policy.suspicious - routine) | {p for p in suspect if p[0] in TELEMETRY},
            covering=(policy.covering - suspect) | {p for p in routine if p[0] == "asset"},
        )
    return policy
