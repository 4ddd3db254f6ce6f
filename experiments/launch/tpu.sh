#!/usr/bin/env bash
# A slice of TPU virtual machines with gcloud: tpu.sh create|install|launch|watch|stop|delete
# Set PROJECT, ZONE and BUCKET; the rest has defaults. See docs/pod.md.
set -euo pipefail

: "${PROJECT:?set PROJECT to the project of Google Cloud}"
: "${ZONE:?set ZONE, such as europe-west4-b}"
: "${BUCKET:?set BUCKET to the name of your bucket, without gs://}"
NAME="${NAME:-ssl-jax}"
TPU="${TPU:-v5litepod-16}"
RUNTIME="${RUNTIME:-v2-alpha-tpuv5-lite}"
CONFIG="${CONFIG:-experiments/launch/bucket.py:data2vec2/audio:base}"
RUN="${RUN:-d2v2_base}"
SPOT="${SPOT:-1}"

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
where=(--project "$PROJECT" --zone "$ZONE")

# Runs a command line on every host of the slice.
everywhere() {
  gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker=all --command="$1"
}

create() {
  local spot=()
  if [ "$SPOT" = 1 ]; then spot=(--spot); fi
  gcloud compute tpus queued-resources create "$NAME" "${where[@]}" --node-id "$NAME" \
    --accelerator-type "$TPU" --runtime-version "$RUNTIME" "${spot[@]}"
}

install() {
  local archive
  archive="$(mktemp -d)/ssl_jax.tar.gz"
  git -C "$here" archive --format=tar.gz --prefix=ssl_jax/ -o "$archive" HEAD
  gcloud compute tpus tpu-vm scp "$archive" "$NAME:" "${where[@]}" --worker=all
  # the system's Python is too old
  everywhere 'tar xzf ssl_jax.tar.gz && pip install --user --quiet uv &&
    ~/.local/bin/uv venv --clear --python 3.12 env && . env/bin/activate &&
    ~/.local/bin/uv pip install --quiet -e "ssl_jax[gcs]" "jax[tpu]" &&
    python -c "import jax; print(jax.device_count(), \"chips\")"'
}

launch() {
  local line
  printf -v line '%q ' experiments/launch/run.sh --config "$CONFIG" \
    --workdir "gs://$BUCKET/runs/$RUN" "--config.data.train.shards.path=gs://$BUCKET/shards/train" \
    "--config.data.valid.shards.path=gs://$BUCKET/shards/valid" "$@"
  everywhere ". env/bin/activate && cd ssl_jax &&
    { nohup $line > ../run.log 2>&1 < /dev/null & echo \$! > ../run.pid; }"
}

watch() {
  gcloud compute tpus queued-resources describe "$NAME" "${where[@]}" --format='value(state.state)'
  gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker=0 --command="tail -n 20 run.log"
}

# The run saves on all hosts; `launch` resumes from there.
stop() {
  everywhere 'kill -TERM "$(cat run.pid)"'
}

delete() {
  gcloud compute tpus queued-resources delete "$NAME" "${where[@]}" --force --quiet
}

case "${1:-}" in
  create | install | launch | watch | stop | delete) "$@" ;;
  *)
    echo "usage: tpu.sh create | install | launch [flags of train] | watch | stop | delete" >&2
    exit 2
    ;;
esac
