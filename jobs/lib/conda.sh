# shellcheck shell=bash disable=SC2034,SC2153 # variables of job.sh
# What a conda job does in the place of job_need_image: the same programs, steps and records, without an image. Sourced
# after job.sh, never run.
#
#   job_need_conda NAME ROOT PYTHON LOCK HOW [PIN...]   fail unless the environment is there and is what the lock says
#   job_programs FILE... <<'START'                      copy the programs to the run folder, with what starts a step
#
# A person may set: CONDA_ENV (the environment's folder, instead of ROOT/NAME).

job_need_conda() { # sets CONDA
    local name=$1 root=$2 python=$3 lock=$4 how=$5 said
    shift 5
    ENVIRONMENT=conda IMAGE='' RUN_IMAGE=("$RUN_DIR/programs/start")
    [ -z "${OPEN:-}" ] || job_fail "OPEN=$OPEN works inside an image" "use jobs/$NAME.apptainer.job"
    CONDA=${CONDA_ENV:-$root/$name}
    [ -x "$CONDA/bin/python" ] || job_fail "no conda environment $CONDA" "make it: $how"
    CONDA=$(cd "$CONDA" && pwd)
    said=$("$CONDA/bin/python" -I jobs/lib/check_environment.py "$python" "$lock" "$@" 2>&1) ||
        job_fail "the conda environment $CONDA is not as locked: ${said##*$'\n'}" "make it again: $how"
    [ -z "$lock" ] || LOCK_SHA256=$(job_sha256 "$lock")
    job_record
}

job_programs() { # what starts a step comes on standard input; it is the image's start script
    mkdir -p "$RUN_DIR/programs/harness"
    cp "$@" "$RUN_DIR/programs/"
    cp harness/__init__.py "$RUN_DIR/programs/harness/"
    cp -r harness/runtime "$RUN_DIR/programs/harness/"
    cat >"$RUN_DIR/programs/start"
}
