"""What stands between the adapter store and an engine: fetch, verify, compare with what this replica serves.

Bytes are judged by `socadapter_store` (digest, signature, static checks, base, rank); here the version's name, the chat
template and the tool schemas are compared with this engine's, since an adapter that was trained on other ones would
answer without complaint, and wrongly. Called by `residents` through `replica`.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from socadapter_api.errors import (
    DigestMismatch,
    PrecisionMismatch,
    StoreUnavailable,
    TemplateUnsupported,
    ToolSchemaMismatch,
)
from socadapter_api.manifest import AdapterManifest
from socadapter_api.serving_table import ServedVersion
from socadapter_api.training import Precision
from socadapter_serve.residents import VerifiedAdapter
from socadapter_store import layout
from socadapter_store.cache import fetch_verified

_THREADS = 4
"""Of its own: a store that never answers keeps them, and nothing else waits for one."""


class AdapterLoader:
    """Fetches and judges the versions that one engine may hold."""

    def __init__(
        self,
        cache: Path,
        public_keys: tuple[str, ...],
        *,
        base_digest: str,
        template_digest: str | None,
        tools_digest: Callable[[], str],
        max_rank: int,
        timeout_s: float,
        precision: Precision | None = None,
    ) -> None:
        """No `template_digest`: the template is a server's that shows it to no one, and is not compared. No
        `precision`: nor is the number format of its base. The store has `timeout_s` to give a version's files.

        `tools_digest` may raise `ToolOutage` while the tools cannot be listed: the version is tried again later.
        """
        self._cache = cache
        self._public_keys = public_keys
        self._base_digest = base_digest
        self._template_digest = template_digest
        self._tools_digest = tools_digest
        self._max_rank = max_rank
        self._precision = precision
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="fetch")

    async def fetch(self, version: ServedVersion) -> VerifiedAdapter:
        """A local folder with the version's files, all of it checked.

        Raises:
            SocAdapterError: of the kind that names what is wrong; no engine has seen a file of it.
        """
        tools_digest = self._tools_digest()
        folder, manifest = await self._verified(version)
        if manifest.version != version.name:
            raise DigestMismatch(
                f"the run at {version.uri} holds version {manifest.version!r}, "
                f"the serving table calls it {version.name!r}: mend the table"
            )
        if self._template_digest is not None and manifest.template_digest != self._template_digest:
            raise TemplateUnsupported(
                f"version {version.name!r} was trained on chat template {manifest.template_digest}, "
                f"this engine renders {self._template_digest}: serve the tokenizer it was trained with, or train again"
            )
        if manifest.tools_digest != tools_digest:
            raise ToolSchemaMismatch(
                f"version {version.name!r} was trained with tools {manifest.tools_digest}, "
                f"the pool offers {tools_digest}: restore the tool schemas, or train again"
            )
        return VerifiedAdapter(folder / layout.ADAPTER, manifest, self._difference(manifest))

    async def _verified(self, version: ServedVersion) -> tuple[Path, AdapterManifest]:
        fetching = asyncio.get_running_loop().run_in_executor(
            self._threads,
            fetch_verified,
            version.uri,
            self._cache,
            version.digest,
            self._public_keys,
            self._base_digest or None,
            self._max_rank,
        )
        try:
            return await asyncio.wait_for(fetching, self._timeout_s)
        except TimeoutError:
            raise StoreUnavailable(
                f"version {version.name!r}: {version.uri} did not give its files within {self._timeout_s:g} s: the "
                "store hangs, or is very slow from here. It is asked again"
            ) from None

    def _difference(self, manifest: AdapterManifest) -> PrecisionMismatch | None:
        """Served all the same: near ties fall the other way, and taking a context's adapter away costs it more."""
        judged, here = manifest.precision, self._precision
        if judged is None or here is None or judged is here:
            return None
        return PrecisionMismatch(
            f"version {manifest.version!r} was judged on the base in {judged.value}, and this engine has it in "
            f"{here.value}: a few verdicts differ from the judged ones. Set engine.precision of the pool to "
            f"{judged.value}, or compute.precision of the adapter to {here.value} and train it again"
        )
