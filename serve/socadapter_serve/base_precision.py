"""In which number format an engine replica loads its base: the pool's, or that of the versions which it is to serve.

Decided once, with the replica's first table: later tables change no base. A version that was judged in another format
is served all the same, and its replica says so (`loading`). Called by a replica as it starts.
"""

import asyncio
import contextlib
import logging

from socadapter_api.errors import SocAdapterError
from socadapter_api.pool import EngineKind
from socadapter_api.serving_table import ServedVersion, ServingTable
from socadapter_api.training import Precision
from socadapter_serve.config import ServeConfig
from socadapter_serve.replica import residents_of
from socadapter_store.cache import fetch_verified

_log = logging.getLogger(__name__)
_TIMEOUT_S = 60.0


async def precision_for(config: ServeConfig, table: ServingTable, timeout_s: float = _TIMEOUT_S) -> Precision:
    """What the pool says; where it says Auto, what the first version of `table` says that recorded it.

    Auto, which is what a run on this machine would choose, where none did: they are of an earlier release, there are
    none yet, or they cannot be read now: a store that hangs keeps no base from answering.
    """
    wanted = config.spec.engine.precision
    if wanted is not Precision.AUTO or config.spec.engine.kind is not EngineKind.TRANSFORMERS:
        return wanted
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            for version in residents_of(table, config.spec.max_loras):
                if (judged := await asyncio.to_thread(_judged_in, config, version)) is not None:
                    _log.info("precision_chosen precision=%s version=%s", judged.value, version.name)
                    return judged
            return Precision.AUTO
    _log.warning("precision_unknown error=the store gave no version within %g s", timeout_s)
    return Precision.AUTO


def _judged_in(config: ServeConfig, version: ServedVersion) -> Precision | None:
    """What the version's manifest says; nothing where it cannot be trusted, as its own load will tell."""
    try:
        _, manifest = fetch_verified(
            version.uri, config.adapters_dir, version.digest, config.public_keys, max_rank=config.spec.max_lora_rank
        )
    except (SocAdapterError, OSError) as error:
        _log.warning("precision_unknown version=%s error=%s", version.name, error)
        return None
    return manifest.precision
