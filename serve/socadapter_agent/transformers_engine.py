"""The in-process engine: one transformers model, many adapters, continuous batching over all open conversations.

A worker thread owns the model. Conversations that want a turn are taken in as they come, read together, and decoded
together, a token a step and as many more as were guessed right; each keeps its key-value cache until it is closed. The
instructions that all conversations share are computed once per adapter, and what several have in common beyond them is
read by one. Adapters are mixed in one pass by PEFT and never merged.
"""

import asyncio
import random
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from socadapter_agent.chat_format import ChatFormat, chat_format
from socadapter_agent.device import own_device
from socadapter_agent.drafts import MAX_GUESSES, Drafts
from socadapter_agent.engine import Sampling, Turn
from socadapter_agent.precision import precision_of
from socadapter_agent.slot_cache import Prefix
from socadapter_agent.slot_holders import SlotHolders
from socadapter_agent.slot_model import Reading, SlotModel
from socadapter_agent.transformers_session import BASE, Job, TransformersSession
from socadapter_agent.turn_sampler import TurnSampler
from socadapter_api.errors import EngineUnavailable, SpecError
from socadapter_api.training import Precision

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_MAX_PREFIXES = 16
_READ_TOKENS = 8192
_PATIENCE_STEPS = 2
_STEP_TOKENS = 72
"""So many tokens a decode step reads, guesses among them, unless it reads more conversations that differ."""


