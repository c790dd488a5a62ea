# syntax=docker/dockerfile:1
# The steps of container.def, for Docker and Podman; tests/test_container.py holds one against the other.
#
#   docker build --build-arg COMMIT=$(git rev-parse --short HEAD) --tag git_caption .
#   docker run --rm --gpus all --shm-size 8g --user "$(id -u):$(id -g)" --volume "$PWD:/work" git_caption \
#       git-caption -p "{'type': 'help'}"
#
# container.def tells what the arguments are.

ARG FROM=debian:bookworm-slim
FROM ${FROM}
ARG TORCH_INDEX=lock
ARG JAVA=default-jre-headless
ARG SPICE=none
ARG VERSION=0.1.0
ARG COMMIT=unknown

LABEL org.opencontainers.image.title=git_caption \
      org.opencontainers.image.licenses=MIT \
      org.opencontainers.image.version=${VERSION} \
      org.opencontainers.image.revision=${COMMIT}

COPY requirements /opt/git_caption/requirements
COPY git_caption /opt/git_caption/git_caption
COPY data/shapes /opt/git_caption/data/shapes
COPY configs /opt/git_caption/configs
COPY slurm /opt/git_caption/slurm
COPY *.py /opt/git_caption/
COPY LICENSE /opt/git_caption/

RUN <<'END'
set -eu
cd /opt/git_caption

# Without root there is one user, so apt cannot become another one to download.
apt="apt-get -o APT::Sandbox::User=root -o Dpkg::Use-Pty=0 --quiet --yes --no-install-recommends"
export DEBIAN_FRONTEND=noninteractive
$apt update
$apt install ca-certificates python3 python3-venv
mkdir -p /usr/share/man/man1 # slim images have none, and Java's package fails without
[ "$JAVA" = none ] || $apt install "$JAVA"

# The locks are complete, so nothing is resolved and no source is built.
python3 -m venv /opt/venv
pip="/opt/venv/bin/python3 -m pip --no-cache-dir --disable-pip-version-check install --no-deps --progress-bar off"
locked="$pip --only-binary :all: --require-hashes"
if [ "$TORCH_INDEX" = lock ]; then
    $locked -r requirements/torch.lock
else
    $pip --index-url "$TORCH_INDEX" -r requirements/torch.in
fi
$locked -r requirements/base.lock -r requirements/extras.lock
# What another build of torch needs besides, as its CUDA libraries.
[ "$TORCH_INDEX" = lock ] || ${pip% --no-deps*} --index-url "$TORCH_INDEX" -r requirements/torch.in

site=$(/opt/venv/bin/python3 -c "import sysconfig; print(sysconfig.get_path('purelib'))")
if [ "$SPICE" != none ]; then
    /opt/venv/bin/python3 requirements/spice.py "$SPICE" "$site/pycocoevalcap/spice/lib"
fi

# The package is found from every folder; a clone that a command runs in goes before it.
echo /opt/git_caption > "$site/git_caption.pth"
printf '#!/bin/sh\nexec /opt/venv/bin/python3 /opt/git_caption/inference.py "$@"\n' > /opt/venv/bin/git-caption
chmod 755 /opt/venv/bin/git-caption

# Nothing can be compiled later into an image that is read-only.
find . -name __pycache__ -prune -exec rm -rf {} +
rm -rf data/shapes/train.*
/opt/venv/bin/python3 -m compileall -q git_caption

# What was needed to install only; that Python suggests it would keep it here.
/opt/venv/bin/python3 -m pip uninstall --quiet --yes pip
$apt purge python3-venv
$apt -o APT::AutoRemove::SuggestsImportant=false autoremove --purge
$apt clean
# Not /tmp and /var/tmp, which are those of the machine that builds: Apptainer binds them.
rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/*
chmod -R a+rX /opt
du -sh /opt/venv /opt/git_caption
END

ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin \
    LC_ALL=C.UTF-8 \
    PYTHONPATH= \
    XDG_CACHE_HOME=/work/.cache \
    MPLCONFIGDIR=/work/.cache/matplotlib \
    TRITON_CACHE_DIR=/work/.cache/triton \
    TORCHINDUCTOR_CACHE_DIR=/work/.cache/torchinductor

RUN <<'END'
# Writes beside nothing but a temporary folder, so that it also runs from the read-only image.
set -eu
cd /opt/git_caption
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for cache in XDG_CACHE_HOME HF_HOME MPLCONFIGDIR TRITON_CACHE_DIR TORCHINDUCTOR_CACHE_DIR; do
    export "$cache=$out"
done
git-caption -p "{'type': 'doctor'}"
image="'type': 'test_git_inference_single_image', 'model_path': 'data/shapes/model', 'image_path': 'data/shapes/example.jpg'"
git-caption -p "{$image}"
test "$(git-caption -p "{$image, 'prompt': 'how many objects are there?'}")" = 2
head -n 4 data/shapes/test.caption.tsv > "$out/captions.tsv"
cp "$out/captions.tsv" "$out/references.tsv"
git-caption -p "{'type': 'evaluate_on_coco_caption', 'res_file': '$out/captions.tsv', 'label_file': '$out/references.tsv'}"
if command -v java; then grep '"METEOR": [0-9]' "$out/captions.eval.json"; fi
python3 train.py --help > /dev/null
END

WORKDIR /work
CMD ["git-caption", "--help"]
