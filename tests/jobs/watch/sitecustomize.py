"""Imported by every Python process of a watched run: notes each address that one connects to or looks up."""

import os
import sys

_FOLDER = os.environ.get("SOCADAPTER_TEST_ADDRESSES")
_EVENTS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg")


def _note(event: str, args: tuple[object, ...]) -> None:
    if event in _EVENTS:
        with open(f"{_FOLDER}/python.{os.getpid()}", "a") as file:  # noqa: PTH123  as little as can be imported here
            file.write(f"{event}\t{args!r}\n")


if _FOLDER:
    sys.addaudithook(_note)
