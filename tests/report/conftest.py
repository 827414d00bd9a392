"""An invented evaluation of the full shape. Its numbers come from a seed and mean nothing."""

import json
import math
import random
from typing import Any

import pytest

from socadapter_api import digest
from socadapter_api.case import Verdict
from socadapter_api.manifest import GateResult, GrpoOutcome, Outcome, RunResult
from socadapter_api.trajectory import CallOutcome, ToolCall, Trajectory
from socadapter_jobs.scoring.baselines import BASELINES

GROUPS = ("impossible travel", "mass download", "new admin role", "oauth consent", "service account key")
HOSTILE = '</script><script>alert(1)</script><img src=x onerror=alert(2)> & "quoted" \u202egnp.exe {{ 7*7 }} {% raw %}'
"""What an attacker might name a file: markup, a template expression, and a character that turns text around."""


def _metrics(random_: random.Random, skill: float) -> dict[str, Any]:
    def spread(rows: int, right: str, others: tuple[str, ...]) -> dict[str, int]:
        hits = sum(random_.random() < skill for _ in range(rows))
        counts = dict.fromkeys((verdict.value for verdict in Verdict), 0) | {right: hits}
        for _ in range(rows - hits):
            counts[random_.choice(others)] += 1
        return counts

    confusion = {
        "true_positive": spread(40, "true_positive", ("benign_true_positive", "escalate", "false_positive")),
        "benign_true_positive": spread(38, "benign_true_positive", ("true_positive", "false_positive", "escalate")),
        "false_positive": spread(42, "false_positive", ("true_positive", "benign_true_positive", "invalid")),
    }
    fnr = 1 - confusion["true_positive"]["true_positive"] / 40
    half = 1.96 * math.sqrt(max(fnr * (1 - fnr), 0.01) / 40)
    slices = {
        group: {
            "n": 24,
            "attacks": 8,
            "balanced_accuracy": min(1.0, skill + random_.uniform(-0.1, 0.1)),
            "fnr": max(0.0, fnr + random_.uniform(-0.1, 0.1)),
            "utility": 2 * skill - 1.2 + random_.uniform(-0.1, 0.1),
        }
        for group in GROUPS
    }
    return {
        "n": 120,
        "attacks": 40,
        "balanced_accuracy": skill,
        "fnr": fnr,
        "fnr_low": max(0.0, fnr - half),
        "fnr_high": min(1.0, fnr + half),
        "auc": min(0.99, skill + 0.06),
        "abstained": 0.08,
        "utility": 2 * skill - 1.2,
        "closing_precision": min(1.0, skill + 0.05),
        "ece": 0.22 * (1 - skill),
        "brier": 0.4 * (1 - skill),
        "grounded_rate": skill,
        "calls_per_case": 2.4,
        "tokens_per_case": 131.0,
        "loops_per_100": 4 * (1 - skill),
        "unknown_per_100": 2 * (1 - skill),
        "confusion": confusion,
        "slices": slices,
    }


def _arm(random_: random.Random, skill: float) -> dict[str, Any]:
    cases = [
        {"id": f"c{i}", "label": "true_positive", "verdict": "escalate", "confidence": 0.4, "calls": 2, "tokens": 90}
        for i in range(3)
    ]
    return {
        "metrics": _metrics(random_, skill),
        "cases": cases,
        "summaries": {"n": 8, "complete": 7, "cited": 7, "grounded": 6},
    }


def _trajectory(verdict: Verdict, confidence: float, result: str) -> dict[str, Any]:
    calls = (
        ToolCall(tool="signins", args={"user": "m.lee", "hours": 24}, evidence_id="e1", result=result, seconds=0.2),
        ToolCall(tool="asset", args={"host": "fin-ws-07"}, evidence_id="e2", result="owner: finance; managed: true"),
        ToolCall(tool="threat_intel", args={"ip": "203.0.113.9"}, evidence_id="e3", outcome=CallOutcome.TIMEOUT),
    )
    return Trajectory(
        verdict=verdict,
        confidence=confidence,
        summary="Sign-in from an unmanaged host minutes after one from the office; consent granted to an unknown app.",
        citations=("e1",),
        calls=calls,
        turns=4,
        repeats=1 if verdict is Verdict.ESCALATE else 0,
        ungrounded=2 if verdict is Verdict.ESCALATE else 0,
    ).model_dump(mode="json")


