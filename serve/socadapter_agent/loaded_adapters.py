"""The adapters that one transformers model carries: loaded by PEFT beside each other, never merged.

Owned by an engine and touched by its worker only: PEFT's bookkeeping must not change under a forward pass.
"""

from pathlib import Path
from typing import Any

from socadapter_api.errors import ArtifactError, BaseMismatch, EngineUnavailable

_WORDS = 300


class LoadedAdapters:
    """A model and its adapters by name, at most `limit` of them. `model` is PEFT's once there is one."""

    def __init__(self, model: Any, limit: int) -> None:
        self.model = model
        self._limit = limit

    @property
    def names(self) -> frozenset[str]:
        """What is loaded."""
        return frozenset(getattr(self.model, "peft_config", {}))

    def load(self, name: str, directory: Path) -> None:
        """Loads the adapter in `directory`; a no-op where the name is loaded. A failed load leaves nothing behind.

        Raises:
            EngineUnavailable: there is no place left.
            ArtifactError: it has no configuration, or its tensors are not those that it asks for on this base.
            BaseMismatch: it is for a base with other modules, or of another size.
        """
        from peft import PeftConfig, PeftModel, PeftModelForCausalLM

        from socadapter_agent import lean_lora

        if name in self.names:
            return
        if len(self.names) >= self._limit:
            raise EngineUnavailable(f"adapter {name!r}: all {self._limit} places are taken; raise maxLoras")
        try:
            config = PeftConfig.from_pretrained(str(directory))
        except ValueError as error:
            raise ArtifactError(
                f"adapter {name!r}: {directory} has no configuration that can be read: {error}"
            ) from error
        config.inference_mode = True
        try:
            if not isinstance(self.model, PeftModel):
                self.model = PeftModelForCausalLM(self.model, config, name, autocast_adapter_dtype=False)
            found = self.model.load_adapter(str(directory), name, is_trainable=False, autocast_adapter_dtype=False)
            if found.missing_keys or found.unexpected_keys:
                raise ArtifactError(
                    f"adapter {name!r} at {directory} does not fit base {self.model.config.name_or_path!r}: "
                    f"missing {list(found.missing_keys)[:3]}, unexpected {list(found.unexpected_keys)[:3]}; "
                    "train it on this base"
                )
        except Exception as error:
            self.forget(name)
            if not _tells_of_another_base(error):
                raise
            raise BaseMismatch(
                f"adapter {name!r} at {directory} does not fit base {self.model.config.name_or_path!r}: "
                f"{' '.join(str(error).split())[:_WORDS]}; name the base that it was trained on"
            ) from error
        dtype = next(self.model.parameters()).dtype
        for key, parameter in self.model.named_parameters():
            if f".{name}." in key:
                parameter.data = parameter.data.to(dtype)
        lean_lora.fuse(self.model)
        self.model.eval()

    def activate(self, name: str) -> None:
        """Makes `name` the adapter of all rows of a batch whose adapters are not named."""
        if self.model.active_adapters != [name]:
            self.model.set_adapter(name, inference_mode=True)

    def forget(self, name: str) -> None:
        """Takes out what there is of an adapter, be it half loaded."""
        others = sorted(self.names - {name})
        if not others:
            if hasattr(self.model, "unload"):
                self.model = self.model.unload()
            self.model.__dict__.pop("peft_config", None)
            if hasattr(self.model, "_hf_peft_config_loaded"):
                self.model._hf_peft_config_loaded = False
        elif name in self.names:
            self.activate(others[0])  # one that stays
            self.model.delete_adapter(name)


def _tells_of_another_base(error: Exception) -> bool:
    """Whether PEFT found no place for the adapter: no such modules, or weights of another size there."""
    return isinstance(error, ValueError) or (isinstance(error, RuntimeError) and "size mismatch" in str(error))
