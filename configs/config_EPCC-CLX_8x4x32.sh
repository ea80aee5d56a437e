# shellcheck shell=bash
# CloudMask on EPCC's Cascade Lake nodes: 8 nodes, 32 ranks, global batch 1024 (32 x 32), as in the published end-to-end runs
# 66579 and 66587; what its scheduler asks for is unverified. Submit with -N "$DGXNNODES".
# shellcheck source=configs/systems/clean.sh
source "$(dirname "${BASH_SOURCE[0]:-$0}")/systems/clean.sh"

export STORMBENCH_BENCHMARK=cloudmask
export DGXNNODES=8
export DGXNGPU=4
export WALLTIME=04:00:00

export STORMBENCH_CLOUDMASK_BATCH_SIZE=32
export STORMBENCH_CLOUDMASK_EPOCHS=30
export STORMBENCH_CLOUDMASK_LEARNING_RATE=0.001
export STORMBENCH_CLOUDMASK_SCALE_LR=0
export STORMBENCH_CLOUDMASK_LOSS=weighted STORMBENCH_CLOUDMASK_WBCE=0.5
export STORMBENCH_CLOUDMASK_CLIP_OFFSET=15
export STORMBENCH_CLOUDMASK_TRAIN_SPLIT=0.8
export STORMBENCH_CLOUDMASK_CACHE=memory
export STORMBENCH_CLOUDMASK_CPU_ONLY=1
export STORMBENCH_CLOUDMASK_STRATEGY=horovod

# shellcheck source=configs/systems/epcc-clx.sh
source "$(dirname "${BASH_SOURCE[0]:-$0}")/systems/epcc-clx.sh"
