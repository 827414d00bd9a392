"""A small Ray of this process's own, with dashboard and token: ``python small_ray.py CPUS``; it ends with its input.

Prints one line, the dashboard's address. Token and whatever jobs shall inherit stand in the environment.
"""

import os
import sys


def main() -> int:
    """Runs Ray on loopback until standard input is closed, by whoever started this or by their death."""
    import ray

    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on, Ray would not keep to 127.0.0.1
    context = ray.init(
        address="local",
        num_cpus=int(sys.argv[1]),
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        dashboard_port=int(sys.argv[2]),
        object_store_memory=128 * 2**20,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    print(f"http://{context.dashboard_url}", flush=True)
    sys.stdin.read()
    ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
