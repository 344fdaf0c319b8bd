"""Who may ask: the Authorization header, what is remembered of it, scopes, and claims that bind a result."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime, tzinfo
from typing import Any

import jwt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.errors import SettingsError
from holdfast.settings import GatewaySettings
from holdfast.tokens import issue
from holdfast_gateway.auth import ADMIN_SCOPE, Authenticator
from holdfast_gateway.problems import Problem

KEY = "an access key of 32 or more characters"
JWT = GatewaySettings.model_validate({"GW_AUTH": "jwt"})
OFF = GatewaySettings.model_validate({"GW_AUTH": "off"})


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JWT_SECRET", KEY)
    monkeypatch.setenv("JWT_REFRESH_SECRET", KEY)


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock of this process by so many seconds: both ways in which it is read here."""
    moved = 0.0
    real = time.time

    class Moved(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(real() + moved, tz)

    def pass_time(seconds: float) -> None:
        nonlocal moved
        moved += seconds

    monkeypatch.setattr(time, "time", lambda: real() + moved)
    monkeypatch.setattr(jwt.api_jwt, "datetime", Moved)
    return pass_time


def refused(authorization: str | None, auth: Authenticator | None = None) -> Problem:
    """The problem that a header ends in."""
    with pytest.raises(Problem) as caught:
        (auth or Authenticator(JWT)).claims(authorization)
    return caught.value


def challenge(problem: Problem) -> str:
    """Its WWW-Authenticate."""
    return dict(problem.response.headers)["www-authenticate"]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_good_token_passes(scheme: str) -> None:
    """The scheme may be written in any case (RFC 9110 §11.1), and the claims are those of the token."""
    claims = Authenticator(JWT).claims(f"{scheme} {issue('ada', claims={'tenant': 'acme'})}")
    assert (claims["sub"], claims["tenant"]) == ("ada", "acme")


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic YTpi", "ey.ey.ey", "Token x"])
def test_no_token_is_a_plain_challenge(header: str | None) -> None:
    """RFC 6750 §3.1: who brought no bearer token is asked for one, and no error is named."""
    problem = refused(header)
    assert problem.response.status == 401
    assert challenge(problem) == 'Bearer realm="holdfast"'


def assert_invalid(token: str, detail: str) -> None:
    """That token is refused as `invalid_token`, in these words."""
    problem = refused(f"Bearer {token}")
    assert problem.response.status == 401
    assert challenge(problem) == 'Bearer realm="holdfast", error="invalid_token"'
    assert json.loads(problem.response.body)["detail"] == detail


def test_an_expired_token_is_reported_as_one(pass_time: Callable[[float], None]) -> None:
    """A token whose time is over is `invalid_token`, and the problem says that it has expired."""
    expired = issue("ada", ttl=60)
    pass_time(66)
    assert_invalid(expired, "The token has expired.")


def test_an_altered_token_is_reported_as_one() -> None:
    """A token that is not as it was issued is `invalid_token`."""
    assert_invalid(issue("ada") + "x", "The token is not valid.")


def test_a_refresh_token_opens_nothing() -> None:
    """A refresh token in the place of an access token is `invalid_token`."""
    assert_invalid(issue("ada", refresh=True), "The token is of the other kind.")


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    st.sampled_from(["", "Bearer ", "Bearer\t"]),
)
@example("x\r\nSet-Cookie: a=b", "Bearer ")
@example('"', "Bearer ")
@example("a" * 9000, "Bearer ")
def test_nothing_of_a_bad_header_comes_back(text: str, scheme: str) -> None:
    """Whatever the header holds, the answer is the same 401: nothing echoed, no CR or LF in its headers."""
    problem = refused(scheme + text)
    assert problem.response.status == 401
    assert challenge(problem) in {
        'Bearer realm="holdfast"',
        'Bearer realm="holdfast", error="invalid_token"',
    }
    detail = json.loads(problem.response.body)["detail"]
    assert detail in {"A bearer token is required.", "The token is not valid."}


def test_a_remembered_token_still_expires(pass_time: Callable[[float], None]) -> None:
    """A token that was let in a thousand times is refused once its time is over."""
    auth = Authenticator(JWT)
    header = f"Bearer {issue('ada', ttl=60)}"
    assert auth.claims(header)["sub"] == "ada"
    pass_time(59)
    assert auth.claims(header) is auth.claims(header)
    pass_time(7)
    assert json.loads(refused(header, auth).response.body)["detail"] == "The token has expired."


def test_what_is_remembered_is_of_that_token_alone() -> None:
    """Two callers never get each other's claims, whoever comes first."""
    auth = Authenticator(JWT)
    one, two = (f"Bearer {issue('ada', claims={'tenant': tenant})}" for tenant in ("a", "b"))
    tenants = [auth.claims(header)["tenant"] for header in (one, two, one, two)]
    assert tenants == ["a", "b", "a", "b"]


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header + "A",
        lambda header: header[:-1],
        lambda header: f"{header}.x",
        lambda header: header.replace(".", "..", 1),
    ],
    ids=["longer", "shorter", "a-further-part", "an-empty-part"],
)
def test_a_token_like_a_remembered_one_is_refused(change: Callable[[str], str]) -> None:
    """A token that is nearly one that was let in is not let in for it."""
    auth = Authenticator(JWT)
    header = f"Bearer {issue('ada')}"
    assert auth.claims(header)["sub"] == "ada"
    assert refused(change(header), auth).response.status == 401


