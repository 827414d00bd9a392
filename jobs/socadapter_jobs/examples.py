"""Expert investigations as token rows for supervised fine-tuning.

Built from the same pieces as a rollout (`ChatFormat`, `protocol`), so that what SFT teaches is byte for byte what the
agent reads and writes. Loss falls on the assistant's turns only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from socadapter_agent import protocol
from socadapter_agent.chat_format import ChatFormat
from socadapter_agent.tools import ToolSpec
from socadapter_api.case import Alert
from socadapter_api.errors import EmptyData, TruncatedVerdict
from socadapter_api.trajectory import ExpertTrajectory

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation: ids, and labels that are -100 where the environment wrote; both of one length."""

    input_ids: list[int]
    labels: list[int]


def encode(trajectory: ExpertTrajectory, chat: ChatFormat, specs: Sequence[ToolSpec]) -> Example:
    """`trajectory` as the conversation that the agent would have had."""
    user = protocol.render_alert(Alert(fields=trajectory.alert))
    ids = chat.prompt_ids(protocol.system_prompt(specs), user)
    labels = [IGNORED] * len(ids)

    def said(text: str) -> None:
        turn = chat.turn_ids(text)
        ids.extend(turn)
        labels.extend(turn)

    for number, call in enumerate(trajectory.calls, start=1):
        said(protocol.render_call(call.tool, call.args))
        result = chat.result_ids(protocol.render_result(call.evidence_id or f"e{number}", call.result))
        ids.extend(result)
        labels.extend([IGNORED] * len(result))
    said(protocol.render_answer(trajectory.verdict, trajectory.summary, trajectory.citations))
    return Example(ids, labels)


def encode_all(
    trajectories: Sequence[ExpertTrajectory], chat: ChatFormat, specs: Sequence[ToolSpec], max_tokens: int
) -> list[Example]:
    """Every trajectory as an example.

    Raises:
        EmptyData: there is none.
        TruncatedVerdict: one is longer than `max_tokens` and would be cut before its verdict.
    """
    if not trajectories:
        raise EmptyData(
            "there is no expert trajectory to learn from: name some in data.trajectories, or set sft.epochs 0"
        )
    examples = [encode(trajectory, chat, specs) for trajectory in trajectories]
    for trajectory, example in zip(trajectories, examples, strict=True):
        if len(example.input_ids) > max_tokens:
            raise TruncatedVerdict(
                f"trajectory {trajectory.case_id!r} has {len(example.input_ids)} tokens and sft.maxLengthTokens is "
                f"{max_tokens}: its verdict would be cut off. Raise the limit or shorten its tool results"
            )
    return examples
