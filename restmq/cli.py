"""``restmqd``: the daemon in the foreground, without a pid file, its log on standard output.

The same as ``twistd --nodaemon --pidfile= restmq``, and made of the same parts.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from restmq import install


def main(arguments: Sequence[str] | None = None) -> None:
    """Run until a signal ends it; SystemExit with 1 and one line when it can't start."""
    try:
        from restmq import tap  # noqa: PLC0415 - Twisted may be missing
    except ModuleNotFoundError as error:
        raise SystemExit(install.hint(error)) from None
    options = tap.Options()
    # `restmqd --help | head` ends without a traceback; what serves hears of a broken pipe as an error.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    options.parseOptions(list(sys.argv[1:] if arguments is None else arguments))
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    tap.run_in_foreground(options)
