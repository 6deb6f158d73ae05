"""Metrics for Prometheus, by its own client library (the extra `metrics`)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shimpy import HookContainer, HookProcess, Hooks, ShimError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

# Seconds; a start takes some tens of milliseconds where nothing is in its way.
_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class ContainerMetrics(Hooks):
    """Counts containers, execs, exits and OOM kills, and measures how long starts take.

    * `shimpy_containers_running`: containers whose first process runs.
    * `shimpy_processes_started_total`, `shimpy_processes_failed_total`, by `kind` (`init` or `exec`), the
      latter also by the `status` that the client was told.
    * `shimpy_processes_exited_total`, by `kind` and `outcome`: `success`, `failure`, or `killed` for an
      exit status above 128.
    * `shimpy_oom_kills_total`.
    * `shimpy_start_seconds`, by `kind`: from the request to the start, of a container from its create on.

    Each has the label `namespace`, containerd's.

    Args:
        port: where they are served over HTTP, in a thread; None: nowhere.
        address: the address for that port.
        directory: where the metrics of many processes are kept, as under containerd, which has one shim for
            each pod: `python -m shimpy.hooks.metrics_server DIRECTORY` serves them all. It is made if it is
            not there, and is to be emptied at boot, as /run is.
        registry: of the program that embeds the shim; None: the library's own.

    Raises:
        ImportError: the client library is not installed.
    """

    on_error = "log"

    def __init__(
        self,
        port: int | None = None,
        *,
        address: str = "127.0.0.1",
        directory: str | None = None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        if directory is not None:
            os.makedirs(directory, mode=0o755, exist_ok=True)
            # Read by the library when it is imported.
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
        try:
            import prometheus_client as prometheus
        except ImportError as error:
            raise ImportError("metrics need an extra: pip install 'shimpy[metrics]'") from error
        found = prometheus.REGISTRY if registry is None else registry
        process = ("namespace", "kind")
        self._running = prometheus.Gauge(
            "shimpy_containers_running",
            "Containers whose first process runs.",
            ["namespace"],
            registry=found,
            multiprocess_mode="livesum",
        )
        self._started = prometheus.Counter(
            "shimpy_processes_started", "Processes that were started.", process, registry=found
        )
        self._failed = prometheus.Counter(
            "shimpy_processes_failed",
            "Processes that were refused or could not be started.",
            (*process, "status"),
            registry=found,
        )
        self._exited = prometheus.Counter(
            "shimpy_processes_exited", "Processes that have exited.", (*process, "outcome"), registry=found
        )
        self._ooms = prometheus.Counter(
            "shimpy_oom_kills", "Kills by the kernel for lack of memory.", ["namespace"], registry=found
        )
        self._seconds = prometheus.Histogram(
            "shimpy_start_seconds",
            "Seconds from the request to the start.",
            process,
            registry=found,
            buckets=_BUCKETS,
        )
        if port is not None:
            prometheus.start_http_server(port, address, found)

    async def started(self, process: HookProcess) -> None:
        """Counts a start."""
        labels = _labels(process)
        self._started.labels(*labels).inc()
        self._seconds.labels(*labels).observe(max(process.started_at - process.requested_at, 0.0))
        if not process.is_exec:
            self._running.labels(process.container.namespace).inc()

    async def failed(self, process: HookProcess, error: ShimError) -> None:
        """Counts what was not started."""
        self._failed.labels(*_labels(process), error.code).inc()

    async def exited(self, process: HookProcess) -> None:
        """Counts an exit."""
        status = process.exit_status or 0
        outcome = "success" if status == 0 else "killed" if status > 128 else "failure"
        self._exited.labels(*_labels(process), outcome).inc()
        if process.started_at and not process.is_exec:
            self._running.labels(process.container.namespace).dec()

    async def oom(self, container: HookContainer) -> None:
        """Counts a kill for lack of memory."""
        self._ooms.labels(container.namespace).inc()


def _labels(process: HookProcess) -> tuple[str, str]:
    return process.container.namespace, "exec" if process.is_exec else "init"