def _learning(random_: random.Random) -> dict[str, Any]:
    return {
        "sft": [
            {"step": step, "loss": 0.35 + 2.2 * math.exp(-step / 18) + random_.uniform(-0.05, 0.05), "lr": 2e-4}
            for step in range(1, 121)
        ],
        "grpo": [
            {
                "step": step,
                "reward": 0.9 - 0.8 * math.exp(-step / 14) + random_.uniform(-0.08, 0.08),
                "verdict_reward": 0.8 - 0.7 * math.exp(-step / 14),
                "shaping": 0.15 - 0.1 * math.exp(-step / 14),
                "penalty": -0.2 * math.exp(-step / 10),
                "accuracy": 0.92 - 0.35 * math.exp(-step / 14) + random_.uniform(-0.04, 0.04),
                "entropy": 0.25 + 0.5 * math.exp(-step / 20) + random_.uniform(-0.03, 0.03),
                "zero_variance": min(0.9, 0.2 + 0.01 * step),
                "refilled": 1.0,
                "calls": 2.5,
                "unscorable": 0.0,
            }
            for step in range(1, 41)
        ],
        "development": [
            {
                "step": step,
                "utility": 0.35 + step / 120,
                "balanced_accuracy": 0.78 + step / 400,
                "fnr": 0.2 - step / 400,
            }
            for step in range(0, 41, 5)
        ],
    }


