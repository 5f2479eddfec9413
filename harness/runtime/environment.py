"""The names by which a job tells its program what it is part of. The only owner of these names.

The job script sets them (``jobs/lib/job.sh``); a program started by hand has none of them and still works.
"""

from __future__ import annotations

RUN_DIR = "HARNESS_RUN_DIR"  # the run folder, writable
RUN_ROOT = "HARNESS_RUN_ROOT"  # the run folder of the first attempt; later ones are below it
RUN_ID = "HARNESS_RUN_ID"
ATTEMPT = "HARNESS_ATTEMPT"  # tells a requeued job's attempts apart
TUTORIAL = "HARNESS_TUTORIAL"
VARIANT = "HARNESS_VARIANT"  # cpu | cuda
PRESET = "HARNESS_PRESET"  # smoke | bench | full
STEP = "HARNESS_STEP"
DATA_DIR = "HARNESS_DATA_DIR"  # the site's data root as the program sees it; empty where there is none
MODELS_DIR = "HARNESS_MODELS_DIR"  # the site's models root likewise
IMAGE_PATH = "HARNESS_IMAGE_PATH"
IMAGE_SHA256 = "HARNESS_IMAGE_SHA256"  # of the image file, as the job script verified it
GIT_REVISION = "HARNESS_GIT_REVISION"
JOB_ID = "HARNESS_JOB_ID"
NODE = "HARNESS_NODE"  # the scheduler's name of the node
GPUS_REQUESTED = "HARNESS_GPUS_REQUESTED"
GPU_SHARED = "HARNESS_GPU_SHARED"  # 1 where the GPU was asked for by the shard
SUBMITTED_AT = "HARNESS_SUBMITTED_AT"  # seconds since the epoch, as the three below; empty: unknown
JOB_STARTED_AT = "HARNESS_JOB_STARTED_AT"
STEP_STARTED_AT = "HARNESS_STEP_STARTED_AT"  # just before the image is started
DEFINITION_SHA256 = "HARNESS_DEFINITION_SHA256"  # key of the definition the image was built from, of its manifest
PROCESSES = "HARNESS_PROCESSES"  # processes of this step on each node; empty: 1
NODES = "HARNESS_NODES"  # nodes the step runs on; empty: 1
NODE_RANK = "HARNESS_NODE_RANK"  # which of them this is, from 0
RENDEZVOUS = (
    "HARNESS_RENDEZVOUS"  # a file that is not there yet, on a disk all nodes see: where rank 0 says its address
)
PORTS = "HARNESS_PORTS"  # of an interactive session: those the site allows, such as 20000-20999,21005
NOTEBOOKS = "HARNESS_NOTEBOOKS"  # likewise: the folder in which a person's files are kept
HUBS = "HARNESS_HUBS"  # the site's mirrors of model hubs: kind=address, by commas; only for jobs that download
