#!/usr/bin/env bash
# Run a step's start script in a conda environment: in-conda.sh PREFIX --bind FOLDER:/tmp START STEP [OPTIONS]
#
# Takes the place of `apptainer run` in conda jobs, with its words. Nothing is activated: the environment's programs come
# first on PATH, and a person's own modules and paths of Python are not seen, as they are not inside an image.
set -euo pipefail
prefix=$1 scratch=${3%:/tmp} start=$4
shift 4
unset PYTHONPATH PYTHONHOME PYTHONSTARTUP LD_PRELOAD CC CXX
export CONDA_PREFIX=$prefix PATH=$prefix/bin:/usr/local/bin:/usr/bin:/bin TMPDIR=$scratch
# What activating would have set: programs that compile when they run take the environment's compiler, not the node's.
if [ -x "$prefix/bin/g++" ]; then export CC=$prefix/bin/gcc CXX=$prefix/bin/g++; fi
# Caches that the job put below an image's /tmp. HOME stays the person's: it can be written here, and has their tokens.
for name in MPLCONFIGDIR HF_HOME TRITON_CACHE_DIR TORCHINDUCTOR_CACHE_DIR TORCH_EXTENSIONS_DIR CUDA_CACHE_PATH \
    VLLM_CACHE_ROOT TILELANG_CACHE_DIR TVM_FFI_CACHE_DIR XDG_CACHE_HOME GPTQMODEL_TORCH_EXTENSIONS_DIR GPTQMODEL_CACHE_DIR; do
    [ -z "${!name:-}" ] || export "$name=$scratch/${!name#/tmp/}"
done
cd "$(dirname "$start")"
export PYTHONPATH=$PWD
exec bash "$start" "$@"
