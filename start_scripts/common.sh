# What the three start scripts share; each sets PLUGIN, what twistd is to run.
# shellcheck shell=bash

usage() {
    cat <<TEXT
Usage: $0 [--background] [--user USER] [--group GROUP] [--reactor NAME]
           [--pidfile FILE] [--logfile FILE] [options of twistd $PLUGIN]
       $0 --stop [--pidfile FILE]

In the foreground, which is the default, it logs to standard output; in the background to a file,
which it opens again on SIGUSR1. Each option may be a variable in the environment, or a line
NAME=value (no quotation marks) in /etc/default/restmq.

  --background   RESTMQ_BACKGROUND=1
  --user         RESTMQ_USER      who it becomes once its ports are open; needs root
  --group        RESTMQ_GROUP
  --reactor      RESTMQ_REACTOR   epoll, poll, select, asyncio, ...; else twistd chooses
  --pidfile      RESTMQ_PIDFILE   in the background; else /run/restmq/$PLUGIN.pid
  --logfile      RESTMQ_LOGFILE   in the background; else /var/log/restmq/$PLUGIN.log
                 RESTMQ_PYTHON    which python; here $python
  --stop         end the one in the background, wait until it has ended

Options of twistd $PLUGIN:

TEXT
}

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# /etc/default/restmq gives way to what is in the environment already.
read_defaults() {
    local line name
    [ -r /etc/default/restmq ] || return 0
    while IFS= read -r line || [ -n "$line" ]; do
        name=${line%%=*}
        case $line in
            \#* | '') continue ;;
            RESTMQ_*=*) [ -n "${!name+set}" ] || export "$name=${line#*=}" ;;
            *) fail "/etc/default/restmq: '$line' is no line RESTMQ_NAME=value" ;;
        esac
    done </etc/default/restmq
}

# The environment that `make env` made here, that of a package, or whatever is on the PATH.
find_python() {
    local candidate
    for candidate in "$here/.venv/bin/python" /opt/restmq/bin/python; do
        [ ! -x "$candidate" ] || { echo "$candidate"; return; }
    done
    command -v python3 || fail "there is no python3"
}

# make_folder MODE FOLDER: where the user may write, unless it is there.
make_folder() {
    [ -d "$2" ] || install --directory --mode="$1" ${user:+--owner="$user"} ${group:+--group="$group"} \
        "$2" || fail "can't make $2"
}

stop() {
    local pid waited=0
    pid=$(cat "$pidfile" 2>/dev/null) || fail "nothing to stop: there is no $pidfile"
    kill -TERM "$pid" || fail "no process $pid, which $pidfile names"
    while kill -0 "$pid" 2>/dev/null; do
        [ $((waited += 1)) -le 600 ] || fail "process $pid has not ended within a minute"
        sleep 0.1
    done
    exit 0
}

# Becomes twistd; the arguments are the broker's options.
start() {
    local words=(--no_save)
    [ -z "$reactor" ] || words+=("--reactor=$reactor")
    [ -z "$user" ] || words+=("--uid=$user")
    [ -z "$group" ] || words+=("--gid=$group")
    if [ -n "$user" ]; then
        # Root's home would be the default, and is not the user's.
        export RESTMQ_DATA_DIR=${RESTMQ_DATA_DIR:-/var/lib/restmq}
        make_folder 0700 "$RESTMQ_DATA_DIR"
    fi
    if [ "$background" = 1 ]; then
        [ "$logfile" != - ] || fail "in the background there is no standard output to log to"
        logfile=${logfile:-/var/log/restmq/$PLUGIN.log}
        make_folder 0755 "$(dirname "$pidfile")"
        words+=("--pidfile=$pidfile")
    else
        words+=(--nodaemon --pidfile=)
    fi
    if [ -n "$logfile" ] && [ "$logfile" != - ]; then
        make_folder 0755 "$(dirname "$logfile")"
        export RESTMQ_LOG_FILE=$logfile
        words+=(--logger=restmq.log_file.observer)
    fi
    [ ! -d "$here/restmq" ] || export PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH}
    exec "$python" -P -c 'from twisted.scripts.twistd import run; run()' "${words[@]}" "$PLUGIN" "$@"
}

set_option() {
    case $1 in
        --user) user=$2 ;;
        --group) group=$2 ;;
        --reactor) reactor=$2 ;;
        --pidfile) pidfile=$2 ;;
        --logfile) logfile=$2 ;;
    esac
}

main() {
    local here python user group reactor pidfile logfile background action=start options=()
    here=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd) || exit 1
    read_defaults
    python=${RESTMQ_PYTHON:-$(find_python)}
    user=${RESTMQ_USER:-}
    group=${RESTMQ_GROUP:-}
    reactor=${RESTMQ_REACTOR:-}
    pidfile=${RESTMQ_PIDFILE:-/run/restmq/$PLUGIN.pid}
    logfile=${RESTMQ_LOGFILE:-}
    background=${RESTMQ_BACKGROUND:-0}
    while [ $# -gt 0 ]; do
        case $1 in
            --background) background=1 ;;
            --stop) action=stop ;;
            --help) action=help ;;
            --user=* | --group=* | --reactor=* | --pidfile=* | --logfile=*)
                set_option "${1%%=*}" "${1#*=}" ;;
            --user | --group | --reactor | --pidfile | --logfile)
                [ $# -gt 1 ] || fail "$1 wants a value"
                set_option "$1" "$2"
                shift ;;
            *) options+=("$1") ;;
        esac
        shift
    done
    case $action in
        start) start "${options[@]}" ;;
        stop) stop ;;
        help) usage; RESTMQ_BACKGROUND=0 background=0 start --help ;;
    esac
}
