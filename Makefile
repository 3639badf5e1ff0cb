# Two words for a newcomer: `make demo` and `make test`. Each makes what it needs.

PYTHON      := .venv/bin/python
PIP_LOG     := .venv/install.log
TORCH       := torch==2.13.0
FBGEMM      := fbgemm-gpu==1.8.0
# cpu or cuda. On cuda: rm -r .venv first, then make ACCELERATOR=cuda.
ACCELERATOR ?= cpu
# Optional parts of pyproject.toml; none for a machine that only runs jobs: make EXTRAS= install.
EXTRAS      ?= [dev]
FBGEMM_cpu  := ./infra/cpu/fbgemm-gpu
FBGEMM_cuda := $(FBGEMM)

# Workers of a test share the cores with each other.
export OMP_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: help install demo doctor test test-long bench-smoke lint clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/.ready ## from rows to a published kernel on planted data; CPU, minutes
	@.venv/bin/iak demo

test: .venv/.ready ## unit tests, on a CPU, in parallel
	@$(PYTHON) -m pytest -n auto -m "not (slow or ray or night or faults or gpu)"

# Three files at a time on two cores, since tests that start a Ray mostly wait. Long files come
# first (tests/conftest.py), in that order: pytest-xdist would begin with those of many tests.
test-long: .venv/.ready ## the rest: faults, whole nights, Ray (and gpu where there is one)
	@$(PYTHON) -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "slow or ray or night or faults or gpu" --durations=10

bench-smoke: .venv/.ready ## every benchmark at a size that shows that it runs (minutes)
	@for bench in sharding scaling; do \
	  .venv/bin/iak bench $$bench --smoke out=runs/bench-smoke || exit 1; done
	@for bench in data tables finetune gate nights quality trunks terms serve faults; do \
	  $(PYTHON) -m infra.benchmarks $$bench --smoke out=runs/bench-smoke || exit 1; done

lint: .venv/.ready ## format, style, types, who imports whom
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

doctor: .venv/.ready ## whether the installed libraries belong together and work
	@.venv/bin/iak doctor

install: .venv/.ready ## the virtual environment .venv (ACCELERATOR=cpu or cuda)

clean: ## delete .venv and caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info

# Step 1 takes torch alone, so that a CPU user is spared gigabytes of CUDA: a wheel on this disk
# (pip's find-links) wins, then PyTorch's CPU index, then the ordinary index.
# Step 2 takes everything else, at the versions of infra/constraints.txt.
.venv/.ready: pyproject.toml infra/constraints.txt infra/cpu/fbgemm-gpu/pyproject.toml
	@set -eu; \
	case "$(ACCELERATOR)" in cpu|cuda) ;; \
	  *) echo "ACCELERATOR=$(ACCELERATOR) is not known; say cpu or cuda." >&2; exit 2;; esac; \
	new='import sys; sys.exit(sys.version_info < (3, 11))'; python=; \
	for candidate in python3.11 python3; do \
	  if $$candidate -c "$$new" 2>/dev/null; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "Python 3.11 or newer is needed, and neither python3.11 nor python3 is one." >&2; \
	  echo "Install it (Debian, Ubuntu: apt install python3.11 python3.11-venv) and run make again." >&2; \
	  exit 2; \
	fi; \
	echo "[1/3] virtual environment .venv, with $$($$python --version)"; \
	if ! $$python -m venv .venv; then \
	  echo "$$python cannot make virtual environments. Debian, Ubuntu: apt install python3-venv." >&2; \
	  exit 2; \
	fi; \
	: > $(PIP_LOG); \
	pip() { $(PYTHON) -m pip install --disable-pip-version-check --progress-bar off "$$@" >> $(PIP_LOG) 2>&1; }; \
	failed() { tail -n 40 $(PIP_LOG) >&2; echo "The install failed; the whole story is in $(PIP_LOG)." >&2; exit 1; }; \
	echo "[2/3] $(TORCH) for $(ACCELERATOR) (up to some minutes; log: $(PIP_LOG))"; \
	if [ "$(ACCELERATOR)" = cpu ]; then \
	  pip --no-index --no-deps $(TORCH) \
	  || pip --no-deps --index-url https://download.pytorch.org/whl/cpu $(TORCH) \
	  || pip $(TORCH) || failed; \
	else pip $(TORCH) || failed; fi; \
	echo "[3/3] the rest, as pinned in infra/constraints.txt"; \
	pip --constraint infra/constraints.txt $(FBGEMM_$(ACCELERATOR)) --editable '.$(EXTRAS)' || failed; \
	$(PYTHON) -m pip check >> $(PIP_LOG) 2>&1 || failed; \
	touch $@
