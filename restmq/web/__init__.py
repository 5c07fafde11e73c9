"""HTTP: channel, handlers, pages."""