def invented_evaluation(seed: int = 0) -> dict[str, Any]:
    """An ``evaluation.json`` with every part, as JSON gives it back."""
    random_ = random.Random(seed)
    gates = (
        GateResult(
            metric="falseNegativeRate", rule="not worse than Champion by more than 0.02", value=0.05, passed=True
        ),
        GateResult(metric="balancedAccuracy", rule="min 0.85", value=0.93, passed=True),
        GateResult(metric="groundedRate", rule="min 0.95", value=None, passed=False, message="no figure was measured"),
    )
    evaluation = {
        "context": "cloud-infrastructure",
        "run_id": "cloud-infrastructure-7-a",
        "seed": seed,
        "arms": {
            name: _arm(random_, skill)
            for name, skill in (("base", 0.52), ("sft", 0.84), ("candidate", 0.93), ("champion", 0.9))
        },
        "other_contexts": {"corporate-network": _arm(random_, 0.66), "identity": _arm(random_, 0.58)},
        "other_adapters": {
            "corporate-network": {
                "base": {"balanced_accuracy": 0.5, "fnr": 1.0, "n": 80},
                "on": {
                    "corporate-network": {"balanced_accuracy": 0.97, "fnr": 0.02, "n": 80},
                    "cloud-infrastructure": {},
                },
            }
        },
        "baselines": {
            name: {
                key: value
                for key, value in _metrics(random_, skill).items()
                if key in ("n", "balanced_accuracy", "auc")
            }
            for name, skill in zip(BASELINES, (0.5, 0.71, 0.8), strict=True)
        },
        "paired": {
            "candidate-base": {
                "balanced_accuracy": {"difference": 0.41, "low": 0.33, "high": 0.49},
                "fnr": {"difference": -0.43, "low": -0.55, "high": -0.3},
                "utility": {"difference": 0.8, "low": 0.6, "high": 1.0},
                "tokens_per_case": {"difference": -30.0, "low": -40.0, "high": -20.0},
            },
            "candidate-champion": {
                "balanced_accuracy": {"difference": 0.03, "low": -0.01, "high": 0.07},
                "fnr": {"difference": -0.02, "low": -0.08, "high": 0.04},
                "utility": {"difference": 0.05, "low": 0.01, "high": 0.09},
                "grounded_rate": {"difference": -0.06, "low": -0.1, "high": -0.02},
            },
            "candidate-title look-up": {
                "balanced_accuracy": {"difference": 0.22, "low": 0.14, "high": 0.3},
            },
        },
        "calibration": {
            "slope": 0.84,
            "intercept": -0.31,
            "escalateAt": 0.27,
            "fittedOn": 64,
            "bins": [
                {"p": p, "observed": min(1.0, max(0.0, p + random_.uniform(-0.08, 0.08))), "n": n}
                for p, n in ((0.03, 41), (0.15, 12), (0.31, 6), (0.52, 4), (0.7, 9), (0.88, 17), (0.97, 31))
            ],
        },
        "examples": [
            {
                "case_id": f"case-{number}",
                "alert": {
                    "title": "Impossible travel, then consent to an application",
                    "severity": "medium",
                    "user": "m.lee",
                    "file": HOSTILE,
                    "details": {"countries": ["AT", "BR"], "minutes": 11},
                },
                "label": "TP",
                "arms": {
                    "base": _trajectory(Verdict.ESCALATE, 0.41, HOSTILE),
                    "candidate": _trajectory(
                        Verdict.TRUE_POSITIVE, 0.94, "09:02 AT office\n09:13 BR 203.0.113.9 unmanaged"
                    ),
                },
            }
            for number in range(1, 4)
        ],
        "learning": _learning(random_),
        "data": {
            "counts": {"trajectories": 412, "training_alerts": 960, "development_alerts": 64, "holdout_alerts": 120},
            "sources": [
                {
                    "name": "trajectories",
                    "uri": "s3://soc/trajectories/cloud/",
                    "digest": digest.of_bytes(b"t"),
                    "rows": 412,
                },
                {"name": "alerts", "uri": "s3://soc/alerts/cloud/", "digest": digest.of_bytes(b"a"), "rows": 1144},
            ],
            "checks": [
                {
                    "severity": "warning",
                    "name": "LabelLeak",
                    "message": "field 'rule_id' alone predicts 71 % of labels",
                },
                {"severity": "info", "name": "HoldoutOverlap", "message": "0 entities shared with training"},
            ],
        },
        "adapter": {
            "parameters": 2_442_240,
            "base_parameters": 134_515_008,
            "bytes": 9_800_000,
            "rank": 8,
            "alpha": 16,
            "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        },
        "gates": [gate.model_dump(mode="json") for gate in gates],
        "weights_digests": {name: digest.of_bytes(name.encode()) for name in ("candidate", "champion")},
        "base": {"uri": "builtin://smollm2-135m-instruct", "digest": digest.of_bytes(b"base")},
        "judged_with": {
            "precision": "Float32",
            **{f"{name}_digest": digest.of_bytes(name.encode()) for name in ("template", "tools", "config", "code")},
        },
        "grpo": GrpoOutcome(
            status="Aborted", reason="Collapse", message="entropy fell below 0.05 at step 36", steps=36, best_step=25
        ).model_dump(mode="json"),
        "seconds": {"prepare": 3.1, "sft": 412.0, "grpo": 1260.0, "evaluate": 340.0},
    }
    loaded: dict[str, Any] = json.loads(json.dumps(evaluation))
    return loaded


@pytest.fixture
def evaluation() -> dict[str, Any]:
    return invented_evaluation()


@pytest.fixture
def result() -> dict[str, Any]:
    return RunResult(
        run_id="cloud-infrastructure-7-a",
        context="cloud-infrastructure",
        outcome=Outcome.GATE_FAILED,
        message="groundedRate: no figure was measured",
        inputs={"alerts:alerts.jsonl": digest.of_bytes(b"a"), "base": digest.of_bytes(b"base")},
    ).model_dump(mode="json")


@pytest.fixture
def manifest() -> dict[str, Any]:
    return {
        "version": "cloud-infrastructure-v7-0a1b2c3d",
        "baseUri": "builtin://smollm2-135m-instruct",
        "createdAt": "2026-01-02T03:04:05+00:00",
        "adapterDigest": digest.of_bytes(b"adapter"),
        "baseDigest": digest.of_bytes(b"base"),
        "templateDigest": digest.of_bytes(b"template"),
        "toolsDigest": digest.of_bytes(b"tools"),
        "inputs": {"alerts": digest.of_bytes(b"a")},
    }
