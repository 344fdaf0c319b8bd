"""The command line as a whole: which commands there are, what they load, and how they end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import holdfast
from holdfast.cli.app import app, main
from holdfast.processes.programs import PROGRAMS
from holdfast.settings import JwtSettings
from holdfast.tokens import verify

COMMANDS = {
    *("up", "supervisor", "worker", "beat", "flower", "gateway", "load"),
    *("warm", "status", "check", "query", "new", "init", "reports", "runs", "token"),
}
SECRET = "a-secret-of-more-than-32-characters"


def test_every_command_is_listed_with_what_it_does() -> None:
    """`holdfast --help` names every command, each with a sentence."""
    shown = CliRunner().invoke(app, ["--help"]).output
    listed = [line.split(maxsplit=1) for line in shown.partition("Commands:")[2].splitlines() if line.strip()]
    assert {line[0] for line in listed} == COMMANDS
    assert all(len(line) == 2 for line in listed)


def test_the_version_is_shown() -> None:
    """`holdfast --version` prints the name and the version, and nothing else."""
    shown = CliRunner().invoke(app, ["--version"])
    assert shown.exit_code == 0
    assert shown.output == f"holdfast {holdfast.__version__}\n"


def test_the_command_line_loads_nothing_that_a_command_does_not_use() -> None:
    """A command that becomes another program loads neither settings nor tables nor any report before."""
    script = "import sys, holdfast.cli.app; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "typer" in loaded
    assert loaded & {"pydantic", "rich", "redis", "msgspec", "sqlalchemy", "celery", "beanie"} == set()


def test_every_program_is_a_module_of_python() -> None:
    """A program is started as a module, so that it needs no script on the PATH."""
    assert {arguments[0] for arguments in PROGRAMS.values()} == {"-m"}


def test_a_wrong_setting_ends_a_command_with_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command whose settings are wrong ends with status 2 and one line that names the variable."""
    monkeypatch.setattr(sys, "argv", ["holdfast", "token"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("JWT_SECRET: ")


def test_a_token_carries_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """`holdfast token` prints a token of that subject, scope and claims, which the gateway accepts."""
    monkeypatch.setenv("JWT_SECRET", SECRET)
    shown = CliRunner().invoke(app, ["token", "ada", "--scope", "a b", "--claim", "tenant=north"])
    claims = verify(shown.output.strip(), JwtSettings.load())
    assert (claims["sub"], claims["scope"], claims["tenant"]) == ("ada", "a b", "north")


@pytest.mark.parametrize("claim", ["tenant", "=north"])
def test_a_claim_needs_a_name_and_a_value(claim: str) -> None:
    """A claim that is not name=value is refused, with what was given."""
    shown = CliRunner().invoke(app, ["token", "--claim", claim])
    assert shown.exit_code == 2
    assert f"{claim!r} is not name=value" in shown.output


@pytest.mark.parametrize("command", [[], *([name] for name in sorted(COMMANDS))])
def test_help_is_short_too(command: list[str]) -> None:
    """`-h` shows the same as `--help`, of the program and of each command."""
    short, long = (CliRunner().invoke(app, [*command, option]) for option in ("-h", "--help"))
    assert (short.exit_code, short.output) == (0, long.output)
    assert "Usage:" in short.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_commands_are_completed(shell: str) -> None:
    """Each shell is given the commands that begin with what was typed, and options with what they do."""
    assert "status" in completed(shell, "sta")
    assert "--missing" in completed(shell, "warm", "--m")


def completed(shell: str, *words: str) -> str:
    """What the program prints when that shell asks for completions."""
    line = " ".join(["holdfast", *words])
    asked = {
        "_HOLDFAST_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words)),
    }
    script = (
        "import sys; sys.argv = ['holdfast']; from holdfast.cli.app import app; app(prog_name='holdfast')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


@pytest.mark.parametrize("options", [[], ["-P"], ["-I"]], ids=["plain", "safe path", "isolated"])
def test_a_report_of_the_working_directory_is_found(tmp_path: Path, options: list[str]) -> None:
    """Whatever Python was told about its path, a module here is found, and before an installed one."""
    (tmp_path / "typer.py").write_text("HERE = True\n")
    script = (
        "from holdfast.processes.paths import find_modules_here as f; f(); f(); import sys, typer;"
        "print(typer.HERE, sys.path.count(sys.path[0]))"
    )
    done = subprocess.run(
        [sys.executable, *options, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "True 1\n"
