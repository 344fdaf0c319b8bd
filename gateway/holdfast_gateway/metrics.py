"""What a gateway worker counts. Names follow Prometheus' conventions for units."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class GatewayMetrics:
    """What a gateway worker counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "holdfast_gateway_requests_total",
            "Requests that were answered, by X-Cache value (empty for none) and status.",
            ["cache", "status"],
            registry=self.registry,
        )
        self.redis_errors = Counter(
            "holdfast_gateway_redis_errors_total", "Reads of Redis that failed.", registry=self.registry
        )
        self.rejected_entries = Counter(
            "holdfast_gateway_rejected_entries_total",
            "Stored bytes that were no entry for their key, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self.link_up = Gauge("holdfast_link_up", "1 while the link is up.", ["link"], registry=self.registry)
        self.l1_bytes = Gauge(
            "holdfast_gateway_l1_bytes", "Bytes of the entries in memory.", registry=self.registry
        )

    def render(self) -> bytes:
        """The metrics in the text format."""
        return generate_latest(self.registry)
