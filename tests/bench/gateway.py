"""HITs of the real gateway beside a bare Granian application: `make bench`.

Everything runs here, on loopback and in a home of its own: embedded servers, the loaded example, the
supervisor, two gateways (GW_AUTH off and jwt) and the bare application, which answers the same body.
Each server is pinned to one core and wrk to another; they are measured in turn, round after round, so
that whatever else this machine does falls on all of them alike. Only ratios within one run mean anything.
Beside requests/s stand the server's own CPU time per request, which a busy machine distorts less, and how
much of its core it used: well below 100 %, the client or the machine was the limit and not the server.

The same figures are written as JSON, with the commit, the machine and the versions (`--json FILE`).
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from holdfast.embedded import Mongo, Postgres, Valkey
from holdfast.embedded.secrets import secret_file
from holdfast.processes.files import open_log
from holdfast.processes.ports import pick_port
from holdfast.processes.programs import command
from holdfast.processes.spawn import die_with_parent

PATH = "/api/v1/analytics/carriers?month=7&origin=JFK"
CONNECTIONS = 64
OURS = re.compile(r"(POSTGRES|PG|MONGO|REDIS|BROKER|JWT|GW|SUPERVISOR|FLOWER|HOLDFAST)_|REPORTS$")


PACKAGES = ("holdfast", "granian", "uvloop", "msgspec", "redis")
ROOT = Path(__file__).parents[2]


class BenchError(Exception):
    """The bench cannot go on, or its figures would mean nothing."""


@dataclass(frozen=True)
class Shot:
    """What one run of wrk measured, with latencies in ms, and the server's CPU time per request in µs."""

    requests: int
    per_second: float
    p50: float
    p99: float
    cpu: float = 0.0


@dataclass
class Target:
    """A server to measure."""

    name: str
    port: int
    cached: bool
    pid: int = 0
    token: str = ""
    shots: list[Shot] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The one URL that is asked for."""
        return f"http://127.0.0.1:{self.port}{PATH}"

    def get(self) -> tuple[int, str, bytes]:
        """Status, X-Cache and body of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
            connection.request("GET", PATH, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.headers.get("X-Cache", ""), answer.read()
        finally:
            connection.close()

    def cpu(self) -> float:
        """Seconds of CPU that it has used, its workers included."""
        process = psutil.Process(self.pid)
        times = [p.cpu_times() for p in (process, *process.children(recursive=True))]
        return float(sum(t.user + t.system for t in times))

    def check(self) -> None:
        """Raise unless it answers 200, and from its cache if it has one."""
        status, cache, _ = self.get()
        if status != 200 or (self.cached and cache != "HIT"):
            raise BenchError(f"{self.name}: expected a HIT, and got {status} {cache or 'without X-Cache'}")

    def wrk(self, core: int, seconds: int) -> list[str]:
        """The command that measures it."""
        load = ["-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency"]
        header = ["-H", f"Authorization: Bearer {self.token}"] if self.token else []
        return ["taskset", "-c", str(core), "wrk", *load, *header, self.url]


def main() -> int:
    """Measure and print; 0 when every request of every round was answered as it should be."""
    given = _options().parse_args()
    try:
        cores = _check_machine()
        with tempfile.TemporaryDirectory(prefix="hf-bench-") as home:
            _bench(Path(home), cores, given)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--seconds", type=int, default=4, help="of each server in each round")
    options.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="where the figures go (build/bench/gateway-TIME-COMMIT.json)",
    )
    return options


