# `make` alone lists what can be done. Every command sets itself up (.venv) and can be run again.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
SCRIPT := PYTHON=$(PY)
DEMO := output/demo
MINI := output/mini
# Which methods the mini-benchmark runs: all that have a config for the embedded sets, or a list.
TRAINERS ?= all
# How many of its runs go on at once, each with its share of the cores.
JOBS ?= $(shell nproc 2>/dev/null || echo 1)
# Which tests to run, in pytest's -m language; `make test MARK=` runs them all.
MARK ?= not slow
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo mini-benchmark test lint format type bench clean

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Settings: SEEDS=\"1 2 3\" (demo, mini-benchmark), TRAINERS=\"GOPro CoOp\" and JOBS=2 (mini-benchmark), MARK=\"slow\" (test), PYTHON=python3.12 (to make .venv)"

demo: $(VENV)/.installed ## Train and test GOPro and zero-shot CLIP on the embedded shapes; print the table
	@echo "== Demo: GOPro and zero-shot CLIP, base-to-new, on images that are drawn into data/ on the first run"
	@$(SCRIPT) DATASETS=shapes TRAINER="GOPro ZeroshotCLIP" OUTPUT=$(DEMO) bash scripts/benchmark.sh base2new
	@$(PY) scripts/report.py $(DEMO) --chart $(DEMO)/base2new.png
	@echo "The README gets this table by: $(PY) scripts/report.py $(DEMO) --readme README.md"
	@echo "Learning curves: $(VENV)/bin/tensorboard --logdir $(DEMO)"
	@echo "Finished runs are kept and skipped next time. To start over: rm -r $(DEMO)"

mini-benchmark: $(VENV)/.installed ## Run all four tasks with all methods on the embedded sets (an hour on two cores)
	@echo "== Mini-benchmark: four tasks on the embedded sets, methods: $(TRAINERS), $(JOBS) runs at once"
	@run() { $(SCRIPT) TRAINER="$(TRAINERS)" OUTPUT=$(MINI) JOBS=$(JOBS) bash scripts/benchmark.sh "$$@" DATALOADER.NUM_WORKERS 0; }; \
	DATASETS=embedded run base2new && DATASETS=embedded SHOTS=4 run cross-dataset && \
	DATASETS=embedded SHOTS=4 run domain-generalization && DATASETS=shapes SHOTS="1 2 4" run few-shot
	@$(PY) scripts/report.py $(MINI) --chart $(MINI)/tables.png
	@echo "docs/results.md gets these tables by: $(PY) scripts/report.py $(MINI) --readme docs/results.md --chart docs/results.png"
	@echo "Finished runs are kept and skipped next time. To start over: rm -r $(MINI)"

test: $(VENV)/.installed-dev ## Run the tests
	@$(PY) -m pytest -m "$(MARK)" $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev ## Check style and format with ruff
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

format: $(VENV)/.installed-dev ## Mend style and format with ruff
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

type: $(VENV)/.installed-dev ## Check types with mypy
	@$(PY) -m mypy

bench: $(VENV)/.installed ## Measure speed and memory beside a naive reference (an hour on two cores)
	@set -e; for name in text_encoder training_step sem_classes method_steps evaluation prediction startup data_loading processes end_to_end plots; do \
	  echo "== $$name"; $(PY) -m benchmarks.$$name; \
	done
	@$(PY) -m benchmarks.report
	@echo "docs/performance.md gets this section by: $(PY) -m benchmarks.report --write docs/performance.md"

clean: ## Remove caches (data/, output/ and .venv/ stay)
	@rm -rf .pytest_cache .mypy_cache .ruff_cache
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	@echo "Removed the caches. Images lie in data/, runs in output/, the installed packages in $(VENV)/."

$(VENV)/.installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "Python 3.10 or newer is needed, but $(PYTHON) is: $$($(PYTHON) --version 2>&1)."; \
	  echo "Name another one: make PYTHON=python3.12 ..."; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments. On Debian or Ubuntu:" \
	    "apt-get install $$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"; exit 1; }
	@echo "== Set-up: packages of $< go into $(VENV)/ (once; PyTorch is large)"
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(PY) -m pip install --disable-pip-version-check -r $<
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	@echo "== Set-up: packages of $< go into $(VENV)/"
	@$(PY) -m pip install --disable-pip-version-check -r $<
	@touch $@
