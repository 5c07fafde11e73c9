"""``twistd collectd``: the whole broker, and ``/collectd/data`` and ``/collectd/event`` besides.

The options are those of ``twistd restmq``. See docs/collectd.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from restmq import tap

if TYPE_CHECKING:
    from twisted.application.service import IService

    from restmq.web.dispatcher import Rule

Options = tap.Options


def makeService(options: tap.Options) -> IService:
    """All services of the daemon; SystemExit, one line and code 1, when that can't be."""
    return tap.make_service(options, MORE)


def _routes() -> tuple[Rule, ...]:
    from restmq.web.collectd import ROUTES  # noqa: PLC0415 - the libraries may be missing

    return ROUTES


MORE = tap.More("collectd", routes=_routes)
