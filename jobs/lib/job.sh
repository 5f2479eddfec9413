# shellcheck shell=bash
# What every job script of this project does before, around and after its work. Sourced, never run.
#
#   job_begin TUTORIAL NAME VARIANT   who we are; makes the run folder
#   job_need_gpus N                   fail unless N GPUs are visible; adds --nv
#   job_need_image                    fail unless the image is there, whole, and signed by a key the catalog trusts
#   job_offer_data ROOT [writable]    give the program the site's data root
#   job_check_data NAME PRESETS FOLDERS FILE...    fail where a data set is not whole, or missing and needed
#   job_offer_models ROOT [writable]  give the program the site's models root
#   job_check_models NAME PRESETS FOLDERS FILE...  fail where a model is not whole, or missing and needed
#   job_offer_hubs HUBS               let the program reach hubs: the site's mirrors, this machine's proxies and tokens
#   job_open STACK PORTS SERVER...    with OPEN set: run that server inside the image instead of the steps, and end
#   job_step STEP [OPTIONS]           run one step inside the image
#   job_ranks NODES N STEP [OPTIONS]  run one step as N processes on each of NODES nodes
#   job_platform_ranks NODES N STEP [OPTIONS]  the same, told where to meet as an AI platform tells its containers
#
# A person may set: PRESET (smoke, bench, full), IMAGE (a .sif file, or the folder of an image in a catalog), CATALOG,
# OPEN (jupyter or board: an interactive session instead of the steps), NOTEBOOKS (where its files are kept),
# DATA (data root), MODELS (models root), RUN_ID (of an earlier run: go on with it), ALLOW_UNSIGNED=1 (run an IMAGE of one's own that nobody signed),
# PROCESSES (other than N per node, for job_ranks).

set -euo pipefail
umask 022
JOB_OPTIONS=" $* " # of the job script, as long as nothing else was given to `source`

job_fail() { # what, what to do
    printf 'error: %s; %s\n' "$1" "$2" >&2
    exit 2
}

