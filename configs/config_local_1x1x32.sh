# shellcheck shell=bash
# CloudMask on this machine: one rank, global batch 32 (1 x 32), hyperparameters of the published end-to-end runs. It keeps no
# patches in memory, and trains on a GPU if there is one.
# shellcheck source=configs/systems/clean.sh
source "$(dirname "${BASH_SOURCE[0]:-$0}")/systems/clean.sh"

export STORMBENCH_BENCHMARK=cloudmask
export DGXNNODES=1
export DGXNGPU=1

export STORMBENCH_CLOUDMASK_BATCH_SIZE=32
export STORMBENCH_CLOUDMASK_EPOCHS=30
export STORMBENCH_CLOUDMASK_LEARNING_RATE=0.001
export STORMBENCH_CLOUDMASK_SCALE_LR=0
export STORMBENCH_CLOUDMASK_LOSS=weighted STORMBENCH_CLOUDMASK_WBCE=0.5
export STORMBENCH_CLOUDMASK_CLIP_OFFSET=15
export STORMBENCH_CLOUDMASK_TRAIN_SPLIT=0.8
export STORMBENCH_CLOUDMASK_CACHE=none
export STORMBENCH_CLOUDMASK_STRATEGY=none

# shellcheck source=configs/systems/local.sh
source "$(dirname "${BASH_SOURCE[0]:-$0}")/systems/local.sh"
