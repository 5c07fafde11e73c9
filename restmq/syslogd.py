"""``twistd syslogd``: the whole broker, and a syslog port over TCP and UDP besides.

The options are those of ``twistd restmq``; those that begin with ``--syslog`` count. See docs/syslog.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from restmq import tap
from restmq.rules.exposure import needs_rules

if TYPE_CHECKING:
    from twisted.application.service import IService
    from twisted.internet.posixbase import PosixReactorBase

    from restmq.core.broker import Broker
    from restmq.handover import Handed
    from restmq.rules.acl import HasAcl
    from restmq.settings import Configuration

Options = tap.Options


def makeService(options: tap.Options) -> IService:
    """All services of the daemon; SystemExit, one line and code 1, when that can't be."""
    return tap.make_service(options, MORE)


def _door(
    reactor: PosixReactorBase,
    configuration: Configuration,
    access: HasAcl,
    broker: Broker,
    handed: Handed | None,
) -> tap.Door:
    from restmq.syslog.door import SyslogDoor  # noqa: PLC0415 - the libraries may be missing

    return SyslogDoor(reactor, configuration, access, broker, handed)


def _held(reactor: PosixReactorBase, configuration: Configuration, access: HasAcl) -> tap.HeldDoor:
    from restmq.syslog.held import HeldPorts  # noqa: PLC0415 - the libraries may be missing

    return HeldPorts(reactor, configuration, access)


def _needs_rules(configuration: Configuration) -> bool:
    from restmq.syslog.held import for_syslog  # noqa: PLC0415 - the libraries may be missing

    return needs_rules(for_syslog(configuration).settings)


MORE = tap.More("syslogd", door=_door, held=_held, needs_rules=_needs_rules)
