"""The in-process engine against plain `transformers`: whatever is batched, cached, mixed or cancelled, answers stay."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.agent.talking import ALERTS, SHORT, SYSTEM, greedy, say, until
from transformers import LlamaConfig, LlamaForCausalLM

from socadapter_agent.engine import Sampling, Turn
from socadapter_agent.protocol import VERDICT_PREFIX
from socadapter_agent.transformers_engine import TransformersEngine
from socadapter_api.case import ANSWERS
from socadapter_api.errors import EngineUnavailable, SpecError, TemplateUnsupported

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # peft asks for it
]


async def test_greedy_turns_equal_plain_generation(make_engine: Any, model: Any) -> None:
    """At temperature 0 the engine says what `model.generate` says, with the log-probabilities of the full forward."""
    async with make_engine() as engine:
        for alert in ALERTS:
            turn = await say(engine, alert)
            prompt = engine.format.prompt_ids(SYSTEM, alert)
            assert list(turn.token_ids) == greedy(model, prompt, 12, engine.format.end_of_turn)
            with torch.no_grad():
                logits = model(torch.tensor([[*prompt, *turn.token_ids]])).logits[0, len(prompt) - 1 : -1]
            expected = torch.log_softmax(logits, -1).gather(1, torch.tensor(turn.token_ids)[:, None])[:, 0]
            assert torch.allclose(expected, torch.tensor(turn.logprobs), atol=1e-4)


async def test_ragged_batches_equal_one_by_one(make_engine: Any) -> None:
    """Conversations of any lengths read and decoded together say what they say alone."""
    async with make_engine(max_batch=8) as engine:
        alone = [(await say(engine, alert)).token_ids for alert in ALERTS]
        together = [turn.token_ids for turn in await asyncio.gather(*(say(engine, alert) for alert in ALERTS))]
    assert alone == together
    assert len(set(alone)) > 3


async def test_more_conversations_than_slots(make_engine: Any) -> None:
    """With fewer slots than conversations all are answered, in turn, and as ever."""
    async with make_engine(max_batch=2) as narrow:
        crowd = [turn.token_ids for turn in await asyncio.gather(*(say(narrow, alert) for alert in ALERTS * 3))]
        alone = [(await say(narrow, alert)).token_ids for alert in ALERTS]
    assert alone * 3 == crowd


async def test_kept_caches_equal_a_fresh_reading(make_engine: Any, model: Any) -> None:
    """Three turns in one conversation equal what plain generation says after reading all of it anew."""
    async with make_engine() as engine:
        chat = engine.format
        session = engine.open(SYSTEM, ALERTS[1])
        for result in ("[e1] 3 sign-ins", "[e2] no data", "[e3] " + "long " * 60):
            so_far = list(session.ids)
            turn = await session.turn(SHORT)
            assert greedy(model, so_far, 12, chat.end_of_turn) == list(turn.token_ids)
            session.add_result(result)
            closing = [] if turn.token_ids[-1] == chat.end_of_turn else [chat.end_of_turn]
            assert [*so_far, *turn.token_ids, *closing, *chat.result_ids(result)] == session.ids
        session.close()


async def test_only_what_is_new_is_read(make_engine: Any) -> None:
    """The instructions are read once per engine, the conversation once, and a result when it comes."""
    async with make_engine() as engine:
        chat = engine.format
        rest = len(chat.prompt_ids(SYSTEM, ALERTS[1])) - len(chat.system_ids(SYSTEM))
        session = engine.open(SYSTEM, ALERTS[1])
        assert (await session.turn(SHORT)).tokens_read == rest
        session.add_result("[e1] x")
        last_sampled = 1
        closed = 1 if session.record().mask[-1] == 0 and session.ids.count(chat.end_of_turn) > 2 else 0
        assert (await session.turn(SHORT)).tokens_read == last_sampled + closed + len(chat.result_ids("[e1] x"))
        session.close()
        assert (await say(engine, ALERTS[1])).tokens_read == rest


async def test_records_are_exactly_what_was_read_and_sampled(make_engine: Any) -> None:
    """A record splits at the prompt, marks the sampled tokens, and carries their log-probabilities."""
    async with make_engine() as engine:
        session = engine.open(SYSTEM, ALERTS[2])
        turns = []
        for _ in range(2):
            turns.append(await session.turn(Sampling(temperature=1.0, max_turn_tokens=5, seed=1)))
            session.add_result("[e1] text")
        record = session.record()
        assert list(record.prompt_ids) == engine.format.prompt_ids(SYSTEM, ALERTS[2])
        assert (
            len(record.ids)
            == len(record.mask)
            == len(record.logprobs)
            == session.context_tokens - len(record.prompt_ids)
        )
        sampled = [token for token, mine in zip(record.ids, record.mask, strict=True) if mine]
        assert sampled == [token for turn in turns for token in turn.token_ids]
        kept = [value for value, mine in zip(record.logprobs, record.mask, strict=True) if mine]
        assert kept == [value for turn in turns for value in turn.logprobs]


async def test_seeded_sampling_is_repeatable_and_the_batch_does_not_matter(make_engine: Any) -> None:
    """One seed, one turn, alone or in company; another seed, another turn."""

    def warm(seed: int) -> Sampling:
        return Sampling(temperature=1.5, max_turn_tokens=16, seed=seed)

    async with make_engine(max_batch=8) as engine:
        alone = [(await say(engine, ALERTS[1], sampling=warm(seed))).token_ids for seed in range(5)]
        crowd = await asyncio.gather(*(say(engine, ALERTS[1], sampling=warm(seed)) for seed in range(5)))
    assert alone == [turn.token_ids for turn in crowd]
    assert len(set(alone)) == 5


async def test_sampled_frequencies_are_the_softmaxs(make_engine: Any, model: Any) -> None:
    """Over many seeds the first token's frequencies fit softmax(logits / temperature), by a chi-square test."""
    temperature, draws = 2.0, 600
    async with make_engine(max_batch=32) as engine:
        settings = [Sampling(temperature, max_turn_tokens=1, seed=seed) for seed in range(draws)]
        turns = await asyncio.gather(*(say(engine, "a", sampling=sampling) for sampling in settings))
        prompt = engine.format.prompt_ids(SYSTEM, "a")
    with torch.no_grad():
        expected = torch.softmax(model(torch.tensor([prompt])).logits[0, -1] / temperature, -1)
    counts = Counter(turn.token_ids[0] for turn in turns)
    likely = [token for token in range(len(expected)) if expected[token] * draws >= 5]
    rest = draws - sum(counts[token] for token in likely)
    rest_expected = draws * (1 - float(expected[likely].sum()))
    chi2 = sum(
        (counts[token] - draws * float(expected[token])) ** 2 / (draws * float(expected[token])) for token in likely
    )
    chi2 += (rest - rest_expected) ** 2 / max(rest_expected, 1e-9)
    freedom = len(likely)
    assert freedom > 5
    assert chi2 < freedom + 4 * (2 * freedom) ** 0.5
    for turn in turns[:20]:
        assert turn.logprobs[0] == pytest.approx(float(expected[turn.token_ids[0]].log()), abs=1e-4)


