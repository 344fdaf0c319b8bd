"""Settings: one small class per concern, from files, the environment, `.env` and a running `holdfast up`.

For every secret, and every URL that can hold one, `X_FILE` names a file that holds `X`; when the file
exists it wins. A process loads the classes that it needs and no others, so a worker never reads a
database's password.
"""

from holdfast.settings.databases import (
    PASSED_OVER_BY_CELERY,
    BrokerSettings,
    MongoSettings,
    PostgresSettings,
    RedisSettings,
)
from holdfast.settings.gateway import CacheSettings, GatewaySettings, JwtSettings, is_loopback
from holdfast.settings.programs import (
    SOCKET_PATH_LIMIT,
    FlowerSettings,
    HomeSettings,
    ReportsSettings,
    SupervisorSettings,
)
from holdfast.settings.sources import Settings

EVERY_CLASS: tuple[type[Settings], ...] = (
    HomeSettings,
    PostgresSettings,
    MongoSettings,
    RedisSettings,
    BrokerSettings,
    JwtSettings,
    CacheSettings,
    GatewaySettings,
    SupervisorSettings,
    FlowerSettings,
    ReportsSettings,
)

__all__ = [
    "EVERY_CLASS",
    "PASSED_OVER_BY_CELERY",
    "SOCKET_PATH_LIMIT",
    "BrokerSettings",
    "CacheSettings",
    "FlowerSettings",
    "GatewaySettings",
    "HomeSettings",
    "JwtSettings",
    "MongoSettings",
    "PostgresSettings",
    "RedisSettings",
    "ReportsSettings",
    "Settings",
    "SupervisorSettings",
    "is_loopback",
]
