"""A process that does one refresh over the supervisor's socket, as a worker does.

Its arguments are REPORT key=value …; it prints "changed", "unchanged", or the name of the error.
"""

from __future__ import annotations

import asyncio
import sys

from holdfast.cache.refresh import refresh
from holdfast.errors import HoldfastError
from holdfast.reports import load_reports
from holdfast.rpc.client import connect
from holdfast.settings import ReportsSettings


async def main(name: str, pairs: list[str]) -> str:
    """Refresh the result of that report and those parameters."""
    report = load_reports(ReportsSettings.load().modules).get(name)
    params = report.reader.parse(dict(pair.split("=", 1) for pair in pairs))
    client = connect()
    try:
        result = await refresh(client, report, params, "manual", default_ttl=30)
    except HoldfastError as error:
        return type(error).__name__
    finally:
        await client.aclose()
    return "changed" if result.changed else "unchanged"


if __name__ == "__main__":
    print(asyncio.run(main(sys.argv[1], sys.argv[2:])))
