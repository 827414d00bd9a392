"""Stands for election with quick times and says how it goes: ``candidate.py KUBECONFIG NAMESPACE IDENTITY``."""

import os
import signal
import sys
import threading
from pathlib import Path

from socadapter_operator.kube.client import Client
from socadapter_operator.kube.credentials import Kubeconfig
from socadapter_operator.kube.lease import LeaseElector, LeaseTimes


def main() -> None:
    kubeconfig, namespace, identity = sys.argv[1:]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    elector = LeaseElector(
        Client(Kubeconfig(Path(kubeconfig))),
        namespace,
        "operator",
        identity,
        times=LeaseTimes(promised_s=4, renew_deadline_s=3, retry_s=0.5),
        on_won=lambda: print("won", flush=True),
        on_lost=lambda: os._exit(1),
    )
    print("waiting", flush=True)
    elector.run(stop)
    print("ended", flush=True)


if __name__ == "__main__":
    main()
