# CloudMask's images, one for each VARIANT; docker/images.toml has them all with their bases. Without arguments, the CPU's:
#   docker build -f docker/cloudmask.Dockerfile -t stormbench-cloudmask:cpu .
# `stormbench images build cloudmask --variant VARIANT` adds base, labels and a site's secrets. The stages are in the order of how often they
# change: system, packages, Horovod, this kit. The scripts that the steps run are shared with DeepCAM's recipe.
ARG BASE=docker.io/library/debian:bookworm-20250520-slim
ARG TOOLKIT=scratch

# an empty stand-in for a folder of wheels, which --build-context wheelhouse=FOLDER puts in its place
FROM scratch AS wheelhouse

# CUDA's compiler for Horovod's kernels, which PyPI lacks: an image that has /usr/local/cuda, needed by the CUDA variant alone
FROM ${TOOLKIT} AS toolkit

# hadolint ignore=DL3006  # the tag, and the digest if it is known, come with BASE
FROM ${BASE} AS packages
ARG VARIANT=cpu
COPY docker/steps/site.sh docker/steps/system.sh /opt/stormbench/steps/
RUN --mount=type=secret,id=proxy --mount=type=secret,id=ca --mount=type=secret,id=apt \
    bash /opt/stormbench/steps/system.sh cloudmask "${VARIANT}"
COPY docker/steps/packages.sh /opt/stormbench/steps/
COPY docker/requirements/cloudmask-${VARIANT}.txt /opt/stormbench/steps/requirements.txt
COPY docker/constraints/cloudmask-${VARIANT}.txt /opt/stormbench/steps/constraints.txt
RUN --mount=type=secret,id=proxy --mount=type=secret,id=ca --mount=type=secret,id=pipconf \
    --mount=type=bind,from=wheelhouse,source=/,target=/wheelhouse \
    bash /opt/stormbench/steps/packages.sh cloudmask "${VARIANT}"

# compilers stay in this stage; without a wheel of Horovod in the wheelhouse it takes minutes
FROM packages AS horovod
ARG VARIANT=cpu
COPY docker/horovod-wheel.sh docker/steps/horovod.sh docker/steps/cuda-toolkit.sh /opt/stormbench/steps/
RUN --mount=type=secret,id=proxy --mount=type=secret,id=ca --mount=type=secret,id=apt --mount=type=secret,id=pipconf \
    --mount=type=bind,from=wheelhouse,source=/,target=/wheelhouse --mount=type=bind,from=toolkit,source=/,target=/toolkit \
    bash /opt/stormbench/steps/horovod.sh "${VARIANT}" /horovod

FROM packages AS kit
ARG VARIANT=cpu
# written into a file of the kit: engines that cache a label without its value would keep that of an older commit
ARG VERSION=unknown
ARG REVISION=unknown
ARG SOURCE=
ARG BASE_NAME=docker.io/library/debian:bookworm-20250520-slim
ARG BASE_DIGEST=
# the manifest names Horovod too
COPY --from=horovod /horovod/ /
COPY . /source
RUN --mount=type=secret,id=proxy --mount=type=secret,id=ca --mount=type=secret,id=pipconf \
    --mount=type=bind,from=wheelhouse,source=/,target=/wheelhouse \
    bash /source/docker/steps/kit.sh cloudmask "${VARIANT}" /source /kit

FROM packages
# nothing of a user's home or of the node's Python may change what runs; no locks on file systems that can't; writable things on scratch
ARG VARIANT=cpu
ARG DEVICES=void
ENV PATH=/opt/stormbench/venv/bin:${PATH} \
    STORMBENCH_IMAGE=cloudmask.${VARIANT} STORMBENCH_BENCHMARK=cloudmask STORMBENCH_CACHE=/scratch \
    PYTHONNOUSERSITE=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HDF5_USE_FILE_LOCKING=FALSE OMP_PROC_BIND=false NCCL_DEBUG=WARN OMPI_MCA_btl_vader_single_copy_mechanism=none \
    HOME=/scratch USER=stormbench XDG_CACHE_HOME=/scratch/cache MPLCONFIGDIR=/scratch/matplotlib \
    NVIDIA_VISIBLE_DEVICES=${DEVICES} NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=horovod /horovod/ /
COPY --from=kit /kit/ /
ARG VERSION=unknown
ARG REVISION=unknown
ARG SOURCE=
ARG BASE_NAME=docker.io/library/debian:bookworm-20250520-slim
ARG BASE_DIGEST=
ENV STORMBENCH_GIT_COMMIT=${REVISION}
LABEL org.opencontainers.image.title="stormbench cloudmask ${VARIANT}" \
      org.opencontainers.image.description="CloudMask of MLCommons Science: training, inference and data tools" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE_NAME}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}"
WORKDIR /workspace
# the number of the image's user, by which a runtime can tell that it isn't root
USER 10001:10001
HEALTHCHECK --interval=5m --timeout=2m --start-period=1m CMD ["python", "/opt/stormbench/health.py"]
ENTRYPOINT ["/opt/stormbench/entry"]
CMD ["--help"]
