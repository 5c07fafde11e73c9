"""What to install when a library is missing; this file itself needs none."""

SERVER = "pip install 'restmq[server]' && pip install --no-deps cyclone==1.3"
"""Cyclone apart, since its own metadata pins libraries of 2019 that can't be built any more."""


def hint(missing: ModuleNotFoundError) -> str:
    """One line for people. Our own modules are not theirs to install: those are raised again."""
    name = (missing.name or "").partition(".")[0]
    if name in ("", "restmq"):
        raise missing
    return f"restmq: the library {name} is not installed; the daemon needs: {SERVER}"
