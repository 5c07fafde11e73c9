"""Settings: one table, four places, and one line when something is wrong."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from restmq.rules.exposure import check_exposure, exposed
from restmq.rules.retention import MAX_RULES, Retention, parse_rule
from restmq.settings import (
    BY_NAME,
    LOOPBACK,
    OPTIONS,
    ConfigError,
    Configuration,
    Settings,
    data_dir,
    load,
)
from restmq.store_address import StoreAddress, masked_url, parse_redis_url


def configure(
    arguments: Mapping[str, Sequence[str] | str] | None = None,
    environ: Mapping[str, str] | None = None,
    **files: str,
) -> Configuration:
    """Load with files that exist only here: ``toml="..."`` is the file ``toml``."""

    def read_text(path: str) -> str:
        if path not in files:
            raise FileNotFoundError(2, "No such file or directory", path)
        return files[path]

    words = {
        name: [texts] if isinstance(texts, str) else texts
        for name, texts in (arguments or {}).items()
    }
    if "toml" in files:
        words.setdefault("config", ["toml"])
    return load(words, {"HOME": "/home/ann", **(environ or {})}, read_text)


def settings(*args: Mapping[str, str], **files: str) -> Settings:
    return configure(*args, **files).settings


def refusal(*args: Mapping[str, str], **files: str) -> str:
    with pytest.raises(ConfigError) as caught:
        configure(*args, **files)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- the four places ------------------------------------------------------------------------------


def test_told_nothing_it_is_a_broker_for_this_machine_with_a_store_of_its_own() -> None:
    found = settings()
    assert found == Settings(data_dir=Path("/home/ann/.local/state/restmq"))
    assert found.listen == ("127.0.0.1", "::1")
    assert found.port == 8888
    assert found.embedded
    assert found.store_address is None


def test_the_option_wins_over_the_environment_that_over_the_file() -> None:
    """'I only wanted another port for this one run.'"""
    toml = "port = 3"
    environ = {"RESTMQ_PORT": "2"}
    assert settings({"port": "1"}, environ, toml=toml).port == 1
    assert settings({}, environ, toml=toml).port == 2
    assert settings({}, {}, toml=toml).port == 3
    assert settings().port == 8888


@given(st.lists(st.sampled_from(["option", "environment", "file"]), unique=True))
def test_whatever_is_given_the_highest_place_decides(places: list[str]) -> None:
    found = configure(
        {"port": "1"} if "option" in places else {},
        {"RESTMQ_PORT": "2"} if "environment" in places else {},
        toml="port = 3" if "file" in places else "",
    )
    expected = {"option": 1, "environment": 2, "file": 3}
    best = [place for place in expected if place in places][:1]
    assert found.settings.port == (expected[best[0]] if best else 8888)
    assert found.sources["port"].startswith(best[0] if best and best[0] != "file" else "") or best


def test_the_last_of_an_option_given_twice_counts() -> None:
    assert configure({"port": ["1", "2"]}).settings.port == 2


def test_repeatable_options_gather_and_replace_those_of_lower_places() -> None:
    assert configure({"listen": ["10.0.0.1", "[fd00::1]"]}).settings.listen == (
        "10.0.0.1",
        "fd00::1",
    )
    environ = {"RESTMQ_LISTEN": "127.0.0.1, unix:/run/restmq.sock:mode=660"}
    assert settings({}, environ).listen == ("127.0.0.1", "unix:/run/restmq.sock:mode=660")
    toml = 'listen = ["::1"]\nhost-name = "mq.example.org"'
    assert settings({}, environ, toml=toml).listen[0] == "127.0.0.1"
    assert settings({}, {}, toml=toml).host_names == ("mq.example.org",)


def test_an_empty_environment_variable_counts_as_not_given() -> None:
    """Compose files write RESTMQ_ACL= when they mean none."""
    assert settings({}, {"RESTMQ_ACL": "", "RESTMQ_PORT": ""}) == settings()


def test_the_environment_can_name_the_file() -> None:
    assert settings({}, {"RESTMQ_CONFIG": "other"}, other="jsonp = true").jsonp


def test_keys_may_be_written_with_underscores() -> None:
    assert settings(toml='redis_host = "store"').redis_host == "store"


@pytest.mark.parametrize("text", ["1", "true", "YES", "on"])
def test_a_flag_in_the_environment(text: str) -> None:
    assert settings({}, {"RESTMQ_OPEN": text}).open


def test_a_flag_in_a_high_place_can_turn_a_lower_one_off() -> None:
    assert not settings({}, {"RESTMQ_OPEN": "no"}, toml="open = true").open


def test_every_option_can_be_given_in_each_place() -> None:
    """The table is one: an option that one place knows, all know."""
    texts = {
        "acl": "a",
        "redis-host": "store",
        "redis-url": "redis://store",
        "redis-password": "p",
        "redis-prefix": "p:",
        "data-dir": "/d",
        "appendfsync": "always",
        "stream-slow": "latest",
        "listen": "::1",
        "host-name": "mq",
        "origin": "https://a",
        "jsonp": "true",
        "open": "true",
        "events-open": "true",
        "websocket-compression": "true",
        "syslog-listen": "::1",
        "syslog-queue": "hostname",
        "syslog-fields": "true",
        "events-retention": "log.**=60:1000:1MiB",
    }
    for option in OPTIONS:
        text = texts.get(option.name, "101")
        written = text if option.flag or option.number else f'"{text}"'
        places = (
            configure({option.name: [text]}),
            configure({}, {"RESTMQ_" + option.name.upper().replace("-", "_"): text}),
            configure(toml=f"{option.name} = {written}"),
        )
        assert len({found.settings for found in places}) == 1, option.name
        assert places[0].settings != settings(), option.name
        sources = [found.sources[option.name] for found in places]
        assert sources[0] == f"option --{option.name}"
        assert sources[1].startswith("environment variable RESTMQ_")
        assert sources[2] == f"{option.name} in toml"


def test_each_field_of_the_settings_has_its_option_and_default() -> None:
    assert {option.key for option in OPTIONS} == set(Settings.__dataclass_fields__)
    for option in OPTIONS:
        if option.default is not None and option.name != "data-dir":
            words = option.default if option.many else [str(option.default)]
            assert tuple(map(option.parse, words)) == (
                option.default if option.many else (option.default,)
            )


# -- secrets --------------------------------------------------------------------------------------


def test_a_secret_may_lie_in_a_file() -> None:
    environ = {"RESTMQ_REDIS_PASSWORD_FILE": "/run/secrets/redis"}
    found = configure({}, environ, **{"/run/secrets/redis": "s3cret\n"})
    assert found.settings.redis_password == "s3cret"
    assert found.sources["redis-password"] == "environment variable RESTMQ_REDIS_PASSWORD_FILE"
    assert settings({"redis-url-file": "u"}, u="redis://x:y@z\n").redis_url == "redis://x:y@z"
    assert settings(toml='redis-password-file = "p"', p="q").redis_password == "q"


def test_a_secret_file_in_a_high_place_wins_over_the_secret_itself_in_a_lower() -> None:
    found = settings({"redis-password-file": "p"}, {"RESTMQ_REDIS_PASSWORD": "low"}, p="high")
    assert found.redis_password == "high"


def test_a_secret_and_its_file_in_one_place_contradict() -> None:
    environ = {"RESTMQ_REDIS_PASSWORD": "a", "RESTMQ_REDIS_PASSWORD_FILE": "b"}
    line = refusal({}, environ, b="b")
    assert line == (
        "redis-password-file (environment variable RESTMQ_REDIS_PASSWORD_FILE): "
        "redis-password is given there, too"
    )


def test_no_secret_in_what_is_printed_or_logged() -> None:
    found = configure({"redis-url": "redis://ann:hunter2@store/1", "redis-prefix": "x"})
    assert "hunter2" not in found.describe() + repr(found) + str(found.settings.store_address)
    assert 'redis-url = "redis://ann:***@store/1"' in found.describe()
    assert "hunter2" not in repr(found.settings.store_address)
    described = configure({"redis-password": "hunter2"}).describe()
    assert 'redis-password = "***"' in described
    assert "hunter2" not in described


@given(st.text(string.ascii_letters + string.digits + "!$&'()*+,;=-._~%:", min_size=4))
def test_the_password_of_an_url_is_masked_whatever_it_is(password: str) -> None:
    masked = masked_url(f"redis://ann:{password}@store.example:6379/2")
    assert masked == "redis://ann:***@store.example:6379/2"


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:hunter2@h:port",
        "redis://u:hunter2@h/x",
        "http://u:hunter2@h",
        "redis://:hunter2#@h",
    ],
)
def test_a_wrong_url_is_not_printed_with_its_password(url: str) -> None:
    line = refusal({"redis-url": url})
    assert line.startswith("redis-url (option --redis-url): ")
    assert "hunter2" not in line


# -- the store ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", StoreAddress()),
        ("redis://store", StoreAddress(host="store")),
        ("redis://store:7000/3", StoreAddress(host="store", port=7000, db=3)),
        ("redis://store?db=3", StoreAddress(host="store", db=3)),
        ("rediss://u:p%40@store", StoreAddress(None, "store", 6379, True, "u", "p@")),
        ("redis://:p@[fd00::1]:1", StoreAddress(host="fd00::1", port=1, password="p")),
        ("unix:///run/redis.sock", StoreAddress("/run/redis.sock", "", 0)),
        ("unix://u:p@/a%20b?db=2", StoreAddress("/a b", "", 0, False, "u", "p", 2)),
    ],
)
def test_urls_of_stores(url: str, address: StoreAddress) -> None:
    assert parse_redis_url(url) == address
    found = settings({"redis-url": url})
    assert found.store_address == address
    assert not found.embedded


@pytest.mark.parametrize(
    "url",
    [
        "store:6379",
        "http://store",
        "redis://store:99999",
        "redis://store/one",
        "redis://store/1?db=2",
        "redis://store?timeout=5",
        "redis://store#1",
        "redis://[::1",
        "redis://a b",
        "unix://run/redis.sock",
        "unix://",
    ],
)
def test_urls_that_are_none(url: str) -> None:
    assert refusal({"redis-url": url}).startswith("redis-url (option --redis-url): ")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("redis-host", "127.0.0.1"),
        ("redis-port", "6379"),
        ("redis-pool", "10"),
        ("redis-db", "0"),
        ("redis-password", "x"),
    ],
)
def test_with_any_redis_option_the_store_is_the_one_outside(name: str, text: str) -> None:
    """`twistd restmq --redis-port=6379` meant the Redis of this machine for ten years."""
    found = settings({name: text})
    assert not found.embedded
    assert found.store_address is not None
    assert found.store_address.host in ("localhost", "127.0.0.1")


def test_a_prefix_names_no_store() -> None:
    assert settings({"redis-prefix": "a:"}).embedded


def test_password_and_database_complete_an_url() -> None:
    found = settings({"redis-url": "redis://store", "redis-db": "4", "redis-password": "p"})
    assert found.store_address == StoreAddress(host="store", password="p", db=4)


@pytest.mark.parametrize(
    ("url", "name", "text"),
    [
        ("redis://a", "redis-host", "b"),
        ("redis://a", "redis-port", "1"),
        ("redis://a/1", "redis-db", "2"),
        ("redis://:p@a", "redis-password", "q"),
    ],
)
def test_two_options_that_contradict_are_refused(url: str, name: str, text: str) -> None:
    variable = "RESTMQ_" + name.upper().replace("-", "_")
    assert refusal({"redis-url": url}, {variable: text}) == (
        f"{name} (environment variable {variable}): redis-url (option --redis-url) says it, too"
    )


def test_the_data_folder_of_a_user_who_named_none() -> None:
    assert data_dir({"XDG_STATE_HOME": "/s", "HOME": "/h"}) == Path("/s/restmq")
    assert data_dir({"XDG_STATE_HOME": "relative", "HOME": "/h"}) == Path("/h/.local/state/restmq")
    assert data_dir({}) == Path("/var/lib/restmq")


# -- wrong values ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("port", "eighty"),
        ("port", "65536"),
        ("port", "-1"),
        ("port", "١"),
        ("port", "1e3"),
        ("redis-port", "0"),
        ("redis-pool", "0"),
        ("redis-db", "one"),
        ("redis-host", "a b"),
        ("redis-host", "-a"),
        ("redis-prefix", "{a}"),
        ("redis-prefix", "a\nb"),
        ("redis-password", ""),
        ("acl", ""),
        ("data-dir", ""),
        ("data-dir", "a\0b"),
        ("appendfsync", "sometimes"),
        ("max-message-bytes", "0"),
        ("max-message-bytes", "1 MB"),
        ("max-message-bytes", "2GiB"),
        ("idle-timeout", "0"),
        ("idle-timeout", "nan"),
        ("idle-timeout", "inf"),
        ("max-connections", "0"),
        ("listen", "0.0.0.0:80"),
        ("listen", ""),
        ("listen", "a/b"),
        ("listen", "tcp:"),
        ("host-name", "https://a"),
        ("origin", "example.org"),
        ("origin", "https://a/"),
        ("events-age", "0"),
        ("events-age", "31622401"),
        ("events-retention", "a"),
        ("events-retention", "a=31622401"),
        ("events-retention", "a=1:1:262144GiB"),
        ("events-retention", "a" * 256 + "=1"),
        ("events-retention", "\x80=1"),
        ("events-age", "nan"),
        ("events-short-age", "1e9"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_option_and_its_place(
    name: str, text: str
) -> None:
    assert refusal({name: text}).startswith(f"{name} (option --{name}): ")
    variable = "RESTMQ_" + name.upper().replace("-", "_")
    if text:
        line = refusal({}, {variable: text})
        assert line.startswith(f"{name} (environment variable {variable}): ")


def test_events_may_be_kept_for_a_year() -> None:
    assert configure({"events-age": "31622400"}).settings.events_age == 366 * 86400


def test_a_rule_of_retention_too_many_is_one_line() -> None:
    rules = [f"log.{number}=60" for number in range(MAX_RULES + 1)]
    assert refusal({"events-retention": rules}) == (
        "events-retention (option --events-retention): at most 14 rules, these are 15"
    )
    assert configure({"events-retention": rules[1:]}).settings.events_retention == tuple(rules[1:])


@given(st.lists(st.text("a.*#/=:0159KiMGB \x80é", max_size=24), max_size=3))
@example(["a=31622400:999999999999:1024GiB"])
@example([f"{'é' * 127}=0.001:0:0"])
@example([".".join("*" * 32) + "=5"])
def test_rules_of_retention_that_are_taken_can_be_kept(rules: list[str]) -> None:
    """What the daemon starts with must not fail it later, when it makes the log."""
    try:
        taken = configure({"events-retention": rules}).settings.events_retention
    except ConfigError:
        return
    limits = Retention(rules=[parse_rule(rule) for rule in taken]).limits
    assert all(0 <= number < 1 << 48 for each in limits for number in each)


@pytest.mark.parametrize(
    "toml",
    [
        "port = true",
        "port = 1.5",
        "port = [1]",
        "open = 1",
        'open = "true"',
        "acl = 5",
        "acl = 1979-05-27",
        "listen = [1]",
        "listen = []",
        "idle-timeout = {}",
    ],
)
def test_a_wrong_type_in_the_file_is_one_line(toml: str) -> None:
    name = toml.partition(" =")[0]
    assert refusal(toml=toml).startswith((f"{name} ({name} in toml): ", f"{name} ({name} in toml)"))


def test_an_unknown_key_in_the_file_is_an_error() -> None:
    assert refusal(toml="prot = 1") == (
        "prot in toml: there is no option 'prot'; restmqd --help lists them"
    )
    assert "in toml: there is no option 'restmq'" in refusal(toml="[restmq]\nport = 1")
    assert refusal(toml="redis-db = 1\nredis_db = 2") == "redis_db in toml: it is there twice"


def test_a_file_that_can_not_be_read_or_understood() -> None:
    assert refusal({"config": "gone"}) == (
        "config (option --config): can't read 'gone': No such file or directory"
    )
    assert refusal({}, {"RESTMQ_REDIS_URL_FILE": "gone"}).startswith(
        "redis-url-file (environment variable RESTMQ_REDIS_URL_FILE): can't read 'gone'"
    )
    assert refusal(toml="port = ").startswith("config (option --config): 'toml' is not TOML: ")


def test_a_file_that_is_not_utf8() -> None:
    def read_text(_path: str) -> str:
        return b"\xff".decode("utf-8")

    with pytest.raises(ConfigError, match="can't read 'c': it is not UTF-8"):
        load({"config": ["c"]}, {}, read_text)


@given(st.sampled_from(sorted(BY_NAME)), st.text())
def test_any_text_is_a_value_or_one_line(name: str, text: str) -> None:
    """No operator ever sees a traceback, whatever they typed."""
    line = complaint({name: [text]})
    assert line is None or name in line


@given(st.text())
def test_any_file_is_settings_or_one_line(text: str) -> None:
    complaint(toml=text)


def complaint(*args: Mapping[str, Sequence[str]], **files: str) -> str | None:
    """The one line of a refusal, or None."""
    line = None
    try:
        configure(*args, **files)
    except ConfigError as error:
        line = str(error)
    assert line is None or len(line.splitlines()) == 1
    return line


@pytest.mark.parametrize(
    ("text", "size"), [("4096", 4096), ("64KiB", 65536), ("2 MiB", 2 << 20), ("1", 1)]
)
def test_sizes_may_have_units(text: str, size: int) -> None:
    assert settings({"max-message-bytes": text}).max_message_bytes == size


# -- print-config ---------------------------------------------------------------------------------


def test_print_config_shows_each_value_and_where_it_came_from() -> None:
    found = configure(
        {"listen": ["::1", 'unix:/a"b']},
        {"RESTMQ_JSONP": "1", "RESTMQ_REDIS_URL": "rediss://u:p@h"},
        toml="port = 9000",
    )
    assert found.describe().splitlines()[1:] == [
        "# acl is not set                                 # default",
        "# redis-host is not set                          # default",
        "redis-port = 6379                                # default",
        "redis-pool = 10                                  # default",
        "redis-db = 0                                     # default",
        'redis-url = "rediss://u:***@h"                   # environment variable RESTMQ_REDIS_URL',
        "# redis-password is not set                      # default",
        'redis-prefix = "restmq:"                         # default',
        'data-dir = "/home/ann/.local/state/restmq"       # default',
        'appendfsync = "everysec"                         # default',
        "max-message-bytes = 1048576                      # default",
        "port = 9000                                      # port in toml",
        'listen = ["::1", "unix:/a\\"b"]                   # option --listen',
        "host-name = []                                   # default",
        "origin = []                                      # default",
        "jsonp = true                                     # environment variable RESTMQ_JSONP",
        "open = false                                     # default",
        "events-open = false                              # default",
        "idle-timeout = 75.0                              # default",
        "max-request-line = 16384                         # default",
        "max-header-line = 16384                          # default",
        "max-header-bytes = 32768                         # default",
        "max-headers = 100                                # default",
        "max-connections = 10000                          # default",
        "max-websocket-message = 1048576                  # default",
        'stream-slow = "drop-oldest"                      # default',
        "stream-buffer = 1000                             # default",
        "stream-buffer-bytes = 1048576                    # default",
        "max-stream-buffer = 10000                        # default",
        "max-stream-buffer-bytes = 16777216               # default",
        "heartbeat = 15.0                                 # default",
        "lease = 30.0                                     # default",
        "max-lease = 43200.0                              # default",
        "max-batch = 10000                                # default",
        "max-batch-bytes = 16777216                       # default",
        "max-receive = 1000                               # default",
        "max-wait = 50.0                                  # default",
        "max-user-headers = 32                            # default",
        "max-user-header-bytes = 8192                     # default",
        "max-queues = 100000                              # default",
        "max-profiles = 1000                              # default",
        "websocket-compression = false                    # default",
        "syslog-port = 25000                              # default",
        "syslog-listen = []                               # default",
        'syslog-queue = "address"                         # default',
        "syslog-fields = false                            # default",
        "stop-timeout = 10.0                              # default",
        "processes = 1                                    # default",
        "events-age = 86400.0                             # default",
        "events-count = 100000                            # default",
        "events-bytes = 268435456                         # default",
        "events-short-age = 120.0                         # default",
        "events-retention = []                            # default",
    ]


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "acl": st.text(min_size=1),
            "data-dir": st.text(min_size=1),
            "redis-prefix": st.text(),
            "port": st.integers(0, 65535).map(str),
            "idle-timeout": st.floats(0.001, 86400).map(str),
            "listen": st.lists(
                st.sampled_from(["::1", "10.0.0.1", "unix:/a", "ssl:1:privateKey=a"]), min_size=1
            ),
            "open": st.just("true"),
        },
    )
)
def test_what_print_config_prints_is_a_file_with_the_same_settings(
    arguments: dict[str, str | list[str]],
) -> None:
    """'I saved the output as restmq.toml.'"""
    try:
        found = configure(arguments)
    except ConfigError:
        return
    lines = [
        line
        for line in found.describe().splitlines()
        if "redis-" not in line or "redis-prefix" in line
    ]
    assert configure(toml="\n".join(lines)).settings == found.settings


# -- who can reach it -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    [
        *LOOPBACK,
        "127.8.0.1",
        "localhost",
        "unix:/run/restmq.sock",
        "unix:/run/restmq.sock:mode=660",
        "tcp:80:interface=127.0.0.1",
        "tcp:interface=127.0.0.1:port=80",
        "tcp6:80:interface=\\:\\:1",
        "ssl:443:privateKey=k:interface=127.0.0.1",
        "haproxy:tcp:80:interface=127.0.0.1",
    ],
)
def test_places_only_this_machine_can_reach(place: str) -> None:
    assert exposed([place]) == []


@pytest.mark.parametrize(
    "place",
    [
        "0.0.0.0",
        "::",
        "10.0.0.1",
        "mq.example.org",
        "localhost.example.org",
        "tcp:80",
        "tcp6:80",
        "tcp:80:interface=0.0.0.0",
        "tcp:80:interface=",
        "ssl:443:privateKey=interface=127.0.0.1",
        "ssl:443:privateKey=k\\:interface=127.0.0.1",
        "systemd:domain=INET:index=0",
        "fd:3",
    ],
)
def test_places_others_may_reach(place: str) -> None:
    assert exposed([place]) == [place]


def test_open_to_others_without_a_rule_is_refused_with_both_ways_out() -> None:
    found = configure({"listen": ["127.0.0.1", "0.0.0.0"]})
    with pytest.raises(ConfigError) as caught:
        check_exposure(found, restricted=False)
    assert str(caught.value) == (
        "listen (option --listen): 0.0.0.0 can be reached from other machines and no access rule "
        "is set: give --acl FILE with a rule or a user in it, or --open to let everybody in"
    )
    check_exposure(found, restricted=True)
    check_exposure(configure({"listen": "0.0.0.0", "open": "true"}), restricted=False)
    check_exposure(configure(), restricted=False)


def test_both_wildcards_at_once_can_not_be() -> None:
    assert "leave out 0.0.0.0" in refusal({}, {"RESTMQ_LISTEN": "0.0.0.0,::"})
