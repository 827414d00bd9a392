"""How a store's failures reach the rest: full disks as `DiskFull`, everything else that broke as `StoreUnavailable`.

File systems of fsspec raise what their libraries raise. Those libraries are only known here once something imported
them, so a local store never loads a cloud SDK. Called by `store`, which answers for missing files itself.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from socadapter_api.errors import DiskFull, StoreUnavailable

_TRANSPORT_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
    ("requests", "RequestException"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
)


@contextmanager
def reported(action: str, uri: str) -> Iterator[None]:
    """Turns what a file system raises inside the block into an error of ours that names `action` and `uri`.

    Raises:
        DiskFull: no space, quota or file size left.
        StoreUnavailable: any other failure of the file system or its network.
    """
    try:
        yield
    except _failures() as error:
        if DiskFull.is_behind(error):
            raise DiskFull(f"cannot {action} {uri}: {error}; free space or raise the quota, then run again") from error
        kind = type(error).__name__
        raise StoreUnavailable(
            f"cannot {action} {uri}: {kind}: {error}; check the store's address, credentials and health"
        ) from error


def _failures() -> tuple[type[Exception], ...]:
    """OSError, and the base errors of the network libraries that are loaded. Called while an error is in flight."""
    loaded = ((sys.modules.get(module), name) for module, name in _TRANSPORT_ERRORS)
    found = [getattr(module, name, None) for module, name in loaded if module is not None]
    return (OSError, *(kind for kind in found if isinstance(kind, type) and issubclass(kind, Exception)))
