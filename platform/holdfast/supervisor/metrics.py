"""What the supervisor counts. Names follow Prometheus' conventions for units."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class SupervisorMetrics:
    """What the supervisor counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.link_up = Gauge("holdfast_link_up", "1 while the link is up.", ["link"], registry=self.registry)
        self.link_changes = Counter(
            "holdfast_link_changes_total",
            "Times a link entered a state.",
            ["link", "state"],
            registry=self.registry,
        )
        self.pool_connections = Gauge(
            "holdfast_pool_connections",
            "Pooled connections by state: open, in_use, max.",
            ["link", "state"],
            registry=self.registry,
        )
        self.clients = Gauge("holdfast_socket_clients", "Connections to the socket.", registry=self.registry)
        self.calls = Counter(
            "holdfast_calls_total",
            "Calls over the socket, by operation and by the error they ended in (empty for none).",
            ["op", "error"],
            registry=self.registry,
        )
        self.query_seconds = Histogram(
            "holdfast_query_seconds",
            "Seconds of a named query, waiting for the pool included.",
            ["query"],
            buckets=_QUICK,
            registry=self.registry,
        )
        self.runs = Counter(
            "holdfast_runs_total",
            "Refreshes, by report, trigger and outcome.",
            ["report", "trigger", "outcome"],
            registry=self.registry,
        )
        self.runs_dropped = Counter(
            "holdfast_runs_dropped_total",
            "Run records given up because MongoDB was away for too long.",
            registry=self.registry,
        )

    def render(self) -> bytes:
        """The metrics in the text format."""
        return generate_latest(self.registry)
