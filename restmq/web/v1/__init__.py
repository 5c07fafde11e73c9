"""The routes under ``/v1``: one vocabulary for HTTP, streams and WebSocket (docs/streams.md)."""
