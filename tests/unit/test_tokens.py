"""Tokens after RFC 8725: one algorithm, every claim required, and each kind of token for its own use."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.errors import SettingsError
from holdfast.settings import JwtSettings
from holdfast.tokens import InvalidToken, issue, secret, verify

KEY = "an access key of 32 or more characters"
REFRESH_KEY = "a refresh key of 32 or more characters"
SETTINGS = JwtSettings.model_validate({"JWT_SECRET": KEY, "JWT_REFRESH_SECRET": REFRESH_KEY})
HASHES = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JWT_SECRET", KEY)
    monkeypatch.setenv("JWT_REFRESH_SECRET", REFRESH_KEY)


def part(value: Any) -> str:
    """A part of a token: JSON, or bytes as they are, in base64url."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forge(header: Any, claims: Any, *, key: str = KEY, algorithm: str = "HS256") -> str:
    """A token made by hand, signed by HMAC with the hash of that algorithm, whatever its header says."""
    signed = f"{part(header)}.{part(claims)}"
    signature = hmac.new(key.encode(), signed.encode(), HASHES[algorithm]).digest()
    return f"{signed}.{part(signature)}"


def claims(**further: Any) -> dict[str, Any]:
    """Good claims, and others; those that are None are left out."""
    now = int(time.time())
    good = {"iss": "holdfast", "aud": "holdfast", "sub": "ada", "iat": now, "exp": now + 60, **further}
    return {name: value for name, value in good.items() if value is not None}


HEADER = {"alg": "HS256", "typ": "JWT"}


def refused(token: str, **kind: bool) -> str:
    """Why a token is refused."""
    with pytest.raises(InvalidToken) as caught:
        verify(token, SETTINGS, **kind)
    return str(caught.value)


def test_a_token_is_read_back() -> None:
    """What was issued is what is read: subject, scope, further claims, and the life that was asked for."""
    found = verify(issue("ada", scope="analytics:read", claims={"tenant": "acme"}, ttl=120), SETTINGS)
    assert (found["sub"], found["scope"], found["tenant"]) == ("ada", "analytics:read", "acme")
    assert found["exp"] - found["iat"] == 120
    assert verify(forge(HEADER, claims()), SETTINGS)["sub"] == "ada"


