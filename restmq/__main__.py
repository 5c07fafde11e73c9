"""``python -m restmq`` is ``restmqd``."""

from restmq.cli import main

if __name__ == "__main__":
    main()
