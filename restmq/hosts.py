"""Host names and IP addresses as people write them."""

from __future__ import annotations

import ipaddress
import re

_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_-]+)*\.?")


def host_name(text: str) -> str:
    """A host name or an IP address, an IPv6 one also in brackets; lower case comes out.

    Raises ValueError for anything else.
    """
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if ip_address(bare) is None and not _HOST.fullmatch(text):
        raise ValueError(f"{text!r} is neither a host name nor an IP address")
    return bare.lower()


def ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address a text spells, or None if it spells something else."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine for sure, without asking a name server."""
    address = ip_address(host)
    return host == "localhost" if address is None else address.is_loopback
