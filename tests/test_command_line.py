"""``restmq`` and its subcommands, as far as they are the same for all."""

from __future__ import annotations

import subprocess
import sys

import pytest

from restmq import __version__, command_line


def leave(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as left:
        command_line.main(arguments)
    return left.value.code


def test_it_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave("--version") == 0
    assert capsys.readouterr().out == f"restmq {__version__}\n"


def test_help_lists_every_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave("--help") == 0
    shown = capsys.readouterr().out
    assert all(command.name in shown for command in command_line.COMMANDS)


@pytest.mark.parametrize("command", command_line.COMMANDS, ids=lambda command: command.name)
def test_every_subcommand_has_help(
    command: command_line.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave(command.name, "--help") == 0
    assert f"usage: restmq {command.name}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [(), ("dance",), ("import-legacy",)])
def test_a_line_without_sense_is_2(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave(*arguments) == 2
    assert "usage: restmq" in capsys.readouterr().err


def test_without_the_libraries_it_says_what_to_install() -> None:
    """Pip install restmq alone brings the client; the command must not end in a traceback."""
    hide = "import sys; sys.modules['hiredis'] = None; from restmq import command_line; "
    done = subprocess.run(
        [sys.executable, "-c", f"{hide}command_line.main(['import-legacy', '--help'])"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("restmq: the library hiredis is not installed")
