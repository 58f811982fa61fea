# drope-bidsapp for any processor of x86-64 kind; networks run on the CPU, or on NVIDIA GPUs:
#
#   docker build --build-arg TORCH=cuda --tag drope-bidsapp:cuda .
#   docker run --gpus all ... drope-bidsapp:cuda /bids /out participant
#
#   docker build --tag drope-bidsapp .
#   docker run --rm --read-only --tmpfs /tmp --network none -u "$(id -u):$(id -g)" \
#     -v /data/bids:/bids:ro -v /data/out:/out drope-bidsapp /bids /out participant
#
# FSL may not be redistributed and is not here; the built-in engines take its place. Who accepts its
# licence (no commercial use: https://fsl.fmrib.ox.ac.uk/fsl/fslwiki/Licence) can have it
# installed into an image of their own, which may not be passed on; docs/fsl.md:
#
#   docker build --build-arg WITH_FSL=1 --tag drope-bidsapp:fsl .

FROM python:3.11-slim-bookworm AS build
COPY pyproject.toml README.md LICENSE /src/
COPY dmri_fm /src/dmri_fm
COPY workflows /src/workflows
COPY lab /src/lab
RUN python -m venv /tmp/venv \
 && /tmp/venv/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /dist /src


FROM python:3.11-slim-bookworm

RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends mrtrix3 \
 && rm -rf /var/lib/apt/lists/*

ARG WITH_FSL=0
ARG FSL_INSTALLER=https://fsl.fmrib.ox.ac.uk/fsldownloads/fslconda/releases/fslinstaller.py
RUN if [ "$WITH_FSL" = 1 ]; then \
      python -c "import sys, urllib.request; urllib.request.urlretrieve(*sys.argv[1:])" \
        "$FSL_INSTALLER" /tmp/fslinstaller.py \
      && python /tmp/fslinstaller.py -d /opt/fsl --skip_registration \
      && rm /tmp/fslinstaller.py \
      && test -x /opt/fsl/share/fsl/bin/topup && test -x /opt/fsl/share/fsl/bin/eddy_cpu; \
    fi

# cpu or cuda: the build of PyTorch, of one version.
ARG TORCH=cpu
# PyTorch's index of builds without CUDA; where it cannot be reached, pip's own index is used, and
# always for CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements.lock requirements-cuda.lock /opt/drope/
RUN python -m venv /opt/drope \
 && torch="$(grep '^torch==' /opt/drope/requirements.lock)" \
 && case "$TORCH" in \
      cpu) /opt/drope/bin/pip install --no-cache-dir --no-deps --retries 0 --timeout 20 \
             --index-url "$TORCH_INDEX" "$torch" \
           || /opt/drope/bin/pip install --no-cache-dir --no-deps "$torch" ;; \
      cuda) /opt/drope/bin/pip install --no-cache-dir --no-deps "$torch" \
             -r /opt/drope/requirements-cuda.lock ;; \
      *) echo "TORCH=$TORCH; expected: cpu or cuda" >&2; exit 1 ;; \
    esac \
 && /opt/drope/bin/pip install --no-cache-dir --no-deps -r /opt/drope/requirements.lock \
 && /opt/drope/bin/pip check

COPY --from=build /dist /opt/drope/dist
# The app's extra, offline: fails where requirements.lock lacks a package of it.
RUN /opt/drope/bin/pip install --no-cache-dir --no-index "$(ls /opt/drope/dist/*.whl)[app]" \
 && TEMPLATEFLOW_HOME=/opt/templateflow /opt/drope/bin/python -c 'import templateflow' \
 && chmod -R a+rX /opt/templateflow \
 && groupadd --gid 1000 drope && useradd --uid 1000 --gid 1000 --no-create-home drope

# Every folder that a library writes into is below /tmp, so that the root can be read-only and
# the user anyone. Templates that are bound over /opt/templateflow are found.
ENV PATH=/opt/drope/bin:$PATH:/opt/fsl/share/fsl/bin \
    FSLDIR=/opt/fsl \
    FSLOUTPUTTYPE=NIFTI_GZ \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    NUMBA_CACHE_DIR=/tmp/numba \
    TEMPLATEFLOW_HOME=/opt/templateflow \
    DROPE_CONTAINER=docker:drope-bidsapp:0.1.0 \
    NO_ET=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONNOUSERSITE=1

LABEL org.opencontainers.image.title="drope-bidsapp" \
      org.opencontainers.image.description="BIDS App for diffusion MRI" \
      org.opencontainers.image.licenses="Apache-2.0"

USER 1000:1000
WORKDIR /tmp
ENTRYPOINT ["drope-bidsapp"]
