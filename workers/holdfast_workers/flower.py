"""`holdfast flower`: Flower on loopback, never without its password.

The password reaches Flower through this process's environment and not its arguments, which any user of
the machine can read. Flower keeps its state in memory: its file would be a pickle.
"""

from __future__ import annotations

import os
import sys

from celery.bin.celery import celery

from holdfast.errors import SettingsError, exit_on_error
from holdfast.settings import BrokerSettings, FlowerSettings


def main() -> int:
    """Become Flower.

    Raises:
        SettingsError: FLOWER_BASIC_AUTH or the broker is not set.
    """
    BrokerSettings.load().dsn()
    settings = FlowerSettings.load()
    if settings.basic_auth is None:
        raise SettingsError(
            "FLOWER_BASIC_AUTH: set it, or FLOWER_BASIC_AUTH_FILE, to user:password; "
            "Flower does not start without one"
        )
    # Flower reads every FLOWER_ variable as an option of its own and refuses those it does not know.
    for name in [name for name in os.environ if name.startswith("FLOWER_")]:
        del os.environ[name]
    os.environ["FLOWER_BASIC_AUTH"] = settings.basic_auth.get_secret_value()
    arguments = ["-A", "holdfast_workers", "flower", "--address=127.0.0.1", f"--port={settings.port}"]
    return int(celery.main([*arguments, "--max-tasks=10000"], standalone_mode=False) or 0)


if __name__ == "__main__":
    with exit_on_error():
        sys.exit(main())
