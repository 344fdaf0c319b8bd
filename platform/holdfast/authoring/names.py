"""Names for what is generated: identifiers that are none of Python's and none of pydantic's."""

from __future__ import annotations

import keyword
import re
import unicodedata

from pydantic import BaseModel

_TAKEN = {name for name in dir(BaseModel) if not name.startswith("_")}
REPORT_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def identifier(text: str) -> str:
    """A Python name for a column's or a table's: `Unit price (€)` is `unit_price`, `class` is `class_`."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", unicodedata.normalize("NFKC", text))
    name = re.sub(r"\W+", "_", words).strip("_").lower()
    if not name or name[0].isdigit():
        name = f"c_{name}".rstrip("_")
    if keyword.iskeyword(name) or keyword.issoftkeyword(name) or name in _TAKEN or not name.isidentifier():
        name = f"{name}_"
    return name if name.isidentifier() else "column"


def class_name(text: str) -> str:
    """`late-orders` is `LateOrders`."""
    words = re.split(r"[\W_]+", unicodedata.normalize("NFKC", text))
    name = "".join(word[:1].upper() + word[1:] for word in words)
    name = name if name.isidentifier() else f"C{name}"
    return name if name.isidentifier() else "Report"


def report_name(text: str) -> str:
    """What a report could be named that was asked for under this name: lower-case words with hyphens."""
    folded = unicodedata.normalize("NFKD", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", text))
    words = re.sub(r"[^a-z0-9]+", "-", folded.encode("ascii", "ignore").decode().lower()).strip("-")
    return words if words[:1].isalpha() else f"report-{words}".rstrip("-")


def free(name: str, taken: set[str]) -> str:
    """The name, or one with a number that nobody has."""
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    taken.add(candidate)
    return candidate
