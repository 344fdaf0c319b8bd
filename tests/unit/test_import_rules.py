"""Who may import whom, and that `platform/` hides nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "holdfast": ROOT / "platform" / "holdfast",
    "holdfast_workers": ROOT / "workers" / "holdfast_workers",
    "holdfast_flights": ROOT / "workers" / "holdfast_flights",
    "holdfast_gateway": ROOT / "gateway" / "holdfast_gateway",
}
MAY_IMPORT = {
    "holdfast": {"holdfast"},
    "holdfast_workers": {"holdfast_workers", "holdfast"},
    "holdfast_flights": {"holdfast_flights", "holdfast"},
    "holdfast_gateway": {"holdfast_gateway", "holdfast"},
}
HEAVY = {
    *("sqlalchemy", "beanie", "pymongo", "bson", "celery", "kombu", "asyncpg", "starlette", "uvicorn"),
    *("zstandard", "flower", "psutil", "numpy", "pandas"),
}
"""What the slim gateway does not install."""


def imported(source: str) -> set[str]:
    """Every module that a source imports: at its top or within a function, by statement or by string."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, (
                f"line {node.lineno}: imports are absolute, so that a rule can be read off"
            )
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"import_module", "__import__"}:
                found.add(str(node.args[0].value))
    return found


def ours(package: str) -> dict[str, set[str]]:
    """The modules of our packages that each file of a package imports."""
    found = {}
    for path in sorted(PACKAGES[package].rglob("*.py")):
        names = imported(path.read_text(encoding="utf-8"))
        found[str(path.relative_to(ROOT))] = {n for n in names if n.partition(".")[0] in PACKAGES}
    assert len(found) > 3, f"no sources found for {package}"
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_flow_one_way(package: str) -> None:
    """Workers, gateway and example build on `holdfast`; it builds on none of them, nor they on each other."""
    wrong = {
        f"{path} imports {name}"
        for path, names in ours(package).items()
        for name in names
        if name.partition(".")[0] not in MAY_IMPORT[package]
    }
    assert wrong == set()


def test_an_import_is_seen_wherever_it_stands() -> None:
    """The rule cannot be got round by importing within a function, by a part, or by a string."""
    source = (
        "import a.b\n"
        "def f():\n"
        "    from c import d\n"
        "    importlib.import_module('e.f')\n"
        "    return __import__('g')\n"
    )
    assert imported(source) == {"a.b", "c", "c.d", "e.f", "g"}
    assert any("holdfast.cache.refresh" in names for names in ours("holdfast_workers").values())


def test_only_light_modules_reach_the_gateway() -> None:
    """What the gateway imports of `holdfast` needs nothing but what the slim gateway installs."""
    slim = {dependency.split(">")[0].split("[")[0].split("=")[0] for dependency in _slim_dependencies()}
    light = _closure({name for names in ours("holdfast_gateway").values() for name in names})
    third_party = {
        top
        for module in light
        for top in _top_level_imports(module)
        if top not in sys.stdlib_module_names and top not in PACKAGES
    }
    assert {"redis", "msgspec", "jwt"} <= third_party
    distributions = {"prometheus_client": "prometheus-client", "pydantic_settings": "pydantic-settings",
                     "dotenv": "pydantic-settings", "jwt": "pyjwt"}  # fmt: skip
    assert {distributions.get(name, name) for name in third_party} <= slim
    assert not {
        name for name in light if name.startswith(("holdfast.supervisor", "holdfast.up", "holdfast.embedded"))
    }


def _slim_dependencies() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["gateway"]]


def _source(module: str) -> Path | None:
    package, _, rest = module.partition(".")
    if package not in PACKAGES:
        return None
    path = PACKAGES[package].joinpath(*rest.split(".")) if rest else PACKAGES[package] / "__init__"
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _closure(modules: set[str]) -> set[str]:
    """Those modules and what they import of ours when they are loaded, and so on."""
    seen: set[str] = set()
    waiting = {module for module in modules if _source(module)}
    while waiting:
        module = waiting.pop()
        seen.add(module)
        waiting |= {name for name in _loaded_by(module) if _source(name)} - seen
    return seen


def _loaded_by(module: str) -> set[str]:
    """What loading a module imports: not what its functions import later, nor what is for type checkers."""
    source = _source(module)
    assert source is not None
    names: set[str] = set()
    waiting: list[ast.stmt] = list(ast.parse(source.read_text(encoding="utf-8")).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            waiting += [*node.body, *node.orelse]
        elif isinstance(node, ast.Try):
            waiting += [*node.body, *(s for handler in node.handlers for s in handler.body), *node.orelse]
    return names


def _top_level_imports(module: str) -> set[str]:
    return {name.partition(".")[0] for name in _loaded_by(module)}


def run(script: str, *, cwd: Path = ROOT) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=cwd, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_gateway_is_slim() -> None:
    """Loading the gateway's application loads neither database driver nor Celery nor a web framework."""
    modules = "holdfast_gateway.app, holdfast_gateway.__main__"
    loaded = run(f"import sys, {modules}; print(*{{name.partition('.')[0] for name in sys.modules}})").split()
    assert "holdfast_gateway" in loaded
    assert sorted(set(loaded) & HEAVY) == []


def test_the_command_line_is_slim() -> None:
    """`holdfast gateway` starts through the command line, which is as slim as what it starts."""
    loaded = run("import sys, holdfast.cli; print(*{name.partition('.')[0] for name in sys.modules})").split()
    assert "holdfast" in loaded
    assert sorted(set(loaded) & HEAVY) == []


def test_platform_is_a_folder_and_no_package() -> None:
    """`platform/` must not hide Python's own module, which pytest itself imports: it has no __init__.py."""
    assert not (ROOT / "platform" / "__init__.py").exists()
    for folder in ("workers", "gateway"):
        assert not (ROOT / folder / "__init__.py").exists()
    script = "import platform; print(platform.__file__, platform.python_implementation())"
    path, implementation = run(script).split()
    assert not Path(path).is_relative_to(ROOT / "platform")
    assert implementation == sys.implementation.name.replace("cpython", "CPython")
