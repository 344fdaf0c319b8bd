"""`make mutants`: put small faults into the core, and see whether the unit tests find them.

Every fault goes into a copy of the packages, which its tests import in place of the tree: only those that
reach the line, by one run of all unit tests under coverage. A test that hangs has found its fault. Exit
status 1 where fewer than nine of ten are found.
"""

from __future__ import annotations

import argparse
import compileall
import os
import py_compile
import queue
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import coverage
from tests.mutants.faults import Fault, faults_of

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "holdfast": "platform/holdfast",
    "holdfast_gateway": "gateway/holdfast_gateway",
    "holdfast_workers": "workers/holdfast_workers",
    "holdfast_flights": "workers/holdfast_flights",
}
HOLDFAST = ROOT / PACKAGES["holdfast"]
GATEWAY = ROOT / PACKAGES["holdfast_gateway"]
SUPERVISOR = ("catalogue", "misses", "operations", "queries", "runs", "warming")
CORE = sorted(
    path
    for path in [
        *(HOLDFAST / "cache").glob("*.py"),
        *(HOLDFAST / "rpc").glob("*.py"),
        *(HOLDFAST / "reports").glob("*.py"),
        *(HOLDFAST / "links" / f"{name}.py" for name in ("link", "state")),
        *(HOLDFAST / "supervisor" / f"{name}.py" for name in SUPERVISOR),
        HOLDFAST / "backoff.py",
        *(GATEWAY / "l1").glob("*.py"),
        *(GATEWAY / f"{name}.py" for name in ("auth", "catalogue", "http", "problems", "targets")),
    ]
)
SECONDS = 600.0
"""How long all tests may take together. Those of one fault may take as long as all of them took."""
GOAL = 0.9

Tests = dict[Path, dict[int, set[str]]]
"""The tests that reach each line of each file; "" is what is reached while modules are imported."""


def main() -> int:
    """Choose the faults, try them, and print those that no test found."""
    options = _options()
    faults = [f for path in CORE if options.only in str(path) for f in faults_of(str(path), path.read_text())]
    chosen = random.Random(options.seed).sample(faults, min(options.count, len(faults)))
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        print(
            f"{len(faults)} faults in {len(CORE)} modules, {len(chosen)} of them tried, seed {options.seed}."
        )
        began = time.monotonic()
        reached = _reached_by(options.tests, Path(folder) / "coverage")
        limit = time.monotonic() - began
        copies: queue.Queue[Path] = queue.Queue()
        for n in range(options.jobs):
            copies.put(_copy(Path(folder) / f"copy{n}"))
        with ThreadPoolExecutor(options.jobs) as pool:
            tried = [pool.submit(_is_found, f, _tests_of(f, reached), copies, limit) for f in chosen]
            found = [future.result() for future in tried]
    survivors = [fault for fault, is_found in zip(chosen, found, strict=True) if not is_found]
    for fault in sorted(survivors, key=lambda fault: (fault.file, fault.begin)):
        print(f"\n{Path(fault.file).relative_to(ROOT)}:{fault.lines.start}")
        for sign, text in (("-", fault.before), ("+", fault.after)):
            print(f"  {sign} {text.splitlines()[0]}")
    print(f"\n{sum(found)} of {len(chosen)} found.")
    return 0 if sum(found) >= GOAL * len(chosen) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=60, help="how many faults are tried")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000))
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--only", default="", help="a part of the paths of the modules to put faults into")
    parser.add_argument("--tests", nargs="+", default=["tests/unit"])
    return parser.parse_args()


def _reached_by(tests: list[str], data: Path) -> Tests:
    """Run the tests without a fault; they must pass."""
    config = data.with_suffix(".rc")
    config.write_text(f"[run]\nsource_pkgs = {','.join(PACKAGES)}\ndata_file = {data}\n")
    command = ["-m", "coverage", "run", f"--rcfile={config}", "-m", "pytest", "-p", "tests.mutants.contexts"]
    done = _python([*command, "-q", "-p", "no:cacheprovider", *tests], ROOT, seconds=SECONDS)
    if done is None or done.returncode:
        sys.exit(f"The tests fail without a fault.\n{done.stdout[-3000:] if done else ''}")
    measured = coverage.CoverageData(str(data))
    measured.read()
    reached: Tests = {}
    for path in CORE:
        lines = measured.contexts_by_lineno(str(path))
        reached[path] = {line: set(contexts) for line, contexts in lines.items()}
    return reached


def _tests_of(fault: Fault, reached: Tests) -> list[str]:
    """The tests that reach the fault; where an import reaches it, then also all that know its file."""
    lines = reached[Path(fault.file)]
    near = set().union(*(lines.get(line, set()) for line in fault.lines))
    far = set().union(*lines.values(), _importers(Path(fault.file))) if "" in near or not near else set()
    return [*sorted(near - {""}), *sorted(far - near - {""})]


def _importers(path: Path) -> set[str]:
    """The test modules that import a module: who compares a constant reaches no line of its file."""
    package = next(name for name, folder in PACKAGES.items() if path.is_relative_to(ROOT / folder))
    *parents, name = path.relative_to(ROOT / PACKAGES[package]).with_suffix("").parts
    named = re.compile(rf"^from {'.'.join([package, *parents])}(\.{name} import| import .*\b{name}\b)", re.M)
    return {
        str(p.relative_to(ROOT)) for p in (ROOT / "tests/unit").glob("*.py") if named.search(p.read_text())
    }


def _is_found(fault: Fault, tests: list[str], copies: queue.Queue[Path], seconds: float) -> bool:
    if not tests:
        return False
    copy = copies.get()
    path = copy / Path(fault.file).relative_to(ROOT)
    source = path.read_text()
    try:
        path.write_text(fault.put_into(source))
        options = ["-x", "-q", "--tb=no", "-p", "no:cacheprovider"]
        done = _python(["-m", "pytest", *options, *_by_module(tests)], copy, seconds=seconds)
        # Not 0 where a test failed, and also where its module could not be imported.
        return done is None or done.returncode != 0
    finally:
        path.write_text(source)
        copies.put(copy)


def _by_module(tests: list[str]) -> list[str]:
    """The tests in the order of their modules, so that each module is imported once."""
    modules: dict[str, list[str]] = defaultdict(list)
    for test in tests:
        modules[test.partition("::")[0]].append(test)
    return [test for names in modules.values() for test in names]


def _copy(folder: Path) -> Path:
    """The packages once more, compiled so that a changed source is noticed by its content."""
    for package in PACKAGES.values():
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(folder, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    imported = _python(
        ["-c", f"import {', '.join(PACKAGES)}; print(holdfast.__file__)"], folder, seconds=SECONDS
    )
    if imported is None or not imported.stdout.startswith(str(folder)):
        sys.exit(f"The copy is not what is imported: {imported}")
    return folder


def _python(
    arguments: list[str], packages: Path, *, seconds: float
) -> subprocess.CompletedProcess[str] | None:
    """Run Python in the tree, with the packages of that folder; None where it had to be killed."""
    environment = {
        "PYTHONPATH": os.pathsep.join(str(packages / Path(p).parent) for p in PACKAGES.values()),
        "PYTHONDONTWRITEBYTECODE": "1",
        # Examples that made a fault fail are of no use to the tree.
        "HYPOTHESIS_STORAGE_DIRECTORY": str(packages / ".hypothesis"),
    }
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.communicate()
        return None
    return subprocess.CompletedProcess(arguments, process.returncode, printed)


if __name__ == "__main__":
    sys.exit(main())
