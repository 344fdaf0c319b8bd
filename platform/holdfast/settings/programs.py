"""Where Holdfast's own processes keep things and listen, and which reports they load."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator

from holdfast.settings.sources import Port, Settings, StringList

SOCKET_PATH_LIMIT = 107
"""Bytes that the path of a Unix socket may have on Linux (`sun_path` less its terminator, unix(7))."""


class HomeSettings(Settings):
    """Where Holdfast keeps its sockets, logs, generated secrets and the embedded servers' data."""

    home: Path = Field(Path(".holdfast"), alias="HOLDFAST_HOME")


class SupervisorSettings(Settings):
    """The supervisor's Unix socket and its admin port (loopback)."""

    socket: Path | None = Field(None, alias="SUPERVISOR_SOCKET")
    port: Port = Field(9400, alias="SUPERVISOR_PORT")
    home: Path = Field(Path(".holdfast"), alias="HOLDFAST_HOME")

    @model_validator(mode="after")
    def _short_enough(self) -> Self:
        if len(os.fsencode(self.path)) > SOCKET_PATH_LIMIT:
            raise ValueError(
                f"SUPERVISOR_SOCKET: a socket's path has at most {SOCKET_PATH_LIMIT} bytes; "
                "set it, or HOLDFAST_HOME, to a shorter one"
            )
        return self

    @property
    def path(self) -> Path:
        """The socket's path: SUPERVISOR_SOCKET, or `run/supervisor.sock` in HOLDFAST_HOME."""
        return (self.socket or self.home / "run" / "supervisor.sock").absolute()


class FlowerSettings(Settings):
    """Flower's loopback port and its `user:password`."""

    _may_be_files = frozenset({"FLOWER_BASIC_AUTH"})

    port: Port = Field(5555, alias="FLOWER_PORT")
    basic_auth: SecretStr | None = Field(None, alias="FLOWER_BASIC_AUTH")

    @model_validator(mode="after")
    def _user_and_password(self) -> Self:
        if self.basic_auth is not None:
            user, _, password = self.basic_auth.get_secret_value().partition(":")
            if not user or not password:
                raise ValueError("FLOWER_BASIC_AUTH: must be user:password")
            if not self.basic_auth.get_secret_value().isascii():
                raise ValueError("FLOWER_BASIC_AUTH: must be ASCII, since Flower compares nothing else")
        return self


class ReportsSettings(Settings):
    """Which Python modules hold reports."""

    modules: StringList = Field(
        default_factory=lambda: ["holdfast_flights.reports"], alias="REPORTS", min_length=1
    )
