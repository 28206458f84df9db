#!/bin/sh
# The benchmark on one GPU: the embedded 135M model, and a random model of Llama-3.2-1B's shape.
#
#   scripts/gpu_bench.sh [FOLDER]                        results go to FOLDER, docs/results/gpu by default
#   VLLM_PYTHON=/path/to/python scripts/gpu_bench.sh     with vLLM, from an environment of its own
#
# NOT RUN YET: no GPU was available when it was written.
set -eu
out=${1:-docs/results/gpu}
cream=${CREAM:-.venv/bin/cream}
rounds=${ROUNDS:-5}
for model in smollm2-135m-instruct random-llama-1b; do
  set -- all --model "$model" --device cuda --rounds "$rounds" --out "$out/$model"
  if [ -n "${VLLM_PYTHON:-}" ]; then set -- "$@" --vllm-python "$VLLM_PYTHON"; fi
  "$cream" bench "$@"
done
