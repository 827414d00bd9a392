"""``socadapter verify``: the judgement that serving makes before it loads an adapter, on demand."""

import tempfile
from pathlib import Path

import click
from rich.console import Console

from socadapter_api.errors import SecretNotFound
from socadapter_api.manifest import AdapterManifest
from socadapter_cli.footprint import footprint
from socadapter_cli.workspace import state_option
from socadapter_operator.backends.credentials import KEYS


@click.command()
@click.argument("run")
@click.option(
    "--public-key",
    "keys",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="PEM file of a trusted key; repeatable. Default: the key that local mode made in the state folder.",
)
@click.option("--digest", help="Accept this digest alone.")
@click.option("--base-digest", help="Accept an adapter for this base alone.")
@click.option("--max-rank", type=click.IntRange(1, 512))
@state_option
def verify(
    run: str, keys: tuple[Path, ...], digest: str | None, base_digest: str | None, max_rank: int | None, state: Path
) -> None:
    """Check a published adapter: files, digests and signature. RUN: a run's folder, here or in a store.

    A key that lies inside RUN is never trusted unless you name it: whoever made the folder chose it.
    """
    from socadapter_store import layout, signatures
    from socadapter_store.cache import download
    from socadapter_store.verify import verify_version

    files = keys or (_made_key(run, state),)
    trusted = [key.read_text() for key in files]
    with tempfile.TemporaryDirectory(prefix="socadapter-verify-") as scratch:
        # A folder without a result, such as a copy of adapter, manifest and signature, is judged where it lies.
        markers = (layout.SUCCESS, layout.FAILED)
        bare = Path(run).is_dir() and not any((Path(run) / marker).exists() for marker in markers)
        path = Path(run) if bare else download(run, Path(scratch), digest)
        manifest = verify_version(path, digest, trusted, base_digest, max_rank)
        signer = signatures.verify(path, path / layout.SIGNATURE, trusted)
        size_bytes = (path / layout.ADAPTER / layout.WEIGHTS).stat().st_size
    by = next(key for key, text in zip(files, trusted, strict=True) if signatures.fingerprint(text) == signer)
    _tell(manifest, f"{signer}, the key in {by}", size_bytes)


def _made_key(run: str, state: Path) -> Path:
    """The public key that local mode made in the state folder.

    Raises:
        SecretNotFound: there is none, or it came with the folder that is judged.
    """
    from socadapter_store.signatures import PUBLIC_KEY
    from socadapter_store.store import Store

    key, judged = state / KEYS / PUBLIC_KEY, Store(run).local_folder
    if judged is not None and key.resolve().is_relative_to(judged.resolve()):
        raise SecretNotFound(
            f"no trusted key: {key} lies inside {run}, which is what is judged, so it proves nothing about who made it;"
            " name the key that you trust with --public-key FILE"
        )
    if not key.is_file():
        raise SecretNotFound(
            f"no trusted key: there is none at {key}; name the signer's public key with --public-key FILE, or the state"
            " folder whose key signed it with --state"
        )
    return key


def _tell(manifest: AdapterManifest, signer: str, size_bytes: int) -> None:
    console = Console()
    console.print(f"[green]verified[/green] {manifest.version}", soft_wrap=True)
    for name, value in (
        ("digest", manifest.adapter_digest),
        ("signed by", signer),
        ("base", f"{manifest.base_uri} {manifest.base_digest}"),
        ("rank", f"{manifest.rank}, {manifest.adapter_parameters} parameters"),
        ("size", footprint(manifest, size_bytes)),
        ("created", manifest.created_at),
    ):
        console.print(f"  {name}: {value}", soft_wrap=True, markup=False)
