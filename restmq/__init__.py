"""RestMQ: a small message broker over HTTP, kept in Redis or Valkey."""

__version__ = "1.0.0.dev0"