def _script(start: int, ids: list[int]) -> dict[int, tuple[int, ...]]:
    """Tokens `ids` after a prompt of `start` tokens."""
    return {start - 1 + place: (token,) for place, token in enumerate(ids)}


@pytest.mark.parametrize("answer", ANSWERS)
async def test_stopping_at_the_verdict(steered: Any, answer: str) -> None:
    """Asked to stop there, a turn ends with the verdict's last token, whichever, and is not called truncated."""
    async with steered() as engine:
        chat, model = engine.format, engine.model
        text = f'{VERDICT_PREFIX}{answer}", "summary": "x", "citations": []}}'
        prompt = chat.prompt_ids(SYSTEM, "a")
        model.script = _script(len(prompt), chat.turn_ids(text))
        stopped = await say(engine, "a", sampling=Sampling(max_turn_tokens=96, stop_at_verdict=True))
        whole = await say(engine, "a", sampling=Sampling(max_turn_tokens=96))
        assert (stopped.text, stopped.truncated) == (VERDICT_PREFIX + answer, False)
        assert (whole.text, whole.truncated, whole.token_ids[-1]) == (text, False, chat.end_of_turn)
        cut = await say(engine, "a", sampling=Sampling(max_turn_tokens=7))
        assert (cut.text, cut.truncated) == (text[:7], True)


async def test_a_turn_that_opens_as_none_is_not_written_to_its_end(steered: Any) -> None:
    """Asked to stop there, prose ends with its first token and what the protocol knows with its last."""
    careful = Sampling(max_turn_tokens=96, stop_when_hopeless=True)
    async with steered() as engine:
        chat, model = engine.format, engine.model
        start = len(chat.prompt_ids(SYSTEM, "a"))
        for text in ("The alert is fine.", '{"tool": "dns", "args": {}}'):
            model.script = _script(start, chat.turn_ids(text))
            stopped, whole = await say(engine, "a", sampling=careful), await say(engine, "a", sampling=Sampling())
            assert (whole.text, stopped.truncated) == (text, False)
            assert stopped.token_ids == (whole.token_ids if text.startswith("{") else whole.token_ids[:1])


