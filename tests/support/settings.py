"""What the tests of the settings share: every variable by its class, and reading one."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
from hypothesis import strategies as st
from pydantic import SecretStr

from holdfast.errors import SettingsError
from holdfast.settings import EVERY_CLASS, Settings

CANARY = "canary-5b1f9e-do-not-show"

FIELDS = {str(field.alias): (cls, name) for cls in EVERY_CLASS for name, field in cls.model_fields.items()}
NUMBERS = sorted(
    str(field.alias) for cls in EVERY_CLASS for field in cls.model_fields.values() if field.annotation is int
)
SECRETS = {
    "POSTGRES_URL": "postgresql://u:{}@h/db",
    "POSTGRES_PASSWORD": "{}",
    "MONGO_URL": "mongodb://u:{}@h1:27017,h2:27018/db",
    "MONGO_PASSWORD": "{}",
    "REDIS_URL": "redis://u:{}@h:6379/0",
    "REDIS_PASSWORD": "{}",
    "BROKER_URL": "redis://u:{}@h:6379/1",
    "JWT_SECRET": "{}-and-as-many-as-32-characters-more",
    "JWT_REFRESH_SECRET": "{}-and-as-many-as-32-characters-more",
    "FLOWER_BASIC_AUTH": "user:{}",
}
"""Every variable that has a `_FILE`, and a valid value with a place for something secret."""

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30)


def read(variable: str) -> Any:
    """What the settings say of a variable, once its class is loaded; a secret's text."""
    cls, name = FIELDS[variable]
    value = getattr(cls.load(), name)
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def refusal(cls: type[Settings]) -> str:
    """The message with which the class is refused, after checking that a traceback shows no secret."""
    with pytest.raises(SettingsError) as caught:
        cls.load()
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)
