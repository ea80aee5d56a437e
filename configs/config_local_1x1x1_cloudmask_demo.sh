# shellcheck shell=bash
# The demo of CloudMask: one rank on this machine, a quarter of the network's width, small generated scenes.
# A rehearsal of the whole path, not the benchmark: its figures compare with nothing published.
# shellcheck source=configs/systems/clean.sh
source "$(dirname "${BASH_SOURCE[0]:-$0}")/systems/clean.sh"

export STORMBENCH_BENCHMARK=cloudmask
export DGXNNODES=1
export DGXNGPU=1

export STORMBENCH_CLOUDMASK_BATCH_SIZE=1
export STORMBENCH_WIDTH=0.25
export STORMBENCH_CLOUDMASK_LEARNING_RATE=0.002
export STORMBENCH_CLOUDMASK_LR_WARMUP_STEPS=20
export STORMBENCH_CLOUDMASK_EPOCHS=20
export STORMBENCH_CLOUDMASK_TARGET_ACCURACY=0.85
export STORMBENCH_CLOUDMASK_STOP_AT_TARGET=1

# shellcheck source=configs/systems/local.sh
source "$(dirname "${BASH_SOURCE[0]:-$0}")/systems/local.sh"