def signed(subject: str, ends: int) -> str:
    """A header with a token of ours that ends then."""
    claims = {"iss": "holdfast", "aud": "holdfast", "sub": subject, "iat": 0, "exp": ends}
    return f"Bearer {jwt.encode(claims, KEY, 'HS256')}"


def test_the_memory_of_tokens_is_bounded() -> None:
    """However many tokens there are, each is checked rightly, and at most 4,096 are remembered."""
    auth = Authenticator(JWT)
    ends = int(time.time()) + 600
    callers = [str(n) for n in [*range(4200), 0]]
    assert [auth.claims(signed(caller, ends))["sub"] for caller in callers] == callers
    assert len(auth._verified) <= 4096


def test_a_far_end_is_no_error() -> None:
    """A token of ours that ends after any date there is passes like another."""
    assert Authenticator(JWT).claims(signed("ada", 10**400))["sub"] == "ada"


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        ("analytics:admin", True),
        ("analytics:read analytics:admin", True),
        ("", False),
        ("analytics:read", False),
        ("analytics:administrator", False),
        ("Analytics:Admin", False),
        ("xanalytics:admin", False),
    ],
)
def test_a_scope_is_a_complete_word(scope: str, allowed: bool) -> None:
    """A scope is among those of the token or it is not; the refusal is a 403 that names it."""
    auth = Authenticator(JWT)
    claims = auth.claims(f"Bearer {issue('ada', scope=scope)}")
    if allowed:
        auth.require(claims, ADMIN_SCOPE)
    else:
        with pytest.raises(Problem) as caught:
            auth.require(claims, ADMIN_SCOPE)
        assert caught.value.response.status == 403
        assert challenge(caught.value) == 'Bearer error="insufficient_scope", scope="analytics:admin"'


def test_a_scope_in_a_list_is_none() -> None:
    """RFC 8693 §4.2: `scope` is one string; a list that looks like one grants nothing."""
    with pytest.raises(Problem):
        Authenticator(JWT).require({"scope": ["analytics:admin"]}, ADMIN_SCOPE)


@pytest.mark.parametrize("value", [None, [], ["a"], {"a": 1}])
def test_a_report_of_a_tenant_needs_the_claim(value: Any) -> None:
    """Without the claim, or with one that is no plain value, a bound report is 403 and names the claim."""
    claims = {"sub": "ada"} if value is None else {"sub": "ada", "org": value}
    with pytest.raises(Problem) as caught:
        Authenticator(JWT).bound(claims, {"tenant": "org"})
    assert caught.value.response.status == 403
    assert "org" in json.loads(caught.value.response.body)["detail"]


def test_bound_claims_are_those_that_are_asked_for() -> None:
    """A report gets the claims that it names, and nothing else of the token."""
    claims = {"sub": "ada", "org": "acme", "unit": 7, "secret": "x"}
    found = Authenticator(JWT).bound(claims, {"tenant": "org", "part": "unit"})
    assert found == {"org": "acme", "unit": 7}


@pytest.mark.parametrize("kind", ["none", "nonsense", "valid"])
def test_with_authentication_off_everybody_is_nobody(kind: str) -> None:
    """Without authentication a token is not even looked at, and no claim is there."""
    valid = f"Bearer {issue('ada', claims={'org': 'acme'})}"
    auth = Authenticator(OFF)
    claims = auth.claims({"none": None, "nonsense": "Bearer nonsense", "valid": valid}[kind])
    assert claims == {}
    with pytest.raises(Problem):
        auth.bound(claims, {"tenant": "org"})


def test_with_authentication_off_every_scope_is_granted() -> None:
    """Without authentication nobody is asked for a scope."""
    Authenticator(OFF).require({}, ADMIN_SCOPE)


def test_a_gateway_without_its_secret_lets_nobody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the secret is missing, a check ends in an error that names it, never in a way through."""
    monkeypatch.delenv("JWT_SECRET")
    auth = Authenticator(JWT)
    with pytest.raises(SettingsError, match=r"^JWT_SECRET: "):
        auth.claims("Bearer x.y.z")
    assert refused(None, auth).response.status == 401


def test_a_caller_is_remembered_until_the_token_ends(pass_time: Callable[[float], None]) -> None:
    """Only a header that was verified, and has not ended, needs no further look."""
    auth = Authenticator(JWT)
    header = f"Bearer {issue('ada', ttl=60)}"
    assert [auth.remembers(given) for given in (header, None, "")] == [False, False, False]
    auth.claims(header)
    assert [auth.remembers(given) for given in (header, None, "", header + "x")] == [True] + [False] * 3
    pass_time(61)
    assert not auth.remembers(header)


@pytest.mark.parametrize("header", [None, "", "Bearer nonsense"])
def test_without_authentication_nobody_needs_a_look(header: str | None) -> None:
    """With GW_AUTH=off every caller is taken as verified."""
    assert Authenticator(OFF).remembers(header)


@pytest.mark.parametrize(("length", "detail"), [(8192, "not valid"), (8193, "is required")])
def test_a_token_has_a_bounded_length(length: int, detail: str) -> None:
    """A token of more than 8,192 characters is not even looked at."""
    assert detail in json.loads(refused("Bearer " + "a" * length).response.body)["detail"]
