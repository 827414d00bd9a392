"""Turns of a conversation, token by token, from the logits that a forward pass gave.

A pass gives logits after each guessed token too. Guesses are taken as far as they are what is sampled anyway: each
token is sampled from its own distribution, and the first that differs from its guess ends the step. `drafts` guesses;
`transformers_engine` runs the passes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from socadapter_agent.chat_format import ChatFormat
from socadapter_agent.drafts import reach_after
from socadapter_agent.engine import Turn
from socadapter_agent.protocol import VERDICT_PREFIX, is_hopeless
from socadapter_agent.transformers_session import Job
from socadapter_api.case import ANSWERS

_OPENING_TOKENS = 8
"""By then a turn has shown whether it opens as the protocol has it."""


class TurnSampler:
    """See the module."""

    def __init__(self, chat: ChatFormat) -> None:
        self._chat = chat
        self._verdict_prefix = chat.text_ids(VERDICT_PREFIX)
        self._labels = [chat.text_ids(VERDICT_PREFIX + label)[len(self._verdict_prefix) :] for label in ANSWERS]
        self._labels_differ = len({label[0] for label in self._labels}) == len(ANSWERS)

    def sample(
        self,
        jobs: Sequence[Job],
        guesses: Sequence[Sequence[int]],
        firsts: Sequence[int],
        logits: Tensor,
    ) -> list[Job]:
        """Appends to each job's turn what the logits say, and returns the jobs whose turn has ended.

        `logits` are of shape (positions, vocabulary). A job's begin with its number in `firsts`: those after its last
        known token, then those after each of its guesses. Jobs of one temperature may have them in common.
        """
        scale = torch.ones(len(logits), 1)
        for job, guessed, first in zip(jobs, guesses, firsts, strict=True):
            scale[first : first + 1 + len(guessed)] = job.sampling.temperature or 1.0
        likeliest = logits.argmax(-1).tolist()
        scaled = logits / scale
        total = scaled.logsumexp(-1)
        done = []
        for job, guessed, first in zip(jobs, guesses, firsts, strict=True):
            job.session.cached = before = len(job.session.ids)
            for place in range(first, first + 1 + len(guessed)):
                self._note_probabilities(job, logits[place])
                logprobs = scaled[place] - total[place]
                token = likeliest[place] if job.sampling.temperature <= 0 else _drawn(job, logprobs)
                job.say(token, float(logprobs[token]))
                if self._ended(job):
                    done.append(job)
                    break
                if place - first == len(guessed) or token != guessed[place - first]:
                    break
                job.session.cached += 1  # the guess was right, and the pass has read it already
            if guessed:
                job.reach = reach_after(job.reach, len(guessed), job.session.cached - before)
        return done

    def _note_probabilities(self, job: Job, logits: Tensor) -> None:
        if job.ids == self._verdict_prefix and self._labels_differ:
            p = torch.softmax(logits[torch.tensor([label[0] for label in self._labels])], -1).tolist()
            job.probabilities = (p[0], p[1], p[2], p[3])

    def _ended(self, job: Job) -> bool:
        if job.ids[-1] == self._chat.end_of_turn or len(job.ids) >= job.sampling.max_turn_tokens or job.session.closed:
            return True
        start = len(self._verdict_prefix)
        if job.ids[:start] == self._verdict_prefix:
            return job.sampling.stop_at_verdict and job.ids[start:] in self._labels
        return (
            job.sampling.stop_when_hopeless
            and len(job.ids) <= _OPENING_TOKENS
            and is_hopeless(self._chat.decode(job.ids))
        )

    def turn(self, job: Job) -> Turn:
        """The turn of a job that has ended."""
        ended = job.ids[-1] == self._chat.end_of_turn
        stopped = not ended and len(job.ids) < job.sampling.max_turn_tokens
        return Turn(
            text=self._chat.decode(job.ids),
            token_ids=tuple(job.ids),
            logprobs=tuple(job.logprobs),
            probabilities=job.probabilities,
            truncated=not ended and not stopped,
            tokens_read=job.read,
        )


def _drawn(job: Job, logprobs: Tensor) -> int:
    cumulative = logprobs.exp().cumsum(-1)
    target = job.uniform.random() * float(cumulative[-1])
    return min(int(torch.searchsorted(cumulative, target)), len(logprobs) - 1)
