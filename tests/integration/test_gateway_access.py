"""To whom the gateway answers: tokens, claims and scopes, before anything is looked up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import jwt
import pytest
from redis import Redis
from tests.support.http import ANALYTICS, REFRESH_SECRET, SECRET, Gateway, bearer, problem, token
from tests.support.sample_reports import brief, numbers
from tests.support.variants import Variant, fresh
from tests.support.waiting import eventually

ADMIN = "analytics:admin"
REFRESH = "/api/v1/auth/refresh"


@pytest.fixture(scope="module")
def warm() -> Variant:
    """A result that is asked for again and again."""
    return fresh(numbers, upto=2)


def test_a_valid_token_gets_a_private_answer(closed: Gateway, warm: Variant) -> None:
    """With GW_AUTH=jwt a valid token gets the result, as private."""
    closed.http.get(warm.path, headers=bearer())
    answer = closed.http.get(warm.path, headers=bearer())
    assert (answer.status_code, answer.headers["x-cache"]) == (200, "HIT")
    assert answer.headers["cache-control"].startswith("private, ")
    assert answer.headers["vary"] == "accept-encoding, authorization"


WRONG: dict[str, Callable[[], dict[str, str]]] = {
    "none": dict,
    "empty": lambda: {"authorization": "Bearer"},
    "basic": lambda: {"authorization": "Basic bWU6bWU="},
    "garbage": lambda: {"authorization": "Bearer x.y.z"},
    "long": lambda: {"authorization": "Bearer " + "x" * 9000},
    "expired": lambda: bearer(exp=int(time.time()) - 60),
    "audience": lambda: bearer(aud="elsewhere"),
    "issuer": lambda: bearer(iss="elsewhere"),
    "no-expiry": lambda: bearer(exp=None),
    "no-audience": lambda: bearer(aud=None),
    "signature": lambda: bearer("some-other-secret-of-more-than-32-characters"),
    "algorithm": lambda: {"authorization": f"Bearer {token(SECRET * 2, 'HS512')}"},
    "unsigned": lambda: {"authorization": f"Bearer {token('', 'none')}"},
    "refresh": lambda: bearer(typ="refresh"),
    "not-yet": lambda: bearer(nbf=int(time.time()) + 600),
}
"""Headers that let nobody in, made when they are sent: some of them hold a time."""


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("what", ["warm", "catalogue", "unknown"])
def test_without_a_valid_token_nothing_is_answered(
    closed: Gateway, warm: Variant, wrong: str, what: str
) -> None:
    """With GW_AUTH=jwt a warm result, the catalogue and an unknown report alike are 401 without a token, and
    with one that is expired, for another audience, of another issuer, wrongly signed, or no access token.
    """
    closed.http.get(warm.path, headers=bearer())
    path = {"warm": warm.path, "catalogue": ANALYTICS, "unknown": f"{ANALYTICS}/none"}[what]
    answer = closed.http.get(path, headers=WRONG[wrong]())
    problem(answer, 401)
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert "x-cache" not in answer.headers


def private(closed: Gateway, query: str = "", **claims: Any) -> httpx.Response:
    """GET of the report that is bound to the claim `tenant`."""
    return closed.http.get(f"{ANALYTICS}/private{query}", headers=bearer(**claims))


def test_a_bound_parameter_separates_tenants(closed: Gateway, cache: Redis) -> None:
    """A parameter bound to a claim comes from the token: each tenant has an entry of its own."""
    answers = [private(closed, tenant=tenant) for tenant in ("north", "south", "north")]
    rows = [answer.json()["rows"] for answer in answers]
    assert rows == [[{"tenant": "north"}], [{"tenant": "south"}], [{"tenant": "north"}]]
    keys = [f"gwcache:{ANALYTICS}/private?tenant={tenant}" for tenant in ("north", "south")]
    assert cache.exists(*keys) == 2


@pytest.mark.parametrize("query", ["?tenant=south", "?tenant=north", "?tenant="])
def test_a_bound_parameter_cannot_be_asked_for(closed: Gateway, query: str) -> None:
    """Nobody can give a bound parameter in the query, not even with the token's own value."""
    document = problem(private(closed, query, tenant="north"), 422)
    assert [error["name"] for error in document["errors"]] == ["tenant"]


