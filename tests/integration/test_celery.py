"""Real Celery processes: workers and beat, on a broker and a supervisor of their own."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from tests.support.celery import Sender, celery_stack
from tests.support.process import Process, remote_ports
from tests.support.sample_reports import UPTO, numbers
from tests.support.stack import Stack
from tests.support.variants import Variant, fresh
from tests.support.waiting import eventually

from holdfast.cache.entry import Entry, unpack


@pytest.fixture(scope="module")
def unsupervised() -> Iterator[Stack]:
    """Servers without a supervisor."""
    with celery_stack() as stack:
        yield stack


@pytest.fixture(scope="module")
def beat(unsupervised: Stack) -> Process:
    """A beat on those servers."""
    return unsupervised.beat()


@pytest.fixture(scope="module")
def plain_broker(unsupervised: Stack) -> str:
    """The URL of a broker of its own for the worker that is plain Celery."""
    return unsupervised.servers.valkey.broker_url_file.read_text().strip().removesuffix("/1") + "/2"


@pytest.fixture(scope="module")
def plain(unsupervised: Stack, plain_broker: str) -> Process:
    """A worker that is plain Celery."""
    command = ("-m", "celery", "-A", "holdfast_workers", "worker", "--pool=prefork", "--concurrency=1")
    return unsupervised.start(sys.executable, *command, name="plain", BROKER_URL=plain_broker)


@pytest.fixture(scope="module")
def worker(unsupervised: Stack, beat: Process, plain: Process) -> Process:
    """A worker on those servers, which has begun to take tasks.

    The others are started before it: each takes seconds, and nobody has to wait for them one by one.
    """
    process = unsupervised.worker("--concurrency=2")
    eventually("the worker", lambda: " ready." in process.output(), within=30)
    return process


@pytest.fixture
def stack(unsupervised: Stack) -> Stack:
    """The same servers, with a supervisor."""
    unsupervised.supervisor()
    return unsupervised


@pytest.fixture(scope="module")
def sender(unsupervised: Stack) -> Iterator[Sender]:
    """Sends tasks to that worker's queue."""
    with Sender(unsupervised.servers.valkey.broker_url_file.read_text()) as made:
        yield made


def entry_of(stack: Stack, variant: Variant) -> Entry | None:
    """The entry of a result, if there is one."""
    entry = unpack(variant.key, cast("bytes | None", stack.cache.get(variant.key)))
    return entry if isinstance(entry, Entry) else None


def lines_of(worker: Process, task: str, *words: str) -> list[str]:
    """The lines that the worker prints of that task, with one of these words."""
    lines = worker.output().splitlines()
    return [line for line in lines if f"[{task}]" in line and any(word in line for word in words)]


def test_what_may_pass_is_tried_again(unsupervised: Stack, worker: Process, sender: Sender) -> None:
    """A refresh that finds no supervisor is tried again later, and succeeds once there is one."""
    unsupervised.end_supervisor()
    variant = fresh(numbers)
    task = sender.refresh(variant)
    eventually("a retry", lambda: lines_of(worker, task, "Retry in", "retry: "))
    assert entry_of(unsupervised, variant) is None
    unsupervised.supervisor()
    eventually("the entry", lambda: entry_of(unsupervised, variant), within=20)


def test_a_refresh_task_puts_the_entry_into_redis(stack: Stack, worker: Process, sender: Sender) -> None:
    """A refresh that was sent to the queue ends as an entry in Redis, made by a worker."""
    variant = fresh(numbers, upto=7)
    sender.refresh(variant, trigger="schedule")
    assert eventually("the entry", lambda: entry_of(stack, variant)).rows == 7


def test_warm_fans_out_to_every_variant(stack: Stack, worker: Process) -> None:
    """`holdfast warm REPORT` has the workers compute each warm variant, and ends when all are there."""
    command = stack.start("warm", "numbers", **stack.servers.valkey.broker_env())
    assert command.wait(30) == 0, command.output()
    assert f"{len(UPTO)} variants are warm" in command.output()
    entries = [entry_of(stack, Variant(numbers, params)) for params in numbers.warm]
    assert [entry.rows if entry else None for entry in entries] == list(UPTO)