class TransformersEngine:
    """See the module. `max_batch` conversations are held at once; more wait for a slot.

    The cache holds `max_batch` times the longest conversation: an investigation ends at its budget of tokens, a chat
    with its answer is refused above `max_chat_tokens`, the base's own limit where None.
    """

    def __init__(
        self,
        model_dir: Path,
        *,
        base_digest: str = "",
        max_batch: int = 16,
        max_adapters: int = 8,
        max_chat_tokens: int | None = None,
        threads: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype).to(own_device())
        self._setup(model, AutoTokenizer.from_pretrained(model_dir), base_digest, max_batch, max_adapters, owned=True)
        self._max_chat_tokens = max_chat_tokens
        self._threads = threads

    @classmethod
    def around(
        cls, model: "PreTrainedModel | PeftModel", tokenizer: "PreTrainedTokenizerBase", *, max_batch: int
    ) -> "TransformersEngine":
        """An engine on a model that someone else owns and trains, its adapters being the model's own.

        Call `forget` whenever the weights changed.
        """
        engine = cls.__new__(cls)
        engine._setup(model, tokenizer, "", max_batch, max_adapters=0, owned=False)
        engine._max_chat_tokens = None
        engine._threads = None
        return engine

    def _setup(
        self,
        model: Any,
        tokenizer: "PreTrainedTokenizerBase",
        base_digest: str,
        max_batch: int,
        max_adapters: int,
        *,
        owned: bool,
    ) -> None:
        self._passes = SlotModel(model, slots=max_batch, max_adapters=max_adapters, owned=owned)
        self._adapters, self._cache = self._passes.adapters, self._passes.cache
        self.format: ChatFormat = chat_format(tokenizer)
        self.base_digest = base_digest
        self._slots = max_batch
        self._free = list(range(max_batch))
        self._holders = SlotHolders(self._cache, max_batch)
        self._prefixes: OrderedDict[tuple[str, tuple[int, ...]], Prefix] = OrderedDict()
        self._waiting: list[Job] = []
        self._decoding: list[Job] = []
        self._done: list[tuple[Job, Turn]] = []
        self._waited = 0
        self._calls: list[tuple[Callable[[], None], Future[None]]] = []
        self._wake = threading.Condition()
        self._worker: threading.Thread | None = None
        self._stopping = False
        self._sampler = TurnSampler(self.format)
        self._drafts = Drafts()

    @property
    def model(self) -> Any:
        """The base, or PEFT's model around it once an adapter is loaded."""
        return self._passes.model

    @property
    def template_digest(self) -> str:
        return self.format.digest

    @property
    def precision(self) -> Precision | None:
        return precision_of(self._passes.dtype)

    @property
    def adapters(self) -> frozenset[str]:
        return self._adapters.names

    async def start(self) -> None:
        self.start_worker()

    async def stop(self) -> None:
        await asyncio.to_thread(self.stop_worker)

    def start_worker(self) -> None:
        """Starts the thread that runs the model; needed before the first turn."""
        if self._worker is not None:
            return
        self._stopping = False
        self._worker = threading.Thread(target=self._work, name="engine", daemon=True)
        self._worker.start()

    def stop_worker(self) -> None:
        """Ends the thread; turns under way fail with `EngineUnavailable`."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._worker is not None:
            self._worker.join()
            self._worker = None

    def forget(self) -> None:
        """Drops what was computed with the weights as they were. No conversation may be open."""
        self._prefixes.clear()
        self._holders.forget()

    async def load_adapter(self, name: str, directory: Path) -> None:
        """Loads a verified adapter folder under `name`. A name is never loaded twice with other bytes."""
        await asyncio.wrap_future(self._between_steps(lambda: self._adapters.load(name, directory)))

    async def unload_adapter(self, name: str) -> None:
        """Forgets an adapter; unknown names are ignored."""
        if name in self.adapters:
            await asyncio.wrap_future(self._between_steps(lambda: self._unload(name)))

    def _unload(self, name: str) -> None:
        self._fail(EngineUnavailable(f"adapter {name!r} was unloaded"), lambda job: job.session.adapter == name)
        for key in [key for key in self._prefixes if key[0] == name]:
            del self._prefixes[key]
        self._holders.forget(name)
        self._drafts.forget(name)
        self._adapters.forget(name)

    def open(self, system: str, user: str, adapter: str | None = None) -> TransformersSession:
        self._check_loaded(adapter)
        chat = self.format
        return TransformersSession(self, chat.system_ids(system), [*chat.text_ids(user), *chat.before_turn], adapter)

    async def chat(self, messages: list[dict[str, str]], adapter: str | None, sampling: Sampling) -> Turn:
        """One answer to a conversation in the OpenAI form; nothing is kept.

        Raises:
            SpecError: it is longer than a chat may be, or the base's template refuses it.
        """
        self._check_loaded(adapter)
        ids = self.format.conversation_ids(messages)
        base_limit = getattr(self.model.config, "max_position_embeddings", None)
        limit = min((known for known in (base_limit, self._max_chat_tokens) if known is not None), default=None)
        if limit is not None and len(ids) + sampling.max_turn_tokens > limit:
            whose = "the base reads" if limit == base_limit else "a chat here may take"
            raise SpecError(
                f"the conversation has {len(ids)} tokens and {sampling.max_turn_tokens} may follow, "
                f"{whose} {limit}: shorten it, or lower max_tokens"
            )
        session = TransformersSession(self, [], ids, adapter)
        try:
            return await session.turn(sampling)
        finally:
            session.close()

    def _check_loaded(self, adapter: str | None) -> None:
        if adapter is not None and adapter not in self.adapters:
            raise EngineUnavailable(f"adapter {adapter!r} is not loaded; loaded: {sorted(self.adapters)}")

    def submit(self, session: TransformersSession, sampling: Sampling) -> "Future[Turn]":
        """Queues one turn of a session; thread-safe."""
        self._check_loaded(None if session.adapter == BASE else session.adapter)
        uniform = random.Random(sampling.seed if sampling.seed is not None else random.getrandbits(64))
        job = Job(session, sampling, Future(), uniform)
        with self._wake:
            if self._worker is None or self._stopping:
                raise EngineUnavailable("the engine is not running: start it before asking for a turn")
            self._waiting.append(job)
            self._wake.notify()
        return job.future

    def release(self, session: TransformersSession) -> None:
        """Gives a closed session's slot back; thread-safe."""
        with self._wake:
            if session.slot is not None and not any(job.session is session for job in self._decoding):
                self._free.append(session.slot)
                session.slot = None
            self._wake.notify()

    def _between_steps(self, call: Callable[[], None]) -> "Future[None]":
        future: Future[None] = Future()
        with self._wake:
            if self._worker is None or self._stopping:
                raise EngineUnavailable("the engine is not running")
            self._calls.append((call, future))
            self._wake.notify()
        return future

    def _work(self) -> None:
        """The worker's rim: what fails here fails the turns concerned, never the thread."""
        if self._threads:
            torch.set_num_threads(self._threads)
        while True:
            with self._wake:
                while not (self._stopping or self._calls or self._decoding or self._admissible()):
                    if len(self._free) == self._slots and self._cache.shrink():
                        self._holders.forget()
                    self._wake.wait()
                if self._stopping:
                    break
                calls, self._calls = self._calls, []
            for call, future in calls:
                _settle(future, call)
            try:
                with self._wake:
                    reading = self._admit()
                with self._passes.inference():
                    if reading:
                        self._read(reading)
                    elif self._decoding:
                        self._step(list(self._decoding))
            except Exception as error:  # noqa: BLE001  the rim: every turn concerned learns of it
                self._fail(error)
            done, self._done = self._done, []
            for job, turn in done:  # only now, when the model is again as its owner left it
                job.future.set_result(turn)
        stopped = EngineUnavailable("the engine was stopped")
        self._fail(stopped)
        with self._wake:
            calls, self._calls = self._calls, []
        for _, future in calls:
            if future.set_running_or_notify_cancel():
                future.set_exception(stopped)

    def _fail(self, error: Exception, concerned: "Callable[[Job], bool]" = lambda _: True) -> None:
        with self._wake:
            jobs = [job for job in (*self._decoding, *self._waiting) if concerned(job)]
            self._waiting = [job for job in self._waiting if job not in jobs]
        for job in jobs:
            self._drop(job)
            job.session.cached = 0  # what the cache holds of the turn is not known
            if job.future.running() or job.future.set_running_or_notify_cancel():
                job.future.set_exception(error)

    def _admissible(self) -> bool:
        return any(job.session.slot is not None or job.session.closed for job in self._waiting) or bool(
            self._waiting and self._free
        )

    def _admit(self) -> list[Job]:
        """Takes waiting turns to be read in the next step. Lets a few decode steps pass to read more at once."""
        if not self._admissible():
            return []
        if self._decoding and self._waited < _PATIENCE_STEPS and len(self._waiting) * 2 < len(self._decoding):
            self._waited += 1
            return []
        self._waited = 0
        taken: list[Job] = []
        alike: set[Hashable] = set()
        tokens = 0
        for job in list(self._waiting):
            session = job.session
            if session.closed:
                self._waiting.remove(job)
                if job.future.set_running_or_notify_cancel():
                    job.future.set_exception(EngineUnavailable("the conversation was closed"))
                continue
            if session.slot is None and not self._free:
                continue
            likeness = _likeness(job)
            if likeness not in alike and self._holders.worth_waiting_for(session, (other.session for other in taken)):
                continue
            if not job.future.set_running_or_notify_cancel():
                self._waiting.remove(job)
                continue
            known = session.cached
            if session.slot is None:
                known = 0
                self._holders.give(session, self._free)
            job.read = len(session.ids) - max(known, len(session.shared))
            if likeness not in alike:  # what is read as one counts once
                tokens += len(session.ids) - max(session.cached, len(session.shared))
            alike.add(likeness)
            taken.append(job)
            self._waiting.remove(job)
            self._decoding.append(job)  # from here on, closing a conversation leaves its slot to the worker
            if tokens > _READ_TOKENS:
                break
        return taken

    def _read(self, jobs: list[Job]) -> None:
        """Reads what is new in the jobs' conversations and samples their first tokens."""
        self._cache.reserve(max(len(job.session.ids) + job.sampling.max_turn_tokens for job in jobs) + 1)
        for job in jobs:
            if job.session.cached == 0 and job.session.shared:
                self._start_with_prefix(job)
        for job in jobs:
            self._holders.take_over(job.session)
        self._step(jobs)

    def _step(self, jobs: list[Job]) -> None:
        """Reads what is new of the jobs' conversations, and guesses at what follows; samples what really does.

        Conversations that are word for word alike, as those of a group are at first, are read as one.
        """
        alike: dict[Hashable, list[Job]] = {}
        for job in jobs:
            alike.setdefault(_likeness(job), []).append(job)
        most = max(1, min(MAX_GUESSES, _STEP_TOKENS // len(alike) - 1))
        readings: list[Reading] = []
        ordered: list[Job] = []
        guesses: list[list[int]] = []
        firsts: list[int] = []
        kept = 0
        for twins in alike.values():
            session, guessed = twins[0].session, self._guess(twins[0], most)
            new = [*session.ids[session.cached :], *guessed]
            readings.append(Reading(session.own_slot, session.adapter, session.cached, new, 1 + len(guessed)))
            firsts += [kept] * len(twins)
            kept += readings[-1].kept
            ordered += twins
            guesses += [guessed] * len(twins)
        self._cache.reserve(max(reading.end for reading in readings) + 1)
        logits = self._passes.read(readings)
        for reading, twins in zip(readings, alike.values(), strict=True):
            for twin in twins[1:]:
                self._cache.copy(reading.slot, twin.session.own_slot, reading.start, reading.end)
        for job in self._sampler.sample(ordered, guesses, firsts, logits):
            self._finish(job)

    def _guess(self, job: Job, most: int) -> list[int]:
        left = job.sampling.max_turn_tokens - len(job.ids) - 1
        return self._drafts.guess(job.session.adapter, job.session.ids, job.session.said, min(most, left, job.reach))

    def _start_with_prefix(self, job: Job) -> None:
        """Fills the session's slot with the shared instructions, computing them where they are new."""
        session = job.session
        key = (session.adapter, session.shared)
        prefix = self._prefixes.get(key)
        if prefix is None:
            self._passes.read([Reading(session.own_slot, session.adapter, 0, session.shared)])
            self._prefixes[key] = self._cache.copy_out(session.own_slot, len(session.shared))
            while len(self._prefixes) > _MAX_PREFIXES:
                self._prefixes.popitem(last=False)
        else:
            self._prefixes.move_to_end(key)
            self._cache.copy_in(session.own_slot, prefix)
        session.cached = len(session.shared)

    def _finish(self, job: Job) -> None:
        session, turn = job.session, self._sampler.turn(job)
        self._drafts.learn(session.adapter, session.ids, len(session.ids) - len(job.ids))
        self._drop(job)
        self._done.append((job, turn))

    def _drop(self, job: Job) -> None:
        with self._wake:
            if job in self._decoding:
                self._decoding.remove(job)
            if job.session.closed and job.session.slot is not None:
                self._free.append(job.session.slot)
                job.session.slot = None


def _likeness(job: Job) -> Hashable:
    """What jobs have in common that may be read as one: the conversation, how far it is read, and how it is sampled."""
    session, sampling = job.session, job.sampling
    settings = (sampling.temperature, sampling.max_turn_tokens, len(job.ids))
    return session.adapter, session.cached, settings, tuple(session.ids)


def _settle(future: "Future[None]", call: Callable[[], None]) -> None:
    """Runs `call` and hands its outcome to whoever waits; a rim like the worker's."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        call()
    except Exception as error:  # noqa: BLE001  handed to the caller
        future.set_exception(error)
    else:
        future.set_result(None)