async def test_probabilities_are_the_models_at_the_verdict(steered: Any) -> None:
    """They are the softmax over the four answers' first tokens at the verdict, for answers only."""
    async with steered() as engine:
        chat, model = engine.format, engine.model
        prompt, prefix = chat.prompt_ids(SYSTEM, "a"), chat.text_ids(VERDICT_PREFIX)
        firsts = [chat.text_ids(VERDICT_PREFIX + answer)[len(prefix)] for answer in ANSWERS]
        model.script = _script(len(prompt), prefix) | {len(prompt) + len(prefix) - 1: tuple(firsts)}
        turn = await say(engine, "a", sampling=Sampling(max_turn_tokens=len(prefix) + 1))
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *prefix]])).logits[0, -1]
        expected = torch.softmax(logits[torch.tensor(firsts)], -1)
        assert turn.probabilities == pytest.approx(tuple(expected.tolist()), abs=1e-5)
        assert turn.token_ids[-1] == firsts[int(expected.argmax())]
        model.script = _script(len(prompt), chat.turn_ids('{"tool": "dns", "args": {}}'))
        assert (await say(engine, "a", sampling=Sampling())).probabilities is None


async def test_chat_reads_a_whole_conversation(make_engine: Any, model: Any, adapters: dict[str, Path]) -> None:
    """`chat` answers any conversation by the base's template, keeps nothing, and refuses what it cannot read."""
    conversation = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": "a<|im_end|>"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    async with make_engine(max_batch=1) as engine:
        ids = engine.format.conversation_ids(conversation)
        assert ids.count(engine.format.end_of_turn) == 4
        expected = greedy(model, ids, 12, engine.format.end_of_turn)
        for turn in [await engine.chat(conversation, None, SHORT) for _ in range(2)]:
            assert list(turn.token_ids) == expected
            assert turn.tokens_read == len(ids)
        with pytest.raises(EngineUnavailable, match="'cloud-v1' is not loaded"):
            await engine.chat(conversation, "cloud-v1", SHORT)
        with pytest.raises(SpecError, match="1024"):
            await engine.chat([{"role": "user", "content": "x" * 1100}], None, SHORT)
        await engine.load_adapter("cloud-v1", adapters["cloud-v1"])
        assert list((await engine.chat(conversation, "cloud-v1", SHORT)).token_ids) != expected


async def test_a_chat_takes_no_more_of_the_cache_than_it_may(make_engine: Any) -> None:
    """With the answer that it asks for; the answers asked for beside it do not add up with its length."""
    long, short = [{"role": "user", "content": "x" * 350}], [{"role": "user", "content": "x"}]
    async with make_engine(max_batch=2, max_chat_tokens=500) as engine:
        fixed = len(engine.format.conversation_ids(long)) - 350
        with pytest.raises(SpecError, match=r"a chat here may take 500: shorten it, or lower max_tokens"):
            await engine.chat(long, None, Sampling(max_turn_tokens=151 - fixed))
        with pytest.raises(SpecError, match="500"):
            await engine.chat(short, None, Sampling(max_turn_tokens=500))
        assert engine._cache.size_bytes == 0
        largest = Sampling(max_turn_tokens=150 - fixed), Sampling(max_turn_tokens=499 - fixed)
        await asyncio.gather(*(engine.chat(said, None, how) for said, how in zip((long, short), largest, strict=True)))
        assert engine._cache._capacity == 512


async def test_an_idle_engine_gives_back_what_one_long_conversation_took(make_engine: Any) -> None:
    """Room that the conversations since do not need is freed once none is open; what an open one holds stays."""
    async with make_engine(max_batch=2) as engine:
        expected = (await say(engine, ALERTS[1])).token_ids
        usual = engine._cache.size_bytes
        await until(lambda: engine._cache._asked == 0)
        await engine.chat([{"role": "user", "content": "x" * 900}], None, SHORT)
        await until(lambda: engine._cache._asked == 0)
        assert engine._cache.size_bytes > 3 * usual
        kept = engine.open(SYSTEM, ALERTS[1])
        first = await kept.turn(SHORT)
        await say(engine, ALERTS[1])
        assert engine._cache.size_bytes > 3 * usual
        kept.add_result("[e1] x")
        second = await kept.turn(SHORT)
        kept.close()
        await until(lambda: engine._cache.size_bytes == 0)
        assert (await say(engine, ALERTS[1])).token_ids == expected == first.token_ids
        assert engine._cache.size_bytes == usual
        again = engine.open(SYSTEM, ALERTS[1])
        await again.turn(SHORT)
        again.add_result("[e1] x")
        assert (await again.turn(SHORT)).token_ids == second.token_ids
        again.close()


