"""A tokenizer's chat template as token pieces, so that a conversation grows by appending ids and is never re-tokenised.

The pieces are found by rendering sentinels through the template once. Text that comes from outside (alerts, tool
results) is tokenised with special tokens split: an attacker cannot write an end-of-turn into a log line.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from socadapter_api import digest
from socadapter_api.errors import TemplateUnsupported
from socadapter_api.names import Digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SYSTEM, _USER, _CALL, _RESULT = "Sys7en", "Us3rq", "C4llz", "R3sux"


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """The fixed token pieces between the parts of a conversation.

    `before_system` S `before_user` U `before_turn` (assistant turn, ends with `end_of_turn`) `before_result` R
    `after_result` (assistant turn) ...
    """

    before_system: tuple[int, ...]
    before_user: tuple[int, ...]
    before_turn: tuple[int, ...]
    end_of_turn: int
    before_result: tuple[int, ...]
    after_result: tuple[int, ...]
    digest: Digest
    tokenizer: "PreTrainedTokenizerBase"

    def text_ids(self, text: str) -> list[int]:
        """Ids of text from outside; special tokens in it are plain characters."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        return ids

    def prompt_ids(self, system: str, user: str) -> list[int]:
        """The conversation up to the first assistant turn."""
        return [*self.system_ids(system), *self.text_ids(user), *self.before_turn]

    def system_ids(self, system: str) -> list[int]:
        """The part of the prompt that every conversation with the same tools shares."""
        return [*self.before_system, *self.text_ids(system), *self.before_user]

    def result_ids(self, text: str) -> list[int]:
        """A tool's answer and the opening of the next assistant turn; follows an end-of-turn."""
        return [*self.before_result, *self.text_ids(text), *self.after_result]

    def turn_ids(self, text: str) -> list[int]:
        """An assistant turn as it would be sampled, end-of-turn included; for supervised data."""
        return [*self.text_ids(text), self.end_of_turn]

    def decode(self, ids: list[int] | tuple[int, ...]) -> str:
        """The text of a sampled turn, without its end-of-turn."""
        kept = list(ids[:-1]) if ids and ids[-1] == self.end_of_turn else list(ids)
        text: str = self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text


def chat_format(tokenizer: "PreTrainedTokenizerBase") -> ChatFormat:
    """The pieces of `tokenizer`'s chat template.

    Raises:
        TemplateUnsupported: there is no template, or it changes earlier turns when later ones are added.
    """
    if not tokenizer.chat_template:
        raise TemplateUnsupported("the base's tokenizer has no chat template: use an instruction-tuned base")
    role = "tool" if _RESULT in _render(tokenizer, "tool") else "user"
    text = _render(tokenizer, role)
    pieces: list[str] = []
    rest = text
    for sentinel in (_SYSTEM, _USER, _CALL, _RESULT):
        head, found, rest = rest.partition(sentinel)
        if not found:
            raise TemplateUnsupported(
                f"the base's chat template drops the {sentinel!r} part of a conversation with tools"
            )
        pieces.append(head)
    before_system, before_user, before_turn, after_turn = pieces
    first = tokenizer.apply_chat_template(_messages(role)[:2], tokenize=False, add_generation_prompt=True)
    if not text.startswith(str(first)):
        raise TemplateUnsupported("the base's chat template renders earlier turns differently once later ones exist")

    def ids(piece: str) -> tuple[int, ...]:
        return tuple(tokenizer(piece, add_special_tokens=False).input_ids)

    closing = ids(after_turn)
    if not closing:
        raise TemplateUnsupported("the base's chat template has no end-of-turn token")
    return ChatFormat(
        before_system=ids(before_system),
        before_user=ids(before_user),
        before_turn=ids(before_turn),
        end_of_turn=closing[0],
        before_result=closing[1:],
        after_result=ids(rest),
        digest=digest.of_json([*pieces, rest, role]),
        tokenizer=tokenizer,
    )


def _messages(role: str) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": _SYSTEM},
        {"role": "user", "content": _USER},
        {"role": "assistant", "content": _CALL},
        {"role": role, "content": _RESULT},
    ]


def _render(tokenizer: "PreTrainedTokenizerBase", role: str) -> str:
    from jinja2.exceptions import TemplateError

    try:
        return str(tokenizer.apply_chat_template(_messages(role), tokenize=False, add_generation_prompt=True))
    except (TemplateError, TypeError, ValueError):
        return ""