def test_a_token_lives_as_long_as_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a time of its own a token has that of its kind; a time of zero is zero."""
    monkeypatch.setenv("JWT_ACCESS_TTL", "60")
    for token, refresh, seconds in (
        (issue("ada"), False, 60),
        (issue("ada", refresh=True), True, 30 * 86_400),
        (issue("ada", ttl=0), False, 0),
    ):
        found = verify(token, SETTINGS, refresh=refresh)
        assert found["exp"] - found["iat"] == seconds


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", None, ["HS256"], "hs256", 256])
def test_an_unsigned_or_oddly_named_algorithm_is_refused(algorithm: Any) -> None:
    """`alg: none` in any spelling, with or without a signature, is refused."""
    for token in (
        f"{part({'alg': algorithm})}.{part(claims())}.",
        f"{part({'alg': algorithm})}.{part(claims())}",
        forge({"alg": algorithm}, claims()),
    ):
        assert refused(token) == "the token is not valid"
    assert refused(f"{part({})}.{part(claims())}.") == "the token is not valid"


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_another_hash_is_refused(algorithm: str) -> None:
    """HS256 alone is taken, also from somebody who has the key, and however long that is."""
    long = JwtSettings.model_validate({"JWT_SECRET": KEY * 4})
    token = forge({"alg": algorithm}, claims(), key=KEY * 4, algorithm=algorithm)
    with pytest.raises(InvalidToken, match=r"^the token is not valid$"):
        verify(token, long)
    assert verify(forge(HEADER, claims(), key=KEY * 4), long)["sub"] == "ada"


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "PS256", "EdDSA"])
@pytest.mark.parametrize(
    "key",
    [
        pytest.param(KEY, id="ours"),
        pytest.param("-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----\n", id="public"),
    ],
)
def test_the_key_is_never_taken_for_another_kind_of_key(algorithm: str, key: str) -> None:
    """A header that names a public-key algorithm over an HMAC signature, and the reverse, is refused."""
    assert refused(forge({"alg": algorithm}, claims(), key=key)) == "the token is not valid"


@pytest.mark.parametrize("missing", ["exp", "aud", "iss", "sub", "iat"])
def test_every_claim_is_required(missing: str) -> None:
    """A token without one of the five claims is refused, however well it is signed."""
    assert refused(forge(HEADER, claims(**{missing: None}))) == "the token is not valid"


@pytest.mark.parametrize(
    "wrong",
    [
        {"aud": "other"},
        {"aud": []},
        {"aud": {"holdfast": 1}},
        {"aud": "Holdfast"},
        {"iss": "other"},
        {"iss": "holdfast.example"},
        {"iss": ["holdfast"]},
        {"sub": 7},
        {"exp": "soon"},
        {"exp": []},
        {"exp": float("inf")},
        {"iat": 4e9},
        {"nbf": 4e9},
    ],
)
def test_a_claim_that_is_not_ours_is_refused(wrong: dict[str, Any]) -> None:
    """Another issuer's or audience's token, one not yet valid, and claims of other types are refused."""
    assert refused(forge(HEADER, claims(**wrong))) == "the token is not valid"


def test_an_expired_token_says_so() -> None:
    """A token is taken for five seconds after its end, for clocks that differ, and not for six."""
    now = int(time.time())
    assert verify(forge(HEADER, claims(exp=now - 2)), SETTINGS)["sub"] == "ada"
    assert refused(forge(HEADER, claims(exp=now - 6))) == "the token has expired"
    assert refused(issue("ada", ttl=-60)) == "the token has expired"


@pytest.mark.parametrize("claim", ["iat", "nbf"])
@pytest.mark.parametrize("ahead", [1, 30, 58])
def test_a_clock_that_is_ahead_does_no_harm(claim: str, ahead: float) -> None:
    """A token that another machine has dated up to a minute ahead is taken."""
    token = forge(HEADER, claims(**{claim: time.time() + ahead}))
    assert verify(token, SETTINGS)["sub"] == "ada"


@pytest.mark.parametrize("claim", ["iat", "nbf"])
def test_a_token_from_further_ahead_is_refused(claim: str) -> None:
    """More than a minute is not a clock that differs: such a token is refused."""
    assert refused(forge(HEADER, claims(**{claim: time.time() + 63}))) == "the token is not valid"


def test_a_refresh_token_has_the_same_leeway() -> None:
    """Refresh tokens are taken a minute ahead too, and for five seconds after their end."""
    ahead, late = time.time() + 30, int(time.time()) - 6
    kind = {"typ": "refresh"}
    assert verify(forge(HEADER, claims(iat=ahead, **kind), key=REFRESH_KEY), SETTINGS, refresh=True)
    token = forge(HEADER, claims(exp=late, **kind), key=REFRESH_KEY)
    assert refused(token, refresh=True) == "the token has expired"


def test_a_token_is_of_its_kind() -> None:
    """A refresh token opens no report, and an access token gets no new one, with two keys or with one."""
    assert refused(issue("ada", refresh=True)) == "the token is not valid"
    assert refused(issue("ada"), refresh=True) == "the token is not valid"
    assert refused(forge(HEADER, claims(typ="refresh"))) == "the token is of the other kind"
    assert refused(forge(HEADER, claims(typ=["access"]))) == "the token is of the other kind"
    assert verify(issue("ada", refresh=True), SETTINGS, refresh=True)["typ"] == "refresh"


@pytest.mark.parametrize("typ", ["access", None])
def test_only_a_refresh_token_gets_a_new_token(typ: str | None) -> None:
    """A token of another kind, or of none, is no refresh token, also when the refresh key signed it."""
    token = forge(HEADER, claims(typ=typ), key=REFRESH_KEY)
    assert refused(token, refresh=True) == "the token is of the other kind"


ISSUED = forge(HEADER, claims(exp=int(time.time()) + 86_400, tenant="a"))


@given(st.integers(0, len(ISSUED) - 1), st.characters())
def test_a_changed_token_says_nothing_else(position: int, character: str) -> None:
    """Whichever character of a token is changed, it is refused, or says exactly what was signed.

    (The last character of a signature has bits that base64 does not use.)
    """
    changed = ISSUED[:position] + character + ISSUED[position + 1 :]
    try:
        found = verify(changed, SETTINGS)
    except InvalidToken:
        return
    assert found == verify(ISSUED, SETTINGS)


@given(st.binary(max_size=40), st.binary(max_size=40))
@example(b"[" * 3000, b"{}")
@example(b'{"alg":' * 1000, b"{}")
@example(b'{"alg":' + b"9" * 5000 + b"}", b"{}")
@example(b'{"alg":"HS256"}', b"[" * 3000)
@example(b'{"alg":"HS256"}', b"[]")
@example(b'{"alg":"HS256"}', b"\xff")
def test_nonsense_is_an_invalid_token(header: bytes, body: bytes) -> None:
    """Whatever the parts of a token hold, signed or not, the outcome is InvalidToken and no other error."""
    assert refused(f"{part(header)}.{part(body)}.{part(b'x' * 32)}")
    assert refused(forge(header, body))


@given(st.text(max_size=60))
@example("")
@example("\0")
@example("..")
@example("\ud800.a.b")
@example("é.é.é")
def test_text_that_is_no_token_is_an_invalid_token(text: str) -> None:
    """Any text in the place of a token is refused as one."""
    assert refused(text) == "the token is not valid"


@pytest.mark.parametrize(
    "trick",
    [
        {"kid": "../../../../dev/null"},
        {"kid": "x' UNION SELECT 'key"},
        {"kid": "| id"},
        {"jku": "https://attacker.example/keys"},
        {"x5u": "https://attacker.example/cert"},
        {"jwk": {"kty": "oct", "k": part(b"a key of the attacker's choice, 32+")}},
    ],
)
@pytest.mark.parametrize("key", ["", "\0", "key", "a key of the attacker's choice, 32+"])
def test_a_header_never_chooses_the_key(trick: dict[str, Any], key: str) -> None:
    """`kid`, `jku`, `jwk` and their like change nothing: the key is the one of the settings."""
    header = {**HEADER, **trick}
    assert refused(forge(header, claims(), key=key)) == "the token is not valid"
    assert verify(forge(header, claims()), SETTINGS)["sub"] == "ada"


def test_what_a_header_calls_critical_is_understood_or_refused() -> None:
    """RFC 7515 §4.1.11: a token with a critical extension that is not known is refused."""
    assert refused(forge({**HEADER, "crit": ["x"], "x": 1}, claims())) == "the token is not valid"


@pytest.mark.parametrize("claim", ["exp", "iat", "iss", "aud", "sub", "nbf", "typ", "scope"])
def test_what_is_set_here_cannot_be_given(claim: str) -> None:
    """Whoever issues a token cannot set the claims that this is the place to set."""
    with pytest.raises(SettingsError, match=f"the claim {claim} "):
        issue("ada", claims={claim: "x"})


def test_a_missing_secret_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the secret of its kind no token is made or read; the message names the variable."""
    monkeypatch.delenv("JWT_SECRET")
    with pytest.raises(SettingsError, match=r"^JWT_SECRET: "):
        issue("ada")
    bare = JwtSettings.load()
    with pytest.raises(SettingsError, match=r"^JWT_SECRET: "):
        verify(ISSUED, bare)
    assert secret(bare, refresh=True) == REFRESH_KEY
