"""The command line of a slim install: one line says which extra is missing, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from tests.support.environment import environment_without_settings

from holdfast.cli import extras
from holdfast.cli.app import app
from holdfast.errors import LocalError

ROOT = Path(__file__).parents[2]
SLIM = """
import sys

HEAVY = set(sys.argv[1].split(","))

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Block())
sys.argv = ["holdfast", *sys.argv[2:]]
from holdfast.cli.app import main
main()
"""
HEAVY = {module for extra, modules in extras._MODULES.items() if extra != "gateway" for module in modules}


def slim(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `holdfast …` where only the extra `gateway` can be imported."""
    return subprocess.run(
        [sys.executable, "-c", SLIM, ",".join(sorted(HEAVY)), *arguments],
        env={
            **environment_without_settings(),
            "HOLDFAST_HOME": str(folder),
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        },
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(("command", "extra"), [("check", "supervisor"), ("up", "all")])
def test_a_command_says_which_extra_it_needs(tmp_path: Path, command: str, extra: str) -> None:
    """Where a package is missing, a command ends with one line that says what to install."""
    ran = slim(tmp_path, command)
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert len(ran.stderr.splitlines()) == 1
    assert f"pip install 'holdfast[{extra}]'" in ran.stderr


@pytest.mark.parametrize("command", ["status", "runs"])
def test_other_commands_work_without(tmp_path: Path, command: str) -> None:
    """What needs no further package works in a slim install, or says what else is wrong, in one line."""
    ran = slim(tmp_path, command)
    assert "pip install" not in ran.stderr
    assert "Traceback" not in ran.stderr
    assert len((ran.stdout + ran.stderr).splitlines()) == 1


def test_help_is_always_there(tmp_path: Path) -> None:
    """The help of a command needs no extra."""
    assert slim(tmp_path, "up", "--help").returncode == 0


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("check", "supervisor"),
        ("query", "supervisor"),
        ("supervisor", "supervisor"),
        ("worker", "worker"),
        ("beat", "worker"),
        ("flower", "worker"),
        ("warm", "worker"),
        ("load", "demo"),
        ("gateway", "gateway"),
        ("token", "gateway"),
        ("up", "all"),
    ],
)
def test_each_command_names_its_extra(command: str, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing installed, every command names the extra that it needs."""
    for extra in extras._MODULES:
        monkeypatch.setitem(extras._MODULES, extra, ("no_such_module",))
    with pytest.raises(LocalError, match=rf"^holdfast {command} needs .*holdfast\[{wanted}\]"):
        extras.check_extras(command)
    extras.check_extras(command, ["holdfast", command, "--help"])


def test_every_command_is_looked_after() -> None:
    """Two commands need no extra; with everything installed no command lacks one."""
    commands = {
        command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands
    }
    assert {"status", "runs"} <= commands - extras.NEEDS.keys()
    assert not [command for command in commands if extras.missing_extras(command)]


@pytest.mark.parametrize("extra", sorted(extras._MODULES))
def test_the_modules_are_those_of_the_extra(extra: str) -> None:
    """Each module that is looked for is installed by that extra of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = " ".join(project["optional-dependencies"][extra]).lower()
    for module in extras._MODULES[extra]:
        names = [name.lower() for name in packages_distributions()[module]]
        assert [name for name in names if name in wanted], module
