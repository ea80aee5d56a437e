#!/usr/bin/env bash
# The Python packages of an image, exactly as its constraints say, without this kit itself.  packages.sh IMAGE VARIANT
set -euo pipefail
image=$1 variant=$2
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=docker/steps/site.sh
. "$here/site.sh"
venv=/opt/stormbench/venv
constraints=(-c "$here/constraints.txt")
options=()

# Images of GPU vendors bring torch and all it needs: the environment sees those packages and is held to their versions.
if ! python3 -c 'import importlib.util as i, sys; sys.exit(i.find_spec("torch") is None)' 2>/dev/null; then
    python3 -m venv "$venv"
    pip=("$venv/bin/python" -m pip)
else
    python3 -m venv --without-pip "$venv"
    # a path file rather than --system-site-packages, which does not see the packages of an environment such as AMD's
    python3 -c 'import site; print(*site.getsitepackages(), sep="\n")' >"$(echo "$venv"/lib/python3*/site-packages)/base.pth"
    pip=(python3 -m pip --python "$venv/bin/python")
    # what the base has stays as it is, except where our constraints say otherwise, which a list of NVIDIA's image would forbid
    unset PIP_CONSTRAINT
    "${pip[@]}" list --format freeze | grep '==' >/tmp/base.txt
    sed -n 's/^\([A-Za-z0-9._-]*\)==.*/\1/p' "$here/constraints.txt" | tr 'A-Z_.' 'a-z--' >/tmp/own.txt
    awk -F== 'NR == FNR { own[$1]; next } { name = tolower($1); gsub(/[_.]/, "-", name) } !(name in own)' /tmp/own.txt /tmp/base.txt >/tmp/held.txt
    constraints+=(-c /tmp/held.txt)
fi

case $image-$variant in
    deepcam-cpu | deepcam-mpich)
        # PyPI's torch is the CUDA build. A wheelhouse is used alone if it has the CPU's, as is an index that pip's settings close.
        compgen -G "$wheelhouse/torch-*.whl" >/dev/null || options+=(--extra-index-url "${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}")
        ;;
esac
"${pip[@]}" install -q "${constraints[@]}" "${options[@]}" -r "$here/requirements.txt"

rm -f /tmp/base.txt /tmp/own.txt /tmp/held.txt

# Libraries in wheels that others than their own package need: Horovod those of CUDA and NCCL
for folder in "$venv"/lib/python3*/site-packages/nvidia/{cuda_runtime,nccl}/lib; do
    [ ! -d "$folder" ] || echo "$folder" >>/etc/ld.so.conf.d/stormbench.conf
done
# mpi4py prefers a library in its own environment over all others; at this place LD_LIBRARY_PATH puts a Cray's before it
if [ -e "$venv/lib/libmpi.so.12" ]; then
    mkdir -p /opt/stormbench/mpich/lib
    mv "$venv"/lib/libmpi* /opt/stormbench/mpich/lib/
    echo /opt/stormbench/mpich/lib >>/etc/ld.so.conf.d/stormbench.conf
fi
ldconfig
rm -f /var/cache/ldconfig/aux-cache

case $variant in
    cpu | mpich)
        # a CUDA build would still work, with gigabytes that nobody uses
        if gpu=$("${pip[@]}" list --format freeze | grep -iE '^(nvidia-|cuda-|triton==|tensorrt)'); then
            echo "the $variant variant must not have packages for GPUs: $(tr '\n' ' ' <<<"$gpu"); give it a torch or TensorFlow for CPUs" >&2
            exit 1
        fi
        ;;
esac
