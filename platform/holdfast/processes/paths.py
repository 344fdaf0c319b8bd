"""Where Python looks for modules."""

from __future__ import annotations

import os
import sys


def find_modules_here() -> None:
    """Let modules of the working directory be imported, before any other of the same name.

    `python -m` does so, unless PYTHONSAFEPATH is set; a script (`holdfast`, `celery`) does not.
    """
    here = os.getcwd()
    if sys.path[:1] not in ([here], [""]):
        sys.path.insert(0, here)
