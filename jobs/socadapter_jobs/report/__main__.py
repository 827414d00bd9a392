"""``python -m socadapter_jobs.report --run DIR --out FILE``: the page of a run that is already in a store."""

from pathlib import Path
from typing import Any

import click

from socadapter_api.errors import SocAdapterError
from socadapter_jobs.option_files import write_whole
from socadapter_jobs.report.page import render
from socadapter_store import layout
from socadapter_store.run_folder import RunFolder


@click.command()
@click.option("--run", "run_uri", required=True, help="The run's folder: a path or any fsspec URI.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The HTML file to write.")
def main(run_uri: str, out: Path) -> None:
    """Writes the report of the run at RUN as one HTML file."""
    try:
        store = RunFolder.at(run_uri).store
        documents: list[dict[str, Any] | None] = []
        for path in (layout.EVALUATION, layout.RESULT, layout.MANIFEST):
            value = store.read_json(path)
            documents.append(value if isinstance(value, dict) else None)
    except SocAdapterError as error:
        raise click.ClickException(str(error)) from error
    evaluation, result, manifest = documents
    if evaluation is None and result is None:
        raise click.ClickException(
            f"{run_uri} holds neither {layout.EVALUATION} nor {layout.RESULT}; is it a run's folder?"
        )
    try:
        write_whole("--out", out, render(evaluation or {}, result, manifest))
    except SocAdapterError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"wrote {out} ({out.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