job_json() { # a JSON string of $1
    local text=${1//\\/\\\\}
    text=${text//\"/\\\"}
    printf '"%s"' "${text//[[:cntrl:]]/ }"
}

job_begin() {
    TUTORIAL=$1 NAME=$2 VARIANT=$3
    JOB_STARTED_AT=$(date +%s.%N)
    PRESET=${PRESET:-full}
    case $PRESET in
        smoke | bench | full) ;;
        *) job_fail "unknown PRESET '$PRESET'" "use smoke, bench or full" ;;
    esac
    [ -d jobs/lib ] || job_fail "$PWD is not the checkout" "submit from the root of the checkout"

    # One place knows the scheduler's dialect.
    JOB_ID=${SLURM_JOB_ID:-}
    ATTEMPT=${SLURM_RESTART_COUNT:-0}
    SUBMITTED_AT=${HARNESS_SUBMITTED_AT:-}
    if [ -z "$SUBMITTED_AT" ] && [ -n "$JOB_ID" ]; then
        SUBMITTED_AT=$(date -d "$(squeue -h -j "$JOB_ID" -o %V 2>/dev/null)" +%s 2>/dev/null) || SUBMITTED_AT=
    fi
    NODE=${SLURMD_NODENAME:-$(hostname)}
    CORES=${SLURM_CPUS_PER_TASK:-$(nproc)}

    RUN_ID=${RUN_ID:-$NAME-$VARIANT-${OPEN:-$PRESET}-$(date -u +%Y%m%dT%H%M%SZ)-${JOB_ID:-$$}}
    RUN_ROOT=$PWD/runs/$RUN_ID RUN_DIR=$PWD/runs/$RUN_ID
    # On a node that was only cut off, the attempt before this one may still run: it keeps its own files. A job that is
    # told to go on with a run (RUN_ID) which had several attempts is one more of them.
    local number begun=0
    while [ -d "$RUN_ROOT/attempt-$((begun + 1))" ]; do begun=$((begun + 1)); done
    [ "$begun" -eq 0 ] || [ "$ATTEMPT" -gt "$begun" ] || ATTEMPT=$((begun + 1))
    for ((number = begun + 1; number <= ATTEMPT; number++)); do
        mkdir -p "$RUN_ROOT/attempt-$number" 2>/dev/null || break
    done
    [ "$ATTEMPT" -eq 0 ] || RUN_DIR=$RUN_ROOT/attempt-$ATTEMPT
    mkdir -p "$RUN_DIR" 2>/dev/null || job_fail "cannot write $RUN_DIR" "check quota and permissions of runs/"
    rm -f "$RUN_DIR/exit_code"
    SCRATCH=$(mktemp -d "${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/$NAME.XXXXXX") ||
        job_fail "no space for temporary files on $NODE" "set TMPDIR to a folder on a local disk"
    trap 'job_end $?' EXIT
    trap 'exit 143' TERM

    RANK_NODES=1 RANKS_PER_NODE=1 MEETING_PORT=''
    # What earlier attempts left is read, never changed.
    ROOT_BIND=()
    [ "$ATTEMPT" -eq 0 ] || ROOT_BIND=(--bind "$RUN_ROOT:$RUN_ROOT:ro")
    GPUS=0 GPU_SHARED=0 IMAGE_SHA256='' STACK='' DEFINITION_SHA256='' SIGNED_BY='' NV=()
    DATA_ROOT='' DATA_BIND=() MODELS_ROOT='' MODELS_BIND=() HUB_VARIABLES=()
    # Root without CAP_SYS_RESOURCE can start images in a user namespace only; it works for root everywhere.
    USERNS=()
    [ "$(id -u)" -ne 0 ] || USERNS=(--userns)
    # shellcheck disable=SC2034 # job_record has it
    ENVIRONMENT=apptainer CONDA='' LOCK_SHA256=''
    job_record
    echo "run: runs/$RUN_ID"
}

job_record() { # job.json, replaced whole
    {
        echo '{'
        local name
        for name in TUTORIAL VARIANT PRESET RUN_ID ATTEMPT JOB_ID NODE IMAGE IMAGE_SHA256 STACK DEFINITION_SHA256 \
            SIGNED_BY GPUS GPU_SHARED SUBMITTED_AT JOB_STARTED_AT OPEN \
            ENVIRONMENT CONDA LOCK_SHA256; do
            printf '  "%s": %s,\n' "${name,,}" "$(job_json "${!name:-}")"
        done
        printf '  "host": %s\n}\n' "$(job_json "$(hostname)")"
    } >"$RUN_DIR/.job.json"
    mv "$RUN_DIR/.job.json" "$RUN_DIR/job.json"
}

job_end() { # exit status
    rm -rf "$SCRATCH"
    printf '%d\n' "$1" >"$RUN_DIR/.exit_code"
    mv "$RUN_DIR/.exit_code" "$RUN_DIR/exit_code"
}

job_need_gpus() { # count
    local wanted=$1 visible
    [[ ! ${PROCESSES:-} =~ ^[0-9]+$ ]] || [ "$PROCESSES" -le "$wanted" ] || wanted=$PROCESSES # each drives one
    case ${SLURM_JOB_GRES:-}${SLURM_SHARDS_ON_NODE:+shard} in *shard*) GPU_SHARED=1 ;; esac
    GPUS=$wanted
    NV=(--nv)
    job_record
    if ! visible=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU'); then
        job_fail "$wanted GPU(s) needed, but $NODE shows no NVIDIA driver (nvidia-smi)" \
            "submit to a GPU node: sbatch --gres=gpu:$wanted $0, or use the .cpu.job"
    fi
    # --nv shows every GPU of the node; the scheduler's choice must go through. Where none chose, programs see as many
    # as the job asks for: some use all they see, or refuse to be one process that sees several.
    if [ -z "$JOB_ID" ]; then
        export CUDA_VISIBLE_DEVICES
        CUDA_VISIBLE_DEVICES=$(job_first_gpus "$visible" "$wanted")
    fi
    if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
        visible=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c .)
    elif [ -n "$JOB_ID" ]; then
        visible=0 # a job that was given no GPU may still see the node's
    fi
    local shards=''
    [ "$wanted" -gt 1 ] || shards=' (or --gres=shard:16)' # they are all on one GPU
    [ "$visible" -ge "$wanted" ] ||
        job_fail "$wanted GPU(s) needed, $visible given" "submit with sbatch --gres=gpu:$wanted$shards"
}

