#!/usr/bin/env bash
# Everything that only a GPU can show, on a bare machine with one: builds, runs the tests labelled gpu with
# FACETRAIN_REQUIRE_GPU=1, then the benches. Logs go to ${OUT:-build/gpu}. From the root of the checkout:
#
#   launch/gpu_check.sh fetch          on a Debian 12 machine with network: Debian packages into .debs/ (ignored by git)
#   launch/gpu_check.sh build          on the GPU machine: unpacks .debs if it is there, configures, builds
#   launch/gpu_check.sh test           the tests (and, as an experiment that may fail, two NCCL ranks on one GPU)
#   launch/gpu_check.sh bench          bench_step and bench_classifier
#   launch/gpu_check.sh                build, test, bench, one after the other
#
# Wanted there: a driver, nvcc 13, cmake, ninja, g++, and a torch 2.11 for CUDA 13, by default python3's (TORCH_DIR
# names another). What the system lacks (MPI, HDF5, yaml-cpp, ...) comes from .debs, unpacked below build/, not installed.
# GPU_CHECK_REQUIRE=N: wanted GPUs (default 1; 2 makes the tests of two GPUs count).
set -euo pipefail
[ "${1:-}" != --help ] || { sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 0; }
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

# Our dependencies on Debian 12 ...
packages=(
  libopenmpi3 libopenmpi-dev openmpi-bin openmpi-common libhwloc15 libevent-core-2.1-7 libevent-pthreads-2.1-7 libpmix2
  libmunge2 libltdl7 libucx0 libfabric1 libibverbs1 librdmacm1 libnl-3-200 libnl-route-3-200 libpsm2-2 libpsm-infinipath1
  libhdf5-103-1 libhdf5-hl-100 libhdf5-dev libaec0 libsz2 libaec-dev
  libyaml-cpp0.7 libyaml-cpp-dev libgtest-dev libgmock-dev googletest libcli11-dev nlohmann-json3-dev libfmt-dev libfmt9
  libturbojpeg0 libturbojpeg0-dev libjpeg62-turbo libjpeg62-turbo-dev libpng16-16 libpng-dev zlib1g zlib1g-dev
  pkgconf pkgconf-bin pkg-config libpkgconf3
)
# ... and libraries that these need and most systems have: of them, only what the system lacks is used.
common_packages=(
  libnuma1 libcurl4 libnghttp2-14 librtmp1 libssh2-1 libpsl5 libldap-2.5-0 libsasl2-2 libidn2-0 libunistring2 libbrotli1
  libssl3 libgssapi-krb5-2 libkrb5-3 libk5crypto3 libkrb5support0 libkeyutils1 libgnutls30 libnettle8 libhogweed6
  libp11-kit0 libtasn1-6
)

fetch() {
  mkdir -p .debs/common
  grep -qxF /.debs/ .git/info/exclude 2>/dev/null || echo /.debs/ >>"$(git rev-parse --git-path info/exclude)"
  (cd .debs && apt-get download "${packages[@]}")
  (cd .debs/common && apt-get download "${common_packages[@]}")
  du -sh .debs
}

# The Debian packages below build/debs, and the variables by which compilers, CMake and mpirun find what is in them.
deps=$root/build/debs
use_debs() {
  local file lib=$deps/usr/lib/x86_64-linux-gnu
  [ -d .debs ] || [ -d "$deps" ] || return 0
  if [ ! -e "$deps/complete" ]; then
    mkdir -p "$deps/common"
    for file in .debs/*.deb; do dpkg -x "$file" "$deps"; done
    for file in .debs/common/*.deb; do dpkg -x "$file" "$deps/common"; done
    while read -r file; do
      ldconfig -p | grep -qF "$(printf '\t')${file##*/} " || cp -P "$file" "$lib/"
    done < <(find "$deps/common" -name 'lib*.so.*')
    touch "$deps/complete"
  fi
  ln -sf mpirun.openmpi "$deps/usr/bin/mpirun"  # Debian's alternatives are made at installation
  export PATH=$PATH:$deps/usr/bin CMAKE_PREFIX_PATH=$deps/usr
  export PKG_CONFIG_ALLOW_SYSTEM_LIBS=1 PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1
  export PKG_CONFIG_SYSROOT_DIR=$deps PKG_CONFIG_LIBDIR=$lib/pkgconfig:$deps/usr/share/pkgconfig
  export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$lib:$lib/openmpi/lib:$lib/pmix2/lib:$lib/hdf5/serial
  LD_LIBRARY_PATH+=:$lib/ucx:$deps/lib/x86_64-linux-gnu:$deps/usr/lib
  export OPAL_PREFIX=$deps/usr OPAL_LIBDIR=$lib/openmpi/lib OPAL_PKGLIBDIR=$lib/openmpi/lib/openmpi3
  export OPAL_DATADIR=$deps/usr/share OPAL_PKGDATADIR=$deps/usr/share/openmpi OPAL_SYSCONFDIR=$deps/etc/openmpi
  export PMIX_INSTALL_PREFIX=$lib/pmix2 OMPI_MCA_plm=isolated OMPI_MCA_mca_base_component_show_load_errors=0
  export OMPI_MCA_btl=self,vader,tcp OMPI_MCA_mtl=^psm,psm2,ofi OMPI_MCA_pml=ob1
  configure+=(
    -DMPI_C_COMPILER=MPI_C_COMPILER-NOTFOUND -DMPI_C_LIB_NAMES=mpi -DMPI_mpi_LIBRARY="$lib/openmpi/lib/libmpi.so"
    -DMPI_C_HEADER_DIR="$lib/openmpi/include" -DMPIEXEC_EXECUTABLE="$deps/usr/bin/mpirun" -DFMT_INCLUDE="$deps/usr/include"
  )
}

