"""Whether the adapter that a run continues from has the shape that its spec asks for. Called by the prepare stage."""

import json
import re
from collections.abc import Set
from pathlib import Path

from safetensors import safe_open

from socadapter_agent.base_model import BaseModel
from socadapter_api.errors import SpecError
from socadapter_api.training import LoraSpec
from socadapter_jobs.policy import LAYER, adapted_modules

_TENSOR = re.compile(r"^base_model\.model\.(.+)\.lora_[AB]\.")


def require_shape(name: str, adapter: Path, base: BaseModel, lora: LoraSpec) -> None:
    """Compares the adapter folder of version `name` with `lora`: training goes on with an adapter as it is.

    Raises:
        SpecError: rank, alpha or the adapted modules differ.
    """
    config = json.loads((adapter / "adapter_config.json").read_text())
    has = {"lora.rank": str(config["r"]), "lora.alpha": str(config["lora_alpha"])}
    asked = {"lora.rank": str(lora.rank), "lora.alpha": str(lora.alpha)}
    before, now = _modules(adapter), adapted_modules(base, lora)
    if before != now:
        layers = f", topLayers {lora.top_layers}" if lora.top_layers is not None else ""
        has["adapted modules"] = _told(before)
        asked["adapted modules"] = f"{_told(now)}, by lora.targetModules {lora.target_modules!r}{layers}"
    if has == asked:
        return
    differ = "; ".join(
        f"{key}: {has[key]} in {name}, {asked[key]} in the spec" for key in has if has[key] != asked[key]
    )
    raise SpecError(
        f"continueFrom Parent trains {name} on in its own shape, which is not the one in the spec ({differ}). Set lora "
        "as it was for that version, or continueFrom to Base for a new adapter"
    )


def _modules(adapter: Path) -> set[str]:
    """Names of the base's modules that the adapter has tensors for."""
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        return {found[1] for key in file.keys() if (found := _TENSOR.match(key))}  # noqa: SIM118  no mapping


def _told(modules: Set[str]) -> str:
    kinds = ", ".join(sorted({module.rpartition(".")[2] for module in modules}))
    layers = sorted({int(found[1]) for module in modules if (found := LAYER.search(module))})
    where = f" in layers {layers[0]} to {layers[-1]}" if layers else ""
    return f"{len(modules)} ({kinds}){where}"
