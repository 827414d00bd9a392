"""A base of about 60,000 parameters that writes well-formed investigations and guesses their verdict, and data for it.

The rule in the data is simple (an unknown device in the sign-ins means an attack), so that a run of seconds has
something to learn: the base knows the protocol and both verdicts, and nothing of the rule.
"""

import contextlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from socadapter_agent import protocol
from socadapter_agent.base_model import resolve_base
from socadapter_agent.replay import render_evidence, specs_of_cases
from socadapter_agent.tools import ToolSpec
from socadapter_api import digest
from socadapter_api.case import Alert, Case, Verdict
from socadapter_api.manifest import Outcome, RunResult, Stage
from socadapter_api.training import BaseModelRef, DataSource, DataSpec, LoraSpec, RunSpec
from socadapter_api.trajectory import ExpertTrajectory, ToolCall
from socadapter_jobs import run, stages
from socadapter_jobs.data import case_files
from socadapter_jobs.workspace import Workspace
from socadapter_store import publication, signatures
from socadapter_store.run_folder import RunFolder

USERS = ("ann", "bob", "cleo", "dan", "eve", "finn", "gus", "hana")
CITIES = ("Graz", "Linz", "Wels", "Enns")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|pad|>")


_ASKED_BY_PEFT_AND_TRL = "ignore:.(is_)?gradient_checkpointing. is deprecated:FutureWarning"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lets one warning through: PEFT and TRL go on asking for what transformers has renamed."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings(_ASKED_BY_PEFT_AND_TRL))


def make_case(number: int, *, attack: bool) -> Case:
    """An alert whose sign-ins tell what it is, and whose asset record tells nothing."""
    rng = random.Random(f"case {number}")
    device = "unknown" if attack else "known"
    return Case(
        id=f"c{number}",
        context="cloud",
        alert={"title": rng.choice(("Odd sign-in", "New session")), "user": rng.choice(USERS), "count": number},
        evidence={
            "signins": {"device": device, "city": rng.choice(CITIES)},
            "assets": {"owner": rng.choice(USERS), "tier": rng.randint(1, 3)},
        },
        label=Verdict.TRUE_POSITIVE if attack else Verdict.FALSE_POSITIVE,
    )


def make_cases(count: int, start: int = 0) -> list[Case]:
    return [make_case(number, attack=number % 2 == 0) for number in range(start, start + count)]


def make_expert(case: Case, verdict: Verdict | None = None) -> ExpertTrajectory:
    """The sign-ins, sometimes the asset, then the verdict."""
    tools = ("signins", "assets") if int(case.id[1:]) % 3 == 0 else ("signins",)
    calls = tuple(
        ToolCall(tool=tool, evidence_id=f"e{place}", result=render_evidence(case.evidence[tool]))
        for place, tool in enumerate(tools, 1)
    )
    return ExpertTrajectory(
        case_id=case.id,
        alert=case.alert,
        calls=calls,
        verdict=verdict or case.label,
        summary=f"Sign-in of {case.alert['user']} [e1]",
        citations=("e1",),
        approved_by="ann",
    )


def conversation(expert: ExpertTrajectory, specs: Sequence[ToolSpec]) -> list[tuple[str, str]]:
    """Role and text of every message, as the agent would have them."""
    told = [("system", protocol.system_prompt(specs)), ("user", protocol.render_alert(Alert(expert.alert)))]
    for call in expert.calls:
        told += [
            ("assistant", protocol.render_call(call.tool, call.args)),
            ("tool", protocol.render_result(call.evidence_id, call.result)),
        ]
    return [*told, ("assistant", protocol.render_answer(expert.verdict, expert.summary, expert.citations))]


