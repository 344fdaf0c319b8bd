"""Fixtures of several modules here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.integration.processes import Background, Platform, Servers
from tests.integration.town import Town


@pytest.fixture(scope="module")
def town_of_the_module() -> Iterator[Town]:
    """The town of this module's tests."""
    with Platform() as platform, Background() as background:
        servers = Servers(platform.home)
        try:
            servers.prepare()
            made = Town(platform, servers, background)
            yield made
            made.http.close()
            made.closed.close()
            made.cache.close()
        finally:
            servers.kill()


@pytest.fixture
def town(town_of_the_module: Town) -> Town:
    """The town, with everything in it running."""
    town_of_the_module.mend()
    return town_of_the_module
