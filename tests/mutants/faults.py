"""Small faults that can be put into a source: a comparison turned round, a constant moved, a call left out.

A fault is a replacement in the text, at the place of a node of the syntax tree or of a piece of a Lua script.
Annotations, text, log calls, `frozen`, `slots` and `strict` are left alone: no behaviour depends on them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

TURNED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
SWAPPED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
}
LUA = {
    "~=": "==",
    "if not ": "if ",
    "return 0": "return 1",
    "return 1": "return 0",
    "return false": "return text",
    "return text": "return false",
    " - 1": " - 0",
    " + 1": " + 0",
    "'NX', ": "",
    "'PX'": "'EX'",
    "'PXAT'": "'EXAT'",
    "math.max": "math.min",
    "1000000": "1000",
    "KEYS[1]": "KEYS[2]",
    "ARGV[2]": "ARGV[1]",
}


@dataclass(frozen=True)
class Fault:
    """A replacement of the characters from `begin` to `end`."""

    file: str
    lines: range
    begin: int
    end: int
    before: str
    after: str

    def put_into(self, source: str) -> str:
        """The source with the fault in it."""
        return source[: self.begin] + self.after + source[self.end :]


def faults_of(file: str, source: str) -> list[Fault]:
    """Every fault of a Python source, each of which compiles."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    lines = source.splitlines()

    def place(line: int, column: int) -> int:
        # The syntax tree counts columns in bytes.
        return starts[line - 1] + len(lines[line - 1].encode()[:column].decode())

    found = []
    for node in _nodes(ast.parse(source)):
        for changed, after in _changes(node):
            last = changed.end_lineno or changed.lineno
            begin = place(changed.lineno, changed.col_offset)
            end = place(last, changed.end_col_offset or 0)
            fault = Fault(file, range(changed.lineno, last + 1), begin, end, source[begin:end], after)
            if fault.put_into(source) != source and _compiles(fault.put_into(source)):
                found.append(fault)
    return found + list(_lua_faults(file, source))


def _nodes(node: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """The nodes of code: no annotations, no formatted text (whose places Python 3.11 does not know)."""
    for name, value in ast.iter_fields(node):
        if name in {"annotation", "returns"}:
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or _is_passed_over(child):
                continue
            if isinstance(child, ast.expr | ast.stmt):
                yield child
            yield from _nodes(child)


def _is_passed_over(node: ast.AST) -> bool:
    match node:
        case ast.JoinedStr() | ast.If(ast.Name("TYPE_CHECKING")) | ast.keyword("frozen" | "slots" | "strict"):
            return True
        case ast.Expr():
            return ast.unparse(node).startswith(("log.", "log(", "self._log.", "structlog."))
    return False


def _changes(node: ast.expr | ast.stmt) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """What may stand in place of the node or of a part of it."""
    match node:
        case ast.If(test) | ast.While(test) | ast.IfExp(test):
            yield test, f"(not ({ast.unparse(test)}))"
        case ast.Raise() | ast.Expr(ast.Call() | ast.Await(ast.Call())):
            yield node, "pass"
        case ast.Return(ast.expr() as value) if not isinstance(value, ast.Constant):
            yield node, "return None"
        case ast.AugAssign(target, op, value) if type(op) in SWAPPED:
            yield node, ast.unparse(ast.AugAssign(target, SWAPPED[type(op)](), value))
        case ast.expr():
            yield from ((node, after) for after in _expressions(node))


def _expressions(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.Compare(left, [compared], [right]):
            for turned in TURNED[type(compared)]:
                yield ast.unparse(ast.Compare(left, [turned()], [right]))
        case ast.Constant(bool(value)):
            yield str(not value)
        case ast.Constant(int(value) | float(value)):
            yield str(value + 1)
        case ast.UnaryOp(ast.Not(), operand):
            yield f"({ast.unparse(operand)})"
        case ast.BoolOp(joined, values):
            other = ast.Or() if isinstance(joined, ast.And) else ast.And()
            yield f"({ast.unparse(ast.BoolOp(other, values))})"
        case ast.BinOp(left, op, right) if type(op) in SWAPPED:
            yield f"({ast.unparse(ast.BinOp(left, SWAPPED[type(op)](), right))})"


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


def _lua_faults(file: str, source: str) -> Iterator[Fault]:
    for script in re.finditer(r'"""\n(.*?redis\.call.*?)"""', source, re.DOTALL):
        for before, after in LUA.items():
            for match in re.finditer(re.escape(before), script[1]):
                begin = script.start(1) + match.start()
                line = source.count("\n", 0, begin) + 1
                yield Fault(file, range(line, line + 1), begin, begin + len(before), before, after)
