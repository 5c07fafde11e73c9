#!/bin/bash
# Every REST and JSON route with curl, checked: examples/test_rest.sh [--url http://localhost:8888]
#
# Uses queues of its own, named after this process. Prints what it does; ends with 1 at the first
# answer that is not as it should be.
set -euo pipefail

url=http://localhost:8888
if [ "${1:-}" = --url ]; then url=$2; fi
queue=test_rest_$$

# expect WHAT ANSWER curl-arguments...   (ANSWER is a glob)
expect() {
    local what=$1 wanted=$2 got
    shift 2
    got=$(curl -sS "$@" | tr -d '\r')
    # shellcheck disable=SC2053
    if [[ $got != $wanted ]]; then
        printf '%s: got %s, not %s\n' "$what" "$got" "$wanted" >&2
        exit 1
    fi
    printf '%-22s %s\n' "$what" "$got"
}

status=(-o /dev/null -w '%{http_code}')

expect "an empty queue"    204 "${status[@]}" "$url/q/$queue"
expect "put"               "$queue:1" -d 'value=first' "$url/q/$queue"
expect "put, the other way" "$queue:2" -d "queue=$queue" -d 'value=second' "$url/"
expect "how many"          "*\"len\": 2}" "$url/stats/$queue"
expect "take out"          "{\"count\": 0, \"key\": \"$queue:1\", \"value\": \"first\"}" "$url/q/$queue"
expect "text with & and +" "$queue:3" --data-urlencode 'value=1 + 1 = 2 & so on' "$url/q/$queue"

json() { printf '{"cmd": "%s", "queue": "%s"%s}' "$1" "$queue" "${2:-}"; }

expect "look (json)"       "*\"value\": \"second\", \"key\": \"$queue:2\"}" -d "body=$(json get)" "$url/queue"
expect "add (json)"        "*\"key\": \"$queue:4\"}" -d "body=$(json add ', "value": "fourth"')" "$url/queue"
expect "delete one (json)" "*\"deleted\": true*" -d "body=$(json del ", \"key\": \"$queue:4\"")" "$url/queue"
expect "take (json)"       "*\"value\": \"second\"*" -d "body=$(json take)" "$url/queue"

expect "policy"            OK -d 'policy=roundrobin' "$url/p/$queue"
expect "policy, asked"     "{\"queue\": \"$queue\", \"value\": \"roundrobin\"}" "$url/p/$queue"
expect "stop"              "*\"status\": 0}}" -d 'status=stop' "$url/control/$queue"
expect "start"             "*\"status\": 1}}" -d 'status=start' "$url/control/$queue"
expect "delete all"        "{\"queue\": \"$queue\", \"status\": 1}" -X DELETE "$url/q/$queue"
expect "and it is empty"   204 "${status[@]}" "$url/q/$queue"
echo ok
