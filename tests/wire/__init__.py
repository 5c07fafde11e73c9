"""A real daemon over real sockets: what every route says on the wire."""
