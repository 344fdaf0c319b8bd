"""The sources of this repository, for tests that hold a rule over all of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("platform", "workers", "gateway")


def product_files() -> list[Path]:
    """Every Python file of the packages."""
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 50, "the packages are not where they were"
    return files


def product_modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module of the packages: its path from the root, and its syntax tree."""
    for path in product_files():
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))
