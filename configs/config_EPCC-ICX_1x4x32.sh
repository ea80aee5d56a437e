# shellcheck shell=bash
# CloudMask on EPCC's one Ice Lake node, without a scheduler: 4 ranks, global batch 128 (4 x 32), as in the published
# end-to-end run j4, which kept no cache; the node's facts are unverified.
# shellcheck source=configs/systems/clean.sh
source "$(dirname "${BASH_SOURCE[0]:-$0}")/systems/clean.sh"

export STORMBENCH_BENCHMARK=cloudmask
export DGXNNODES=1
export DGXNGPU=4

export STORMBENCH_CLOUDMASK_BATCH_SIZE=32
export STORMBENCH_CLOUDMASK_EPOCHS=30
export STORMBENCH_CLOUDMASK_LEARNING_RATE=0.001
export STORMBENCH_CLOUDMASK_SCALE_LR=0
export STORMBENCH_CLOUDMASK_LOSS=weighted STORMBENCH_CLOUDMASK_WBCE=0.5
export STORMBENCH_CLOUDMASK_CLIP_OFFSET=15
export STORMBENCH_CLOUDMASK_TRAIN_SPLIT=0.8
export STORMBENCH_CLOUDMASK_CACHE=none
export STORMBENCH_CLOUDMASK_CPU_ONLY=1
export STORMBENCH_CLOUDMASK_STRATEGY=horovod

# shellcheck source=configs/systems/epcc-icx.sh
source "$(dirname "${BASH_SOURCE[0]:-$0}")/systems/epcc-icx.sh"
