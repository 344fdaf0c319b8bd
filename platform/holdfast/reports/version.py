"""The version of a report: a digest of what defines its results.

It covers what the report says of itself (name, parameters with types, bounds and defaults, ttl, max_stale)
and the text of the code that makes its rows: the modules of its queries, its function, its parameters and
its documents, every module of the author's own that these import, wherever the import stands, and the
`.sql` files beside them. Libraries do not count, nor does Holdfast. Text and not bytecode, so that processes
with different Python releases agree; a comment counts therefore.

It is read when reports are loaded, without importing anything. What a report reads while it runs (a file, an
environment variable) is no part of it.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import CodeType

_LIBRARIES = {"site-packages", "dist-packages"}
_NOT_AUTHORS = {*sys.stdlib_module_names, "holdfast", "holdfast_workers", "holdfast_gateway"}


def version_of(said: bytes, code: Iterable[object], module: str = "") -> str:
    """The version of a report: 16 hexadecimal digits.

    Args:
        said: what the report says of itself.
        code: its functions and classes.
        module: the module that defines it, where that is known.
    """
    digest = hashlib.blake2b(said, digest_size=8)
    parts = list(code)
    texts = dict(_texts({module, *(str(getattr(part, "__module__", "")) for part in parts)}))
    if not texts:
        # Made without a file, as in a notebook.
        texts = {f"code {i}": _code_text(getattr(part, "__code__", None)) for i, part in enumerate(parts)}
    for name, text in sorted(texts.items()):
        normal = text.replace(b"\r\n", b"\n")
        digest.update(b"%d %b %d " % (len(name), name.encode(), len(normal)) + normal)
    return digest.hexdigest()


def _texts(roots: set[str]) -> Iterator[tuple[str, bytes]]:
    """The name and the text of every module of the author's that is reached from these, and of SQL files."""
    own = {root.partition(".")[0] for root in roots}
    seen: set[str] = set()
    folders: set[Path] = set()
    waiting = set(roots)
    while waiting:
        name = waiting.pop()
        seen.add(name)
        path = _file_of(name, own)
        if path is None:
            continue
        try:
            stat = path.stat()
            text, imports = _read(path, stat.st_mtime_ns, stat.st_size)
        except OSError:
            # Taken away since it was loaded, or not ours to read.
            continue
        yield name, text
        package = name if path.stem == "__init__" else name.rpartition(".")[0]
        waiting |= {found for each in imports for found in _absolute(each, package)} - seen
        if path.parent not in folders:
            folders.add(path.parent)
            yield from _sql_files(path.parent, package)


def _sql_files(folder: Path, package: str) -> Iterator[tuple[str, bytes]]:
    for pattern in ("*.sql", "*/*.sql"):
        for path in folder.glob(pattern):
            with contextlib.suppress(OSError):
                yield f"{package}/{path.relative_to(folder).as_posix()}", path.read_bytes()


def _file_of(name: str, own: set[str]) -> Path | None:
    """The file of a module of the author's; None for a library's, and for what is no module."""
    top = name.partition(".")[0]
    if top in _NOT_AUTHORS:
        return None
    spec = _spec(name)
    if spec is None or not spec.has_location or spec.origin is None:
        return None
    path = Path(spec.origin)
    if top not in own and _LIBRARIES & set(path.parts):
        return None
    return path if path.is_file() else None


def _spec(name: str) -> ModuleSpec | None:
    """Where a module is, found without importing its package: an import within a function is not run yet."""
    parent, _, _ = name.rpartition(".")
    try:
        if not parent:
            return importlib.util.find_spec(name)
        package = _spec(parent)
        if package is None or package.submodule_search_locations is None:
            return None
        return PathFinder.find_spec(name, list(package.submodule_search_locations))
    except (ImportError, ValueError):
        return None


@functools.lru_cache(maxsize=1024)
def _read(path: Path, _modified_ns: int, _size: int) -> tuple[bytes, tuple[tuple[int, str, str], ...]]:
    """A file's text, and what it imports: the number of dots, the module, and the name taken from it."""
    text = path.read_bytes()
    try:
        tree = ast.parse(text) if path.suffix == ".py" else ast.Module([], [])
    except (SyntaxError, ValueError):
        return text, ()
    imports: list[tuple[int, str, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [(0, alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imports += [(node.level, node.module or "", alias.name) for alias in node.names]
    return text, tuple(imports)


def _absolute(each: tuple[int, str, str], package: str) -> Iterator[str]:
    """The modules that an import may load: the packages on the way, itself, and the name taken from it."""
    level, module, name = each
    base = module
    if level:
        parts = package.split(".")
        base = ".".join([*parts[: len(parts) - level + 1], *([module] if module else [])])
    words = base.split(".")
    yield from (".".join(words[:n]) for n in range(1, len(words) + 1))
    if name and name != "*":
        yield f"{base}.{name}"


def _code_text(code: CodeType | None) -> bytes:
    if code is None:
        return b""
    constants = [c for c in code.co_consts if not isinstance(c, CodeType)]
    inner = b"".join(_code_text(c) for c in code.co_consts if isinstance(c, CodeType))
    return code.co_code + repr((code.co_names, constants)).encode() + inner
