"""Which listening places other machines can reach, and when that is refused."""

from __future__ import annotations

import re
from collections.abc import Iterable

from restmq.hosts import is_loopback
from restmq.settings import ConfigError, Configuration, Settings, is_endpoint


def exposed(listen: Iterable[str]) -> list[str]:
    """Those of the listening places that other machines can reach, or that may be reachable.

    Unix sockets are guarded by their mode. Of an endpoint of unknown kind the worst is assumed.
    """
    return [place for place in listen if not _is_local(place)]


def _is_local(place: str) -> bool:
    if not is_endpoint(place):
        return is_loopback(place)
    kind, _, rest = place.partition(":")
    if kind == "unix":
        return True
    parts = [part.partition("=") for part in re.findall(r"(?:\\.|[^:\\])+", rest)]
    interfaces = [value for name, _, value in parts if name == "interface"]
    return bool(interfaces) and is_loopback(re.sub(r"\\(.)", r"\1", interfaces[-1]))


def needs_rules(settings: Settings) -> bool:
    """Whether other machines can reach the broker and nobody said that all may come in."""
    return bool(exposed(settings.listen)) and not settings.open


def check_exposure(configuration: Configuration, restricted: bool) -> None:
    """Refuse to be open to other machines by accident.

    ``restricted`` says whether the access file has any rule or user. Raises ConfigError.
    """
    settings = configuration.settings
    if needs_rules(settings) and not restricted:
        raise ConfigError(
            f"listen ({configuration.sources['listen']}): {exposed(settings.listen)[0]} can be reached from other "
            "machines and no access rule is set: give --acl FILE with a rule or a user in it, or "
            "--open to let everybody in"
        )
