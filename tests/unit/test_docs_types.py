"""docs/types.md says of each type what the code says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.support.type_samples import BSON_SAMPLES, POSTGRES_SAMPLES

from holdfast.links.mongo_types import BSON_TYPES
from holdfast.links.postgres_types import POSTGRES_TYPES

PAGE = (Path(__file__).parents[2] / "docs" / "types.md").read_text(encoding="utf-8")


def documented(title: str) -> list[tuple[str, ...]]:
    """The rows of the table in the section of that title."""
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    return [tuple(cell.strip() for cell in row.strip("|").split(" | ")) for row in rows[1:]]


@pytest.mark.parametrize(
    ("title", "types"), [("PostgreSQL", POSTGRES_TYPES), ("MongoDB", BSON_TYPES)], ids=["postgres", "mongo"]
)
def test_the_page_says_what_the_code_says(title: str, types: Sequence[tuple[str, str, str]]) -> None:
    """Each type of the code is a row of the page, in the same words and order."""
    assert documented(title) == [tuple(row) for row in types]


@pytest.mark.parametrize(
    ("types", "samples"),
    [(POSTGRES_TYPES, POSTGRES_SAMPLES), (BSON_TYPES, BSON_SAMPLES)],
    ids=["postgres", "mongo"],
)
def test_each_type_has_an_example_on_a_real_server(
    types: Sequence[Sequence[str]], samples: Sequence[Sequence[object]]
) -> None:
    """Each row has values that tests read from a real server, but for what the embedded one does not have."""
    without = [row[0] for row, given in zip(types, samples, strict=True) if not given]
    # The difference of dates has a test of its own, since MongoDB calculates it.
    assert set(without) <= {
        "`hstore`, `ltree` and other types of extensions",
        "the difference of two dates",
    }
