"""Sends the task that has the workers compute the warm variants: a program that `holdfast warm` runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from kombu.exceptions import OperationalError

from holdfast.errors import exit_on_error
from holdfast.reasons import outage
from holdfast_workers.app import WARM_TASK, app


def main(arguments: Sequence[str]) -> int:
    """Send the task; 1, and a line on standard error, where the broker cannot be reached.

    The reports are not loaded here: the caller knows that the report exists.
    """
    parser = argparse.ArgumentParser(prog="python -m holdfast_workers.warm")
    parser.add_argument("report", nargs="?")
    parser.add_argument("--missing", action="store_true")
    given = parser.parse_args(arguments)
    task_arguments = {"report": given.report, "trigger": "manual", "only_if_due": given.missing}
    try:
        app.send_task(WARM_TASK, kwargs=task_arguments, ignore_result=True, retry=False)
    except OperationalError as error:
        print(
            f"The broker cannot be reached: {outage(error)}. Is Redis up? See `holdfast status`.",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    with exit_on_error():
        sys.exit(main(sys.argv[1:]))
