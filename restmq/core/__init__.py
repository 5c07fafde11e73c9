"""What a queue does and who gets what, on top of Redis."""
