# Two commands on a bare machine: `make demo` (the main job, for real) and `make test`.
# Every other target is one `harness` command; `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

TUT ?=
STACK ?= pytorch
# Tests side by side, a file at a time: many wait for a scheduler or a registry, not for a processor.
WORKERS ?= $(shell nproc)
VARIANT ?= cpu
PRESET ?= full
SITE ?= default
JOBS ?= 2
VIA ?= apptainer
HARNESS := .venv/bin/harness
MACHINE := scripts/install-packages

.PHONY: help demo test test-stacks test-all measured fidelity docker lint setup engine scheduler bases build-sif build-all stack explain export gc roof history bench bench-images bench-reframe bench-runs inspect rebuild defs jobs docs submit \
	check status report list doctor cluster cluster-stop lock format clean

help: ## This list
	@echo "make TARGET [TUT=2] [VARIANT=cpu|cuda] [PRESET=smoke|bench|full] [SITE=default]"; echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: engine scheduler bases ## Build three images, run them as jobs on real data, judge them, write the page
	$(HARNESS) demo $(foreach t,$(TUT),--tutorial $(t))

test: engine ## Everything CI runs: linters, drift of defs/ and jobs/, all tests on real parts
	@$(MACHINE) slurm registry test || { test -z "$$CI" && echo "going on: tests that need those are skipped"; }
	@$(MAKE) --no-print-directory docker || { test -z "$$CI" && echo "going on: no image is compared with Docker's"; }
	$(MAKE) --no-print-directory lint
	.venv/bin/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-stacks: engine ## One tutorial of every software stack as a judged Slurm job; downloads gigabytes
	$(MACHINE) slurm registry test
	HARNESS_TEST_DOWNLOADS=1 .venv/bin/pytest tests/test_all_tutorials.py -k every_stack

test-all: export HARNESS_TEST_DOWNLOADS = 1
test-all: test ## And what takes minutes: all 25 tutorials, the pytorch image built twice, the whole corpus of Dockerfiles
	.venv/bin/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m slow
	HARNESS_CACHE=$(or $(HARNESS_TEST_CACHE),cache/test) .venv/bin/python -m harness.fidelity tests/corpus --ours-only

measured: engine scheduler bases ## Run and judge every tutorial's smoke preset as a Slurm job; write docs/tutorials/measured.md
	HARNESS_TEST_DOWNLOADS=1 .venv/bin/pytest -m "slow or not slow" tests/test_all_tutorials.py -k "pass_as or passes_as"
	CATALOG=$(or $(HARNESS_TEST_CACHE),cache/test)/catalog $(HARNESS) docs --measured

fidelity: engine ## Compare this converter and spython (if on PATH) with Docker; write docs/fidelity.md
	$(MACHINE) registry
	@$(MAKE) --no-print-directory docker
	.venv/bin/python -m harness.fidelity tests/corpus --table docs/fidelity.md

docker: ## Get a Docker engine to compare with; it runs privately, and only while comparing
	$(MACHINE) docker
	@scripts/install-docker || echo "going on with the engine that is here; cases of newer syntax have stand-ins"

