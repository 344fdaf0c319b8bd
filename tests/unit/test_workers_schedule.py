"""Beat's schedule: which reports it has, and how long a message of it is worth something."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.reports import Registry, Report
from holdfast_workers.app import WARM_TASK
from holdfast_workers.schedule import beat_schedule


def scheduled(**arguments: Any) -> dict[str, dict[str, Any]]:
    """The schedule for one report, which is made with these arguments."""
    report = Report("example", **arguments)

    @report.postgres
    def rows(_: Any) -> Any:
        """Never run here."""

    return beat_schedule(Registry([report]))


def test_a_scheduled_report_is_warmed_by_the_schedule() -> None:
    """Beat sends the warm task for the report, every period, as asked for by the schedule."""
    (entry,) = scheduled(schedule=60, warm=[{}]).values()
    assert entry["task"] == WARM_TASK
    assert entry["schedule"] == 60.0
    assert entry["kwargs"] == {"report": "example", "trigger": "schedule"}


def test_a_message_is_dropped_when_the_next_one_is_due() -> None:
    """After an outage the queue holds at most one message for each report."""
    (entry,) = scheduled(schedule=60, warm=[{}]).values()
    assert entry["options"]["expires"] == entry["schedule"]


@pytest.mark.parametrize(
    "arguments", [{"warm": [{}]}, {"schedule": 60}], ids=["without a schedule", "without warm variants"]
)
def test_other_reports_are_not_scheduled(arguments: dict[str, Any]) -> None:
    """A report without a schedule, or with nothing to keep warm, is not sent by beat."""
    assert scheduled(**arguments) == {}
