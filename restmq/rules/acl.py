"""Who may do what: the access file, read once and asked on every request.

The file has at most four sections, one for each kind of client, and in each at most
four keys::

    [rest:producer]                   also rest:consumer, comet:consumer, websocket:consumer
    hosts_allow = 10.0.0.0/8 unix     these may come in, and nobody else
    hosts_deny  = 10.6.6.6            these stay out, and everybody else may come in
    username    = who must also show this name
    password    = and this password

A section that is not there restricts nothing. Two rules decide about an address:

* With ``hosts_allow`` it must be on that list. ``hosts_deny`` then changes nothing,
  since a host on both lists is allowed, as it always was.
* Without it (``hosts_allow = all`` is the same) it must not be on ``hosts_deny``;
  ``hosts_deny = all`` keeps everybody out.

Then, if the section has a user, name and password must both be right.

A host is ``10.0.0.1`` (that address only), ``10.0.0.0/8``, ``192.168.`` (whole numbers
and a dot at the end: 192.168.0.0/16), the same for IPv6 but for the dots, ``all``, or
``unix``: whoever comes through a UNIX socket. That is a host of its own; 127.0.0.1 on
a list does not mean it. Names are never looked up.

What can't be understood is an error, never an open door.
"""

from __future__ import annotations

import enum
import hmac
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple, Protocol

from restmq.errors import BadAcl

UNIX: Final = "unix"
"""The address of every client on a UNIX socket, and the word for them in the file."""

ALL: Final = "all"


class Access(enum.Enum):
    """What a request wants to do; the value is the section that rules it."""

    PRODUCER = "rest:producer"
    CONSUMER = "rest:consumer"
    COMET = "comet:consumer"
    WEBSOCKET = "websocket:consumer"
    NONE = ""
    """No rule: static pages, health."""


class Decision(enum.Enum):
    """The answer to one request."""

    ALLOW = "allow"
    DENIED_ADDRESS = "denied address"
    """Nothing the client can send will help."""
    NEEDS_PASSWORD = "needs password"  # noqa: S105
    """The address is welcome; name or password is missing or wrong."""


Credentials = tuple[str, str]
"""User name and password, as the client sent them."""


class Acl:
    """All rules of one file. Immutable; another file is another Acl.

    ``restricts_anything`` is False if every request is allowed. ``remarks`` are lines for
    the operator about rules that are in order but can have no effect.
    """

    __slots__ = ("_sections", "remarks", "restricts_anything")

    def __init__(self, sections: Mapping[Access, _Section], remarks: Iterable[str] = ()) -> None:
        """Take sections that restrict something; a missing one is open."""
        self._sections = dict(sections)
        self.restricts_anything = bool(self._sections)
        self.remarks = tuple(remarks)

    @classmethod
    def open(cls) -> Acl:
        """Rules that allow everything."""
        return cls({})

    @classmethod
    def parse(cls, text: str) -> Acl:
        """Read the text of an access file.

        Raises BadAcl, with line, section and key in one line, at the first thing that is
        not understood. Passwords are never part of that text.
        """
        sections: dict[Access, _Section] = {}
        remarks: list[str] = []
        for access, keys in _read(text).items():
            section = _section(access, keys)
            if section.restricts:
                sections[access] = section
            remarks += _remarks(access, section)
        return cls(sections, remarks)

    def decide(self, access: Access, address: str, credentials: Credentials | None) -> Decision:
        """May this client do this? ``address`` is an IP address or ``unix``."""
        if not self.restricts_anything:
            return Decision.ALLOW
        section = self._sections.get(access)
        if section is None:
            return Decision.ALLOW
        if not section.admits(address):
            return Decision.DENIED_ADDRESS
        return Decision.ALLOW if section.recognises(credentials) else Decision.NEEDS_PASSWORD

    def decide_any(
        self, accesses: Iterable[Access], address: str, credentials: Credentials | None
    ) -> Decision:
        """May this client do at least one of these? If not, what would get it furthest.

        For a route whose access hangs on what is in the body: who may do none of it is
        refused before the body is looked at.
        """
        if not self.restricts_anything:
            return Decision.ALLOW
        decisions = {self.decide(access, address, credentials) for access in accesses}
        for decision in (Decision.ALLOW, Decision.NEEDS_PASSWORD):
            if decision in decisions:
                return decision
        return Decision.DENIED_ADDRESS


# -- addresses ------------------------------------------------------------------------


class HasAcl(Protocol):
    """Whoever knows the rules that are in force just now."""

    @property
    def acl(self) -> Acl:
        """They change; ask each time."""


