"""What is not there under ``/v1`` is answered as a problem document, whatever the method."""

from __future__ import annotations

from typing import Any

from restmq.web.endpoint import Refusal
from restmq.web.v1.endpoint import V1Endpoint
from restmq.web.wire import Head


class Missing(V1Endpoint):
    """Any other path."""

    def _perform(self, *args: Any, **kwargs: Any) -> Any:
        """Raise Refusal 404."""
        raise Refusal(404, "there is nothing here")

    @classmethod
    def check_head(cls, application: Any, head: Head, remote_ip: str, scheme: str) -> None:
        """Raise Refusal 404."""
        raise Refusal(404, "there is nothing here")
