# shellcheck shell=bash
# A CUDA toolkit for Horovod's build, put together from the wheels that tensorflow[and-cuda] brought: the compiler, headers, runtime and
# NCCL of exactly that TensorFlow. Sourced by horovod.sh with its variable venv.
site=$(echo "$venv"/lib/python3*/site-packages/nvidia)
toolkit=/tmp/cuda
mkdir -p "$toolkit"/{bin,include,lib64,nvvm}
for part in "$site"/*/; do
    [ ! -d "$part/include" ] || cp -RsfL "$(realpath "$part")/include/." "$toolkit/include/"
    [ ! -d "$part/lib" ] || cp -Rsf "$(realpath "$part")/lib/." "$toolkit/lib64/"
done
cp -Rsf "$site/cuda_nvcc/bin/." "$toolkit/bin/"
cp -Rsf "$site/cuda_nvcc/nvvm/." "$toolkit/nvvm/"
# the wheels have libraries by their versions, linkers look for them without
for library in "$toolkit"/lib64/lib*.so.*; do ln -sf "$(basename "$library")" "${library%%.so.*}.so"; done
export PATH=$toolkit/bin:$PATH CUDA_HOME=$toolkit HOROVOD_CUDA_HOME=$toolkit HOROVOD_NCCL_HOME=$site/nccl HOROVOD_GPU=CUDA HOROVOD_GPU_OPERATIONS=NCCL
