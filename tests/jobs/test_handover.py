"""A later stage takes up the adapter that an earlier one left, and speaks to it in the format that it was taught."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from socadapter_agent.base_model import BaseModel
from socadapter_agent.chat_format import chat_format
from socadapter_api import digest
from socadapter_api.errors import ResumeMismatch, TemplateUnsupported
from socadapter_api.manifest import Stage
from socadapter_api.names import Digest
from socadapter_api.training import LoraSpec
from socadapter_jobs.handover import require_left, require_same_chat
from socadapter_jobs.policy import adapter_state, load_policy, save_adapter, state_digest
from socadapter_jobs.workspace import Workspace
from socadapter_store import layout

pytestmark = pytest.mark.slow

LORA = LoraSpec(rank=2, alpha=4)


def learned(base: BaseModel, folder: Path, dtype: torch.dtype = torch.float32) -> str:
    """Leaves an adapter in `folder` that has learned something, and returns its digest."""
    policy = load_policy(base, LORA, dtype=dtype, seed=0)
    random = torch.Generator().manual_seed(0)
    for name, parameter in policy.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.01, generator=random)
    return save_adapter(policy, folder)


@pytest.fixture
def bare(blank_base: Path) -> BaseModel:
    return BaseModel(str(blank_base), blank_base, Digest(""))


@pytest.mark.parametrize(
    "dtype", [pytest.param(torch.float32, id="float32"), pytest.param(torch.bfloat16, id="bfloat16")]
)
def test_what_was_left_is_taken_up(bare: BaseModel, tmp_path: Path, dtype: torch.dtype) -> None:
    """As the file, and as it is loaded to be trained on, to the last bit."""
    left = learned(bare, tmp_path, dtype)
    require_left(tmp_path, left)
    policy = load_policy(bare, LORA, dtype=dtype, seed=1, start_from=tmp_path)
    require_left(tmp_path, left, state_digest(adapter_state(policy)))


def test_another_adapter_is_refused(bare: BaseModel, tmp_path: Path) -> None:
    """A bit of a number is enough, which every loader takes; so is a stage that noted nothing."""
    left = learned(bare, tmp_path)
    path = tmp_path / layout.WEIGHTS
    content = bytearray(path.read_bytes())
    content[-2] ^= 0x01
    path.write_bytes(content)
    with pytest.raises(ResumeMismatch, match=f"adapter {left} was left in"):
        require_left(tmp_path, left)
    policy = load_policy(bare, LORA, dtype=torch.float32, seed=1, start_from=tmp_path)
    with pytest.raises(ResumeMismatch, match=f"adapter {left} was left in"):
        require_left(tmp_path, left, state_digest(adapter_state(policy)))
    with pytest.raises(ResumeMismatch, match="adapter None was left in"):
        require_left(tmp_path, None)


def test_another_chat_format_is_refused(
    make_workspace: Callable[..., Workspace], blank_base: Path, tokenizer: Any
) -> None:
    """That of the code by now may be another one than that of the code which taught."""
    workspace = make_workspace(blank_base)
    chat = chat_format(tokenizer)
    workspace.store.finish_stage(Stage.SFT, {"template": chat.digest})
    require_same_chat(workspace, chat)
    with pytest.raises(TemplateUnsupported, match=f"SFT taught chat format {chat.digest}"):
        require_same_chat(workspace, replace(chat, digest=digest.of_bytes(b"other")))
