"""The alerts that GRPO has a reward for, whether they fill a step, and which of them each step takes.

Pure; called by prepare, grpo and benchmarks.
"""

import math
import random
from collections.abc import Iterable

from socadapter_api.case import Case
from socadapter_api.errors import TooFewAlerts
from socadapter_api.training import GrpoSpec


def rewarded(cases: Iterable[Case], spec: GrpoSpec) -> list[Case]:
    """Those of `cases` that GRPO learns from: an undecidable one only where escalating needlessly costs something."""
    return [case for case in cases if case.decidable or spec.reward.escalated < 0]


def require_a_step(alerts: int, spec: GrpoSpec) -> None:
    """Raises TooFewAlerts where `alerts` are fewer than one step takes: the trainer would end without a step."""
    if alerts < spec.alerts_per_step:
        raise TooFewAlerts(
            f"GRPO has {alerts} alerts and one step takes grpo.alertsPerStep {spec.alerts_per_step}: the trainer would "
            "end without a step. Wait for more verdicts or lower alertsPerStep"
        )


def sampling_order(alerts: int, spec: GrpoSpec, seed: int) -> list[int]:
    """The places of the alerts that all steps take, in order: pass after pass, each drawn anew by `seed`.

    A pass takes whole steps of different alerts; what fills none waits for another pass.
    """
    rng = random.Random(seed)
    a_pass = alerts // spec.alerts_per_step * spec.alerts_per_step
    wanted = spec.steps * spec.alerts_per_step
    return [place for _ in range(math.ceil(wanted / a_pass)) for place in rng.sample(range(alerts), a_pass)][:wanted]
