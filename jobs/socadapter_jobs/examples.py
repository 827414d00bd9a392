"""Expert investigations as token rows for supervised fine-tuning.

Built from the same pieces as a rollout (`ChatFormat`, `protocol`), so that what SFT teaches is byte for byte what the
agent reads and writes. Loss falls on the assistant's turns only.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from socadapter_agent import protocol
from socadapter_agent.chat_format import ChatFormat
from socadapter_agent.tools import ToolSpec
from socadapter_api.case import Alert, Verdict
from socadapter_api.errors import EmptyData, TruncatedVerdict
from socadapter_api.trajectory import ExpertTrajectory
from socadapter_jobs.data.titles import title_in

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation: ids, labels that are -100 where the environment wrote, and each token's weight in the loss,
    all of one length; its alert's title, and whether that was an attack."""

    input_ids: list[int]
    labels: list[int]
    weights: list[float]
    title: str = ""
    attack: bool = False


@dataclass(frozen=True, slots=True)
class TokenWeights:
    """How much a token counts, relative to an ordinary one of a tool call.

    A verdict is decided at its first token, a call at the tool's first, and whether to ask or to conclude at the token
    where the two forms differ: half a dozen among the hundred of an investigation. Unweighted, a small model learns the
    wording long before it learns to decide.
    """

    verdict: float = 10.0
    tool: float = 10.0
    summary: float = 0.3


def encode(
    trajectory: ExpertTrajectory,
    chat: ChatFormat,
    specs: Sequence[ToolSpec],
    weighing: TokenWeights = TokenWeights(),
    *,
    summary: bool = True,
) -> Example:
    """`trajectory` as the conversation that the agent would have had; without `summary`, up to its verdict."""
    user = protocol.render_alert(Alert(fields=trajectory.alert))
    ids = chat.prompt_ids(protocol.system_prompt(specs), user)
    labels = [IGNORED] * len(ids)
    weights = [0.0] * len(ids)

    def said(text: str) -> list[int]:
        turn = chat.turn_ids(text)
        ids.extend(turn)
        labels.extend(turn)
        weights.extend([1.0] * len(turn))
        return turn

    choice = len(chat.text_ids(protocol.CALL_PREFIX))
    fork = _fork(chat)
    for call, evidence_id in zip(trajectory.calls, trajectory.evidence_ids, strict=True):
        turn = said(protocol.render_call(call.tool, call.args))
        weights[len(weights) - len(turn) + choice] = weighing.tool
        weights[len(weights) - len(turn) + fork] = weighing.tool
        result = chat.result_ids(protocol.render_result(evidence_id, call.result))
        ids.extend(result)
        labels.extend([IGNORED] * len(result))
        weights.extend([0.0] * len(result))
    answer = said(protocol.render_answer(trajectory.verdict, trajectory.summary, trajectory.citations))
    decided = _weigh_answer(weights, answer, trajectory.verdict, chat, weighing)
    weights[len(weights) - len(answer) + fork] = weighing.tool
    end = len(ids) if summary else decided
    return Example(
        ids[:end],
        labels[:end],
        weights[:end],
        title_in(trajectory.alert),
        trajectory.verdict is Verdict.TRUE_POSITIVE,
    )


def _fork(chat: ChatFormat) -> int:
    """The token of a turn at which a call and an answer first differ."""
    pairs = zip(chat.text_ids(protocol.CALL_PREFIX), chat.text_ids(protocol.VERDICT_PREFIX), strict=False)
    return next(index for index, (call, answer) in enumerate(pairs) if call != answer)


def _weigh_answer(
    weights: list[float], answer: list[int], verdict: Verdict, chat: ChatFormat, weighing: TokenWeights
) -> int:
    """Weighs the answer's tokens, which are the last of `weights`: its decision more, what follows it less.

    Gives where what follows begins.
    """
    start = len(weights) - len(answer)
    decision = len(chat.text_ids(protocol.VERDICT_PREFIX))
    label = len(chat.text_ids(protocol.VERDICT_PREFIX + verdict.value))
    weights[start + decision] = weighing.verdict
    weights[start + label :] = [weighing.summary] * (len(answer) - label)
    return start + label


def _with_summary(trajectory: ExpertTrajectory, percent: int) -> bool:
    """Whether this one is among the `percent` that teach summaries: the same ones in every run, in any order."""
    return zlib.crc32(trajectory.case_id.encode()) % 100 < percent


def encode_all(
    trajectories: Sequence[ExpertTrajectory],
    chat: ChatFormat,
    specs: Sequence[ToolSpec],
    max_tokens: int,
    weighing: TokenWeights = TokenWeights(),
    summary_percent: int = 100,
) -> list[Example]:
    """Every trajectory as an example; the others than `summary_percent` of them end at their verdict.

    Raises:
        EmptyData: there is none.
        TruncatedVerdict: one is longer than `max_tokens` and would be cut before its verdict.
    """
    if not trajectories:
        raise EmptyData(
            "there is no expert trajectory to learn from: name some in data.trajectories, or set sft.epochs 0"
        )
    examples = [
        encode(trajectory, chat, specs, weighing, summary=_with_summary(trajectory, summary_percent))
        for trajectory in trajectories
    ]
    for trajectory, example in zip(trajectories, examples, strict=True):
        if len(example.input_ids) > max_tokens:
            raise TruncatedVerdict(
                f"trajectory {trajectory.case_id!r} has {len(example.input_ids)} tokens and sft.maxLengthTokens is "
                f"{max_tokens}: its verdict would be cut off. Raise the limit or shorten its tool results"
            )
    return examples
