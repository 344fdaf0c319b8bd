"""Environments without the settings of whoever runs the tests."""

from __future__ import annotations

import os

VARIABLES = (
    "POSTGRES_", "PG_", "MONGO_", "REDIS_", "BROKER_", "JWT_", "GW_", "SUPERVISOR_", "FLOWER_", "HOLDFAST_",
    "REPORTS",
)  # fmt: skip
"""What the names of Holdfast's settings begin with."""


def environment_without_settings() -> dict[str, str]:
    """The environment of this process, without every setting of Holdfast."""
    return {name: value for name, value in os.environ.items() if not name.startswith(VARIABLES)}
