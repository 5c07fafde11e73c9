"""How fast the daemon is, beside its peers: ``python -m bench`` (see docs/benchmarks.md)."""
