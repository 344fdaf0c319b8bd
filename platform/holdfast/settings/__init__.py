"""Settings: one small class per concern, from files, the environment, `.env` and a running `holdfast up`."""

from holdfast.settings.classes import (
    EVERY_CLASS,
    SOCKET_PATH_LIMIT,
    BrokerSettings,
    CacheSettings,
    FlowerSettings,
    GatewaySettings,
    HomeSettings,
    JwtSettings,
    MongoSettings,
    PostgresSettings,
    RedisSettings,
    ReportsSettings,
    SupervisorSettings,
    is_loopback,
)

__all__ = [
    "EVERY_CLASS",
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
    "SupervisorSettings",
    "is_loopback",
]
