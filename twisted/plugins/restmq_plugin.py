"""The signpost for ``twistd restmq``."""

from twisted.application.service import ServiceMaker

restmq = ServiceMaker(  # type: ignore[no-untyped-call]
    "RestMQ", "restmq.tap", "A message broker over HTTP", "restmq"
)
