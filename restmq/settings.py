"""What the daemon was told: one table of options, and the frozen ``Settings`` made of it.

Every option of ``OPTIONS`` can be given in four places. The first that has it wins:

    option on the command line    --redis-host=store     (repeatable ones: several times)
    environment variable          RESTMQ_REDIS_HOST=store     (repeatable ones: commas between)
    key in the TOML file          redis-host = "store"     (repeatable ones: a list)
    default

The file is named by ``--config FILE`` or ``RESTMQ_CONFIG``. A secret may lie in a file of its own in
each place: ``--redis-password-file``, ``RESTMQ_REDIS_PASSWORD_FILE``, ``redis-password-file = ...``.
An empty environment variable counts as not given.

Nothing here opens a file or reads the environment: ``load`` gets both handed in. Whatever is wrong
leaves as ``ConfigError``, one line that names the option and the place it came from.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from restmq import __version__
from restmq.errors import RestMQError
from restmq.hosts import host_name, ip_address
from restmq.store_address import MASK, StoreAddress, masked_url, parse_redis_url

LOOPBACK = ("127.0.0.1", "::1")
"""Where a daemon listens that was told nothing."""


class ConfigError(RestMQError):
    """Something the operator set is wrong; the text is one line that says what and where."""


@dataclass(frozen=True)
class Settings:
    """Everything the daemon was told, checked; durations are seconds, sizes bytes."""

    acl: str | None = None
    redis_host: str | None = None
    redis_port: int = 6379
    redis_pool: int = 10
    redis_db: int = 0
    redis_url: str | None = field(default=None, repr=False)
    redis_password: str | None = field(default=None, repr=False)
    redis_prefix: str = "restmq:"
    data_dir: Path = Path("data")
    appendfsync: str = "everysec"
    max_message_bytes: int = 1048576
    port: int = 8888
    listen: tuple[str, ...] = LOOPBACK
    host_names: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    jsonp: bool = False
    open: bool = False
    events_open: bool = False
    idle_timeout: float = 75.0
    max_request_line: int = 16384
    max_header_line: int = 16384
    max_header_bytes: int = 32768
    max_headers: int = 100
    max_connections: int = 10000
    max_websocket_message: int = 1048576
    stream_slow: str = "drop-oldest"
    stream_buffer: int = 1000
    stream_buffer_bytes: int = 1048576
    max_stream_buffer: int = 10000
    max_stream_buffer_bytes: int = 16777216
    heartbeat: float = 15.0
    lease: float = 30.0
    max_lease: float = 43200.0
    max_batch: int = 10000
    max_batch_bytes: int = 16777216
    max_receive: int = 1000
    max_wait: float = 50.0
    max_user_headers: int = 32
    max_user_header_bytes: int = 8192
    max_queues: int = 100000
    max_profiles: int = 1000
    websocket_compression: bool = False
    syslog_port: int = 25000
    syslog_listen: tuple[str, ...] = ()
    syslog_queue: str = "address"
    syslog_fields: bool = False
    stop_timeout: float = 10.0
    processes: int = 1
    events_age: float = 86400.0
    events_count: int = 100_000
    events_bytes: int = 268_435_456
    events_short_age: float = 120.0
    events_retention: tuple[str, ...] = ()

    @property
    def embedded(self) -> bool:
        """Whether the daemon starts a store of its own: nobody named another one."""
        return self.redis_host is None and self.redis_url is None

    @property
    def store_address(self) -> StoreAddress | None:
        """The store somebody named, or None where it is the embedded one."""
        if self.redis_url is not None:
            address = parse_redis_url(self.redis_url)
            return replace(
                address,
                password=address.password if self.redis_password is None else self.redis_password,
                db=self.redis_db or address.db,
            )
        if self.redis_host is not None:
            return StoreAddress(
                host=self.redis_host,
                port=self.redis_port,
                password=self.redis_password,
                db=self.redis_db,
            )
        return None


# -- values: a text becomes a value, or a ValueError says why not ---------------------------------


def _text(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it holds a control character")
    return text


def _filled(text: str) -> str:
    if not text:
        raise ValueError("it is empty")
    return _text(text)


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text) or not low <= int(text) <= high:
            raise ValueError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return parse


_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def _size(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        found = re.fullmatch(r"([0-9]{1,18}) ?(KiB|MiB|GiB|)", text)
        size = int(found[1]) * _UNITS[found[2]] if found else -1
        if not low <= size <= high:
            raise ValueError(
                f"{text!r} is not a size from {low} to {high} bytes, such as 4096, 64KiB or 1MiB"
            )
        return size

    return parse


def _duration(high: int) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds <= high:
            raise ValueError(f"{text!r} is not a number of seconds above 0, at most {high}")
        return seconds

    return parse


_seconds = _duration(86400)


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is none of {', '.join(words)}")
        return text

    return parse


_TRUTH = {"1": True, "true": True, "yes": True, "on": True}
_TRUTH |= {"0": False, "false": False, "no": False, "off": False}


def _flag(text: str) -> bool:
    if text.lower() not in _TRUTH:
        raise ValueError(f"{text!r} is none of {', '.join(_TRUTH)}")
    return _TRUTH[text.lower()]


def _prefix(text: str) -> str:
    if "{" in text or "}" in text:
        raise ValueError("braces are not allowed: the store's hash tags are made with them")
    return _text(text)


def _origin(text: str) -> str:
    found = re.fullmatch(r"(https?)://(\[[0-9A-Fa-f:.]+\]|[^/:@?#\[\]\s]+)(:[0-9]{1,5})?", text)
    if not found:
        raise ValueError(f"{text!r} is no origin, such as https://app.example.org (no path)")
    return text.lower()


_ENDPOINT = re.compile(r"([a-z][a-z0-9]*):(.+)", re.DOTALL)


def _listen(text: str) -> str:
    if _ENDPOINT.fullmatch(text) and ip_address(text) is None:
        return _text(text)
    try:
        return host_name(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is neither an IP address or host (its port comes from port) nor a Twisted "
            "endpoint, such as tcp:9000:interface=127.0.0.1 or unix:/run/restmq.sock:mode=660"
        ) from None


def is_endpoint(listen: str) -> bool:
    """Whether an item of ``Settings.listen`` is a Twisted endpoint string, not an address."""
    return ip_address(listen) is None and _ENDPOINT.fullmatch(listen) is not None


def _redis_url(text: str) -> str:
    parse_redis_url(text)
    return text


_YEAR_SECONDS = 366 * 86400
_MAX_EVENTS_RULES = 14
_EVENTS_RULE = re.compile(
    r"(?P<pattern>(?:[^\s./*#=]+|\*\*?|#)(?:\.(?:[^\s./*#=]+|\*\*?|#)){0,31})"
    r"=(?P<age>[0-9]{1,8}(?:\.[0-9]{1,3})?)"
    r"(?::[0-9]{1,12}(?::(?P<bytes>[0-9]{1,14})(?P<unit>KiB|MiB|GiB|))?)?"
)


def _events_rule(text: str) -> str:
    found = _EVENTS_RULE.fullmatch(_text(text))
    if not found:
        raise ValueError(
            f"{text!r} is not PATTERN=SECONDS[:COUNT[:BYTES]], such as log.**=3600:10000:16MiB"
        )
    if len(found["pattern"].encode()) > 255:
        raise ValueError("its pattern has more than 255 bytes")
    if float(found["age"]) > _YEAR_SECONDS:
        raise ValueError(f"{text!r} has more than {_YEAR_SECONDS} seconds")
    if int(found["bytes"] or 0) * _UNITS[found["unit"] or ""] > 1 << 40:
        raise ValueError(f"{text!r} has more than {1 << 40} bytes")
    return text


# -- the table ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Option:
    """One line of the table; ``field`` is its name in ``Settings``."""

    name: str
    parse: Callable[[str], Any]
    about: str
    default: Any = None
    field: str = ""
    many: bool = False
    flag: bool = False
    secret: bool = False
    number: bool = False

    @property
    def one_word(self) -> bool:
        """Whether its default is a text."""
        return isinstance(self.default, str)

    @property
    def key(self) -> str:
        """The field of ``Settings`` that holds it."""
        return self.field or self.name.replace("-", "_")


def _option(name: str, parse: Callable[[str], Any], about: str, **rest: Any) -> Option:
    key = rest.get("field") or name.replace("-", "_")
    default = Settings.__dataclass_fields__[key].default
    kind = type(default)
    return Option(
        name,
        parse,
        about,
        default=default,
        flag=kind is bool,
        many=kind is tuple,
        number=kind in (int, float),
        **rest,
    )


_GIB = 1 << 30

OPTIONS: tuple[Option, ...] = (
    _option("acl", _filled, "file with the access rules"),
    _option("redis-host", host_name, "host of the Redis or Valkey to use, not the embedded one"),
    _option("redis-port", _whole(1, 65535), "its port"),
    _option("redis-pool", _whole(1, 1000), "connections to it, as the original had them"),
    _option("redis-db", _whole(0, 999999), "number of its database"),
    _option(
        "redis-url", _redis_url, "the same in one: redis://, rediss:// or unix://", secret=True
    ),
    _option("redis-password", _filled, "its password", secret=True),
    _option("redis-prefix", _prefix, "what all keys in the store begin with"),
    _option("data-dir", _filled, "folder of the embedded store"),
    _option(
        "appendfsync",
        _one_of("always", "everysec", "no"),
        "when the embedded store writes through to disk: always, everysec or no",
    ),
    _option("max-message-bytes", _size(1, _GIB // 2), "longest message body"),
    _option("port", _whole(0, 65535), "TCP port to listen on"),
    _option("listen", _listen, "address to listen on, or a Twisted endpoint"),
    _option(
        "host-name", host_name, "name under which clients reach this broker", field="host_names"
    ),
    _option("origin", _origin, "origin whose web pages may use this broker", field="origins"),
    _option("jsonp", _flag, "let web pages of other sites read by JSONP"),
    _option("open", _flag, "listen beyond loopback without any access rule"),
    _option("events-open", _flag, "let everybody use /e/ without a token: RSE's test mode"),
    _option("idle-timeout", _seconds, "seconds after which an idle connection is closed"),
    _option("max-request-line", _size(64, _GIB), "longest request line"),
    _option("max-header-line", _size(64, _GIB), "longest header line"),
    _option("max-header-bytes", _size(64, _GIB), "most bytes of headers in a request"),
    _option("max-headers", _whole(1, 100000), "most headers in a request"),
    _option("max-connections", _whole(1, 10000000), "most clients connected at once"),
    _option("max-websocket-message", _size(64, _GIB // 2), "longest message by WebSocket"),
    _option(
        "stream-slow",
        _one_of("drop-oldest", "drop-newest", "latest", "disconnect"),
        "what a stream does whose client reads too slowly: drop-oldest, drop-newest, latest or "
        "disconnect",
    ),
    _option("stream-buffer", _whole(1, 1000000), "messages that may wait for a slow client"),
    _option("stream-buffer-bytes", _size(1, _GIB), "bytes of them"),
    _option("max-stream-buffer", _whole(1, 1000000), "most messages a client may ask for"),
    _option("max-stream-buffer-bytes", _size(1, _GIB), "most bytes of them"),
    _option("heartbeat", _seconds, "seconds between signs of life on a quiet stream"),
    _option("lease", _seconds, "seconds for which a message is leased unless the client says"),
    _option("max-lease", _seconds, "longest lease a client may ask for"),
    _option("max-batch", _whole(1, 1000000), "most messages in a batch"),
    _option("max-batch-bytes", _size(1, _GIB), "most bytes of its body"),
    _option("max-receive", _whole(1, 100000), "most messages given out by one receive"),
    _option("max-wait", _seconds, "most seconds a receive or a poll may wait"),
    _option("max-user-headers", _whole(0, 1000), "most headers of a message"),
    _option("max-user-header-bytes", _size(0, 65000), "most bytes of them"),
    _option("max-queues", _whole(1, 100000000), "most queues that /v1 makes"),
    _option("max-profiles", _whole(0, 100000), "most profiles"),
    _option("websocket-compression", _flag, "compress WebSocket messages for clients that can"),
    _option("syslog-port", _whole(0, 65535), "twistd syslogd: TCP and UDP port for syslog"),
    _option(
        "syslog-listen", _listen, "twistd syslogd: address or endpoint, if not those of listen"
    ),
    _option(
        "syslog-queue",
        _one_of("address", "hostname"),
        "twistd syslogd: queues are named by the sender's address, or the hostname in its lines",
    ),
    _option("syslog-fields", _flag, "twistd syslogd: tell what RFC 3164 headers say, too"),
    _option("stop-timeout", _seconds, "seconds in which requests and streams end at a stop"),
    _option("processes", _whole(1, 256), "processes that serve, on the same ports and store"),
    _option("events-age", _duration(_YEAR_SECONDS), "seconds for which events are kept"),
    _option("events-count", _whole(1, 100_000_000), "most events of a log that are kept"),
    _option("events-bytes", _size(1, 1 << 40), "most bytes of them"),
    _option(
        "events-short-age",
        _duration(_YEAR_SECONDS),
        "seconds for which events published under /e/ are kept",
    ),
    _option(
        "events-retention",
        _events_rule,
        "retention of the topics of a pattern: PATTERN=SECONDS:COUNT:BYTES (0: no limit)",
    ),
)

BY_NAME = {option.name: option for option in OPTIONS}
FILES = {f"{option.name}-file": option for option in OPTIONS if option.secret}
"""The companions that name a file with the secret in it."""


# -- the four places ------------------------------------------------------------------------------


class Given(NamedTuple):
    """The texts somebody gave an option, and the place where, in words."""

    texts: tuple[str, ...]
    source: str


Layer = dict[str, Given]


@dataclass(frozen=True)
class Configuration:
    """The settings, and for each option where its value came from."""

    settings: Settings
    sources: Mapping[str, str]

    def describe(self) -> str:
        """``--print-config``: a TOML file of all options, secrets masked, sources as comments."""
        lines = [f"# restmq {__version__}: each option, its value and where that came from"]
        for option in OPTIONS:
            value = _shown(option, getattr(self.settings, option.key))
            text = f"# {option.name} is not set" if value is None else f"{option.name} = {value}"
            lines.append(f"{text:<48} # {self.sources[option.name]}")
        return "\n".join(lines) + "\n"


def _shown(option: Option, value: Any) -> str | None:
    if value is None:
        return None
    if option.secret:
        return _quoted(masked_url(value) if option.name == "redis-url" else MASK)
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_quoted, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if option.number else _quoted(str(value))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def load(
    arguments: Mapping[str, Sequence[str]],
    environ: Mapping[str, str],
    read_text: Callable[[str], str],
) -> Configuration:
    """Settings from the command line, the environment and the file they name.

    ``arguments`` holds what stood behind each option, in order (a flag: ``["true"]``), ``config``
    among them. ``read_text`` reads a file or raises OSError or UnicodeDecodeError.
    Raises ConfigError, whose text is one line.
    """
    on_line = _from_arguments(arguments)
    around = _from_environment(environ)
    layers = [
        _with_secrets(layer, read_text)
        for layer in (on_line, around, _from_file(on_line, around, read_text))
    ]
    given = {name: found for layer in reversed(layers) for name, found in layer.items()}
    given.pop("config", None)
    values = {BY_NAME[name].key: _value(BY_NAME[name], found) for name, found in given.items()}
    _check_together(given, values)
    values["data_dir"] = Path(values["data_dir"]) if "data_dir" in values else data_dir(environ)
    if any(name in given for name in _NAMES_A_STORE) and "redis_url" not in values:
        values.setdefault("redis_host", "localhost")
    sources = {name: given[name].source if name in given else "default" for name in BY_NAME}
    return Configuration(Settings(**values), sources)


_NAMES_A_STORE = ("redis-host", "redis-port", "redis-pool", "redis-db", "redis-password")


def data_dir(environ: Mapping[str, str]) -> Path:
    """The folder of a user who named none, for root as for anybody.

    ``$XDG_STATE_HOME/restmq``, else ``~/.local/state/restmq``, else (no home) ``/var/lib/restmq``.
    """
    for name, below in (("XDG_STATE_HOME", "restmq"), ("HOME", ".local/state/restmq")):
        if environ.get(name, "").startswith("/"):  # relative ones are to be ignored, says XDG
            return Path(environ[name]) / below
    return Path("/var/lib/restmq")


def _from_arguments(arguments: Mapping[str, Sequence[str]]) -> Layer:
    return {
        name: Given(tuple(texts), f"option --{name}") for name, texts in arguments.items() if texts
    }


def _from_environment(environ: Mapping[str, str]) -> Layer:
    layer = {}
    for name in ("config", *BY_NAME, *FILES):
        variable = "RESTMQ_" + name.upper().replace("-", "_")
        text = environ.get(variable, "")
        if text:
            many = name in BY_NAME and BY_NAME[name].many
            texts = tuple(part.strip() for part in text.split(",")) if many else (text,)
            layer[name] = Given(texts, f"environment variable {variable}")
    return layer


def _from_file(on_line: Layer, around: Layer, read_text: Callable[[str], str]) -> Layer:
    named = on_line.get("config") or around.get("config")
    if named is None:
        return {}
    path = named.texts[-1]
    text = _read(path, f"config ({named.source})", read_text)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _error(f"config ({named.source})", f"{path!r} is not TOML: {error}") from None
    layer: Layer = {}
    for key, value in table.items():
        name = key.replace("_", "-")
        source = f"{key} in {path}"
        option = BY_NAME.get(name) or FILES.get(name)
        if option is None:
            raise _error(source, f"there is no option {key!r}; restmqd --help lists them")
        if name in layer:
            raise _error(source, "it is there twice")
        layer[name] = Given(_toml_texts(option, value, f"{name} ({source})"), source)
    return layer


def _toml_texts(option: Option, value: object, place: str) -> tuple[str, ...]:
    if option.many and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if option.flag and isinstance(value, bool):
        return ("true" if value else "false",)
    if option.number and isinstance(value, int | float) and not isinstance(value, bool):
        return (str(value),)
    if isinstance(value, str) and not option.flag:
        return (value,)
    wanted = "true or false" if option.flag else "a number" if option.number else "a text in quotes"
    raise _error(place, f"it must be {wanted}{' or a list of such' if option.many else ''}")


def _with_secrets(layer: Layer, read_text: Callable[[str], str]) -> Layer:
    """The layer with each ``NAME-file`` replaced by what lies in the file."""
    for name, option in FILES.items():
        if name not in layer:
            continue
        found = layer.pop(name)
        if option.name in layer:
            raise _error(f"{name} ({found.source})", f"{option.name} is given there, too")
        text = _read(found.texts[-1], f"{name} ({found.source})", read_text).rstrip("\r\n")
        layer[option.name] = Given((text,), found.source)
    return layer


def _read(path: str, place: str, read_text: Callable[[str], str]) -> str:
    try:
        return read_text(path)
    except OSError as error:
        raise _error(place, f"can't read {path!r}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise _error(place, f"can't read {path!r}: it is not UTF-8") from None


def _value(option: Option, found: Given) -> Any:
    try:
        if option.many:
            return tuple(dict.fromkeys(map(option.parse, found.texts)))
        return option.parse(found.texts[-1])
    except ValueError as error:
        raise _error(f"{option.name} ({found.source})", str(error)) from None


def _check_together(given: Layer, values: dict[str, Any]) -> None:
    """Refuse two options that contradict each other, wherever they came from."""
    if "redis-url" in given:
        address = parse_redis_url(values["redis_url"])
        twice = {
            "redis-host": True,
            "redis-port": True,
            "redis-password": address.password is not None,
            "redis-db": address.db != 0,
        }
        for name, said in twice.items():
            if said and name in given:
                place = f"{name} ({given[name].source})"
                raise _error(place, f"redis-url ({given['redis-url'].source}) says it, too")
    listen = values.get("listen", LOOPBACK)
    if not listen:
        raise _error(f"listen ({given['listen'].source})", "it names no address")
    if len(rules := values.get("events_retention", ())) > _MAX_EVENTS_RULES:
        place = f"events-retention ({given['events-retention'].source})"
        raise _error(place, f"at most {_MAX_EVENTS_RULES} rules, these are {len(rules)}")
    if "0.0.0.0" in listen and "::" in listen:
        raise _error(f"listen ({given['listen'].source})", ":: takes IPv4 in: leave out 0.0.0.0")


def _error(place: str, reason: str) -> ConfigError:
    return ConfigError(" ".join(f"{place}: {reason}".split()))
