# shellcheck shell=bash disable=SC2034
# Sourced by the other scripts here: where things are, and how they speak. Runs nothing.
#   FACETRAIN_ROOT     the checkout
#   FACETRAIN_PREFIX   where setup.sh puts LibTorch and the witnesses' virtual environment (default ~/.cache/facetrain)
#   TORCH_DIR          the `torch` folder of a torch 2.11, if you have one already (default: setup.sh's)
FACETRAIN_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if [ -z "${FACETRAIN_PREFIX:-}" ]; then
  home=$HOME
  # Under `sudo` the prefix stays that of the person who will build and run, not root's.
  if [ "$(id -u)" = 0 ] && [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ]; then
    home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
    FACETRAIN_PREFIX=$home/.cache/facetrain
  else
    FACETRAIN_PREFIX=${XDG_CACHE_HOME:-$home/.cache}/facetrain
  fi
fi
FACETRAIN_SITE=$FACETRAIN_PREFIX/site-packages
export FACETRAIN_PREFIX TORCH_DIR=${TORCH_DIR:-$FACETRAIN_SITE/torch}

# say SCRIPT MESSAGE...: one line of progress; die: the same and out with exit code 1.
say() { printf '[%s] %s\n' "$1" "${*:2}"; }
die() { printf '[%s] error: %s\n' "$1" "${*:2}" >&2; exit 1; }
