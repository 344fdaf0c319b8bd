"""The supervisor: the one process of a host that owns connections to the databases and to Redis."""
