"""What a target asks for: the path and the query of a request, read by the catalogue's parameters."""

from __future__ import annotations

from holdfast.errors import UnknownReport
from holdfast.reports.canonical import ANALYTICS_PATH, printable
from holdfast_gateway.auth import Authenticator, Claims
from holdfast_gateway.catalogue import Catalogue, CatalogueSnapshot
from holdfast_gateway.http import Scope
from holdfast_gateway.l1.lookup import ResultRequest
from holdfast_gateway.problems import Problem, unavailable

REPORT_PREFIX = ANALYTICS_PATH + "/"
MAX_TARGET = 4096
_REMEMBERED = 10_000


def current(catalogue: Catalogue) -> CatalogueSnapshot:
    """The catalogue as it is now; a Problem (503) where there is none yet."""
    if catalogue.snapshot is None:
        raise unavailable("The catalogue of reports is not here yet.", 1)
    return catalogue.snapshot


class Targets:
    """The requests that targets stand for. Those that do not depend on the caller are remembered."""

    def __init__(self, auth: Authenticator, catalogue: Catalogue) -> None:
        self.requests: dict[tuple[str, str], ResultRequest] = {}
        self._auth = auth
        self._catalogue = catalogue
        # What was read by another catalogue may mean something else by this one.
        catalogue.on_change(self.requests.clear)

    async def resolve(self, scope: Scope, claims: Claims) -> ResultRequest:
        """What this request asks for.

        Raises:
            Problem: 414, 403 where the token lacks a claim, or 503 where there is no catalogue yet.
            UnknownReport, InvalidParams: no such report, or a parameter is wrong.
        """
        target = (scope.path, scope.query_string)
        request = self.requests.get(target)
        if request is not None:
            return request
        if len(target[0]) + len(target[1]) > MAX_TARGET:
            raise Problem(414, "URI Too Long", f"A URL has at most {MAX_TARGET} characters.")
        name = scope.path[len(REPORT_PREFIX) :]
        if name not in current(self._catalogue).readers:
            await self._catalogue.renew()
        readers = current(self._catalogue).readers
        reader = readers.get(name)
        if reader is None:
            raise UnknownReport(f"there is no report {printable(name)}", known=sorted(readers))
        bound = self._auth.bound(claims, reader.claims) if reader.claims else None
        params = reader.parse_query(scope.query_string, bound)
        request = ResultRequest(reader.key(params), name, params)
        if not reader.claims:
            self._remember(target, request)
        return request

    def _remember(self, target: tuple[str, str], request: ResultRequest) -> None:
        if len(self.requests) >= _REMEMBERED:
            self.requests.clear()
        self.requests[target] = request
