"""The unit tests on every Python that Holdfast supports and this machine has: `make test-pythons`.

An interpreter is searched for on the PATH and among pyenv's versions. It counts only if it runs: a shim of
pyenv may stand for a version that is not selected. Each gets a virtual environment of its own, `.venvs/3.12`
for example, made by the Makefile's own rule. A version that is not here is named and left out; it is an
error if none is here.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERSIONS = ("3.11", "3.12", "3.13")
SUPPORTED = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"


def main() -> int:
    """Run the unit tests on each; 0 where all of them passed."""
    results = {version: _test(version, find(version)) for version in VERSIONS}
    print("\nUnit tests by version of Python:")
    for version, result in results.items():
        print(f"  {version}: {result}")
    tested = [result for result in results.values() if result != "not here"]
    return 0 if tested and all(result.startswith("passed") for result in tested) else 1


def find(version: str) -> Path | None:
    """An interpreter of that version that runs and can make virtual environments, or None."""
    return next((path for path in _candidates(version) if _runs(path, version)), None)


def _candidates(version: str) -> Iterator[Path]:
    name = f"python{version}"
    if on_path := shutil.which(name):
        yield Path(on_path)
    if pyenv := shutil.which("pyenv"):
        asked = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False)
        if asked.returncode == 0:
            yield from sorted(
                Path(asked.stdout.strip(), "versions").glob(f"{version}.*/bin/{name}"), reverse=True
            )
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        yield Path(sys.executable).resolve()


def _runs(path: Path, version: str) -> bool:
    try:
        ran = subprocess.run(
            [path, "-I", "-c", SUPPORTED], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return ran.returncode == 0 and ran.stdout.strip() == version


def _test(version: str, interpreter: Path | None) -> str:
    if interpreter is None:
        return "not here"
    print(f"\nPython {version}: {interpreter}", flush=True)
    make = ["make", "--no-print-directory", "unit", f"VENV=.venvs/{version}", f"PYTHON={interpreter}"]
    status = subprocess.run(make, cwd=ROOT, check=False).returncode
    return f"{'failed' if status else 'passed'} ({interpreter})"


if __name__ == "__main__":
    sys.exit(main())
