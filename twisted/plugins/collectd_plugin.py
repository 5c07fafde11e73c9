"""The signpost for ``twistd collectd``."""

from twisted.application.service import ServiceMaker

collectd = ServiceMaker(  # type: ignore[no-untyped-call]
    "RestMQ collectd", "restmq.collectd", "RestMQ with a door for collectd", "collectd"
)
