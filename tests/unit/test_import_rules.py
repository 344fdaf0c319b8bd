"""Who may import whom, and that `platform/` hides nothing."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "holdfast": ROOT / "platform" / "holdfast",
    "holdfast_workers": ROOT / "workers" / "holdfast_workers",
    "holdfast_flights": ROOT / "workers" / "holdfast_flights",
    "holdfast_gateway": ROOT / "gateway" / "holdfast_gateway",
}
FLOORS = (
    {"holdfast", "holdfast.errors", "holdfast.reasons", "holdfast.backoff", "holdfast.logs"},
    {"holdfast.processes", "holdfast.settings", "holdfast.reports"},
    {"holdfast.tokens", "holdfast.links", "holdfast.embedded"},
    {"holdfast.cache", "holdfast.up", "holdfast.authoring"},
    {"holdfast.rpc"},
    {"holdfast.testing", "holdfast.supervisor", "holdfast.cli"}
    | {"holdfast_workers", "holdfast_gateway", "holdfast_flights"},
)
"""What lies on each floor, from the ground up. A module imports its own folder and lower floors."""
ONLY = {
    "holdfast.rpc.server": {"holdfast.errors", "holdfast.rpc"},
    "holdfast.rpc.dispatch": {"holdfast.errors"},
    "holdfast_flights": {"holdfast_flights", "holdfast.errors", "holdfast.settings", "holdfast.reports"},
}
"""Modules that may import less: the socket knows no operation, the example is as a user's reports are."""
BESIDE = {("holdfast_flights.load", "holdfast.links.postgres_connect")}
"""What a module imports beside ONLY: the example's load is no report, and connects as the supervisor does."""
HEAVY = {
    *("sqlalchemy", "beanie", "pymongo", "bson", "celery", "kombu", "asyncpg", "starlette", "uvicorn"),
    *("zstandard", "flower", "psutil", "numpy", "pandas"),
}
"""What the slim gateway does not install."""


def imported(source: str) -> dict[str, int]:
    """The line of every import of a source: at its top or within a function, by statement or by string."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name: node.lineno for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, (
                f"line {node.lineno}: imports are absolute, so that a rule can be read off"
            )
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
            found |= dict.fromkeys(names, node.lineno)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"import_module", "__import__"}:
                found[str(node.args[0].value)] = node.lineno
    return found


def ours(package: str) -> dict[str, dict[str, int]]:
    """What each module of a package imports of our packages, and in which line."""
    found = {}
    for path in sorted(PACKAGES[package].rglob("*.py")):
        module = ".".join([package, *path.relative_to(PACKAGES[package]).with_suffix("").parts])
        names = imported(path.read_text(encoding="utf-8"))
        found[module.removesuffix(".__init__")] = {
            name: line for name, line in names.items() if name.partition(".")[0] in PACKAGES
        }
    assert len(found) > 3, f"no sources found for {package}"
    return found


MODULES = {module: names for package in PACKAGES for module, names in ours(package).items()}


def folder(module: str) -> str:
    """The folder, or the module at the top of a package, that a floor holds: `holdfast.links`."""
    package, *rest = module.split(".")
    inner = ".".join([package, *rest[:1]])
    return inner if package == "holdfast" and _source(inner) else package


def floor(module: str) -> int:
    """On which floor a module lies."""
    (number,) = [n for n, folders in enumerate(FLOORS) if folder(module) in folders]
    return number


def too_high(module: str, names: Mapping[str, int]) -> list[str]:
    """The imports of a module that do not fall downwards, each in a sentence."""
    return [
        f"{module}, line {line}, imports {name} of floor {floor(name)}; its own floor is {floor(module)}"
        for name, line in names.items()
        if folder(name) != folder(module) and floor(name) >= floor(module)
    ]


def test_every_folder_has_a_floor() -> None:
    """A new folder gets its place in FLOORS, and none is there twice or is gone."""
    assert {folder(module) for module in MODULES} == set().union(*FLOORS)
    assert sum(len(folders) for folders in FLOORS) == len(set().union(*FLOORS))


@pytest.mark.parametrize("module", MODULES)
def test_imports_fall_downwards(module: str) -> None:
    """A module builds on what lies below its floor, in its functions and by strings too."""
    assert too_high(module, MODULES[module]) == []


@pytest.mark.parametrize("place", ONLY)
def test_some_modules_import_less_than_their_floor(place: str) -> None:
    """The socket's server knows no operation, and the example imports what every user's reports may."""
    wrong = [
        f"{module}, line {line}, imports {name}"
        for module, names in MODULES.items()
        if module == place or module.startswith(f"{place}.")
        for name, line in names.items()
        if folder(name) not in ONLY[place] and not beside(module, name)
    ]
    assert wrong == []
    assert not beside("holdfast_flights.load", "holdfast.links.postgres")
    assert not beside("holdfast_flights.daily", "holdfast.links.postgres_connect")


def test_what_may_be_imported_beside_is_imported() -> None:
    """An exception is there as long as it is needed, and no longer."""
    assert {(module, name) for module, name in BESIDE if name not in MODULES[module]} == set()


def beside(module: str, name: str) -> bool:
    """Whether a module may import that name beside ONLY: a module of BESIDE, or what is in it."""
    return any(module == importer and f"{name}.".startswith(f"{other}.") for importer, other in BESIDE)


def test_a_wrong_import_is_named() -> None:
    """The message of a failure has the module, the line, the import and both floors."""
    assert too_high("holdfast.links.state", imported("\nfrom holdfast.cache import store\n")) == [
        "holdfast.links.state, line 2, imports holdfast.cache of floor 3; its own floor is 2",
        "holdfast.links.state, line 2, imports holdfast.cache.store of floor 3; its own floor is 2",
    ]
    assert too_high("holdfast.rpc.client", imported("from holdfast.supervisor import main")) != []
    assert too_high("holdfast_workers.tasks", imported("import holdfast_gateway.app")) != []
    assert too_high("holdfast.rpc.client", imported("from holdfast.cache import entry")) == []


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """The modules of a circle of imports, the first one again at the end; none where there is no circle."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_no_module_is_in_an_import_circle() -> None:
    """Imports at the top of modules end somewhere; those for type checkers alone do not count."""
    graph = {module: {name for name in _loaded_by(module) if name in MODULES} for module in MODULES}
    assert sum(len(names) for names in graph.values()) > 100
    assert circle(graph) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) in (["b", "c", "b"], ["c", "b", "c"])


def test_an_import_is_seen_wherever_it_stands() -> None:
    """The rule cannot be got round by importing within a function, by a part, or by a string."""
    source = (
        "import a.b\n"
        "def f():\n"
        "    from c import d\n"
        "    importlib.import_module('e.f')\n"
        "    return __import__('g')\n"
    )
    assert imported(source) == {"a.b": 1, "c": 3, "c.d": 3, "e.f": 4, "g": 5}
    assert "holdfast.cache.refresh" in MODULES["holdfast_workers.tasks"]


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
    assert [
        name for name in ("platform", "workers", "gateway") if (ROOT / name / "__init__.py").exists()
    ] == []
    script = "import platform; print(platform.__file__, platform.python_implementation())"
    path, implementation = run(script).split()
    assert not Path(path).is_relative_to(ROOT / "platform")
    assert implementation == sys.implementation.name.replace("cpython", "CPython")
