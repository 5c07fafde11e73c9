"""The access file on disk, on real files and a clock that the tests turn."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogEvent, capturedLogs, formatEvent

from restmq.acl_file import ASSETS, LOOK_SECONDS, SETTLE_SECONDS, AclFile, find
from restmq.errors import BadAcl
from restmq.rules.acl import Access, Acl, Decision

CLOSED = "[rest:producer]\nhosts_deny = all\n"
OPEN = "[rest:producer]\nhosts_allow = all\n"
BROKEN = "[rest:producer]\nhosts_deny = al\n"


def lines(events: Sequence[LogEvent]) -> list[tuple[str, str]]:
    return [(event["log_level"].name, formatEvent(event)) for event in events]


def replace(path: Path, text: str) -> None:
    """Save as most editors do: a new file under the old name."""
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.replace(path)


class Watched:
    """An access file with a service that watches it."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        path.write_text(text)
        self.clock = Clock()
        self.service = AclFile(self.clock, str(path))
        self.service.startService()

    def is_open(self) -> bool:
        decision = self.service.acl.decide(Access.PRODUCER, "127.0.0.1", None)
        return decision is Decision.ALLOW

    def look(self) -> None:
        """Let the time pass in which a change is found and has settled."""
        self.clock.advance(LOOK_SECONDS)
        self.clock.advance(SETTLE_SECONDS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "acl.conf"


@pytest.fixture
def closed(path: Path) -> Iterator[Watched]:
    """A file that denies everybody."""
    watched = Watched(path, CLOSED)
    yield watched
    if watched.service.running:
        watched.service.stopService()
    assert not watched.clock.getDelayedCalls()


# -- while it runs ------------------------------------------------------------------------


def test_new_rules_are_in_force_soon_after_the_file_changed(closed: Watched) -> None:
    """The original looked once, 60 s after its start, and hardly ever again."""
    closed.look()
    assert not closed.is_open()
    with capturedLogs() as events:
        closed.path.write_text(OPEN)
        closed.look()
        assert closed.is_open()
        closed.look()
    assert lines(events) == [("info", f"access rules of {closed.path} are now in force")]


def test_who_subscribed_is_given_the_rules_now_and_each_new_set(closed: Watched) -> None:
    given: list[Acl] = []
    closed.service.subscribe(given.append)
    first = closed.service.acl
    closed.path.write_text(BROKEN)
    closed.look()
    closed.path.write_text(OPEN)
    closed.look()
    assert given == [first, closed.service.acl]
    assert closed.is_open()


def test_an_editor_that_renames_a_new_file_into_place_is_noticed(closed: Watched) -> None:
    replace(closed.path, OPEN)
    closed.look()
    assert closed.is_open()
    replace(closed.path, CLOSED)
    closed.look()
    assert not closed.is_open()


def test_a_change_that_keeps_size_and_time_is_noticed(closed: Watched) -> None:
    """`cp -p` of another file of the same length, over the old one or in its place."""
    before = closed.path.stat()
    for save, hosts, is_open in ((replace, "10.", True), (Path.write_text, "all", False)):
        save(closed.path, CLOSED.replace("all", hosts))
        os.utime(closed.path, ns=(before.st_atime_ns, before.st_mtime_ns))
        closed.look()
        assert closed.is_open() == is_open


def test_a_file_in_the_middle_of_being_written_is_not_read(closed: Watched) -> None:
    """An emptied file allows everything; nobody may slip in until the rest is written."""
    with capturedLogs() as events:
        closed.path.write_text("")
        closed.clock.advance(LOOK_SECONDS)
        closed.path.write_text(CLOSED + "# and more")
        closed.clock.advance(SETTLE_SECONDS)
        assert not events
        closed.clock.advance(SETTLE_SECONDS)
    assert [level for level, _ in lines(events)] == ["info"]
    assert not closed.is_open()


def test_a_broken_file_leaves_the_old_rules_and_one_warning(closed: Watched) -> None:
    with capturedLogs() as events:
        closed.path.write_text(BROKEN)
        for _ in range(5):
            closed.look()
    assert not closed.is_open()
    ((level, text),) = lines(events)
    assert level == "warn"
    assert text.startswith(f"access file {closed.path}, line 2, [rest:producer] hosts_deny: 'al' ")
    assert text.endswith("; the rules read before it changed stay in force")


def test_each_change_that_is_still_broken_warns_again_and_the_mended_one_says_so(
    closed: Watched,
) -> None:
    with capturedLogs() as events:
        for text in (BROKEN, BROKEN + "# hm\n", OPEN):
            closed.path.write_text(text)
            closed.look()
    assert [level for level, _ in lines(events)] == ["warn", "warn", "info"]
    assert closed.is_open()


def test_a_file_that_goes_away_leaves_the_old_rules(closed: Watched) -> None:
    with capturedLogs() as events:
        closed.path.unlink()
        closed.look()
        closed.look()
    assert not closed.is_open()
    ((level, text),) = lines(events)
    assert (level, "No such file" in text) == ("warn", True)


def test_a_file_that_comes_back_as_it_was_is_said_to_be_in_force(closed: Watched) -> None:
    """After a warning the operator wants to see that all is well again."""
    closed.path.unlink()
    closed.look()
    with capturedLogs() as events:
        closed.path.write_text(CLOSED)
        closed.look()
    assert [level for level, _ in lines(events)] == ["info"]


def test_a_touched_file_with_the_same_rules_is_no_news(closed: Watched) -> None:
    with capturedLogs() as events:
        os.utime(closed.path, (1, 1))
        closed.look()
    assert events == []


def test_a_file_replaced_by_something_else_leaves_the_old_rules(closed: Watched) -> None:
    """Opening a pipe would stop the broker; a folder has nothing to read."""
    with capturedLogs() as events:
        closed.path.unlink()
        os.mkfifo(closed.path)
        closed.look()
        closed.path.unlink()
        closed.path.mkdir()
        closed.look()
        closed.path.rmdir()
        closed.path.write_bytes(b"\xff\xfe[\0")
        closed.look()
    assert [level for level, _ in lines(events)] == ["warn"] * 3
    assert "is not UTF-8 text" in lines(events)[2][1]
    assert not closed.is_open()


def test_a_file_that_restricts_nothing_is_a_broken_one_where_others_can_come_in(
    closed: Watched,
) -> None:
    """A disk that is full empties the file; that must not open the broker to the world."""
    closed.service.must_restrict = True
    with capturedLogs() as events:
        closed.path.write_text("")
        closed.look()
        assert not closed.is_open()
        closed.path.write_text("[rest:producer]\nhosts_allow = 127.0.0.1\n")
        closed.look()
    assert closed.is_open()
    (level, text), (mended, _) = lines(events)
    assert (level, mended) == ("warn", "info")
    assert text.startswith(f"access file {closed.path} restricts nobody, and other machines can ")
    assert "--open" in text


def test_a_link_to_another_file_is_followed(closed: Watched, tmp_path: Path) -> None:
    """Mounted secrets and config maps are links that are turned to a new folder."""
    new = tmp_path / "new"
    new.write_text(OPEN)
    closed.path.unlink()
    closed.path.symlink_to(new)
    closed.look()
    assert closed.is_open()
    new.write_text(CLOSED)
    closed.look()
    assert not closed.is_open()


def test_a_stopped_service_looks_no_more(closed: Watched) -> None:
    closed.path.write_text(OPEN)
    closed.clock.advance(LOOK_SECONDS)
    closed.service.stopService()
    closed.clock.advance(100)
    assert not closed.is_open()
    closed.service.startService()
    closed.look()
    assert closed.is_open()


def test_rules_without_effect_are_warned_of_at_the_start_and_at_a_change(path: Path) -> None:
    with capturedLogs() as events:
        text = "[rest:producer]\nhosts_allow = 10.0.0.0/8\nhosts_deny = 10.6.6.6\n"
        watched = Watched(path, text)
        assert [level for level, _ in lines(events)] == ["warn"]
        path.write_text(text + "# again")
        watched.look()
        assert [level for level, _ in lines(events)] == ["warn", "info", "warn"]
        watched.service.stopService()


# -- at the start -------------------------------------------------------------------------


def refused(name: str) -> str:
    with pytest.raises(BadAcl) as caught:
        AclFile(Clock(), name)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_broken_file_at_the_start_is_an_error(path: Path) -> None:
    path.write_text(BROKEN)
    assert refused(str(path)).startswith(f"access file {path}, line 2, [rest:producer] hosts_deny:")


def test_a_missing_file_at_the_start_is_an_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = refused(str(path))
    assert text == (
        f"can't read access file {path}: No such file or directory; mend that or change --acl"
    )
    monkeypatch.chdir(path.parent)
    text = refused("nowhere.conf")
    assert text == f"no access file 'nowhere.conf' in {path.parent}; give --acl the path of one"


def test_a_folder_or_pipe_at_the_start_is_an_error(path: Path) -> None:
    assert "is not a file" in refused(str(path.parent))
    os.mkfifo(path)
    assert "is not a file" in refused(str(path))


def test_an_unreadable_file_at_the_start_is_an_error(path: Path) -> None:
    path.write_text(OPEN)
    path.chmod(0)
    with no_privileges():
        assert "Permission denied" in refused(str(path))


@contextmanager
def no_privileges() -> Iterator[None]:
    """Root may read everything, so it steps down for a moment."""
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_file_that_is_not_utf8_at_the_start_is_an_error(path: Path) -> None:
    path.write_bytes(b"[rest:producer]\nusername = \xe9\npassword = x\n")
    assert "is not UTF-8 text; save it as UTF-8" in refused(str(path))


def test_a_name_is_a_path_or_else_a_file_we_ship(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the original, whose default was `acl.conf`."""
    monkeypatch.chdir(path.parent)
    assert find("acl.conf") == ASSETS / "acl.conf"
    path.write_text(CLOSED)
    assert find("acl.conf") == path
    monkeypatch.chdir("/")
    assert find(str(path)) == path


def test_no_name_means_the_file_we_ship_which_allows_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    service = AclFile(Clock(), None)
    assert service.path == ASSETS / "acl.conf"
    assert not service.acl.restricts_anything


def test_a_relative_path_stays_the_same_file_when_the_daemon_moves(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twistd changes its folder after it has read its options."""
    monkeypatch.chdir(path.parent)
    path.write_text(CLOSED)
    clock = Clock()
    service = AclFile(clock, "acl.conf")
    monkeypatch.chdir("/")
    service.startService()
    path.write_text(OPEN)
    clock.advance(LOOK_SECONDS)
    clock.advance(SETTLE_SECONDS)
    service.stopService()
    assert not service.acl.restricts_anything


# -- the file we ship ---------------------------------------------------------------------


def test_the_acl_conf_at_the_top_is_the_one_we_ship() -> None:
    top = Path(__file__).resolve().parents[1] / "acl.conf"
    assert top.read_text() == (ASSETS / "acl.conf").read_text()


def test_every_example_in_the_shipped_file_is_right(path: Path) -> None:
    """Taking the `#` from a line must give a rule, not a mistake."""
    shipped = (ASSETS / "acl.conf").read_text()
    path.write_text(
        "\n".join(line.removeprefix("#") for line in shipped.split("\n") if line[1:2] != " ")
    )
    acl = AclFile(Clock(), str(path)).acl
    assert acl.restricts_anything
    assert acl.decide(Access.WEBSOCKET, "127.0.0.1", None) is Decision.DENIED_ADDRESS
    assert acl.decide(Access.COMET, "192.168.7.9", None) is Decision.DENIED_ADDRESS
    assert acl.decide(Access.CONSUMER, "192.168.0.9", None) is Decision.NEEDS_PASSWORD