class _Host(NamedTuple):
    """An address as a number: family 4 or 6, or 0 for a UNIX socket."""

    family: int
    number: int


class _Hosts(NamedTuple):
    """A list of hosts: masks and their results per family, or everybody."""

    everybody: bool
    nets: tuple[tuple[int, int, int], ...]
    """Family, mask and the number that is left under the mask."""

    def lists(self, host: _Host | None) -> bool:
        """Is the host on the list? ``all`` lists even one that can't be read."""
        if self.everybody or host is None:
            return self.everybody
        return any(
            family == host.family and host.number & mask == number
            for family, mask, number in self.nets
        )


def _host(address: str) -> _Host | None:
    """The address as a number, ::ffff:1.2.3.4 as the IPv4 address it is; None if it is none."""
    if address == UNIX:
        return _Host(0, 0)
    try:
        ip = ip_address(address)
    except ValueError:
        return None
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return _Host(ip.version, int(ip))


# -- one section ----------------------------------------------------------------------


class _Section:
    """The rules for one kind of client."""

    def __init__(self, allow: _Hosts | None, deny: _Hosts | None, user: Credentials | None) -> None:
        """None where the file sets nothing; ``hosts_allow = all`` is None too."""
        self.allow = allow
        self.deny = deny
        self.restricts = not (allow is None and deny is None and user is None)
        self._user = None if user is None else _encoded(user)
        # Reading an address costs more than all else here, and clients come again.
        self.admits = lru_cache(maxsize=4096)(self._admits)

    def _admits(self, address: str) -> bool:
        host = _host(address)
        if self.allow is not None:
            return self.allow.lists(host)
        if self.deny is not None:
            return host is not None and not self.deny.lists(host)
        return True

    def recognises(self, credentials: Credentials | None) -> bool:
        """Are name and password right, or none needed? Takes as long for a wrong name."""
        if self._user is None:
            return True
        if credentials is None:
            return False
        name, password = _encoded(credentials)
        right_name = hmac.compare_digest(name, self._user[0])
        right_password = hmac.compare_digest(password, self._user[1])
        return right_name and right_password


def _encoded(credentials: Credentials) -> tuple[bytes, bytes]:
    name, password = credentials
    return name.encode("utf-8", "surrogatepass"), password.encode("utf-8", "surrogatepass")


# -- the file -------------------------------------------------------------------------

_SECTIONS: Final = {access.value: access for access in Access if access is not Access.NONE}
_KEYS: Final = ("hosts_allow", "hosts_deny", "username", "password")
_HEADING: Final = re.compile(r"\[([^\]]*)\]\s*(?:[;#].*)?")


class _Value(NamedTuple):
    """What stands behind a key, in the line it begins and those indented below it."""

    line: int
    lines: tuple[str, ...]


_Keys = dict[str, _Value]


def _bad(line: int, access: Access, key: str, why: str) -> BadAcl:
    return BadAcl(f"line {line}, [{access.value}] {key}: {why}")


def _read(text: str) -> dict[Access, _Keys]:
    """Sections and keys of the file; the values are not looked at yet."""
    found: dict[Access, _Keys] = {}
    access: Access | None = None
    key: str | None = None
    for number, line in enumerate(re.split("\r\n|\r|\n", text.removeprefix("\ufeff")), 1):
        stripped = line.strip()
        if not stripped or stripped[0] in "#;":
            continue
        if stripped[0] == "[":
            access, key = _heading(number, stripped, found), None
            found[access] = {}
        elif access is None:
            raise BadAcl(f"line {number}: a [section] must come first, {_allowed(_SECTIONS)}")
        elif line[0].isspace() and key is not None:
            begun = found[access][key]
            found[access][key] = begun._replace(lines=(*begun.lines, stripped))
        else:
            key, value = _setting(number, access, stripped, found[access])
            found[access][key] = value
    return found


def _heading(number: int, stripped: str, found: Mapping[Access, _Keys]) -> Access:
    heading = _HEADING.fullmatch(stripped)
    if heading is None:
        raise BadAcl(f"line {number}: a section is a name in brackets, such as [rest:producer]")
    access = _SECTIONS.get(heading[1].strip())
    if access is None:
        raise BadAcl(f"line {number}: unknown section {heading[1]!r}, {_allowed(_SECTIONS)}")
    if access in found:
        raise BadAcl(f"line {number}: section [{access.value}] is there twice")
    return access


