#!/usr/bin/env bash
# The GPUs of this host, as Spark asks for them (spark.executor.resource.gpu.discoveryScript): their numbers as CUDA
# counts them, from 0; those that CUDA_VISIBLE_DEVICES hides are not there. Prints JSON.
set -euo pipefail

if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
    count=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c '[^[:space:]]' || true)
else
    count=$(nvidia-smi --query-gpu=index --format=csv,noheader | grep -c . || true)
fi
addresses=""
for ((number = 0; number < count; number++)); do addresses+="${addresses:+, }\"$number\""; done
echo "{\"name\": \"gpu\", \"addresses\": [$addresses]}"
