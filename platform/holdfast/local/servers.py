"""The embedded servers of `holdfast up` and of the tests, one shape for the three."""

from __future__ import annotations

from holdfast.local.embedded import Server
from holdfast.local.files import LocalError
from holdfast.local.mongo import Mongo
from holdfast.local.postgres import Postgres
from holdfast.local.valkey import Valkey

__all__ = ["LocalError", "Mongo", "Postgres", "Server", "Valkey"]
