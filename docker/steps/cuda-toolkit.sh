# shellcheck shell=bash
# CUDA for Horovod's build: the compiler of the image TOOLKIT, mounted at /toolkit, with headers and libraries of the wheels that
# tensorflow[and-cuda] brought, so that Horovod runs on the CUDA runtime and the NCCL of its TensorFlow. Sourced with the variable venv.
site=$(echo "${venv:?}"/lib/python3*/site-packages/nvidia)
[ -x /toolkit/usr/local/cuda/bin/nvcc ] || {
    echo "Horovod for CUDA is built with nvcc, which PyPI lacks: give --build-arg TOOLKIT=nvcr.io/nvidia/cuda:12.9.1-devel-ubuntu22.04, or a wheel of" \
        "Horovod in the wheelhouse" >&2
    exit 2
}
cp -R "$(realpath /toolkit/usr/local/cuda)" /tmp/cuda
cp -R "$site/nccl" /tmp/nccl
ln -s libnccl.so.2 /tmp/nccl/lib/libnccl.so
export PATH=/tmp/cuda/bin:$PATH CUDA_HOME=/tmp/cuda HOROVOD_CUDA_HOME=/tmp/cuda HOROVOD_NCCL_HOME=/tmp/nccl HOROVOD_NCCL_LINK=SHARED
export HOROVOD_GPU=CUDA HOROVOD_GPU_OPERATIONS=NCCL