@pytest.mark.parametrize("claims", [{}, {"tenant": {"$ne": 1}}], ids=["none", "no-plain-value"])
def test_without_the_claim_a_bound_report_is_403(closed: Gateway, claims: dict[str, Any]) -> None:
    """A token without the claim, or with one that is no plain value, does not get the report."""
    problem(private(closed, **claims), 403)


def test_an_invalidation_needs_its_scope(closed: Gateway) -> None:
    """DELETE is 401 without a token and 403 without analytics:admin, and changes nothing."""
    path = fresh(numbers).path
    before = closed.http.get(path, headers=bearer()).json()["as_of"]
    problem(closed.http.delete(path), 401)
    problem(closed.http.delete(path, headers=bearer(scope="analytics:read")), 403)
    assert closed.http.get(path, headers=bearer()).json()["as_of"] == before


def test_an_invalidation_renews(closed: Gateway) -> None:
    """DELETE with its scope is 202, and a new result is computed."""
    path = fresh(numbers).path
    before = closed.http.get(path, headers=bearer()).json()["as_of"]
    answer = closed.http.delete(path, headers=bearer(scope=f"analytics:read {ADMIN}"))
    assert answer.status_code == 202
    assert answer.json() == {"report": "numbers", "was_cached": True, "refreshing": True}
    after = closed.http.get(path, headers=bearer())
    assert after.headers["x-cache"] == "STALE" or after.json()["as_of"] > before
    eventually("a new result", lambda: closed.http.get(path, headers=bearer()).json()["as_of"] > before)


def test_an_invalidation_of_what_is_not_cached_is_202(closed: Gateway) -> None:
    """DELETE of a result that nobody has asked for says that it was not cached."""
    answer = closed.http.delete(fresh(brief).path, headers=bearer(scope=ADMIN))
    assert (answer.status_code, answer.json()["was_cached"]) == (202, False)


@pytest.mark.parametrize(("target", "status"), [("none", 404), ("numbers?upto=0", 422)])
def test_an_invalidation_of_what_is_no_result_is_refused(closed: Gateway, target: str, status: int) -> None:
    """DELETE of an unknown report is 404, and with a wrong parameter 422."""
    problem(closed.http.delete(f"{ANALYTICS}/{target}", headers=bearer(scope=ADMIN)), status)


def test_a_refresh_token_gets_an_access_token(closed: Gateway) -> None:
    """POST /api/v1/auth/refresh trades a refresh token for an access token with the same subject, scope and
    claims.
    """
    refresh = token(REFRESH_SECRET, typ="refresh", scope="analytics:read", tenant="west", sub="ann")
    answer = closed.http.post(REFRESH, json={"refresh_token": refresh})
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    given = answer.json()
    assert (given["token_type"], given["expires_in"]) == ("Bearer", 900)
    claims = jwt.decode(given["access_token"], SECRET, ["HS256"], audience="holdfast")
    assert (claims["sub"], claims["scope"], claims["tenant"]) == ("ann", "analytics:read", "west")
    headers = {"authorization": f"Bearer {given['access_token']}"}
    answer = closed.http.get(f"{ANALYTICS}/private", headers=headers)
    assert answer.json()["rows"] == [{"tenant": "west"}]
    problem(closed.http.post(REFRESH, json={"refresh_token": given["access_token"]}), 401)


@pytest.mark.parametrize(
    ("secret", "claims"),
    [
        (REFRESH_SECRET, {}),
        (SECRET, {"typ": "refresh"}),
        (REFRESH_SECRET, {"typ": "refresh", "exp": 1}),
        ("", {}),
    ],
    ids=["an-access-token", "the-other-secret", "expired", "none"],
)
def test_what_is_no_refresh_token_gets_nothing(closed: Gateway, secret: str, claims: dict[str, Any]) -> None:
    """An access token, one that has expired or is signed with the other secret, and none at all are 401."""
    wrong = token(secret, **claims) if secret else ""
    problem(closed.http.post(REFRESH, json={"refresh_token": wrong}), 401)


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"not json", 400), (b"[]", 400), (b"x" * 20_000, 413)],
    ids=["text", "list", "large"],
)
def test_a_wrong_body_is_refused(closed: Gateway, body: bytes, status: int) -> None:
    """A body that is no JSON object is 400, and a large one 413."""
    problem(closed.http.post(REFRESH, content=body), status)


def test_a_token_is_only_ever_posted(closed: Gateway) -> None:
    """GET of the route for refresh tokens is 405."""
    problem(closed.http.get(REFRESH), 405)
