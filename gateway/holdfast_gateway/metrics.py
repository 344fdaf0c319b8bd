"""What a gateway worker counts. Names follow Prometheus' conventions for units."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from holdfast.links.state import LinkState, Phase

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class GatewayMetrics:
    """The counters of one gateway worker, and what counts with them."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.hits = 0
        """HITs since the last `render`: counting in Prometheus takes longer than answering one."""
        text = "Requests that were answered, by X-Cache value (empty for none) and status."
        labels = ["cache", "status"]
        self._requests = Counter("holdfast_gateway_requests_total", text, labels, registry=registry)
        text = "Reads of Redis that failed."
        self._redis_errors = Counter("holdfast_gateway_redis_errors_total", text, registry=registry)
        text = "Stored bytes that were no entry for their key, by reason."
        self._rejected = Counter(
            "holdfast_gateway_rejected_entries_total", text, ["reason"], registry=registry
        )
        self._link_up = Gauge("holdfast_link_up", "1 while the link is up.", ["link"], registry=registry)
        text = "Bytes of the entries in memory."
        self._l1_bytes = Gauge("holdfast_gateway_l1_bytes", text, registry=registry)

    def answered(self, cache: str, status: int) -> None:
        """A request was answered."""
        self._requests.labels(cache, str(status)).inc()

    def redis_failed(self) -> None:
        """A read of Redis failed."""
        self._redis_errors.inc()

    def rejected(self, reason: str) -> None:
        """Stored bytes were no entry of their key."""
        self._rejected.labels(reason).inc()

    def linked(self, name: str, state: LinkState) -> None:
        """A link went into a state, or stayed in it."""
        self._link_up.labels(name).set(state.phase is Phase.UP)

    def render(self, *, l1_bytes: int) -> bytes:
        """The metrics in the text format, with the bytes that are in memory now."""
        hits, self.hits = self.hits, 0
        self._requests.labels("HIT", "200").inc(hits)
        self._l1_bytes.set(l1_bytes)
        return generate_latest(self.registry)
