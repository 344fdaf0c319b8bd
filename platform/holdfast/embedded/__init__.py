"""The embedded servers of `holdfast up` and of the tests, one shape for the three."""

from __future__ import annotations

from holdfast.embedded.mongo import Mongo
from holdfast.embedded.postgres import Postgres
from holdfast.embedded.server import Server
from holdfast.embedded.valkey import Valkey

__all__ = ["Mongo", "Postgres", "Server", "Valkey"]
