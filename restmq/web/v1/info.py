"""``/v1/info`` and ``/v1/whoami``: what this broker is and allows, and who it takes the client for."""

from __future__ import annotations

from typing import Any, Final

from restmq import __version__
from restmq.rules.acl import Acl, Decision
from restmq.rules.topics import MAX_WORDS
from restmq.settings import Settings
from restmq.web.describe import BOOLEAN, STRING, describe, record
from restmq.web.endpoint import Access, Reply, credentials, endpoint
from restmq.web.v1.endpoint import MAX_NAME_BYTES, V1Endpoint

LISTED: Final = 100
MOST_LISTED: Final = 1000

LIMIT: Final = {
    "type": "object",
    "properties": {"default": {"type": "number"}, "max": {"type": "number"}},
    "additionalProperties": False,
}
RIGHTS: Final = {
    "produce": Access.PRODUCER,
    "consume": Access.CONSUMER,
    "stream": Access.COMET,
    "websocket": Access.WEBSOCKET,
}


def limits(settings: Settings) -> dict[str, dict[str, float]]:
    """Everything with a bound: what holds when the client says nothing, and the most it may say.

    Durations are seconds, sizes bytes.
    """
    return {
        "message": {"max": settings.max_message_bytes},
        "batch": {"max": settings.max_batch},
        "batch_bytes": {"max": settings.max_batch_bytes},
        "receive_limit": {"default": 1, "max": settings.max_receive},
        "list_limit": {"default": LISTED, "max": MOST_LISTED},
        "wait": {"default": 0, "max": settings.max_wait},
        "lease": {"default": settings.lease, "max": settings.max_lease},
        "name": {"max": MAX_NAME_BYTES},
        "words": {"max": MAX_WORDS},
        "headers": {"max": settings.max_user_headers},
        "header_bytes": {"max": settings.max_user_header_bytes},
        "queues": {"max": settings.max_queues},
        "profiles": {"max": settings.max_profiles},
        "heartbeat": {"default": settings.heartbeat},
        "buffer": {"default": settings.stream_buffer, "max": settings.max_stream_buffer},
        "buffer_bytes": {
            "default": settings.stream_buffer_bytes,
            "max": settings.max_stream_buffer_bytes,
        },
        "frame": {"max": settings.max_websocket_message},
        "request_line": {"max": settings.max_request_line},
        "request_header_bytes": {"max": settings.max_header_bytes},
        "idle": {"default": settings.idle_timeout},
        "connections": {"max": settings.max_connections},
    }


class Info(V1Endpoint):
    """``/v1/info``."""

    @endpoint(Access.PRODUCER, Access.CONSUMER)
    @describe(
        replies={
            200: record(
                version=STRING,
                epoch=STRING,
                store=record(server=STRING, version=STRING, embedded=BOOLEAN),
                limits={"type": "object", "additionalProperties": LIMIT},
            )
        }
    )
    async def get(self) -> Reply:
        """Version, store and limits. Another ``epoch`` means another life of the store: it was emptied."""
        self.query(())
        store = await self.broker.store_info()
        about = {
            "server": store.server,
            "version": store.version,
            "embedded": self.settings.embedded,
        }
        return self.json(
            {
                "version": __version__,
                "epoch": store.epoch,
                "store": about,
                "limits": limits(self.settings),
            }
        )


class WhoAmI(V1Endpoint):
    """``/v1/whoami``."""

    @endpoint(Access.NONE)
    @describe(
        replies={
            200: record(
                user={"type": ["string", "null"]},
                address=STRING,
                rights=record(dict.fromkeys(RIGHTS, BOOLEAN)),
            )
        }
    )
    def get(self) -> Reply:
        """Who the client is to the access file, and what it may do."""
        self.query(())
        shown = credentials(self.request.head)
        return self.json(about_client(self.application.acl, self.request.remote_ip, shown))


def about_client(acl: Acl, address: str, shown: tuple[str, str] | None) -> dict[str, Any]:
    """``user`` is the name that was shown with its password, if some rule asks for it."""
    allowed = {right: acl.decide(access, address, shown) for right, access in RIGHTS.items()}
    without = {right: acl.decide(access, address, None) for right, access in RIGHTS.items()}
    is_known = any(
        allowed[right] is Decision.ALLOW and without[right] is Decision.NEEDS_PASSWORD
        for right in RIGHTS
    )
    return {
        "user": shown[0] if shown is not None and is_known else None,
        "address": address,
        "rights": {right: decision is Decision.ALLOW for right, decision in allowed.items()},
    }
