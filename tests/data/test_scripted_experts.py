"""Scripted experts: they ask what informs, quote what they read, and fit a small model's turn."""

import random

import pytest

from socadapter_agent.grounding import ungrounded
from socadapter_agent.protocol import Answer, parse_turn, render_answer
from socadapter_api.case import Case
from socadapter_api.errors import EmptyData, OneClass
from socadapter_jobs.data.scripted_experts import MAX_SUMMARY_CHARACTERS, learn_policy, script, script_all

pytestmark = pytest.mark.slow  # each fits a dozen regressions


def cases(n: int = 80, seed: int = 0) -> list[Case]:
    """`history` decides, `weather` does not, `owner` helps a little."""
    rng = random.Random(seed)
    made = []
    for place in range(n):
        attack = place % 2 == 0
        made.append(
            Case.model_validate(
                {
                    "id": f"c{place}",
                    "alert": {
                        "title": rng.choice(["Odd login", "Odd process with a title that goes on and on and on"])
                    },
                    "evidence": {
                        "weather": {"sky": rng.choice(["blue", "grey"])},
                        "history": {"failures": rng.randint(300, 900) if attack else rng.randint(0, 20), "host": "web"},
                        "owner": {"team": "ops" if attack == (rng.random() < 0.7) else "dev"},
                    },
                    "label": "TP" if attack else rng.choice(["FP", "BTP"]),
                }
            )
        )
    return made


def test_the_deciding_tool_is_asked_first_and_the_idle_one_never() -> None:
    """The order comes from the held-out loss, which falls with every tool that is kept."""
    policy = learn_policy(cases())
    assert policy.tools[0] == "history"
    assert "weather" not in policy.tools
    assert list(policy.losses) == sorted(policy.losses, reverse=True)


def test_what_tells_one_organisation_only_is_not_asked() -> None:
    """A tool whose words mean an attack in one context and nothing in another loses to one that holds in all."""
    made = []
    for place, case in enumerate(cases(240)):
        organisation = f"org-{place % 3}"
        word = f"{organisation}-{'burst' if case.is_attack else 'calm'}"
        helps = "often" if case.is_attack == (random.Random(place).random() < 0.85) else "seldom"
        evidence = {"local": {"mode": word}, "general": {"seen": helps}}
        made.append(case.model_copy(update={"context": organisation, "evidence": evidence}))
    assert learn_policy(made).tools == ("general",)
    alike = [case.model_copy(update={"context": ""}) for case in made]
    assert learn_policy(alike).tools[0] == "local"


def test_contexts_that_hold_all_attacks_are_not_left_out_together() -> None:
    """Four folds of six contexts leave out several at once: no fold may be left without a class to learn."""
    sizes = {"a": 40, "b": 40, "c": 40, "d": 30, "e": 5, "f": 5}
    contexts = [name for name, size in sizes.items() for _ in range(size)]
    found = cases(2 * len(contexts))
    attacks = [case for case in found if case.is_attack]
    others = [case for case in found if not case.is_attack]
    made = [
        (attacks if name in "ef" else others)[place].model_copy(update={"context": name})
        for place, name in enumerate(contexts)
    ]
    assert "history" in learn_policy(made).tools


def test_numbers_of_any_length_are_read() -> None:
    """Attackers write log lines, and keys have moduli of hundreds of digits."""
    long = [
        case.model_copy(
            update={"evidence": case.evidence | {"history": {"failures": int("9" * 600), "key": "9" * 600}}}
        )
        for case in cases()
    ]
    assert learn_policy(long).tools


def test_at_most_as_many_calls_as_asked_for() -> None:
    """And at least one, even if none informs."""
    assert len(learn_policy(cases(), max_calls=1).tools) == 1
    idle = [case.model_copy(update={"evidence": {"weather": case.evidence["weather"]}}) for case in cases()]
    assert learn_policy(idle).tools == ("weather",)


def test_every_quote_stands_in_the_evidence() -> None:
    """Citations name calls that were made, and quoted text is a piece of their answers."""
    experts, _ = script_all(cases())
    for expert in experts:
        answer = Answer(expert.verdict, expert.summary, expert.citations)
        assert ungrounded(answer, list(expert.calls)) == 0
        assert expert.citations
        for call in expert.calls:
            for quote in expert.summary.split("; ")[1:]:
                text, _, cited = quote.rpartition(" [")
                if cited == f"{call.evidence_id}]":
                    assert text in call.result


def test_an_expert_teaches_the_cases_label_in_the_agents_own_format() -> None:
    """The verdict is the label, and the answer fits the protocol and a small model's turn."""
    made = cases()
    experts, _ = script_all(made)
    for case, expert in zip(made, experts, strict=True):
        assert expert.verdict is case.label
        assert len(expert.summary) <= MAX_SUMMARY_CHARACTERS
        assert isinstance(parse_turn(render_answer(expert.verdict, expert.summary, expert.citations)), Answer)


def test_what_was_not_recorded_is_not_asked() -> None:
    """A case without a tool's evidence is investigated with the others."""
    made = cases()
    policy = learn_policy(made)
    bare = made[0].model_copy(update={"evidence": {"owner": {"team": "ops"}}})
    assert {call.tool for call in script(bare, policy).calls} <= {"owner"}


def test_nothing_is_scripted_that_asks_nothing() -> None:
    """A case without evidence would teach to conclude without asking."""
    bare = cases()[3].model_copy(update={"id": "bare", "evidence": {}})
    scripted, _ = script_all([*cases(), bare])
    assert {case.id for case in cases()} == {expert.case_id for expert in scripted}


def test_empty_answers_are_read_and_not_quoted() -> None:
    """`no data` is worth knowing, and is no evidence to cite."""
    made = cases()
    policy = learn_policy(made)
    empty = made[0].model_copy(update={"evidence": {"history": {}}})
    expert = script(empty, policy)
    assert [call.result for call in expert.calls] == ["no data"]
    assert expert.citations == ()
    assert "no data" not in expert.summary


def test_scripting_is_seeded() -> None:
    """The same cases give the same experts."""
    assert script_all(cases(), seed=4)[0] == script_all(cases(), seed=4)[0]


@pytest.mark.parametrize(
    ("made", "error"),
    [
        pytest.param([c for c in cases() if c.is_attack], OneClass, id="one-class"),
        pytest.param([c.model_copy(update={"evidence": {}}) for c in cases()], EmptyData, id="no-evidence"),
    ],
)
def test_what_cannot_be_scripted_is_refused(made: list[Case], error: type[Exception]) -> None:
    """With a reason, instead of an expert that knows nothing."""
    with pytest.raises(error):
        learn_policy(made)
