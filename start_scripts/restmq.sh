#!/bin/sh
# Start a broker in the foreground from wherever this project lies; options are handed on:
#
#     start_scripts/restmq.sh --port 9999
#
# Uses the virtual environment that `make env` made here, else the restmqd on PATH.
here=$(cd "$(dirname "$0")/.." && pwd) || exit 1

if [ -x "$here/.venv/bin/python" ]; then
    exec "$here/.venv/bin/python" -m restmq "$@"
fi
exec restmqd "$@"
