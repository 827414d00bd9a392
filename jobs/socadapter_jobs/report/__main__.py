"""``python -m socadapter_jobs.report --run DIR --out FILE``: the page of a run that is already in a store."""

from pathlib import Path

import click

from socadapter_api.errors import SocAdapterError
from socadapter_jobs.option_files import write_whole
from socadapter_jobs.report.page import of_run


@click.command()
@click.option("--run", "run_uri", required=True, help="The run's folder: a path or any fsspec URI.")
@click.option("--beside", multiple=True, help="A run of another context, for the matrix of adapters; may be repeated.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The HTML file to write.")
def main(run_uri: str, beside: tuple[str, ...], out: Path) -> None:
    """Writes the report of the run at RUN as one HTML file."""
    try:
        write_whole("--out", out, of_run(run_uri, beside))
    except SocAdapterError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"wrote {out} ({out.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
