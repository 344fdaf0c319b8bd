"""A real gateway over HTTP: what it refuses, and what it says then."""

from __future__ import annotations

import pytest
from tests.support.http import ANALYTICS, Gateway, problem
from tests.support.stack import Stack


def test_an_unknown_report_is_404_and_names_those_there_are(gateway: Gateway) -> None:
    """An unknown report is 404, and the problem names the known ones."""
    assert "numbers" in problem(gateway.get("none"), 404)["reports"]


@pytest.mark.parametrize(
    "path", ["/nowhere", "/api/v1/analyticsx", f"{ANALYTICS}/numbers/more", "/api/v1/auth/refresh"]
)
def test_an_unknown_path_is_404(gateway: Gateway, path: str) -> None:
    """A path that the gateway does not have is 404."""
    problem(gateway.http.get(path), 404)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", f"{ANALYTICS}/numbers", "GET, HEAD, DELETE"),
        ("PUT", f"{ANALYTICS}/numbers", "GET, HEAD, DELETE"),
        ("DELETE", ANALYTICS, "GET, HEAD"),
        ("POST", "/readyz", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_405(gateway: Gateway, method: str, path: str, allowed: str) -> None:
    """A method that a route does not have is 405, and Allow names those it has."""
    answer = gateway.http.request(method, path)
    problem(answer, 405)
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("upto=0", "upto"),
        ("upto=ten", "upto"),
        ("upto=1e3", "upto"),
        ("upto=", "upto"),
        ("upto=99999999999999999999", "upto"),
        ("upto=1&upto=2", "upto"),
        ("month=3", "month"),
        ("Upto=3", "Upto"),
        ("upto[$gt]=1", "upto[$gt]"),
        ("word=a%00b", "word"),
        ("word=a%0d%0aX-Evil:%201", "word"),
        ("word=%ff", ""),
        ("word=" + "x" * 300, "word"),
    ],
)
def test_a_wrong_parameter_is_422_and_named(stack: Stack, gateway: Gateway, query: str, name: str) -> None:
    """A parameter that is unknown, repeated or not of its type is 422; the problem names it, and nothing is
    computed.
    """
    runs = stack.runs("numbers")
    document = problem(gateway.get(f"numbers?{query}"), 422)
    assert [error["name"] for error in document["errors"]] == [name]
    assert stack.runs("numbers") == runs


def test_a_long_url_is_414(gateway: Gateway) -> None:
    """A URL of more than 4,096 characters is 414."""
    problem(gateway.get("numbers?word=" + "x" * 5000), 414)


@pytest.mark.parametrize(
    ("target", "code"), [("failing", "query_failed"), ("failing?where=function", "compute_failed")]
)
def test_a_report_that_fails_is_500_without_its_inside(gateway: Gateway, target: str, code: str) -> None:
    """A report whose query or function fails is a problem that says no more than its kind."""
    answer = gateway.get(target)
    assert problem(answer, 500)["code"] == code
    assert "rows" not in answer.text
