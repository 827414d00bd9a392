"""What a stage takes up is what an earlier one left: the adapter by its digest, the chat format by its own.

A run may go on days later, from another copy of its scratch folder and under other code, and trainers load whatever
they find. Within a stage `checkpoints` does the same. Called by the grpo and evaluate stages before anything is made
of the adapter.
"""

from pathlib import Path

from safetensors.torch import load_file

from socadapter_agent.chat_format import ChatFormat
from socadapter_api.errors import ResumeMismatch, TemplateUnsupported
from socadapter_api.manifest import Stage
from socadapter_jobs.policy import state_digest
from socadapter_jobs.workspace import Workspace
from socadapter_store import layout


def require_left(folder: Path, left: str | None, found: str | None = None) -> None:
    """Does nothing where the adapter in `folder`, or the loaded one that has digest `found`, is the one that was left.

    Raises:
        ResumeMismatch: it has another digest than `left`, which the stage that left it noted.
    """
    if found is None:
        state = load_file(folder / layout.WEIGHTS)
        found = state_digest({name: tensor.float() for name, tensor in state.items()})
    if found != left:
        raise ResumeMismatch(
            f"adapter {left} was left in {folder}, and the one that is there now is {found}: it was changed or damaged "
            "since. Start a new run"
        )


def require_same_chat(workspace: Workspace, chat: ChatFormat) -> None:
    """Does nothing where `chat` is the format in which SFT taught the protocol.

    Raises:
        TemplateUnsupported: conversations would be written otherwise than the adapter learned to read them.
    """
    taught = (workspace.store.finished_stage(Stage.SFT) or {}).get("template")
    if taught != chat.digest:
        raise TemplateUnsupported(
            f"SFT taught chat format {taught}, and this code makes {chat.digest} of the base's template: go on under "
            "the code that the run was started with, or start a new run"
        )
