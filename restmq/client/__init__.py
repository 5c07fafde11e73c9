"""What a program imports to talk to a RestMQ broker; it needs the standard library only.

>>> from restmq.client import Queues
>>> with Queues("http://localhost:8888") as queues:
...     queues.put("greetings", "hello")
...     queues.get("greetings").text
1
'hello'
"""

from restmq.client.queues import (
    BrokerUnavailable,
    ClientError,
    Leased,
    Message,
    NoAccess,
    OutcomeUnknown,
    Queues,
    Refused,
    Stream,
    TooSlow,
)

__all__ = [
    "BrokerUnavailable",
    "ClientError",
    "Leased",
    "Message",
    "NoAccess",
    "OutcomeUnknown",
    "Queues",
    "Refused",
    "Stream",
    "TooSlow",
]
