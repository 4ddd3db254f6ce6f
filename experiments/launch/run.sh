#!/usr/bin/env bash
# One host of a run: `run.sh --config C --workdir W ...` is `python -m ssl_jax.train` with the same.
# After SIGTERM the run saves and exits with success. A scheduler that must restart it needs another
# status, so it is then 75.
set -euo pipefail

stopped=0
child=""
stop() {
  stopped=1
  if [ -n "$child" ]; then kill -TERM "$child" 2>/dev/null || true; fi
}
trap stop TERM INT

python -m ssl_jax.train "$@" &
child=$!
status=0
wait "$child" || status=$?
if [ "$stopped" = 1 ]; then
  # the first wait ended with the signal; this one ends when the run has saved
  status=0
  wait "$child" || status=$?
  if [ "$status" = 0 ]; then status=75; fi
fi
exit "$status"
