"""A tokenizer's chat template as token pieces, so that a conversation grows by appending ids and is never re-tokenised.

The pieces are found by rendering sentinels through the template once. Text that comes from outside (alerts, tool
results) is tokenised with special tokens split: an attacker cannot write an end-of-turn into a log line.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from socadapter_api import digest
from socadapter_api.errors import TemplateUnsupported
from socadapter_api.names import Digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SYSTEM, _USER, _CALL, _RESULT = "Sys7en", "Us3rq", "C4llz", "R3sux"
_MARK = re.compile(r"C0nt(\d+)z")


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
    controls: Mapping[int, str]
    """The pieces' tokens that are no text, and how they are written."""

    def text_ids(self, text: str) -> list[int]:
        """Ids of text from outside; special tokens and controls in it are plain characters."""
        ids = self._split_ids(text)
        if self.controls.keys().isdisjoint(ids):
            return ids
        # A control that this tokenizer does not call special, so that it was not split: cut through it.
        written = "|".join(re.escape(control) for control in self.controls.values())
        cuts = [0, *(found.start() + 1 for found in re.finditer(f"(?={written})", text)), len(text)]
        parts = (text[start:end] for start, end in itertools.pairwise(cuts))
        return [token for part in parts for token in self._split_ids(part)]

    def _split_ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        return ids

    def conversation_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """A whole conversation up to the next assistant turn; special tokens in its texts are plain characters.

        Raises:
            TemplateUnsupported: the template refuses these messages, or leaves one out.
        """
        marked = [{"role": message["role"], "content": f"C0nt{n}z"} for n, message in enumerate(messages)]
        parts = _MARK.split(_apply(self.tokenizer, marked))
        if missing := set(range(len(messages))) - {int(n) for n in parts[1::2]}:
            raise TemplateUnsupported(
                f"the base's chat template leaves out message {min(missing)} of role {messages[min(missing)]['role']!r}"
            )
        ids: list[int] = []
        for place, part in enumerate(parts):
            text_from_outside = place % 2 == 1
            ids += self.text_ids(messages[int(part)]["content"]) if text_from_outside else self._piece_ids(part)
        return ids

    def _piece_ids(self, piece: str) -> list[int]:
        ids: list[int] = self.tokenizer(piece, add_special_tokens=False).input_ids
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
    role = "tool" if _carries_tools(tokenizer) else "user"
    text = _apply(tokenizer, _messages(role))
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
    if not text.startswith(_apply(tokenizer, _messages(role)[:2])):
        raise TemplateUnsupported("the base's chat template renders earlier turns differently once later ones exist")

    def ids(piece: str) -> tuple[int, ...]:
        return tuple(tokenizer(piece, add_special_tokens=False).input_ids)

    closing = ids(after_turn)
    if not closing:
        raise TemplateUnsupported("the base's chat template has no end-of-turn token")
    used = {token for piece in (*pieces, rest) for token in ids(piece)}
    added = {token: str(text) for text, token in tokenizer.get_added_vocab().items()}
    return ChatFormat(
        before_system=ids(before_system),
        before_user=ids(before_user),
        before_turn=ids(before_turn),
        end_of_turn=closing[0],
        before_result=closing[1:],
        after_result=ids(rest),
        digest=digest.of_json([*pieces, rest, role]),
        tokenizer=tokenizer,
        controls={token: added[token] for token in sorted(used & added.keys()) if len(added[token]) > 1},
    )


def _messages(role: str) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": _SYSTEM},
        {"role": "user", "content": _USER},
        {"role": "assistant", "content": _CALL},
        {"role": role, "content": _RESULT},
    ]


def _carries_tools(tokenizer: "PreTrainedTokenizerBase") -> bool:
    try:
        return _RESULT in _apply(tokenizer, _messages("tool"))
    except TemplateUnsupported:
        return False


def _apply(tokenizer: "PreTrainedTokenizerBase", messages: list[dict[str, str]]) -> str:
    """The messages through the template, up to the next assistant turn.

    Some templates write today's date; it is fixed here, since equal conversations must be equal tomorrow.
    """
    from jinja2.exceptions import TemplateError

    try:
        return str(
            tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, date_string="26 Jul 2024"
            )
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise TemplateUnsupported(f"the base's chat template refuses the conversation: {error}") from error