def _check_machine() -> tuple[int, int]:
    """The core of the servers and that of wrk. Raises BenchError where the machine cannot do it."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise BenchError("two cores are needed: one for the server, one for wrk")
    for tool, package in (("wrk", "wrk"), ("taskset", "util-linux")):
        if shutil.which(tool) is None:
            raise BenchError(f"{tool} is not here: install it with `apt-get install {package}`")
    return cores[0], cores[1]


def _bench(home: Path, cores: tuple[int, int], given: argparse.Namespace) -> None:
    server, client = cores
    began = datetime.now(UTC)
    with contextlib.ExitStack() as stack:
        print("bench: starting the servers and loading the example …", flush=True)
        targets, commands = _start(stack, home, server)
        for target in targets:
            target.check()
            _shoot(target, client, 1)
        for number in range(1, given.rounds + 1):
            for target in targets:
                target.check()
                target.shots.append(_shoot(target, client, given.seconds))
                target.check()
            rates = ", ".join(f"{t.name} {t.shots[-1].per_second:,.0f}/s" for t in targets)
            print(f"bench: round {number} of {given.rounds}: {rates}", flush=True)
    _report(targets, commands, client, given.seconds)
    _write_json(given.json, targets, began, given.seconds)


def _start(stack: contextlib.ExitStack, home: Path, core: int) -> tuple[list[Target], dict[str, str]]:
    """Start everything: the servers to measure, and the commands that they were started with."""
    run = Runner(stack, home)
    base, reader = _start_behind(stack, home, run)
    pinned = ["taskset", "-c", str(core)]
    commands: dict[str, str] = {}
    secrets = {"JWT_SECRET_FILE": str(secret_file(home, "jwt_secret"))}

    def serve(name: str, argv: list[str], **settings: str) -> Target:
        target = Target(name, pick_port(), cached=name != "bare")
        env = {**base, **reader, "GW_PORT": str(target.port), **settings}
        target.pid = run(name.replace(" ", "-"), [*pinned, *argv], env)
        shown = [f"{key}={value}" for key, value in settings.items() if key == "GW_AUTH"]
        commands[name] = shlex.join([*shown, *pinned, "python", *argv[1:]]).replace(f"{Path.cwd()}/", "")
        if settings["GW_AUTH"] == "jwt":
            target.token = _token(base, secrets, home)
        _until(f"{name} answers", lambda: target.get()[0] == 200)
        return target

    gateway = serve("gateway", command("gateway"), GW_AUTH="off")
    guarded = serve("gateway with jwt", command("gateway"), GW_AUTH="jwt", **secrets)
    _until("a HIT", lambda: gateway.get()[1] == guarded.get()[1] == "HIT")
    body = home / "body.json"
    body.write_bytes(gateway.get()[2])
    here = str(Path(__file__).with_name("bare.py"))
    bare = serve("bare", [sys.executable, here], GW_AUTH="off", BENCH_BODY=str(body))
    print(f"bench: {PATH} is {body.stat().st_size:,} bytes", flush=True)
    return [bare, gateway, guarded], commands


def _start_behind(
    stack: contextlib.ExitStack, home: Path, run: Runner
) -> tuple[dict[str, str], dict[str, str]]:
    """Start the loaded databases, the cache and the supervisor.

    Returns:
        The environment of every process, and the settings with which a gateway reads the cache.
    """
    inherited = {name: value for name, value in os.environ.items() if not OURS.match(name)}
    base = {**inherited, "HOLDFAST_HOME": str(home), "SUPERVISOR_PORT": str(pick_port())}
    postgres, mongo = stack.enter_context(Postgres(home)), stack.enter_context(Mongo(home))
    valkey = stack.enter_context(Valkey(home))
    databases = {**base, **postgres.env(), **mongo.env()}
    loaded = subprocess.run(
        command("load"), env=databases, cwd=home, capture_output=True, text=True, check=False, timeout=180
    )
    if loaded.returncode != 0:
        raise BenchError(f"loading the example failed: {loaded.stderr.strip()}")
    run("supervisor", command("supervisor"), {**databases, **valkey.env()})
    return base, valkey.gateway_env()


def _token(base: Mapping[str, str], secrets: Mapping[str, str], home: Path) -> str:
    issued = subprocess.run(
        command("token"), env={**base, **secrets}, cwd=home, capture_output=True, text=True, check=True
    )
    return issued.stdout.strip()


class Runner:
    """Starts processes that the stack ends."""

    def __init__(self, stack: contextlib.ExitStack, home: Path) -> None:
        self._stack = stack
        self._home = home

    def __call__(self, name: str, argv: list[str], env: Mapping[str, str]) -> int:
        """Start one, with its output in a log: its pid. It ends with the stack, or with this process."""
        return self._stack.enter_context(self._running(name, argv, env))

    @contextlib.contextmanager
    def _running(self, name: str, argv: list[str], env: Mapping[str, str]) -> Iterator[int]:
        with open_log(self._home, name) as log:
            process = subprocess.Popen(
                [*die_with_parent(signal.SIGTERM), *argv],
                env=dict(env),
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _until(what: str, condition: Callable[[], bool], within: float = 60.0) -> None:
    deadline = time.monotonic() + within
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if condition():
                return
        if time.monotonic() > deadline:
            raise BenchError(f"waited {within:g} s, and not yet: {what}")
        time.sleep(0.1)


def _shoot(target: Target, core: int, seconds: int) -> Shot:
    began = target.cpu()
    ran = subprocess.run(target.wrk(core, seconds), capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise BenchError(f"wrk failed: {ran.stderr.strip()}")
    for wrong in ("Non-2xx", "Socket errors"):
        if line := next((line for line in ran.stdout.splitlines() if wrong in line), ""):
            raise BenchError(f"{target.name}: {line.strip()}")
    shot = parse(ran.stdout)
    return replace(shot, cpu=(target.cpu() - began) / shot.requests * 1e6)


def parse(text: str) -> Shot:
    """The figures in what `wrk --latency` prints."""
    requests = re.search(r"(\d+) requests in", text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    latencies = {
        int(percent): float(value) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]
        for percent, value, unit in re.findall(r"^\s+(\d+)%\s+([\d.]+)(us|ms|s)$", text, re.MULTILINE)
    }
    if requests is None or rate is None or not latencies.keys() >= {50, 99}:
        raise BenchError(f"wrk printed something unexpected:\n{text}")
    return Shot(int(requests[1]), float(rate[1]), latencies[50], latencies[99])


def _report(targets: list[Target], commands: Mapping[str, str], core: int, seconds: int) -> None:
    bare = targets[0].shots
    columns = ("requests/s", "lowest", "highest", "p50 ms", "p99 ms", "CPU µs", "core %", "of bare", "by CPU")
    print("".join([f"\n{'':16}", *(f"{column:>10}" for column in columns)]))
    for target in targets:
        figures = _figures(target.shots, bare)
        cells = [f"{figures[name]:,.0f}" for name in ("per_second", "lowest", "highest")]
        cells += [f"{figures[name]:.2f}" for name in ("p50_ms", "p99_ms", "cpu_us")]
        cells.append(f"{figures['core_percent']:.0f}")
        cells += [f"{figures[name]:.3f}" for name in ("of_bare", "of_bare_by_cpu")]
        print("".join([f"{target.name:16}", *(f"{cell:>10}" for cell in cells)]))
    total = sum(shot.requests for target in targets for shot in target.shots)
    print(f"\nMedians of {len(bare)} rounds; {total:,} requests, every one answered 2xx.")
    for target in targets:
        wrk = shlex.join(target.wrk(core, seconds))
        if target.token:
            wrk = wrk.replace(target.token, "…")
        print(f"\n{target.name}:\n  {commands[target.name]}\n  {wrk}")


def _figures(shots: list[Shot], bare: list[Shot]) -> dict[str, float]:
    """The medians over the rounds, and the ratios to the bare application."""
    rates = [shot.per_second for shot in shots]
    # Paired by round, so that a slow moment of the machine is on both sides.
    pairs = list(zip(shots, bare, strict=True))
    return {
        "per_second": median(rates),
        "lowest": min(rates),
        "highest": max(rates),
        "p50_ms": median(shot.p50 for shot in shots),
        "p99_ms": median(shot.p99 for shot in shots),
        "cpu_us": median(shot.cpu for shot in shots),
        "core_percent": median(shot.cpu * shot.per_second for shot in shots) / 1e4,
        "of_bare": median(shot.per_second / other.per_second for shot, other in pairs),
        "of_bare_by_cpu": median(other.cpu / shot.cpu for shot, other in pairs),
    }


def _write_json(file: Path | None, targets: list[Target], began: datetime, seconds: int) -> None:
    commit = _git("describe", "--always", "--dirty", "--abbrev=12")
    if file is None:
        file = ROOT / "build" / "bench" / f"gateway-{began:%Y%m%dT%H%M%SZ}-{commit}.json"
    bare = targets[0].shots
    document = {
        "bench": "gateway",
        "began": began.isoformat(timespec="seconds"),
        "commit": commit,
        "machine": machine(),
        "load": {"path": PATH, "connections": CONNECTIONS, "seconds": seconds, "rounds": len(bare)},
        "targets": {
            target.name: {**_figures(target.shots, bare), "rounds": [asdict(shot) for shot in target.shots]}
            for target in targets
        },
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(f"\nThe figures are in {os.path.relpath(file)}")


def machine() -> dict[str, Any]:
    """What the figures depend on: processor, cores, kernel, Python and the packages on the hot path."""
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def _git(*arguments: str) -> str:
    command = [shutil.which("git") or "git", *arguments]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return ran.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
