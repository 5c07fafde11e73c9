"""Decisions with no socket, clock or Redis in them."""
