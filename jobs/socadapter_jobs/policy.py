"""The policy: a frozen base with one trainable LoRA adapter, ``default``.

Also the digests that the guards compare: of the base's weights and of the adapter's. Called by the sft and grpo stages.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from socadapter_agent.base_model import BaseModel
from socadapter_agent.device import own_device
from socadapter_api import digest
from socadapter_api.errors import BaseNotFound, SpecError
from socadapter_api.names import Digest
from socadapter_api.training import LoraSpec
from socadapter_store.store import sync_tree

ADAPTER = "default"
"""The name that TRL needs a continued adapter to have."""

LAYER = re.compile(r"\.layers\.(\d+)\.")
"""Where a module's name tells its layer."""


def load_tokenizer(base: BaseModel) -> PreTrainedTokenizerBase:
    """The base's tokenizer, with a padding token."""
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_policy(
    base: BaseModel, lora: LoraSpec, *, dtype: torch.dtype, seed: int, start_from: Path | None = None
) -> PeftModel:
    """The base, frozen, with a trainable adapter: a new one, or a copy of the one in the folder `start_from`.

    On this process's GPU, where it has one.

    Raises:
        SpecError: the base has no linear module of a name that `lora.targetModules` asks for.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(base.path, dtype=dtype).to(own_device())
    except (OSError, ValueError) as error:
        raise BaseNotFound(f"base {base.uri!r} at {base.path} cannot be loaded: {error}") from error
    model.config.use_cache = False
    if start_from is not None:
        continued = PeftModel.from_pretrained(model, str(start_from), ADAPTER, is_trainable=True)
        if dtype is torch.bfloat16:
            lean_casts(continued)
        return continued
    torch.manual_seed(seed)
    policy = _with_adapter(model, base, lora)
    if dtype is torch.bfloat16:
        lean_casts(policy)
    return policy


def _with_adapter(model: Any, base: BaseModel, lora: LoraSpec) -> PeftModel:
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=_target_modules(model, lora),
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    try:
        policy = get_peft_model(model, config, ADAPTER)
    except ValueError as error:
        raise SpecError(f"lora.targetModules {lora.target_modules!r} do not fit base {base.uri!r}: {error}") from error
    if not isinstance(policy, PeftModel):
        raise SpecError(f"base {base.uri!r} cannot carry a LoRA adapter")
    return policy


def policy_shape(base: BaseModel, lora: LoraSpec) -> PeftModel:
    """The base with a new adapter, both without weights: for whoever asks about shapes alone."""
    with torch.device("meta"):
        return _with_adapter(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base.path)), base, lora)


def adapted_modules(base: BaseModel, lora: LoraSpec) -> set[str]:
    """Names of the base's modules that a new adapter would adapt, found without reading any weight."""
    policy = policy_shape(base, lora)
    return {name for name, module in policy.get_base_model().named_modules() if isinstance(module, LoraLayer)}


def _target_modules(model: torch.nn.Module, lora: LoraSpec) -> str | list[str]:
    """What PEFT is to adapt: a rule over all layers, or the full names of the modules in the top layers."""
    if lora.top_layers is None:
        return lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    lowest = int(model.config.num_hidden_layers) - lora.top_layers  # type: ignore[arg-type, union-attr]
    wanted = None if lora.target_modules == "all-linear" else set(lora.target_modules)
    names = []
    for name, module in model.named_modules():
        layer = LAYER.search(name)
        if not isinstance(module, torch.nn.Linear) or layer is None or int(layer.group(1)) < lowest:
            continue
        if wanted is None or name.rpartition(".")[2] in wanted:
            names.append(name)
    if not names:
        raise SpecError(
            f"lora.targetModules {lora.target_modules!r} match no linear module of the top {lora.top_layers} layers"
        )
    return names


def lean_casts(model: PeftModel) -> None:
    """Lets autocast alone decide number formats inside the adapter's modules.

    PEFT casts every input of an adapter to float32 and autocast casts it back; on a CPU that is a sixth of a step.
    """
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False


def adapter_state(model: PeftModel) -> dict[str, torch.Tensor]:
    """The adapter's tensors by name, float32 on the CPU."""
    state = get_peft_model_state_dict(model, adapter_name=ADAPTER)
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in sorted(state.items())}


def state_digest(state: dict[str, torch.Tensor]) -> Digest:
    """The digest of named tensors: names, shapes and bytes."""
    parts = [[name, list(tensor.shape), _tensor_digest(tensor)] for name, tensor in sorted(state.items())]
    return digest.of_json(parts)


def _tensor_digest(tensor: torch.Tensor) -> str:
    raw = tensor.detach().contiguous().view(torch.uint8).numpy()
    return hashlib.sha256(raw.tobytes()).hexdigest()


def base_weights_digest(model: PeftModel) -> Digest:
    """The digest of every frozen weight; equal before and after training, or the base was not frozen."""
    frozen = {name: tensor.data.cpu() for name, tensor in model.named_parameters() if "lora_" not in name}
    return state_digest(frozen)


def save_adapter(model: PeftModel, folder: Path) -> Digest:
    """Writes the trained adapter's configuration and safetensors into `folder`, to stay, and returns its digest."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(folder), selected_adapters=[ADAPTER], safe_serialization=True)
    sync_tree(folder)
    return state_digest(adapter_state(model))


def parameter_counts(model: PeftModel) -> dict[str, int]:
    """How many parameters the base and the adapter have."""
    adapter = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
    total = sum(p.numel() for p in model.parameters())
    return {"base": total - adapter, "adapter": adapter}


def training_arguments(dtype: torch.dtype) -> dict[str, Any]:
    """Trainer arguments that every stage shares: nothing is reported anywhere, nothing is re-computed on a CPU."""
    gpu = torch.cuda.is_available()
    return {
        "bf16": dtype is torch.bfloat16,
        "use_cpu": not gpu,
        "gradient_checkpointing": gpu,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": gpu,
        "save_strategy": "steps",
        "save_total_limit": 2,
        "logging_steps": 1,
        "remove_unused_columns": False,
    }
