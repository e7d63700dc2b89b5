#!/usr/bin/env bash
# Makes a Debian machine ready to build facetrain: system packages, and LibTorch from the torch 2.11.0 wheel.
#
#   launch/setup.sh            as root, or as a user with sudo; run it again at any time, it does only what is missing
#   launch/setup.sh --python   also what `import torch` of Python wants: the tests' witnesses do. Where there is no CUDA
#                              toolkit that is 2 GB of CUDA libraries, which the program itself does without
#
# The wheel goes into a prefix of the project (FACETRAIN_PREFIX, default ~/.cache/facetrain), never into your Python.
# A torch 2.11 that you have already is used where it lies: TORCH_DIR=/path/to/site-packages/torch launch/setup.sh
# With a CUDA toolkit >= 13.0 on the machine (no GPU needed) the CUDA libraries that it lacks are added as wheels too.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
[ "${1:-}" != --help ] || { sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0; }
python=
if [ "$*" = --python ]; then python=yes; elif [ $# -gt 0 ]; then echo "usage: launch/setup.sh [--python]   (found: $*)" >&2; exit 2; fi

packages=(
  build-essential g++ cmake ninja-build ccache git pkg-config ca-certificates
  python3 python3-venv python3-pip
  libopenmpi-dev openmpi-bin libhdf5-dev libyaml-cpp-dev libcli11-dev nlohmann-json3-dev libfmt-dev
  libturbojpeg0-dev libjpeg62-turbo-dev libpng-dev
  libgtest-dev libgmock-dev googletest clang-19 libclang-rt-19-dev clang-tidy-19 clang-format shellcheck
  iproute2 procps util-linux curl openssh-client
)

install_packages() {
  command -v dpkg-query >/dev/null || {
    say setup "not a Debian system: make sure that these (or your distribution's) are installed: ${packages[*]}"
    return
  }
  local missing=() package
  for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  if [ ${#missing[@]} = 0 ]; then
    say setup "system packages: all ${#packages[@]} are installed"
    return
  fi
  local as_root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || die setup "these packages are missing and there is no sudo; as root run: apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  say setup "system packages: installing ${#missing[@]}: ${missing[*]}"
  "${as_root[@]}" apt-get update -qq || die setup "apt-get update failed: is the network there?"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    -o Dpkg::Use-Pty=0 "${missing[@]}" >/dev/null ||
    die setup "apt-get install failed (see above); is the network there, are the package sources complete?"
}

torch_version() { sed -n "s/^__version__ *= *['\"]\([0-9.]*\).*/\1/p" "$1/version.py" 2>/dev/null || true; }

# The version of the CUDA toolkit ("13.0"), or nothing.
toolkit_version() {
  local nvcc
  for nvcc in "$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc; do
    [ -x "$nvcc" ] || continue
    "$nvcc" --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p'
    return
  done
}

# install_wheel NAME==VERSION: unpacks a wheel without its Python dependencies into the prefix. Its .dist-info folder goes
# in last and is the mark of a complete one, so an interrupted run leaves nothing that the next would take for whole.
install_wheel() {
  local requirement=$1 name=${1%%==*} version=""
  [ "$name" = "$requirement" ] || version=${requirement#*==}
  if compgen -G "$FACETRAIN_SITE/${name//-/_}-${version:-*}.dist-info/RECORD" >/dev/null; then
    say setup "$requirement: is there"
    return
  fi
  local incoming=$FACETRAIN_PREFIX/incoming.$$
  rm -rf "$incoming"
  say setup "$requirement: downloading"
  # Wheels of another Python serve as well: only their libraries and headers are used.
  local foreign=()
  python3 -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' ||
    foreign=(--python-version 3.11 --only-binary=:all: --platform manylinux_2_28_x86_64
             --platform manylinux_2_27_x86_64 --platform manylinux2014_x86_64 --platform manylinux1_x86_64)
  python3 -m pip install --quiet --no-deps --no-compile --no-cache-dir --disable-pip-version-check \
    --target "$incoming" "${foreign[@]}" "$requirement" 2>"$FACETRAIN_PREFIX/pip.log" || {
    tail -n 5 "$FACETRAIN_PREFIX/pip.log" >&2
    rm -rf "$incoming"
    die setup "could not get $requirement from the Python package index: is the network there?" \
      "Behind a mirror set PIP_INDEX_URL; offline set TORCH_DIR to the torch folder of a torch 2.11 that you copied."
  }
  mkdir -p "$FACETRAIN_SITE" "$incoming.mark"
  mv "$incoming"/*.dist-info "$incoming.mark/"
  cp --archive --link --force "$incoming"/. "$FACETRAIN_SITE/"  # merges folders that several wheels share
  rm -rf "$incoming"
  mv "$incoming.mark"/*.dist-info "$FACETRAIN_SITE/"
  rmdir "$incoming.mark"
}

# need LIBRARY WHEEL: the wheel is installed unless the loader already finds the library (a complete CUDA toolkit).
need() {
  if PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null | grep -F "$1 " >/dev/null; then
    say setup "$1: is there (ldconfig)"
  else
    install_wheel "$2"
  fi
}

install_torch() {
  if [ "$TORCH_DIR" != "$FACETRAIN_SITE/torch" ]; then
    local found
    found=$(torch_version "$TORCH_DIR")
    case $found in
      2.11.*) say setup "torch $found in TORCH_DIR=$TORCH_DIR: used as it is, nothing is downloaded"; return ;;
      "") die setup "TORCH_DIR=$TORCH_DIR has no torch (no version.py); wanted the torch folder of a torch 2.11" ;;
      *) die setup "TORCH_DIR=$TORCH_DIR is torch $found; wanted 2.11" ;;
    esac
  fi
  mkdir -p "$FACETRAIN_PREFIX" || die setup "cannot write $FACETRAIN_PREFIX; set FACETRAIN_PREFIX to a folder that you own"
  exec 8>"$FACETRAIN_PREFIX/setup.lock"
  flock -n 8 || { say setup "waiting for another setup.sh"; flock 8; }
  rm -rf "$FACETRAIN_PREFIX"/incoming.*
  install_wheel torch==2.11.0
  local toolkit
  toolkit=$(toolkit_version)
  if [ -n "$toolkit" ] && [ "${toolkit%%.*}" -ge 13 ]; then
    say setup "CUDA toolkit $toolkit: the CUDA plugin will be built"
    need libcufile.so.0 nvidia-cufile
    need libcusparseLt.so.0 nvidia-cusparselt-cu13==0.8.0
    need libnvshmem_host.so.3 nvidia-nvshmem-cu13==3.4.5
    need libcudnn.so.9 nvidia-cudnn-cu13==9.19.0.56
    need libnccl.so.2 nvidia-nccl-cu13==2.28.9
    need libcupti.so.13 nvidia-cuda-cupti==13.0.85
  else
    if [ -n "$toolkit" ]; then say setup "CUDA toolkit $toolkit is older than 13.0: a CPU build"
    else say setup "no CUDA toolkit: a CPU build"; fi
    need libcudart.so.13 nvidia-cuda-runtime==13.0.96
    need libcupti.so.13 nvidia-cuda-cupti==13.0.85
  fi
  if [ -n "$python" ]; then  # the versions that torch 2.11.0 and its cuda-toolkit 13.0.2 name
    need libcudnn.so.9 nvidia-cudnn-cu13==9.19.0.56
    need libcufile.so.0 nvidia-cufile
    need libcusparseLt.so.0 nvidia-cusparselt-cu13==0.8.0
    need libnvshmem_host.so.3 nvidia-nvshmem-cu13==3.4.5
    need libnccl.so.2 nvidia-nccl-cu13==2.28.9
    need libcublas.so.13 nvidia-cublas==13.1.0.3
    need libcufft.so.12 nvidia-cufft==12.0.0.61
    need libcurand.so.10 nvidia-curand==10.4.0.35
    need libcusparse.so.12 nvidia-cusparse==12.6.3.3
    need libcusolver.so.12 nvidia-cusolver==12.0.4.66
    need libnvJitLink.so.13 nvidia-nvjitlink==13.0.88
    need libnvrtc.so.13 nvidia-cuda-nvrtc==13.0.88
  fi
}

install_packages
install_torch
if [ "$(id -u)" = 0 ] && [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ] && [ -d "$FACETRAIN_PREFIX" ]; then
  chown -R "$SUDO_USER:" "$FACETRAIN_PREFIX"
fi
say setup "ready: LibTorch in $TORCH_DIR; next: launch/build.sh"
