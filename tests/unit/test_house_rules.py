"""Rules that hold for every file of the packages and of the docs."""

from __future__ import annotations

import ast
import re

from tests.support.sources import FOLDERS, ROOT, product_modules

FUNCTION_LINES = 40
"""From `def` to the end, the docstring included."""
QUAINT = re.compile(
    r"\b(anew|for ever|at the most|each second|in vain|goodbye|unheard|people's eyes)\b", re.I
)
"""What a reader whose first language is another one has to look up, or reads twice."""


def test_no_function_is_long() -> None:
    """A function fits on a screen: it has at most 40 lines."""
    long = {
        f"{path}:{node.lineno} {node.name}": length
        for path, tree in product_modules()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES
    }
    assert long == {}


def test_the_words_are_plain() -> None:
    """Code and docs say "again", "forever", "at most" and "every second"."""
    folders = (*FOLDERS, "docs")
    files = [
        *ROOT.glob("*.md"),
        *(path for folder in folders for kind in ("py", "md") for path in (ROOT / folder).rglob(f"*.{kind}")),
    ]
    assert len(files) > 100
    quaint = {
        f"{path.relative_to(ROOT)}:{number}": line.strip()
        for path in sorted(files)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if QUAINT.search(line)
    }
    assert quaint == {}


def test_an_operation_is_a_method_and_no_string() -> None:
    """Only the client of the socket names an operation in a string: everybody else calls its typed method."""
    named = {
        f"{path}:{node.lineno} {ast.unparse(node.args[0])}"
        for path, tree in product_modules()
        if path != "platform/holdfast/rpc/client.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "call"
        and node.args
        and isinstance(node.args[0], (ast.Constant, ast.JoinedStr))
    }
    assert named == set()
