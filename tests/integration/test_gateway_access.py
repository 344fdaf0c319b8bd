"""To whom the gateway answers: tokens, claims and scopes, before anything is looked up."""

from __future__ import annotations

import time

import jwt
from tests.conftest import eventually
from tests.integration.town import ANALYTICS, REFRESH_SECRET, SECRET, Town, bearer, problem, token


def test_only_a_valid_token_opens_even_a_warm_cache(town: Town) -> None:
    """With GW_AUTH=jwt a warm result is 401 without a token, and with one that is expired, for another
    audience, of another issuer, wrongly signed, or no access token; a valid one gets it, as private.
    """
    target = f"{ANALYTICS}/numbers?upto=2"
    for _ in range(2):
        answer = town.closed.get(target, headers=bearer())
        assert answer.status_code == 200
    assert answer.headers["x-cache"] == "HIT"
    assert answer.headers["cache-control"].startswith("private, ")
    assert answer.headers["vary"] == "accept-encoding, authorization"
    wrong = {
        "none": {},
        "empty": {"authorization": "Bearer"},
        "basic": {"authorization": "Basic bWU6bWU="},
        "garbage": {"authorization": "Bearer x.y.z"},
        "long": {"authorization": "Bearer " + "x" * 9000},
        "expired": bearer(exp=int(time.time()) - 60),
        "audience": bearer(aud="elsewhere"),
        "issuer": bearer(iss="elsewhere"),
        "no expiry": bearer(exp=None),
        "no audience": bearer(aud=None),
        "signature": bearer("some-other-secret-of-more-than-32-characters"),
        "algorithm": {"authorization": f"Bearer {token(SECRET * 2, 'HS512')}"},
        "unsigned": {"authorization": f"Bearer {token('', 'none')}"},
        "refresh": bearer(typ="refresh"),
        "not yet": bearer(nbf=int(time.time()) + 600),
    }
    for path in (target, ANALYTICS, f"{ANALYTICS}/none"):
        for name, headers in wrong.items():
            answer = town.closed.get(path, headers=headers)
            problem(answer, 401)
            assert answer.headers["www-authenticate"].startswith("Bearer"), name
            assert "x-cache" not in answer.headers


def test_a_bound_parameter_separates_tenants(town: Town) -> None:
    """A parameter bound to a claim comes from the token alone: each tenant has entries of its own, and nobody
    can ask for another's in the query.
    """
    for tenant in ("north", "south", "north"):
        answer = town.closed.get(f"{ANALYTICS}/private", headers=bearer(tenant=tenant))
        assert answer.status_code == 200
        assert answer.json()["rows"] == [{"tenant": tenant}]
    for tenant in ("north", "south"):
        assert town.cache.exists(f"gwcache:{ANALYTICS}/private?tenant={tenant}")
    for query in ("?tenant=south", "?tenant=north", "?tenant="):
        answer = town.closed.get(f"{ANALYTICS}/private{query}", headers=bearer(tenant="north"))
        assert [error["name"] for error in problem(answer, 422)["errors"]] == ["tenant"]
    problem(town.closed.get(f"{ANALYTICS}/private", headers=bearer()), 403)
    problem(town.closed.get(f"{ANALYTICS}/private", headers=bearer(tenant={"$ne": 1})), 403)


def test_an_invalidation_needs_its_scope_and_renews(town: Town) -> None:
    """DELETE is 401 without a token and 403 without analytics:admin; with it, it is 202 and a new result
    comes.
    """
    target = f"{ANALYTICS}/brief?upto=3"
    long = f"{ANALYTICS}/numbers?upto=8"
    before = town.closed.get(long, headers=bearer()).json()["as_of"]
    problem(town.closed.delete(long), 401)
    problem(town.closed.delete(long, headers=bearer(scope="analytics:read")), 403)
    assert town.closed.get(long, headers=bearer()).json()["as_of"] == before
    answer = town.closed.delete(long, headers=bearer(scope="analytics:read analytics:admin"))
    assert answer.status_code == 202
    assert answer.json() == {"report": "numbers", "was_cached": True, "refreshing": True}
    after = town.closed.get(long, headers=bearer())
    assert after.headers["x-cache"] == "STALE" or after.json()["as_of"] > before
    eventually("a new result", lambda: town.closed.get(long, headers=bearer()).json()["as_of"] > before)
    absent = town.closed.delete(target, headers=bearer(scope="analytics:admin"))
    assert (absent.status_code, absent.json()["was_cached"]) == (202, False)
    admin = bearer(scope="analytics:admin")
    problem(town.closed.delete(f"{ANALYTICS}/none", headers=admin), 404)
    problem(town.closed.delete(f"{ANALYTICS}/numbers?upto=0", headers=admin), 422)


def test_a_refresh_token_gets_an_access_token(town: Town) -> None:
    """POST /api/v1/auth/refresh trades a refresh token for an access token with the same subject, scope and
    claims; an access token, or one signed with the other secret, is refused.
    """
    path = "/api/v1/auth/refresh"
    refresh = token(REFRESH_SECRET, typ="refresh", scope="analytics:read", tenant="west", sub="ann")
    answer = town.closed.post(path, json={"refresh_token": refresh})
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    given = answer.json()
    assert (given["token_type"], given["expires_in"]) == ("Bearer", 900)
    claims = jwt.decode(given["access_token"], SECRET, ["HS256"], audience="holdfast")
    assert (claims["sub"], claims["scope"], claims["tenant"]) == ("ann", "analytics:read", "west")
    headers = {"authorization": f"Bearer {given['access_token']}"}
    found = town.closed.get(f"{ANALYTICS}/private", headers=headers)
    assert found.json()["rows"] == [{"tenant": "west"}]
    for bad in (
        given["access_token"],
        token(REFRESH_SECRET),
        token(SECRET, typ="refresh"),
        token(REFRESH_SECRET, typ="refresh", exp=int(time.time()) - 60),
        "",
    ):
        problem(town.closed.post(path, json={"refresh_token": bad}), 401)
    problem(town.closed.post(path, content=b"not json"), 400)
    problem(town.closed.post(path, content=b"[]"), 400)
    problem(town.closed.post(path, content=b"x" * 20_000), 413)
    problem(town.closed.get(path), 405)
