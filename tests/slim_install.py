"""The gateway installed alone, as README says, and started: `make slim`.

A fresh virtual environment gets Holdfast with the extra `gateway` and nothing else. The test checks that the
packages of the other processes are not in it, that `holdfast --version` answers, and that the gateway is
alive with nothing behind it: neither Redis nor a supervisor.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Mapping
from pathlib import Path

from holdfast.processes.ports import pick_port

ROOT = Path(__file__).parents[1]
HEAVY = ("sqlalchemy", "beanie", "pymongo", "celery", "asyncpg", "psutil")
STARTS_WITHIN = 30.0
STOPS_WITHIN = 15.0


class SlimError(Exception):
    """The slim installation does not do what it should."""


def main() -> int:
    """Install, look, start and stop; 0 where all went well."""
    with tempfile.TemporaryDirectory(prefix="hf-slim-") as folder:
        environment, home = Path(folder, "venv"), Path(folder, "home")
        home.mkdir()
        try:
            install(environment)
            check_packages(environment)
            version = _output([environment / "bin" / "holdfast", "--version"])
            seconds = serve(environment, home)
        except SlimError as error:
            print(f"slim: {error}", file=sys.stderr)
            return 1
    print(f"slim: {version} is installed with the extra `gateway` alone, and was alive after {seconds:.1f} s")
    return 0


def install(environment: Path) -> None:
    """Make the environment, and install the gateway into it: by uv, or by pip where uv cannot."""
    venv.create(environment, with_pip=True)
    python = str(environment / "bin" / "python")
    arguments = ["--quiet", "--constraint", "requirements.lock", ".[gateway]"]
    uv = Path(sys.executable).with_name("uv")
    by_uv = [str(uv), "pip", "install", "--system-certs", "--python", python, *arguments]
    by_pip = [python, "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    if uv.exists() and subprocess.run(by_uv, cwd=ROOT, check=False).returncode == 0:
        return
    if subprocess.run(by_pip, cwd=ROOT, check=False).returncode != 0:
        raise SlimError("it could not be installed")


def check_packages(environment: Path) -> None:
    """Raise SlimError where a package is installed that only the other processes need."""
    find = f"from importlib.util import find_spec; print(*filter(find_spec, {HEAVY!r}))"
    if found := _output([environment / "bin" / "python", "-I", "-c", find]):
        raise SlimError(f"the extra `gateway` installs {found}")


def serve(environment: Path, home: Path) -> float:
    """Start the gateway, wait until it is alive, and stop it: the seconds that its start took."""
    port = pick_port()
    settings = {
        "GW_AUTH": "off",
        "GW_PORT": str(port),
        "HOLDFAST_HOME": str(home),
        "REDIS_URL": "redis://127.0.0.1:1/0",
    }
    began = time.monotonic()
    with subprocess.Popen(
        [environment / "bin" / "holdfast", "gateway"], cwd=home, env=_environment(settings)
    ) as gateway:
        try:
            while not _alive(port):
                if gateway.poll() is not None:
                    raise SlimError(f"the gateway ended with status {gateway.returncode}")
                if time.monotonic() - began > STARTS_WITHIN:
                    raise SlimError(f"no 200 at /livez within {STARTS_WITHIN:g} s")
                time.sleep(0.05)
            seconds = time.monotonic() - began
            gateway.send_signal(signal.SIGTERM)
            if status := gateway.wait(STOPS_WITHIN):
                raise SlimError(f"the gateway was stopped and ended with status {status}")
        finally:
            gateway.kill()
    return seconds


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    # Nothing of the tester's own settings.
    return {**{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}, **settings}


def _alive(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/livez")
        return connection.getresponse().status == 200
    return False


def _output(argv: list[str | Path]) -> str:
    ran = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, env=_environment({}))
    if ran.returncode != 0:
        raise SlimError(f"{Path(argv[0]).name} ended with status {ran.returncode}: {ran.stderr.strip()}")
    return ran.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