lint: setup ## Ruff, mypy --strict, import order, shellcheck, drift of the generated files
	.venv/bin/ruff check . && .venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo
	@if command -v shellcheck; then shellcheck -x .ci/run scripts/* jobs/*.job jobs/lib/*.sh; \
	else echo "no shellcheck here" && test -z "$$CI"; fi
	$(HARNESS) defs --check && $(HARNESS) jobs --check && $(HARNESS) conda --check && $(HARNESS) docs --check && $(HARNESS) schema --check && $(HARNESS) lock --check

build-sif: engine bases ## Build, test and publish the image of TUT (all without TUT)
	$(HARNESS) build $(TUT) --variant $(VARIANT) --site $(SITE) --via $(VIA)

build-all: engine bases ## Build all images as a graph, JOBS at a time; VIA=slurm: as batch jobs
	$(HARNESS) build --all $(TUT) --variant $(VARIANT) --site $(SITE) --via $(VIA) $(if $(filter slurm,$(VIA)),,--jobs $(JOBS))

stack: engine bases ## Build the stages of STACK alone, for example STACK=embedding
	$(HARNESS) build --stack $(STACK) --variant $(VARIANT) --site $(SITE)

explain: setup ## Say what build-sif would build for TUT, and which line or file is the reason
	$(HARNESS) explain $(TUT) --variant $(VARIANT) --site $(SITE)

export: setup ## Write the image of TUT as one self-contained signed file
	$(HARNESS) export $(TUT) --variant $(VARIANT) --site $(SITE)

gc: setup ## Remove old images, and what builds have not used for a week
	$(HARNESS) catalog gc --site $(SITE)
	$(HARNESS) cache gc --site $(SITE)

roof: setup ## Measure what this node's device can do, for GPUs that no table knows (TUT: in its image)
	$(HARNESS) roof $(TUT) --variant $(VARIANT) --site $(SITE)

history: setup ## Show the throughput measured so far
	$(HARNESS) history $(TUT) --site $(SITE)

bench: bench-reframe bench-runs bench-images ## Run all benchmarks; write docs/benchmarks

bench-reframe: scheduler ## Measure against ReFrame, and with 10,000 waiting jobs; write docs/benchmarks
	.venv/bin/python benchmarks/reframe.py --table docs/benchmarks/reframe.md
	.venv/bin/python benchmarks/polling.py --table docs/benchmarks/polling.md

bench-runs: setup ## Measure status and report of 10,000 recorded runs; write docs/benchmarks
	.venv/bin/python benchmarks/runs.py --table docs/benchmarks/runs.md

bench-images: engine bases ## Measure building against plain apptainer build (TUT="mnist 1 2", or --whole-set: an hour); write docs/benchmarks
	.venv/bin/python benchmarks/images.py $(or $(TUT),--quick) --table docs/benchmarks/images.md

inspect: setup ## Show who signed the image of TUT, what it was made from, and its packages
	$(HARNESS) inspect $(TUT) --variant $(VARIANT) --site $(SITE)

rebuild: engine bases ## Build the image of TUT again, from nothing, and show every file that differs
	$(HARNESS) rebuild --verify $(TUT) --variant $(VARIANT) --site $(SITE)

defs: setup ## Write defs/*.def from the tutorials and their stacks
	$(HARNESS) defs

jobs: setup ## Write jobs/*.job from the tutorials, for SITE
	$(HARNESS) jobs --site $(SITE)

docs: setup ## Write docs/tutorials/*.md from the tutorials, in both languages
	$(HARNESS) docs

submit: setup ## Submit TUT as a job and return
	$(HARNESS) submit $(TUT) --variant $(VARIANT) --preset $(PRESET) --site $(SITE)

check: setup ## Wait for the newest run of TUT and judge it
	$(HARNESS) check $(TUT)

status: setup ## Show the newest runs
	$(HARNESS) status

report: setup ## Write one page about the newest runs
	$(HARNESS) report

list: setup ## List the tutorials and their images
	$(HARNESS) list

doctor: setup ## Say what this machine lacks, and the line that fixes it
	$(HARNESS) doctor --site $(SITE)

cluster: setup ## Start a private Slurm cluster to try the job scripts on
	$(MACHINE) slurm
	$(HARNESS) cluster start

cluster-stop: setup ## Stop it
	$(HARNESS) cluster stop

setup:
	@scripts/setup-python

engine: setup
	@scripts/install-apptainer

# A Slurm and the tools to make a base image are welcome, not needed: the demo says what it does without them.
scheduler bases: setup
	@$(MACHINE) $(if $(filter scheduler,$@),slurm,registry) || echo "going on without"

lock: setup ## Resolve base images, apt packages and Python packages again; see docs/locks.md
	scripts/lock-requirements

format: setup ## Format the Python code
	.venv/bin/ruff format . && .venv/bin/ruff check --fix .

clean: ## Remove what can be built again: cache and report, not the catalog, not the runs
	rm -rf cache report .mypy_cache .ruff_cache .pytest_cache