def make_tokenizer() -> Any:
    """Byte-level BPE with a few hundred entries, trained on investigations."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    cases = make_cases(60, start=10_000)
    verdicts = [Verdict.TRUE_POSITIVE, Verdict.FALSE_POSITIVE, Verdict.BENIGN_TRUE_POSITIVE, Verdict.ESCALATE]
    corpus = [
        text
        for number, case in enumerate(cases)
        for _, text in conversation(make_expert(case, verdicts[number % 4]), specs_of_cases(cases))
    ]
    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=480, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token=SPECIAL[1], pad_token=SPECIAL[2])
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL[:2])})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(tokenizer: Any) -> Any:
    """A two-layer Llama with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def teach_protocol(model: Any, tokenizer: Any, steps: int = 200, cases: Sequence[Case] = ()) -> float:
    """Teaches `model` to investigate `cases`, or such as tests make, in the right form and to guess; the last loss."""
    import torch

    from socadapter_agent.chat_format import chat_format
    from socadapter_jobs.examples import encode

    rng = random.Random(0)
    cases = cases or make_cases(64, start=20_000)
    chat, specs = chat_format(tokenizer), specs_of_cases(cases)
    guesses = (Verdict.TRUE_POSITIVE, Verdict.FALSE_POSITIVE)
    rows = [encode(make_expert(case, rng.choice(guesses)), chat, specs) for case in cases for _ in range(2)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, steps)
    loss = torch.tensor(0.0)
    for _ in range(steps):
        batch = rng.sample(rows, 8)
        width = max(len(row.input_ids) for row in batch)
        pad = [width - len(row.input_ids) for row in batch]
        ids = torch.tensor(
            [row.input_ids + [tokenizer.pad_token_id] * more for row, more in zip(batch, pad, strict=True)]
        )
        labels = torch.tensor([row.labels + [-100] * more for row, more in zip(batch, pad, strict=True)])
        loss = model(input_ids=ids, attention_mask=(ids != tokenizer.pad_token_id).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return float(loss.detach())


@dataclass(frozen=True)
class Making:
    """What tests make cases and investigations with."""

    case: Callable[..., Case] = make_case
    cases: Callable[..., list[Case]] = make_cases
    expert: Callable[..., ExpertTrajectory] = make_expert


@pytest.fixture(scope="session")
def making() -> Making:
    return Making()


@dataclass(frozen=True)
class Data:
    """Labelled alerts and experts' investigations, in files and in memory."""

    alerts: Path
    trajectories: Path
    cases: tuple[Case, ...]
    experts: tuple[ExpertTrajectory, ...]

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        return specs_of_cases(self.cases)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """40 alerts, half of them attacks, and an investigation of each."""
    folder = tmp_path_factory.mktemp("data")
    cases = tuple(make_cases(40))
    experts = tuple(make_expert(case) for case in cases)
    case_files.write_cases(str(folder / "alerts.jsonl"), cases)
    case_files.write_trajectories(str(folder / "trajectories.jsonl"), experts)
    return Data(folder / "alerts.jsonl", folder / "trajectories.jsonl", cases, experts)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="session")