job_first_gpus() { # VISIBLE WANTED: the first of the GPUs that the person chose, or that the node has
    local chosen=${CUDA_VISIBLE_DEVICES:-}
    [ -n "$chosen" ] || chosen=$(seq -s , 0 $(($1 - 1)))
    cut -d , -f "1-$2" <<<"$chosen"
}

job_need_image() { # sets RUN_IMAGE, what the engine is given
    local name=$NAME published stack again="build it again: make build-sif TUT=$TUTORIAL VARIANT=$VARIANT"
    ENGINE=$(command -v apptainer || command -v singularity) ||
        job_fail "neither apptainer nor singularity is on $NODE" "load its module or ask the administrator"
    [ "$VARIANT" = cuda ] || name=$NAME.$VARIANT
    IMAGE=${IMAGE:-${CATALOG:-catalog}/images/$name/current}
    [ -e "$IMAGE" ] || job_fail "no image $IMAGE" "build it: make build-sif TUT=$TUTORIAL VARIANT=$VARIANT"
    # A link to the current image may be flipped while we work; what it leads to now stays.
    IMAGE=$(readlink -f "$IMAGE")
    published=$(basename "$IMAGE" .sif)
    if [ -d "$IMAGE" ]; then
        if [ -e "$IMAGE/layer.sif" ]; then IMAGE=$IMAGE/layer.sif; else IMAGE=$IMAGE/image.sif; fi
        [ -r "$IMAGE" ] || job_fail "no image $IMAGE" "build it: make build-sif TUT=$TUTORIAL VARIANT=$VARIANT"
    fi
    case $IMAGE in */layer.sif | */image.sif) published=$(basename "$(dirname "$IMAGE")") ;; esac
    IMAGE_SHA256=$(job_sha256 "$IMAGE")
    # A published image is named by its content: a damaged or replaced file does not match its name.
    if [[ $published =~ ^[0-9a-f]{64}$ ]]; then
        [ "$published" = "$IMAGE_SHA256" ] ||
            job_fail "$IMAGE is damaged (its content is sha256 $IMAGE_SHA256)" "$again"
    fi
    job_verify_signature "$IMAGE"
    # What follows was signed. A layer names its stack by digest: no other stack can be put below it.
    DEFINITION_SHA256=$(job_image_says definition_sha256)
    stack=$(job_image_says stack_sha256)
    RUN_IMAGE=("$IMAGE")
    if [ -n "$stack" ]; then
        STACK=$(dirname "$IMAGE")/stack.sif
        [ -r "$STACK" ] || job_fail "$IMAGE needs its stack $STACK" "$again"
        STACK=$(readlink -f "$STACK")
        [ "$stack" = "$(job_sha256 "$STACK")" ] ||
            job_fail "$STACK is damaged or not the stack of $IMAGE" "$again"
        job_verify_signature "$STACK"
        RUN_IMAGE=(--overlay "$IMAGE:ro" "$STACK")
    fi
    job_record
}

job_sha256() { # of a file; openssl uses the processor's own SHA instructions where sha256sum does not
    { openssl dgst -sha256 -r "$1" 2>/dev/null || sha256sum "$1"; } | cut -d' ' -f1
}

