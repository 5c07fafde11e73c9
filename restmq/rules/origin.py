"""Which requests come from web pages that have no business here.

A broker on localhost is open to every program of its user, and so to the browser, which
lets any page on the web send requests to it: an image tag can pop a queue, a script tag
can read one by JSONP, a form can fill one, and a host name that its owner points to
127.0.0.1 (DNS rebinding) makes the page one of ours. Browsers say enough about a request
to tell; ``refusal`` looks at what they say:

``Host``            must be a name of ours. A rebound name is not, and no page can change it.
``Sec-Fetch-Site``  where the request was born: ``same-origin``, ``same-site`` (another port
                    or sibling name: as foreign as any), ``cross-site``, or ``none`` (the
                    user typed it).
``Origin``          the page's origin, on what can change something or be read by a script.
``Sec-Purpose``     ``prefetch``: nobody has asked for this yet, so nothing may be popped.

A program that is no browser sends none of these but ``Host``, and is let through.

What can't be told: over plain HTTP to another machine browsers leave ``Sec-Fetch-*`` out,
so a script tag or a link looks like a program there. (Images show in ``Accept``, JSONP
by ``jsonp_refusal``, and forms have an ``Origin``.) A broker that others can reach wants a
password in its access file, or TLS.

Headers are looked up by the names written here, capitals as written; a mapping that
joins repeated headers with commas is right, since no such value is one of ours. The
reasons returned are fixed texts: nothing of the request is in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address
from typing import Final

WRONG_HOST: Final = (
    "this broker has no such host name; use its IP address or localhost,"
    " or start it with --host-name and this name"
)
PREFETCH: Final = "fetched ahead of need, and this would take a message out of its queue"
IMAGE: Final = "asked for as an image, and this would take a message out of its queue"
FOREIGN: Final = (
    "sent by a web page of another origin; start the broker with --origin and the"
    " page's origin to let it in"
)
FOREIGN_JSONP: Final = "JSONP for other sites is off; start the broker with --jsonp to allow it"

Headers = Mapping[str, str]

_LONGEST_HOST: Final = 255 + len(".:65535")


def refusal(  # noqa: PLR0917
    method: str,
    headers: Headers,
    host_names: tuple[str, ...],
    origins: tuple[str, ...],
    page: bool,
    pops: bool,
    *,
    scheme: str = "http",
    script: bool = False,
) -> str | None:
    """Why this request is to be answered 403, in words for the client; None to serve it.

    ``host_names`` are the broker's names, with or without a port; ``*`` means any. ``origins``
    are those of pages that may come in, such as ``https://app.example`` or ``null``.
    ``page``: the route is an HTML page that changes nothing, so links to it are welcome.
    ``pops``: the request takes a message away, or may. ``scheme`` is the one the request
    came by. ``script``: this is JSONP, and the operator allows it to other sites.
    """
    host = headers.get("Host")
    if host is not None and not answers_to(host, host_names):
        return WRONG_HOST
    if pops and (reason := _unasked(headers)):
        return reason
    site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    if site is None and origin is None:
        return None
    if origin is not None and _listed(origin, origins):
        return None
    if page and _is_navigation(method, headers):
        return None
    if script and origin is None and _is_script(method, headers):
        return None
    return None if _is_ours(site, origin, host, scheme) else FOREIGN


def jsonp_refusal(headers: Headers, own_host: str | None, jsonp_allowed: bool) -> str | None:
    """Why a request with a ``callback`` is to be answered 403; ask this after ``refusal``.

    ``own_host`` is the request's Host. Without ``--jsonp`` only our own pages, and programs,
    have JSONP. A browser that does not send ``Sec-Fetch-Site`` must show by its ``Referer``
    that a page of ours asked: a page can hide that header but not forge it.
    """
    if jsonp_allowed:
        return None
    site = headers.get("Sec-Fetch-Site")
    if site is not None:
        return None if site in _OWN_SITES else FOREIGN_JSONP
    if not headers.get("User-Agent", "").startswith("Mozilla/"):
        return None
    page = _split_origin(headers.get("Referer", ""))
    return (
        None if page is not None and page[1].lower() == (own_host or "").lower() else FOREIGN_JSONP
    )


# -- the host -------------------------------------------------------------------------


def answers_to(host: str, host_names: tuple[str, ...]) -> bool:
    """Is this Host one that the broker may be called by?

    Always: an IP address, localhost and all names under it, since nobody can rebind those.
    """
    return len(host) <= _LONGEST_HOST and _answers_to(host, host_names)


@lru_cache(maxsize=1024)
def _answers_to(host: str, host_names: tuple[str, ...]) -> bool:
    if "*" in host_names:
        return True
    name, port = split_host(host)
    if name == "localhost" or name.endswith(".localhost") or _is_address(name):
        return True
    return any(_same_host(name, port, own) for own in host_names)


def _same_host(name: str, port: str, own: str) -> bool:
    own_name, own_port = split_host(own)
    return bool(name) and name == own_name and own_port in ("", port)


def split_host(host: str) -> tuple[str, str]:
    """Name and port (or nothing) of a Host; small letters, no brackets, no last dot.

    The name is empty if the text is no host at all.
    """
    host = host.strip().lower()
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        if not bracket or ":" not in name or port[:1] not in ("", ":"):
            return "", ""
        port = port[1:]
    else:
        name, _, port = host.partition(":")
    if port and not (port.isascii() and port.isdigit()):
        return "", ""
    return name.removesuffix("."), port


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


# -- the page that asked --------------------------------------------------------------

_OWN_SITES: Final = ("same-origin", "none")
_DEFAULT_PORT: Final = {"http": "80", "https": "443"}


def _is_ours(site: str | None, origin: str | None, host: str | None, scheme: str) -> bool:
    """Did one of our own pages ask, or the user himself?

    ``same-site`` alone is another port or name; an Origin that is ours outweighs it, as
    http and https of one host are told apart there and not always here. What says
    ``same-origin`` may have come by https to a proxy in front of us.
    """
    if origin is None:
        return site in _OWN_SITES
    if site is not None and site not in (*_OWN_SITES, "same-site"):
        return False
    schemes = ("http", "https") if site == "same-origin" else (scheme,)
    return host is not None and any(_is_own_origin(origin, host, each) for each in schemes)


def _is_own_origin(origin: str, host: str, scheme: str) -> bool:
    parts = _split_origin(origin)
    if parts is None or parts[0] != scheme:
        return False
    default = _DEFAULT_PORT[scheme]
    (name, port), (own_name, own_port) = split_host(parts[1]), split_host(host)
    return bool(name) and (name, port or default) == (own_name, own_port or default)


def _split_origin(url: str) -> tuple[str, str] | None:
    """Scheme and ``host:port`` of an http or https URL."""
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in _DEFAULT_PORT:
        return None
    return scheme.lower(), rest.partition("/")[0]


def _listed(origin: str, origins: tuple[str, ...]) -> bool:
    return any(origin.lower() == each.lower().rstrip("/") for each in origins)


# -- what it is asked for -------------------------------------------------------------


def _unasked(headers: Headers) -> str | None:
    """Is this a request that nobody waits for, or one for a picture?

    The Accept of an image tag begins with a picture's type in every browser, and is all
    that shows one where ``Sec-Fetch-*`` is left out.
    """
    for name in ("Sec-Purpose", "Purpose", "X-Moz", "X-Purpose"):
        value = headers.get(name)
        if value is not None and ("prefetch" in value.lower() or "preview" in value.lower()):
            return PREFETCH
    return IMAGE if headers.get("Accept", "").startswith("image/") else None


def _is_navigation(method: str, headers: Headers) -> bool:
    """Will the answer fill a tab of its own? A frame in another page does not count."""
    return (
        method in ("GET", "HEAD")
        and headers.get("Sec-Fetch-Mode") == "navigate"
        and headers.get("Sec-Fetch-Dest") == "document"
    )


def _is_script(method: str, headers: Headers) -> bool:
    return method == "GET" and headers.get("Sec-Fetch-Dest") == "script"