def blank_base(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base before it knows anything: enough for whatever only computes."""
    folder = tmp_path_factory.mktemp("blank-base")
    tokenizer.save_pretrained(folder)
    make_model(tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def base(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base that knows the protocol; takes some seconds."""
    folder = tmp_path_factory.mktemp("base")
    model = make_model(tokenizer)
    loss = teach_protocol(model, tokenizer)
    assert loss < 0.2, f"the tiny base did not learn the protocol: loss {loss}"
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> signatures.KeyPair:
    return signatures.make_key(tmp_path_factory.mktemp("key"))


@pytest.fixture
def published(blank_base: Path, key: signatures.KeyPair, tmp_path: Path) -> Callable[..., Path]:
    """A run's folder with a version of rank 4 on the blank base, or on what its manifest is made to say."""

    def publish(base_digest: str | None = None, tools: str | None = None) -> Path:
        import torch

        from socadapter_jobs.policy import load_policy, save_adapter

        base = resolve_base(BaseModelRef(uri=str(blank_base)))
        policy = load_policy(base, LoraSpec(rank=4, alpha=8), dtype=torch.float32, seed=0)
        save_adapter(policy, tmp_path / "local" / "adapter")
        any_digest = digest.of_bytes(b"any")
        fields: dict[str, Any] = {
            "context": "cloud",
            "namespace": "soc",
            "run_id": "cloud-1-a",
            "number": 1,
            "base_uri": str(blank_base),
            "base_digest": base_digest or base.digest,
            "base_parameters": 1,
            **dict.fromkeys(("template_digest", "config_digest", "code_digest"), any_digest),
            "tools_digest": tools or any_digest,
        }
        result = RunResult(run_id="cloud-1-a", context="cloud", outcome=Outcome.PUBLISHED)
        folder = tmp_path / "run"
        publication.publish(tmp_path / "local", fields, result, RunFolder.at(str(folder)), key.private)
        return folder

    return publish


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a run sets for itself, and a cache that is not the user's own."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    monkeypatch.setenv("SOCADAPTER_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def bare_spec(folder: Path, scratch: str) -> RunSpec:
    """The spec of a run that nobody carries out, with its store and `scratch` below `folder`."""
    return RunSpec(
        run_id="cloud-1",
        adapter="cloud",
        context="cloud",
        version_number=1,
        training_hash=digest.of_bytes(b"training"),
        base=BaseModelRef(uri="base"),
        store=str(folder / "store"),
        scratch=str(folder / scratch),
        data=DataSpec(),
    )


@pytest.fixture
def make_spec(data: Data, key: signatures.KeyPair, tmp_path: Path) -> Callable[..., RunSpec]:
    """The spec of a run of seconds on `base`, with changes; blocks may be given as plain dictionaries."""

    def make(base: Path, /, **changes: Any) -> RunSpec:
        fields: dict[str, Any] = {
            "run_id": "cloud-1-a",
            "namespace": "soc",
            "adapter": "cloud",
            "context": "cloud",
            "version_number": 1,
            "training_hash": digest.of_bytes(b"training"),
            "base": {"uri": str(base)},
            "store": str(tmp_path / "store"),
            "scratch": str(tmp_path / "scratch"),
            "signing_key": str(key.private),
            "data": {
                "alerts": [DataSource(uri=str(data.alerts))],
                "trajectories": [DataSource(uri=str(data.trajectories))],
                "holdout_percent": 25,
                "max_holdout": 10,
            },
            "lora": {"rank": 4, "alpha": 8},
            "sft": {"epochs": 1.0, "learning_rate": 5e-3, "batch_size": 4, "max_length_tokens": 512},
            "grpo": {
                "steps": 2,
                "group_size": 4,
                "alerts_per_step": 2,
                "max_turns": 4,
                "max_calls": 2,
                "max_turn_tokens": 48,
                "max_summary_tokens": 0,
                "max_context_tokens": 512,
                "learning_rate": 1e-3,
                "temperature": 0.7,
                "start_auc": 0.0,
                "start_valid_percent": 0.0,
                "eval_every": 2,
            },
            "compute": {"max_failures": 0, "precision": "Float32"},
            "evaluation": {"development_percent": 25, "max_development": 8, "summaries": 2},
        }
        for name, value in changes.items():
            known = fields.get(name)
            fields[name] = {**known, **value} if isinstance(known, dict) and isinstance(value, dict) else value
        return RunSpec.model_validate(json.loads(json.dumps(fields, default=lambda v: v.model_dump(mode="json"))))

    return make


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch) -> Callable[[RunSpec], RunResult]:
    """`execute` with every stage in this process instead of a Ray worker."""

    def stage_here(workspace: Workspace, stage: Stage) -> dict[str, Any]:
        run._work(workspace, stage, 0, stages.STAGES[stage])
        facts = workspace.noted(run._facts_note(stage))
        assert isinstance(facts, dict)
        return facts

    monkeypatch.setattr(run, "ray_session", lambda spec, scratch: contextlib.nullcontext())
    monkeypatch.setattr(run, "_in_ray_train", stage_here)
    return run.execute


@pytest.fixture
def make_workspace(make_spec: Callable[..., RunSpec]) -> Callable[..., Workspace]:
    return lambda base, /, **changes: Workspace.of(make_spec(base, **changes))
