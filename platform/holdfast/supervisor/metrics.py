"""What the supervisor counts. Names follow Prometheus' conventions for units."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from holdfast.cache.run import Run
from holdfast.links.adapter import PoolStatus
from holdfast.links.state import LinkState, Phase

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class SupervisorMetrics:
    """The supervisor's counters, and what counts with them."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._phases: dict[str, Phase] = {}
        self._link_up = Gauge("holdfast_link_up", "1 while the link is up.", ["link"], registry=registry)
        self._link_changes = Counter(
            "holdfast_link_changes_total",
            "Times a link entered a state.",
            ["link", "state"],
            registry=registry,
        )
        text = "Pooled connections by state: open, in_use, max."
        self._pools = Gauge("holdfast_pool_connections", text, ["link", "state"], registry=registry)
        self._clients = Gauge("holdfast_socket_clients", "Connections to the socket.", registry=registry)
        text = "Calls over the socket, by operation and by the error they ended in (empty for none)."
        self._calls = Counter("holdfast_calls_total", text, ["op", "error"], registry=registry)
        text = "Seconds of a named query, waiting for the pool included."
        self._query_seconds = Histogram(
            "holdfast_query_seconds", text, ["query"], buckets=_QUICK, registry=registry
        )
        text = "Refreshes, by report, trigger and outcome."
        labels = ["report", "trigger", "outcome"]
        self._runs = Counter("holdfast_runs_total", text, labels, registry=registry)
        text = "Run records given up because what keeps them was away for too long."
        self._runs_dropped = Counter("holdfast_runs_dropped_total", text, registry=registry)

    def called(self, operation: str, error: str) -> None:
        """A call over the socket ended, in the error of that code (empty for none)."""
        self._calls.labels(operation, error).inc()

    def connected(self, clients: int) -> None:
        """So many clients are connected to the socket."""
        self._clients.set(clients)

    def queried(self, name: str, seconds: float) -> None:
        """A named query took so many seconds."""
        self._query_seconds.labels(name).observe(seconds)

    def ran(self, run: Run) -> None:
        """A refresh has ended."""
        self._runs.labels(run.report, run.trigger, run.outcome).inc()

    def dropped(self, runs: int) -> None:
        """So many records of runs were given up."""
        self._runs_dropped.inc(runs)

    def linked(self, name: str, state: LinkState) -> None:
        """A link went into a state, or stayed in it."""
        self._link_up.labels(name).set(state.phase is Phase.UP)
        if self._phases.get(name) != state.phase:
            self._phases[name] = state.phase
            self._link_changes.labels(name, state.phase.value).inc()

    def pooled(self, name: str, pool: PoolStatus) -> None:
        """A link's pool has so many connections."""
        for state, value in (("open", pool.size), ("in_use", pool.in_use), ("max", pool.max)):
            self._pools.labels(name, state).set(value)

    def render(self) -> bytes:
        """The metrics in the text format."""
        return generate_latest(self.registry)
