# Finds the LibTorch inside a torch 2.11 wheel (or any unpacked `torch` folder) and makes imported targets of it:
#   LibTorch::cpu    torch_cpu and c10, what everything links
#   LibTorch::cuda   torch_cuda and c10_cuda, what the CUDA plugin links; only when the wheel is a CUDA build
# The wheel's own CMake files are not used: they enable CUDA, run test programs and name targets that CUDA 13 removed.
# Input: TORCH_DIR, the `torch` folder (cache variable or environment). Output: LibTorch_FOUND, LibTorch_VERSION, LibTorch_LIBRARY_DIRS.
set(TORCH_DIR "$ENV{TORCH_DIR}" CACHE PATH "the torch folder of an unpacked torch 2.11 wheel")
if(NOT TORCH_DIR)
  if(DEFINED ENV{FACETRAIN_PREFIX})
    set(_prefix "$ENV{FACETRAIN_PREFIX}")
  elseif(DEFINED ENV{XDG_CACHE_HOME})
    set(_prefix "$ENV{XDG_CACHE_HOME}/facetrain")
  else()
    set(_prefix "$ENV{HOME}/.cache/facetrain")
  endif()
  set_property(CACHE TORCH_DIR PROPERTY VALUE "${_prefix}/site-packages/torch")
endif()

set(LibTorch_VERSION "")
if(EXISTS "${TORCH_DIR}/version.py")
  file(STRINGS "${TORCH_DIR}/version.py" _line REGEX "^__version__ *=")
  string(REGEX REPLACE ".*['\"]([0-9.]+).*" "\\1" LibTorch_VERSION "${_line}")
endif()

find_library(LibTorch_CPU torch_cpu PATHS "${TORCH_DIR}/lib" NO_DEFAULT_PATH)
find_library(LibTorch_C10 c10 PATHS "${TORCH_DIR}/lib" NO_DEFAULT_PATH)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch
  REQUIRED_VARS LibTorch_CPU LibTorch_C10 VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE "no torch wheel in '${TORCH_DIR}': run launch/setup.sh, or set TORCH_DIR to the torch folder of a torch 2.11")
if(NOT LibTorch_FOUND)
  return()
endif()

# The folders in which the loader finds what libtorch needs: its own, and the CUDA libraries that stand beside it in a wheel layout.
get_filename_component(_site "${TORCH_DIR}" DIRECTORY)
set(LibTorch_LIBRARY_DIRS "${TORCH_DIR}/lib")
file(GLOB _nvidia "${_site}/nvidia/*/lib")
list(APPEND LibTorch_LIBRARY_DIRS ${_nvidia})
foreach(_toolkit /usr/local/cuda/lib /usr/local/cuda/lib64)
  if(EXISTS "${_toolkit}")
    list(APPEND LibTorch_LIBRARY_DIRS "${_toolkit}")
  endif()
endforeach()

function(_libtorch_target name)
  add_library(LibTorch::${name} INTERFACE IMPORTED)
  set_target_properties(LibTorch::${name} PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${TORCH_DIR}/include;${TORCH_DIR}/include/torch/csrc/api/include")
  # no-as-needed: the libraries register operators when loaded, which the linker cannot see;
  # allow-shlib-undefined: what only the CUDA side of a library needs is resolved when it is loaded, or never.
  list(JOIN ARGN ";" _libraries)
  set_property(TARGET LibTorch::${name} PROPERTY INTERFACE_LINK_LIBRARIES
    "-Wl,--allow-shlib-undefined;-Wl,--no-as-needed;${_libraries};-Wl,--as-needed")
endfunction()

if(NOT TARGET LibTorch::cpu)
  _libtorch_target(cpu "${LibTorch_CPU}" "${LibTorch_C10}")
  find_library(LibTorch_CUDA torch_cuda PATHS "${TORCH_DIR}/lib" NO_DEFAULT_PATH)
  find_library(LibTorch_C10_CUDA c10_cuda PATHS "${TORCH_DIR}/lib" NO_DEFAULT_PATH)
  if(LibTorch_CUDA AND LibTorch_C10_CUDA)
    _libtorch_target(cuda "${LibTorch_CUDA}" "${LibTorch_C10_CUDA}" "${LibTorch_CPU}" "${LibTorch_C10}")
  endif()
endif()