def _setting(
    number: int, access: Access, stripped: str, found: Mapping[str, _Value]
) -> tuple[str, _Value]:
    parts = re.split("[=:]", stripped, maxsplit=1)
    if len(parts) == 1:
        raise BadAcl(f"line {number}, [{access.value}]: not of the form key = value")
    key, value = parts[0].strip().lower(), parts[1].strip()
    if key not in _KEYS:
        raise BadAcl(f"line {number}, [{access.value}]: unknown key {key!r}, {_allowed(_KEYS)}")
    if key in found:
        raise _bad(number, access, key, f"is there twice, first in line {found[key].line}")
    return key, _Value(number, (value,))


def _allowed(names: Iterable[str]) -> str:
    return "allowed are " + ", ".join(names)


def _section(access: Access, keys: _Keys) -> _Section:
    allow = _hosts(access, "hosts_allow", keys)
    deny = _hosts(access, "hosts_deny", keys)
    name = _secret(access, "username", keys)
    password = _secret(access, "password", keys)
    for key, other in (("username", "password"), ("password", "username")):
        if key in keys and other not in keys:
            raise _bad(keys[key].line, access, key, f"needs a {other} beside it")
    if name is not None and ":" in name:
        raise _bad(keys["username"].line, access, "username", "can't hold a colon (RFC 7617)")
    user = None if name is None or password is None else (name, password)
    return _Section(None if allow and allow.everybody else allow, deny, user)


def _secret(access: Access, key: str, keys: _Keys) -> str | None:
    """A user name or password: exactly what stands in the line, but for space at its ends."""
    if key not in keys:
        return None
    line, lines = keys[key]
    if len(lines) > 1:
        raise _bad(line, access, key, "goes on in the next line; no key may be indented")
    value = lines[0]
    if not value:
        raise _bad(line, access, key, "is empty; set it, or delete the line to have no password")
    if re.search(r"\s;", value):
        why = "holds ' ;', which began a comment in the old broker; take it out"
        raise _bad(line, access, key, why)
    return value


def _hosts(access: Access, key: str, keys: _Keys) -> _Hosts | None:
    """A list of hosts, separated by space, comma or line."""
    if key not in keys:
        return None
    everybody, nets = False, []
    line, lines = keys[key]
    for text in lines:
        for word in re.split(r"\s[;#]", " " + text)[0].replace(",", " ").split():
            if word.lower() == ALL:
                everybody = True
            else:
                nets.append(_net(line, access, key, word))
    if not (everybody or nets):
        raise _bad(line, access, key, "is empty; name addresses or 'all', or delete the line")
    return _Hosts(everybody, tuple(nets))


def _net(line: int, access: Access, key: str, word: str) -> tuple[int, int, int]:
    if word.lower() == UNIX:
        return (0, 0, 0)
    try:
        net = _network(word)
    except ValueError as error:
        raise _bad(line, access, key, f"{word!r} {error}") from None
    return (net.version, int(net.netmask), int(net.network_address))


def _network(word: str) -> IPv4Network | IPv6Network:
    """The network a word names. Raises ValueError with the end of a sentence about the word."""
    if re.fullmatch(r"(\d{1,3}\.){1,3}", word):
        octets = word.count(".")
        word = word + ".".join(["0"] * (4 - octets)) + f"/{8 * octets}"
    elif re.fullmatch(r"\d{1,3}(\.\d{1,3}){0,2}", word):
        raise ValueError(f"is the beginning of an address: write '{word}.' for all that begin so")
    elif "%" in word:
        raise ValueError("names an interface, and rules do not know those")
    try:
        net = ip_network(word, strict=False)
    except ValueError:
        why = "is no address or network (10.0.0.1, 10.0.0.0/8, 10., fd00::/8, all, unix)"
        raise ValueError(why) from None
    if ip_address(word.partition("/")[0]) != net.network_address:
        raise ValueError(f"is an address with a network's length: did you mean {net}?")
    return _unmapped(net)


def _unmapped(net: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """::ffff:10.0.0.0/104 as 10.0.0.0/8, since such clients are seen as IPv4."""
    if isinstance(net, IPv4Network) or net.prefixlen < 96:
        return net
    mapped = net.network_address.ipv4_mapped
    return net if mapped is None else IPv4Network((mapped, net.prefixlen - 96))


def _remarks(access: Access, section: _Section) -> Iterable[str]:
    """A denied network inside an allowed one: meant as an exception, and without effect."""
    if section.allow is None or section.deny is None:
        return
    for family, mask, number in section.deny.nets:
        inside = (
            family == other_family and number & other_mask == other and mask > other_mask
            for other_family, other_mask, other in section.allow.nets
        )
        if any(inside):
            yield (
                f"[{access.value}] hosts_deny has no effect on hosts that hosts_allow names;"
                " list in hosts_allow only those that may come in"
            )
            return