async def test_closing_a_conversation_frees_its_slot(make_engine: Any) -> None:
    """Closed while it waits, while it is answered, or after: its slot goes to the next, and others do not notice."""
    long = Sampling(max_turn_tokens=400, temperature=0.7, seed=3)
    async with make_engine(max_batch=2) as engine:
        alone = (await say(engine, ALERTS[2])).token_ids
        for _ in range(3):
            sessions = [engine.open(SYSTEM, alert) for alert in ALERTS]
            tasks = [asyncio.create_task(session.turn(long)) for session in sessions]
            other = asyncio.create_task(say(engine, ALERTS[2]))
            await until(lambda: engine._decoding)
            for task in tasks[::2]:
                task.cancel()
            for session in sessions:
                session.close()
            outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
            assert all(
                isinstance(outcome, Turn | EngineUnavailable | asyncio.CancelledError) for outcome in outcomes
            ), outcomes
            assert (await asyncio.wait_for(other, 30)).token_ids == alone
        await until(lambda: not engine._decoding and not engine._waiting)
        assert sorted(engine._free) == [0, 1]


async def test_cancelled_loads_and_turns_do_not_hurt_the_worker(make_engine: Any, adapters: dict[str, Path]) -> None:
    """A caller that gives up on a turn or on a load leaves an engine that answers the next."""
    async with make_engine() as engine:
        expected = (await say(engine, ALERTS[0])).token_ids
        for _ in range(20):
            giving_up = [
                asyncio.create_task(say(engine, ALERTS[1])),
                asyncio.create_task(engine.load_adapter("cloud-v1", adapters["cloud-v1"])),
                asyncio.create_task(engine.unload_adapter("cloud-v1")),
            ]
            await asyncio.sleep(0)
            for task in giving_up:
                task.cancel()
            await asyncio.gather(*giving_up, return_exceptions=True)
        assert (await asyncio.wait_for(say(engine, ALERTS[0]), 30)).token_ids == expected


async def test_an_engine_that_is_not_running_says_so(
    make_engine: Any, base_dir: Path, adapters: dict[str, Path]
) -> None:
    """Before the start and after the stop, turns and loads are refused, and a stop ends what is under way."""
    engine = TransformersEngine(base_dir, max_batch=1)
    with pytest.raises(EngineUnavailable, match="start it"):
        await say(engine, "a")
    with pytest.raises(EngineUnavailable, match="not running"):
        await engine.load_adapter("cloud-v1", adapters["cloud-v1"])
    await engine.start()
    await engine.start()
    endless = Sampling(max_turn_tokens=10_000, temperature=1.0, seed=1)
    turns = [asyncio.create_task(say(engine, alert, sampling=endless)) for alert in ALERTS[:3]]
    await until(lambda: engine._decoding)
    await engine.stop()
    outcomes = await asyncio.gather(*turns, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [EngineUnavailable] * 3
    with pytest.raises(EngineUnavailable):
        await say(engine, "a")
    await engine.start()
    assert (await say(engine, "a")).token_ids
    await engine.stop()


async def test_an_error_of_the_model_reaches_the_turns_and_not_the_worker(steered: Any) -> None:
    """What fails in a step fails the turns in it; the next turn is answered, in the same conversation too."""
    async with steered() as engine:
        expected = (await say(engine, "a")).token_ids
        model, works = engine.model, engine.model.forward

        def fails(*_: Any, **__: Any) -> None:
            raise RuntimeError("out of memory")

        session = engine.open(SYSTEM, "a")
        model.forward = fails
        with pytest.raises(RuntimeError, match="out of memory"):
            await session.turn(SHORT)
        model.forward = works
        assert (await session.turn(SHORT)).token_ids == expected
        session.close()


async def test_training_mode_comes_back_after_each_step(steered: Any) -> None:
    """A model that someone trains is sampled in evaluation mode and handed back as it was."""
    async with steered() as engine:
        expected = (await say(engine, "a")).token_ids
        engine.model.train()
        assert (await say(engine, "a")).token_ids == expected
        assert engine.model.training


async def test_unknown_adapters_and_unfit_bases_are_refused(
    make_engine: Any, tokenizer: Any, make_tokenizer: Any
) -> None:
    """An adapter that is not loaded, a sliding-window base and a template without tools are named before any work."""
    async with make_engine() as engine:
        with pytest.raises(EngineUnavailable, match=r"'cloud-v9' is not loaded; loaded: \[\]"):
            engine.open(SYSTEM, "a", "cloud-v9")
    config = LlamaConfig(vocab_size=8, hidden_size=4, num_hidden_layers=1, num_attention_heads=1)
    plain = LlamaForCausalLM(config)
    with pytest.raises(TemplateUnsupported):
        TransformersEngine.around(plain, make_tokenizer(None), max_batch=1)
    plain.config.layer_types = ["sliding_attention"]
    with pytest.raises(SpecError, match="sliding_attention"):
        TransformersEngine.around(plain, tokenizer, max_batch=1)
