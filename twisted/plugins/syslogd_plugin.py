"""The signpost for ``twistd syslogd``."""

from twisted.application.service import ServiceMaker

syslogd = ServiceMaker(  # type: ignore[no-untyped-call]
    "RestMQ syslogd", "restmq.syslogd", "RestMQ with a door for syslog", "syslogd"
)