def test_workers_hold_no_database_connection(stack: Stack, worker: Process, sender: Sender) -> None:
    """After their work, the worker and its children are connected to the broker and to no database."""
    variant = fresh(numbers)
    sender.refresh(variant)
    eventually("the entry", lambda: entry_of(stack, variant))
    family = worker.family()
    assert len(family) >= 3
    assert set().union(*map(remote_ports, family)) == {stack.servers.valkey.port}
    names = stack.servers.fetch(
        "SELECT DISTINCT application_name FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    assert [row[0] for row in names] == ["holdfast-supervisor"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"report": "none", "params": {}}, "UnknownReport"),
        ({"report": "numbers", "params": {"upto": 0}}, "InvalidParams"),
        ({"report": "numbers", "params": {"limit": 1}}, "InvalidParams"),
        ({"report": "numbers", "params": {}, "trigger": "never"}, "InvalidParams"),
        ({"report": "failing", "params": {}}, "QueryFailed"),
        ({"report": "failing", "params": {"where": "function"}}, "ComputeFailed"),
        ({"report": "numbers", "params": {}, "sql": "SELECT 1"}, "TypeError"),
    ],
    ids=["report", "value", "parameter", "trigger", "query", "function", "argument"],
)
def test_a_wrong_task_fails_without_a_retry(
    stack: Stack, worker: Process, sender: Sender, arguments: dict[str, Any], error: str
) -> None:
    """An unknown report, a wrong parameter and a wrong trigger each fail once and for all; the worker goes
    on with the next task.
    """
    task = sender.send(**arguments)
    lines = eventually(f"{error} to be reported", lambda: lines_of(worker, task, "raised"))
    assert error in lines[0]
    variant = fresh(numbers)
    sender.refresh(variant)
    eventually("the next task", lambda: entry_of(stack, variant))
    assert lines_of(worker, task, "retry", "Retry") == []


class Bomb:
    """Creates a folder where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._path,)


def test_nothing_from_the_queue_is_unpickled(
    stack: Stack, worker: Process, sender: Sender, tmp_path: Path
) -> None:
    """A message that is a pickle is thrown away unread, and the worker goes on."""
    target = tmp_path / "unpickled"
    sender.publish(pickle.dumps(((Bomb(target),), {}, {})), "application/x-python-serialize")
    eventually("it to be refused", lambda: "ContentDisallowed" in worker.output())
    variant = fresh(numbers)
    sender.refresh(variant)
    eventually("the next task", lambda: entry_of(stack, variant))
    assert not target.exists()


def test_plain_celery_is_enough(stack: Stack, plain: Process, plain_broker: str) -> None:
    """`celery -A holdfast_workers worker`, without `holdfast`, does the same work."""
    variant = fresh(numbers)
    with Sender(plain_broker) as sender:
        sender.refresh(variant)
        eventually("the entry", lambda: entry_of(stack, variant), within=30)
    assert plain.terminate() == 0


def test_beat_leads_and_sends_what_is_due(stack: Stack, worker: Process, beat: Process) -> None:
    """`holdfast beat` takes the lead and has the warm variants of a scheduled report computed, over and
    over, as often as its schedule says.
    """
    with stack.servers.redis("celery", database=1) as queues:
        eventually("the lead", lambda: queues.exists("redbeat::lock"), within=20)
    eventually("rounds as often as the schedule says", lambda: 1 < _mean_gap(stack) < 6, within=30)
    runs = stack.run(stack.client.runs("ticking", limit=100))
    assert {run["trigger"] for run in runs} == {"schedule"}
    assert {run["params"]["upto"] for run in runs} == {2, 3}
    assert beat.terminate() == 0


def _mean_gap(stack: Stack) -> float:
    """Seconds between two of the last four computations of one variant; 0 while there are fewer.

    A single one may have waited for a worker, or for the supervisor.
    """
    runs = stack.run(stack.client.runs("ticking", limit=100))
    starts = sorted(run["started_at"] for run in runs if run["params"]["upto"] == 2)[-4:]
    return float(starts[-1] - starts[0]) / 3 if len(starts) == 4 else 0.0


def test_no_secret_is_shown(stack: Stack, worker: Process) -> None:
    """No password of a server stands in what any process printed, nor among any process's arguments."""
    names = ("postgres_password", "mongo_password", "valkey_supervisor_password", "valkey_celery_password")
    secrets = [stack.secret(name) for name in names]
    assert all(len(secret) > 12 for secret in secrets)
    texts = {repr(process): process.output() for process in stack.processes}
    members = [member for process in stack.processes for member in process.family()]
    texts |= {repr(member): " ".join(member.cmdline()) for member in members}
    assert [name for name, text in texts.items() if any(secret in text for secret in secrets)] == []