configure=(-DFACETRAIN_CUDA=ON)
prepare() {
  out=${OUT:-$root/build/gpu}
  mkdir -p "$out" build
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
  if [ -z "${TORCH_DIR:-}" ] && [ ! -d "${FACETRAIN_PREFIX:-$HOME/.cache/facetrain}/site-packages/torch" ]; then
    TORCH_DIR=$(python3 -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])')
    export TORCH_DIR
  fi
  use_debs
}

# A torch from wheels has libnccl.so.2 and nccl.h in a folder of its own, without the name that linkers look for.
use_nccl_of_torch() {
  local nccl
  nccl=$(dirname "${TORCH_DIR:-/}")/nvidia/nccl
  [ -e "$nccl/lib/libnccl.so.2" ] || return 0
  mkdir -p build/nccl
  ln -sf "$nccl/lib/libnccl.so.2" build/nccl/libnccl.so
  export LIBRARY_PATH=${LIBRARY_PATH:+$LIBRARY_PATH:}$root/build/nccl
  configure+=(-DNCCL_INCLUDE="$nccl/include")
}

build() {
  use_nccl_of_torch
  # Another compiler than CI's has other warnings: they are printed, and no errors here.
  local compiler
  compiler=$(command -v "${CXX:-g++}")
  printf '#!/bin/sh\nexec %s "$@" -Wno-error\n' "$compiler" >build/g++-warnings
  chmod +x build/g++-warnings
  [ -f build/release/build.ninja ] || configure+=(-DCMAKE_CXX_COMPILER="$root/build/g++-warnings")
  {
    nvidia-smi || echo "no nvidia-smi"
    "$compiler" --version | head -1; cmake --version | head -1; nvcc --version | tail -2
    cmake --preset release "${configure[@]}" ${TORCH_DIR:+-DTORCH_DIR="$TORCH_DIR"}
    launch/build.sh release -- facetrain facetrain_cuda gpu_test bench_step bench_classifier
  } 2>&1 | tee "$out/build.log"
}

run_tests() {
  local status=0
  nvidia-smi 2>&1 | tee "$out/nvidia-smi.log" || true
  FACETRAIN_REQUIRE_GPU=${GPU_CHECK_REQUIRE:-1} ctest --test-dir build/release -L gpu --no-tests=error \
    --output-on-failure 2>&1 | tee "$out/ctest.log" || status=$?
  cp build/release/Testing/Temporary/LastTest.log "$out/tests.log" || true
  grep -E '^\[  (SKIPPED|FAILED ) \] .*\(' "$out/tests.log" | sort -u || true
  # Open check (b) of reference/platform.md 10: NCCL with two ranks that share a GPU. Nothing depends on its outcome.
  timeout 90 mpirun -np 2 --bind-to none --oversubscribe -x FACETRAIN_SHARE_GPU=nccl -x FACETRAIN_TEST_RANKS=2 \
    -x FACETRAIN_DEADLINE_SECONDS=30 -x NCCL_SOCKET_IFNAME=lo -x NCCL_DEBUG=WARN \
    build/release/tests/gpu_test '--gtest_filter=*Ranks*' >"$out/shared_nccl.log" 2>&1 &&
    echo "two NCCL ranks on one GPU: passed" || echo "two NCCL ranks on one GPU: failed (an experiment), see shared_nccl.log"
  return "$status"
}

run_bench() {
  local bench=build/release/bench
  {
    for precision in fp32 bf16; do
      for model in iresnet50 iresnet100; do
        echo "== bench_step $model $precision, batch 1024 at 112"
        "$bench/bench_step" --device cuda --model "$model" --batch 1024 --precision "$precision" --threads 8 --steps 10
      done
    done
    for classes in 1000000 2000000; do
      echo "== bench_classifier $classes classes, batch 1024"
      "$bench/bench_classifier" --device cuda --batch 1024 --classes "$classes" --threads 8
    done
  } 2>&1 | tee "$out/bench.log"
}

case ${1:-all} in
  fetch) fetch ;;
  build) prepare; build ;;
  test) prepare; run_tests ;;
  bench) prepare; run_bench ;;
  all) prepare; build; status=0; run_tests || status=$?; run_bench || status=1; exit "$status" ;;
  *) echo "usage: launch/gpu_check.sh [fetch|build|test|bench]   (found: $*)" >&2; exit 2 ;;
esac
