#!/bin/sh
# Starts Valkey or Redis with server.conf. The password comes from DGQ_REDIS_PASSWORD and goes in
# through standard input, so that no list of processes shows it.
# SERVER_MAXMEMORY: the memory limit, 2gb unless set. Arguments are handed on to the server.
set -eu

case "${DGQ_REDIS_PASSWORD:-}" in
'' | *[!A-Za-z0-9._~-]*)
    echo "DGQ_REDIS_PASSWORD must be set, to letters, digits and . _ ~ - only" >&2
    exit 1
    ;;
esac
server=$(command -v valkey-server || command -v redis-server)

exec "$server" "$(dirname "$0")/server.conf" "$@" - <<CONFIG
requirepass $DGQ_REDIS_PASSWORD
maxmemory ${SERVER_MAXMEMORY:-2gb}
CONFIG