job_image_says() { # the digest that the image gives under a name, in one of its JSON objects; empty without
    local number
    for number in $("$ENGINE" sif list "$IMAGE" 2>/dev/null | sed -n 's/^\([0-9]*\) .*JSON\.Generic.*/\1/p'); do
        "$ENGINE" sif dump "$number" "$IMAGE" 2>/dev/null | sed -n "s/.*[{,] *\"$1\": *\"\([0-9a-f]\{64\}\)\".*/\1/p"
    done | head -n 1
}

job_verify_signature() { # FILE; sets SIGNED_BY to the name of the catalog's key
    if [ "${ALLOW_UNSIGNED:-}" = 1 ]; then
        echo "note: ALLOW_UNSIGNED=1, so nobody vouches for $1"
        return
    fi
    local keys=${CATALOG:-catalog}/keys key said reason='' again="build it again: make build-sif TUT=$TUTORIAL"
    for key in "$keys"/*.pem; do
        [ -r "$key" ] || continue
        if said=$("$ENGINE" verify --all --key "$key" "$1" 2>&1); then
            SIGNED_BY=$(basename "$key" .pem)
            return
        fi
        case $said in
            *'signature not found'*) reason='is not signed' ;;
            *'accepted signatures do not match'*) reason=${reason:-"was not signed by a key in $keys"} ;;
            *) reason="was changed after it was signed, or is no image (${said##*$'\n'})" ;;
        esac
    done
    job_fail "$1 ${reason:-cannot be verified: no key in $keys}" \
        "$again VARIANT=$VARIANT, or set ALLOW_UNSIGNED=1 if it is your own"
}

job_offer_data() { # the site's data root; DATA wins over it
    local root=${DATA:-$1}
    if [ -n "${DATA:-}" ] && [ ! -d "$DATA" ]; then
        job_fail "DATA=$DATA is no folder on $NODE" "point DATA at the site's data root, or unset it"
    fi
    [ -n "$root" ] && [ -d "$root" ] || return 0
    DATA_ROOT=$(readlink -f "$root")
    DATA_BIND=(--bind "$DATA_ROOT:/data:$(job_access "$DATA_ROOT" "${2:-}")")
}

job_offer_models() { # the site's models root; MODELS wins over it
    local root=${MODELS:-$1}
    if [ -n "${MODELS:-}" ] && [ ! -d "$MODELS" ]; then
        job_fail "MODELS=$MODELS is no folder on $NODE" "point MODELS at the site's models root, or unset it"
    fi
    [ -n "$root" ] && [ -d "$root" ] || return 0
    MODELS_ROOT=$(readlink -f "$root")
    MODELS_BIND=(--bind "$MODELS_ROOT:/models:$(job_access "$MODELS_ROOT" "${2:-}")")
}

job_access() { # FOLDER ACCESS: rw where the tutorial writes there and the person may
    if [ "$2" = writable ] && [ -w "$1" ]; then echo rw; else echo ro; fi
}

job_offer_hubs() { # HUBS: mirrors of the site as kind=address, by commas
    local name
    HUB_VARIABLES=(HARNESS_HUBS="$1")
    for name in HF_TOKEN HF_ENDPOINT MODELSCOPE_API_TOKEN MODELSCOPE_ENDPOINT \
        http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
        [ -z "${!name:-}" ] || HUB_VARIABLES+=("$name=${!name}")
    done
}

job_check_data() { # NAME PRESETS FOLDER[:FOLDER...] FILE...: see job_check_whole
    job_check_whole data "$DATA_ROOT" "$@"
}

job_check_models() { # NAME PRESETS FOLDER[:FOLDER...] FILE...: see job_check_whole
    job_check_whole models "$MODELS_ROOT" "$@"
}

# What is there, in one of the folders, must be whole. What is missing must be something that this preset, one of those
# in PRESETS (by colons), can do without. A FILE may have other names that will do, by bars: a|b. NAME is what the command that fetches it calls it; empty: no program can.
job_check_whole() { # KIND ROOT NAME PRESETS FOLDER[:FOLDER...] FILE...
    local kind=$1 root=$2 name=$3 presets=$4 folders=() folder file missing='' first='' how noun
    IFS=: read -ra folders <<<"$5"
    shift 5
    how="fetch it: .venv/bin/harness $kind fetch '$name'"
    [ -n "$name" ] || how="get it by hand: see docs/models-and-data.md"
    how+=", or set ${kind^^} to a folder that has it"
    for folder in "${folders[@]}"; do
        if [ -z "$root" ] || [ ! -d "$root/$folder" ]; then continue; fi
        missing=''
        for file in "$@"; do
            job_has "$root/$folder" "$file" || missing=${missing:-$folder/${file%%|*}}
        done
        [ -n "$missing" ] || return 0
        first=${first:-$missing}
    done
    case $kind in data) noun='data set' ;; *) noun=model ;; esac
    [ -z "$first" ] || job_fail "$noun incomplete: $root/$first is missing" "$how"
    [ -z "${OPEN:-}" ] || return 0 # what a session lacks its person finds out
    case :$presets: in *:"$PRESET":*) return 0 ;; esac
    case $JOB_OPTIONS in *' --weights'[\ =]* | *' --model'[\ =]* | *' --data'[\ =]*) return 0 ;; esac # of one's own
    job_fail "$noun missing: preset $PRESET needs ${name:-${folders[0]}}, which is not below ${root:-any $kind root}" "$how"
}

job_has() { # FOLDER NAME[|OTHER_NAME...]: whether the file is there under one of its names
    local name names
    IFS='|' read -ra names <<<"$2"
    for name in "${names[@]}"; do [ ! -s "$1/$name" ] || return 0; done
    return 1
}

job_open() { # STACK PORTS SERVER...
    [ -n "${OPEN:-}" ] || return 0
    local stack=$1 offered=" ${*:3} " lacking
    PORTS=$2
    case $OPEN in
        jupyter) lacking="add jupyterlab to containers/$stack and 'jupyter' to servers in its stack.toml, then build again" ;;
        board) lacking="open the board of a tutorial that has a board.py, such as tutorial6" ;;
        *) job_fail "unknown OPEN '$OPEN'" "use jupyter or board" ;;
    esac
    [[ $offered == *" $OPEN "* ]] || job_fail "the image of $NAME ($VARIANT) has no $OPEN" "$lacking"
    NOTEBOOKS=${NOTEBOOKS:-$PWD/notebooks}
    { mkdir -p "$NOTEBOOKS" 2>/dev/null && [ -w "$NOTEBOOKS" ]; } ||
        job_fail "cannot write to $NOTEBOOKS" "set NOTEBOOKS to a folder of your own"
    NOTEBOOKS=$(readlink -f "$NOTEBOOKS")
    job_step "$OPEN"
    exit 0
}

job_step() { # STEP [OPTIONS]
    local step=$1 sharers=$GPUS started
    shift
    started=$(date +%s.%N)
    [ "$RANKS_PER_NODE" -eq 1 ] || sharers=$RANKS_PER_NODE
    local threads=$CORES
    [ "$sharers" -le 1 ] || threads=$((CORES / sharers > 0 ? CORES / sharers : 1))
    local variables=(
        HARNESS_RUN_DIR="$RUN_DIR" HARNESS_RUN_ROOT="$RUN_ROOT" HARNESS_RUN_ID="$RUN_ID" HARNESS_ATTEMPT="$ATTEMPT"
        HARNESS_TUTORIAL="$TUTORIAL" HARNESS_VARIANT="$VARIANT" HARNESS_PRESET="$PRESET" HARNESS_STEP="$step" HARNESS_IMAGE_PATH="$IMAGE"
        HARNESS_IMAGE_SHA256="$IMAGE_SHA256" HARNESS_IMAGE_SIGNED_BY="$SIGNED_BY"
        HARNESS_DEFINITION_SHA256="$DEFINITION_SHA256" HARNESS_JOB_ID="$JOB_ID"
        HARNESS_GIT_REVISION="$(git rev-parse HEAD 2>/dev/null || true)"
        HARNESS_GPUS_REQUESTED="$GPUS" HARNESS_GPU_SHARED="$GPU_SHARED" HARNESS_NODE="$NODE"
        HARNESS_DATA_DIR="${DATA_BIND[0]:+/data}" HARNESS_MODELS_DIR="${MODELS_BIND[0]:+/models}" HARNESS_SUBMITTED_AT="$SUBMITTED_AT"
        HARNESS_JOB_STARTED_AT="$JOB_STARTED_AT" HARNESS_STEP_STARTED_AT="$started"
        HARNESS_PROCESSES="$RANKS_PER_NODE"
        # A thread that waits lets others work: one that spins makes a busy node two to three times slower.
        OMP_NUM_THREADS="$threads" OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}" HF_HUB_OFFLINE=1 PYTHONNOUSERSITE=1 PYTHONUNBUFFERED=1
        # Caches belong on this node's disk: many jobs compiling into one home folder corrupt one another.
        TMPDIR=/tmp MPLCONFIGDIR=/tmp/matplotlib HF_HOME=/tmp/huggingface TRITON_CACHE_DIR=/tmp/triton
        TORCHINDUCTOR_CACHE_DIR=/tmp/inductor TORCH_EXTENSIONS_DIR=/tmp/torch-extensions CUDA_CACHE_PATH=/tmp/cuda
        VLLM_CACHE_ROOT=/tmp/vllm TILELANG_CACHE_DIR=/tmp/tilelang TVM_FFI_CACHE_DIR=/tmp/tvm-ffi XDG_CACHE_HOME=/tmp/cache
        # GPTQModel compiles its kernels when they are first used; what it would download for one of them is not to be had.
        GPTQMODEL_TORCH_EXTENSIONS_DIR=/tmp/gptqmodel-extensions GPTQMODEL_CACHE_DIR=/tmp/gptqmodel GPTQMODEL_OFFLINE=1
        "${HUB_VARIABLES[@]}"
    )
    if [ -n "$MEETING_PORT" ]; then # this is the first node of the job
        variables+=(RANK=0 WORLD_SIZE="$RANK_NODES" MASTER_ADDR="$(hostname)" MASTER_PORT="$MEETING_PORT")
    else
        variables+=(HARNESS_NODES="$RANK_NODES" HARNESS_RENDEZVOUS="$RUN_DIR/.rendezvous.$step.$started")
    fi
    [ -z "${OPEN:-}" ] || variables+=(HARNESS_PORTS="$PORTS" HARNESS_NOTEBOOKS="$NOTEBOOKS")
    [ -z "${CUDA_VISIBLE_DEVICES:-}" ] || variables+=(CUDA_VISIBLE_DEVICES="$CUDA_VISIBLE_DEVICES")
    # Not --env: it splits a value at its commas.
    local variable prefix=APPTAINERENV_
    case $ENVIRONMENT:${ENGINE:-} in
        conda:*)
            prefix=''
            variables+=(HARNESS_DATA_DIR="$DATA_ROOT" HARNESS_MODELS_DIR="$MODELS_ROOT")
            ;;
        *singularity) prefix=SINGULARITYENV_ ;;
    esac
    # Those of the step before, and of whatever the person's shell was part of: a stray RANK=1 would write no result.
    unset "$prefix"{HARNESS_NODES,HARNESS_NODE_RANK,HARNESS_RENDEZVOUS,MASTER_ADDR,MASTER_PORT} \
        "$prefix"{RANK,LOCAL_RANK,WORLD_SIZE,LOCAL_WORLD_SIZE,NPROC_PER_NODE}
    for variable in "${variables[@]}"; do export "$prefix${variable?}"; done
    # What asks for none of these variables writes below HOME: a person's own is not in the image, and the folder of its
    # name cannot be written. So HOME is the scratch, which is bound to /tmp; --no-home keeps anything else from there.
    local command=(bash "$PWD/jobs/lib/in-conda.sh" "$CONDA")
    [ "$ENVIRONMENT" = conda ] ||
        command=("$ENGINE" --quiet run "${USERNS[@]}" "${NV[@]}" --cleanenv --no-home --home /tmp "${ROOT_BIND[@]}"
        --bind "$RUN_DIR" "${DATA_BIND[@]}" "${MODELS_BIND[@]}" --pwd /opt/tutorial)
    if [ -n "${OPEN:-}" ]; then
        command[2]='exec'
        "${command[@]}" --bind "$NOTEBOOKS" --bind "$SCRATCH:/tmp" "${RUN_IMAGE[@]}" \
            python -m harness.runtime.session "$OPEN"
    elif [ "$RANK_NODES" -eq 1 ]; then
        "${command[@]}" --bind "$SCRATCH:/tmp" "${RUN_IMAGE[@]}" "$step" "$@"
    else
        job_on_every_node "$prefix" "${#command[@]}" "${command[@]}" "${RUN_IMAGE[@]}" "$step" "$@"
    fi 2>&1 | tee -a "$RUN_DIR/log.txt"
}

job_ranks() { # NODES PROCESSES STEP [OPTIONS]
    RANK_NODES=${SLURM_JOB_NUM_NODES:-1} RANKS_PER_NODE=${PROCESSES:-$2}
    [ "$RANK_NODES" -ge "$1" ] ||
        job_fail "$1 nodes needed, $RANK_NODES given" "submit with sbatch --nodes=$1 to a cluster that has them"
    [[ $RANKS_PER_NODE =~ ^[1-9][0-9]*$ ]] ||
        job_fail "PROCESSES is '$RANKS_PER_NODE'" "give the number of processes per node, or unset it"
    shift 2
    job_step "$@"
    RANK_NODES=1 RANKS_PER_NODE=1
}

job_platform_ranks() { # NODES PROCESSES STEP [OPTIONS]
    MEETING_PORT=$(job_free_port)
    job_ranks "$@"
    MEETING_PORT=''
}

job_free_port() { # one that nothing on this node uses
    # Below the range from which the kernel hands out ports; the job's number keeps two jobs on a node apart.
    local port=$((20000 + ${JOB_ID:-$$} % 12000))
    while grep -qi "^ *[0-9]*: [0-9A-F]*:$(printf '%04X' "$port") " /proc/net/tcp /proc/net/tcp6 2>/dev/null; do
        port=$((port < 31999 ? port + 1 : 20000))
    done
    echo "$port"
}

job_on_every_node() { # PREFIX COUNT COMMAND...: COMMAND on each node, told which one it is; --bind after COUNT words
    # Each node has a folder for temporary files of its own. A node whose ranks fail stops the others.
    # shellcheck disable=SC2016 # expanded there, not here
    srun --nodes="$RANK_NODES" --ntasks="$RANK_NODES" --ntasks-per-node=1 --cpus-per-task="$CORES" \
        --kill-on-bad-exit=1 bash -c '
            set -euo pipefail
            export "$1HARNESS_NODE=$SLURMD_NODENAME" meeting=$1MASTER_PORT
            # The GPUs of this node: the first node of the job may have been given others.
            if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
                export "$1CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES"
            else
                unset "$1CUDA_VISIBLE_DEVICES"
            fi
            if [ -n "${!meeting:-}" ]; then export "$1RANK=$SLURM_PROCID"; else export "$1HARNESS_NODE_RANK=$SLURM_PROCID"; fi
            scratch=$(mktemp -d "${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/node.XXXXXX")
            trap "rm -rf \"$scratch\"" EXIT
            trap : TERM # the image gets it as well, and is waited for
            "${@:3:$2}" --bind "$scratch:/tmp" "${@:3+$2}"
        ' node "$@"
}
