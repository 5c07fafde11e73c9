#!/usr/bin/env python3
"""``python restmq_engine.py``, as it was called in the original's folder: see docs/engine.md."""

from restmq.engine import main

if __name__ == "__main__":
    main()
