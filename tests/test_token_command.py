"""``restmq token``: what is added counts, what is listed is no secret, what is revoked is gone."""

from __future__ import annotations

import io
import re

import pytest

from restmq import command_line
from restmq.core.tokens import digest_of


@pytest.fixture
def run(valkey, capsys, monkeypatch):
    """``run("add", "--name", "x")`` gives exit code, output and errors."""

    def run(action: str, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as left:
            command_line.main(["token", action, *arguments, "--redis-url", valkey.url])
        code = left.value.code
        assert isinstance(code, int)
        return (code, *capsys.readouterr())

    return run


def stored(valkey) -> dict[bytes, bytes]:
    with valkey.client() as client:
        return client.hgetall("restmq:tokens")


def test_an_added_token_is_printed_once_and_stored_as_its_digest(run, valkey):
    code, token, _ = run("add", "--name", "agents")
    assert code == 0
    token = token.strip()
    assert list(stored(valkey)) == [digest_of(token)]
    assert token.encode() not in b"".join(stored(valkey).values())


def test_a_token_of_the_old_server_is_taken_from_standard_input(run, valkey):
    """On the command line every user of the machine could read it."""
    assert run("add", "--stdin", stdin="an old one\n")[:2] == (0, "an old one\n")
    assert list(stored(valkey)) == [digest_of("an old one")]


@pytest.mark.parametrize("line", ["", "\n", " padded\n", "é\n", "a\tb\n"])
def test_what_no_header_can_hold_is_no_token(run, valkey, line):
    code, out, error = run("add", "--stdin", stdin=line)
    assert (code, out) == (1, "")
    assert error.startswith("restmq token: a token is one line")
    assert not stored(valkey)


def test_the_list_shows_ids_times_and_names(run):
    first, second = (run("add", "--name", name)[1].strip() for name in ("agents", "é"))
    code, listed, _ = run("list")
    assert code == 0
    lines = [
        rf"{digest_of(token)[:12].decode()}  \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\dZ  {name}\n"
        for token, name in ((first, "agents"), (second, "é"))
    ]
    assert re.fullmatch("".join(lines), listed)


def test_tokens_are_revoked_by_id_or_name(run, valkey):
    one, other, third = (run("add", "--name", name)[1].strip() for name in ("x", "x", "y"))
    assert run("revoke", "x") == (0, "", "")
    assert list(stored(valkey)) == [digest_of(third)]
    assert run("revoke", digest_of(third)[:12].decode(), "absent", "") == (
        1,
        "",
        "restmq token: there is no token absent\nrestmq token: there is no token \n",
    )
    assert not stored(valkey)
    assert len({one, other, third}) == 3


def test_without_a_store_it_is_one_line(capsys, tmp_path):
    arguments = ["token", "list", "--redis-url", f"unix://{tmp_path}/absent"]
    with pytest.raises(SystemExit) as left:
        command_line.main(arguments)
    assert left.value.code == 1
    assert re.fullmatch("restmq token: nothing answers at .*\n", capsys.readouterr().err)
