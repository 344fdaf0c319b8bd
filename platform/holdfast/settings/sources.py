"""Where settings come from: `X_FILE`, the environment, `.env`, and a running `holdfast up`.

Sources, strongest first: the file that `X_FILE` names, for what may be a secret; the environment; `.env`
in the working directory; `$HOLDFAST_HOME/run/up.env`, which a running `holdfast up` leaves there so that
a second terminal finds it. The classes themselves are in `holdfast.settings`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, get_origin

from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from holdfast.errors import SettingsError
from holdfast.settings.files import dotenv, secret_of


def parse_list(value: object) -> object:
    """A list from text: a JSON array first, else comma separated; items trimmed, empty ones dropped."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("["):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError("must be a JSON array of strings, or values separated by commas")
        items = value
    else:
        items = text.split(",")
    return [item.strip() for item in items if item.strip()]


StringList = Annotated[list[str], NoDecode, BeforeValidator(parse_list)]
# Below 2**31, since PostgreSQL and MongoDB hold their time-outs in 32 bits.
Milliseconds = Annotated[int, Field(gt=0, lt=2**31, description="milliseconds")]
Seconds = Annotated[int, Field(gt=0, lt=2**31, description="seconds")]
Port = Annotated[int, Field(ge=1, le=65535)]


def environment() -> dict[str, str]:
    """Every variable Holdfast may read, with the strongest source winning; `X_FILE` is not yet opened."""
    given = {**_dotenv(Path(".env")), **os.environ}
    home = Path(given.get("HOLDFAST_HOME") or ".holdfast")
    published = _dotenv(home / "run" / "up.env")
    for server in ("POSTGRES_", "MONGO_", "REDIS_", "BROKER_"):
        # A server of one's own must never be sent the user and password of the embedded one.
        if not given.keys().isdisjoint({f"{server}URL", f"{server}URL_FILE", f"{server}HOST"}):
            published = {n: value for n, value in published.items() if not n.startswith(server)}
    return {**published, **given}


def _dotenv(path: Path) -> dict[str, str]:
    return dotenv(path, every_name(), every_name(secret=True))


def every_name(*, secret: bool = False) -> frozenset[str]:
    """The variables that Holdfast reads, `X_FILE` included; or those alone whose values are secret."""
    classes = Settings.__subclasses__()
    files = {name for cls in classes for name in cls._may_be_files}
    if secret:
        return frozenset(files)
    names = {str(field.alias) for cls in classes for field in cls.model_fields.values()}
    return frozenset(names | {f"{name}_FILE" for name in files})


def is_service_address(name: str, value: str) -> bool:
    """Whether Kubernetes, or a Docker link, has set the variable for a service that is named so."""
    return name.endswith("_PORT") and re.match(r"(tcp|udp|sctp)://", value) is not None


_LOADING_FROM: ContextVar[Mapping[str, str] | None] = ContextVar("loading_from", default=None)
"""The variables that `Settings.load` was given, while it runs; None for the environment."""


class _Files(PydanticBaseSettingsSource):
    """The one source: variables by their alias, each replaced by its `_FILE` where it may have one."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        given = _LOADING_FROM.get()
        variables = environment() if given is None else given
        secret: frozenset[str] = getattr(self.settings_cls, "_may_be_files", frozenset())
        for field in self.settings_cls.model_fields.values():
            name = str(field.alias)
            value = variables.get(name)
            if value is not None and is_service_address(name, value):
                value = None
            if name in secret and (path := variables.get(f"{name}_FILE")) is not None:
                if not path:
                    raise SettingsError(f"{name}_FILE: is set and empty; give it a path, or leave it out")
                value = _read_secret(name, Path(path), fallback=value)
            if value is not None:
                found[name] = value
        return found


def _read_secret(name: str, path: Path, *, fallback: str | None) -> str | None:
    try:
        text = secret_of(path.read_bytes())
    except FileNotFoundError:
        if fallback is None:
            raise SettingsError(
                f"{name}_FILE: names a file that does not exist, and {name} is not set"
            ) from None
        return fallback
    except OSError as error:
        raise SettingsError(f"{name}_FILE: cannot be read ({error.strerror})") from None
    except ValueError:
        raise SettingsError(
            f"{name}_FILE: is neither UTF-8 nor UTF-16 with a byte order mark; save it as UTF-8"
        ) from None
    if not text:
        raise SettingsError(f"{name}_FILE: names an empty file; it must hold the value of {name}")
    return text


class Settings(BaseSettings):
    """The base of the setting classes. `load()` is how each is read."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    _may_be_files: ClassVar[frozenset[str]] = frozenset()
    _given: Mapping[str, str] | None = PrivateAttr(None)

    def model_post_init(self, _context: object, /) -> None:
        """Remember where it was read from, for settings that complete it later."""
        self._given = _LOADING_FROM.get()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read from one source of our own, in place of pydantic-settings' five."""
        return init_settings, _Files(settings_cls)

    @field_validator("*", mode="before")
    @classmethod
    def _not_empty(cls, value: object, info: ValidationInfo) -> object:
        if value == "" and get_origin(cls.model_fields[str(info.field_name)].annotation) is not list:
            raise ValueError("is set and empty; give it a value, or leave it out")
        return value

    @classmethod
    def load(cls, given: Mapping[str, str] | None = None) -> Self:
        """Read this class's variables: from those given, or else from the environment and its files.

        Raises:
            SettingsError: one line per wrong variable: its name and what it must be, never its content.
        """
        token = _LOADING_FROM.set(given)
        try:
            return cls()
        except ValidationError as error:
            raise SettingsError("\n".join(sorted(_explain(e) for e in error.errors()))) from None
        finally:
            _LOADING_FROM.reset(token)


def _explain(error: Mapping[str, Any]) -> str:
    where = str(error["loc"][0]) if error["loc"] else ""
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "too_short":
        message = f"must have {error['ctx']['min_length']} or more characters or items"
    message = message[0].lower() + message[1:] if where else message
    message = message.replace("input should", "must", 1)
    return f"{where}: {message}" if where else message
