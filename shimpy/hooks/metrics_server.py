"""`python -m shimpy.hooks.metrics_server DIRECTORY`: serves the metrics that many shims keep in it."""

from __future__ import annotations

import argparse
import contextlib
import glob
import importlib
import os
import re
import signal
from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.registry import Collector


class MetricsDirectory(Collector):
    """The metrics of all shims that keep them in one directory, read anew for each scrape.

    Args:
        directory: as `ContainerMetrics` has it.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def collect(self) -> Iterable[Metric]:
        """Returns what there is."""
        for path in glob.glob(os.path.join(glob.escape(self._directory), "gauge_live*_*.db")):
            # The containers of a shim that has ended are nobody's; what it has counted stays.
            pid = re.fullmatch(r"gauge_live\w*_(\d+)\.db", os.path.basename(path))
            if pid is not None and not os.path.exists(f"/proc/{pid[1]}"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
        multiprocess: Any = importlib.import_module("prometheus_client.multiprocess")
        found: Iterable[Metric] = multiprocess.MultiProcessCollector(None, path=self._directory).collect()
        return found


def main(argv: list[str] | None = None) -> None:
    """Serves until it is ended by a signal.

    Args:
        argv: the arguments; None for those of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m shimpy.hooks.metrics_server", description=__doc__)
    parser.add_argument("directory", help="where the shims keep their metrics")
    parser.add_argument("--port", type=int, default=9477, help="default: %(default)s")
    parser.add_argument("--address", default="127.0.0.1", help="default: %(default)s")
    arguments = parser.parse_args(argv)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    registry = CollectorRegistry()
    registry.register(MetricsDirectory(arguments.directory))
    start_http_server(arguments.port, arguments.address, registry)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main()
