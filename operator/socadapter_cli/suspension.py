"""``socadapter suspend`` and ``resume``: `spec.suspend` of an adapter in a cluster.

Suspended, no new run starts; what serves goes on serving. Where Git holds the resource, change it there: what keeps
the cluster as Git says would take this back.
"""

import click

from socadapter_api.errors import SpecError
from socadapter_cli.places import Cluster, Place, place_options


@click.command()
@click.argument("name")
@place_options
def suspend(name: str, place: Place) -> None:
    """Start no new run of the adapter NAME; what serves goes on serving."""
    _set(name, place, True)


@click.command()
@click.argument("name")
@place_options
def resume(name: str, place: Place) -> None:
    """Let the adapter NAME train again."""
    _set(name, place, False)


def _set(name: str, place: Place, value: bool) -> None:
    if not isinstance(place, Cluster):
        raise SpecError(f"local mode takes spec.suspend from its files: write `suspend: {str(value).lower()}` there")
    place.change(name, {"spec": {"suspend": value}})
    click.echo(f"{name} is {'suspended: no new run starts' if value else 'resumed'}")
