"""Redis: keys, scripts, connections, and the store inside."""
