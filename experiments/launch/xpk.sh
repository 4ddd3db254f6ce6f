#!/usr/bin/env bash
# TPU slices on GKE with xpk: xpk.sh create|image|launch|watch|stop|delete
# Set PROJECT, ZONE and BUCKET; the rest has defaults. See docs/pod.md.
set -euo pipefail

: "${PROJECT:?set PROJECT to the project of Google Cloud}"
: "${ZONE:?set ZONE, such as europe-west4-b}"
: "${BUCKET:?set BUCKET to the name of your bucket, without gs://}"
CLUSTER="${CLUSTER:-ssl-jax}"
TPU="${TPU:-v5litepod-16}"
SLICES="${SLICES:-1}"
IMAGE="${IMAGE:-gcr.io/$PROJECT/ssl-jax}"
CONFIG="${CONFIG:-experiments/launch/bucket.py:data2vec2/audio:base}"
RUN="${RUN:-d2v2-base}"

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
where=(--project "$PROJECT" --zone "$ZONE" --cluster "$CLUSTER")

create() {
  xpk cluster create "${where[@]}" --tpu-type "$TPU" --num-slices "$SLICES" --spot
}

image() {
  docker build --tag "$IMAGE" --file "$here/experiments/launch/Dockerfile" "$here"
  docker push "$IMAGE"
}

launch() {
  local line
  printf -v line '%q ' experiments/launch/run.sh --config "$CONFIG" \
    --workdir "gs://$BUCKET/runs/$RUN" "--config.data.train.shards.path=gs://$BUCKET/shards/train" \
    "--config.data.valid.shards.path=gs://$BUCKET/shards/valid" \
    "--config.mesh.slice=$SLICES" "$@"
  # a preempted host exits with 75 once the run is saved, and all are restarted
  xpk workload create "${where[@]}" --workload "$RUN" --tpu-type "$TPU" --num-slices "$SLICES" \
    --docker-image "$IMAGE" --max-restarts 100 --restart-on-exit-codes 75 \
    --termination-grace-period-seconds 300 --command "$line"
}

watch() {
  xpk workload list "${where[@]}" --filter-by-job "$RUN"
}

stop() {
  xpk workload delete "${where[@]}" --workload "$RUN"
}

delete() {
  xpk cluster delete "${where[@]}"
}

case "${1:-}" in
  create | image | launch | watch | stop | delete) "$@" ;;
  *)
    echo "usage: xpk.sh create | image | launch [flags of train] | watch | stop | delete" >&2
    exit 2
    ;;
esac
