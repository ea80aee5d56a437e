# DeepCAM's images, one for each VARIANT; docker/images.toml has them all with their bases. Without arguments, the CPU's:
#   docker build -f docker/deepcam.Dockerfile -t stormbench-deepcam:cpu .
# `stormbench images build deepcam --variant VARIANT` adds base, labels and a site's secrets. The stages are in the order of how often they
# change: system, packages, this kit. The scripts that the steps run are shared with CloudMask's recipe.
ARG BASE=docker.io/library/debian:bookworm-20250520-slim

# an empty stand-in for a folder of wheels, which --build-context wheelhouse=FOLDER puts in its place
FROM scratch AS wheelhouse

# hadolint ignore=DL3006  # the tag, and the digest if it is known, come with BASE
FROM ${BASE} AS packages
ARG VARIANT=cpu
COPY docker/steps/site.sh docker/steps/system.sh /opt/stormbench/steps/
RUN --mount=type=secret,id=proxy --mount=type=secret,id=ca --mount=type=secret,id=apt \
    bash /opt/stormbench/steps/system.sh deepcam "${VARIANT}"
COPY docker/steps/packages.sh /opt/stormbench/steps/
COPY docker/requirements/deepcam-${VARIANT}.txt /opt/stormbench/steps/requirements.txt
COPY docker/constraints/deepcam-${VARIANT}.txt /opt/stormbench/steps/constraints.txt
RUN --mount=type=secret,id=proxy --mount=type=secret,id=ca --mount=type=secret,id=pipconf \
    --mount=type=bind,from=wheelhouse,source=/,target=/wheelhouse \
    bash /opt/stormbench/steps/packages.sh deepcam "${VARIANT}"

FROM packages AS kit
ARG VARIANT=cpu
# written into a file of the kit: engines that cache a label without its value would keep that of an older commit
ARG VERSION=unknown
ARG REVISION=unknown
ARG SOURCE=
ARG BASE_NAME=docker.io/library/debian:bookworm-20250520-slim
ARG BASE_DIGEST=
COPY . /source
RUN --mount=type=secret,id=proxy --mount=type=secret,id=ca --mount=type=secret,id=pipconf \
    --mount=type=bind,from=wheelhouse,source=/,target=/wheelhouse \
    bash /source/docker/steps/kit.sh deepcam "${VARIANT}" /source /kit

FROM packages
# nothing of a user's home or of the node's Python may change what runs; no locks on file systems that can't; writable things on scratch
ARG VARIANT=cpu
ARG DEVICES=void
ENV PATH=/opt/stormbench/venv/bin:${PATH} \
    STORMBENCH_IMAGE=deepcam.${VARIANT} STORMBENCH_BENCHMARK=deepcam STORMBENCH_CACHE=/scratch \
    PYTHONNOUSERSITE=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HDF5_USE_FILE_LOCKING=FALSE OMP_PROC_BIND=false NCCL_DEBUG=WARN OMPI_MCA_btl_vader_single_copy_mechanism=none \
    HOME=/scratch USER=stormbench XDG_CACHE_HOME=/scratch/cache MPLCONFIGDIR=/scratch/matplotlib \
    NVIDIA_VISIBLE_DEVICES=${DEVICES} NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=kit /kit/ /
ARG VERSION=unknown
ARG REVISION=unknown
ARG SOURCE=
ARG BASE_NAME=docker.io/library/debian:bookworm-20250520-slim
ARG BASE_DIGEST=
ENV STORMBENCH_GIT_COMMIT=${REVISION}
LABEL org.opencontainers.image.title="stormbench deepcam ${VARIANT}" \
      org.opencontainers.image.description="DeepCAM of MLPerf HPC: training, inference and data tools" \
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
