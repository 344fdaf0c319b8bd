"""What is imported is declared: by the package itself, or by the extra of those who need it."""

from __future__ import annotations

import ast
import functools
import re
import sys
import tomllib
from collections.abc import Mapping
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"holdfast", "holdfast_workers", "holdfast_flights", "holdfast_gateway", "tests"}
EVERYWHERE = {"supervisor", "worker", "gateway"}
EXTRAS: dict[str, set[str]] = {
    "platform/holdfast/supervisor": {"supervisor"},
    "platform/holdfast/embedded": {"embedded"},
    "platform/holdfast/authoring": {"author"},
    "platform/holdfast/up": {"embedded"},
    "platform/holdfast/links": {"supervisor"},
    "platform/holdfast": EVERYWHERE,
    "gateway/holdfast_gateway": {"gateway"},
    "workers/holdfast_workers": {"worker"},
    "workers/holdfast_flights": {"demo"},
    "tests": {"all", "dev"},
}
"""The extras that are installed wherever a folder is used; a longer path comes before a shorter one."""


def normal(name: str) -> str:
    """A distribution's name as indexes compare them (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> dict[str, set[str]]:
    """The distributions that each extra names, and "" those that are always installed."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lists: dict[str, list[str]] = {
        "": project["project"]["dependencies"],
        **project["project"]["optional-dependencies"],
        **project["dependency-groups"],
    }
    names = {extra: {_name(line) for line in lines} for extra, lines in lists.items()}
    names["all"] = set().union(*(names[extra] for extra in project["project"]["optional-dependencies"]))
    return names


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found
    return normal(found[0])


def imported(path: Path) -> set[str]:
    """The distributions that a module imports, anywhere in it."""
    tops: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            tops |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            tops.add(node.module.partition(".")[0])
    return {normal(distributions()[top][0]) for top in tops - OURS - sys.stdlib_module_names}


@functools.cache
def distributions() -> Mapping[str, list[str]]:
    """The distributions that provide each package, of those that are installed."""
    return packages_distributions()


@pytest.mark.parametrize("folder", EXTRAS)
def test_every_import_is_declared(folder: str) -> None:
    """A package that a module imports is named by an extra that is installed with it, not only by others."""
    names = declared()
    allowed = names[""].union(*(names[extra] for extra in EXTRAS[folder]))
    inner = [ROOT / other for other in EXTRAS if other.startswith(f"{folder}/")]
    undeclared = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / folder).rglob("*.py")
        if not any(path.is_relative_to(part) for part in inner)
        for name in imported(path) - allowed
    }
    assert undeclared == set()
