# Everything runs in a virtual environment, .venv, that the first target sets up.
#
#   make demo PYTHON=python3.12     # which Python makes the environment (3.11 or newer)
#   make test TESTS=tests/pure      # which tests
#   make demo STEPS=200             # how long the demonstration trains
#   make bench BENCHMARKS=step      # which benchmarks
#   make transfer SWEEPS="gpt mlp"  # which sweeps

PYTHON ?= python3
TESTS ?= tests
STEPS ?= 500
WORKERS ?= 2
BENCHMARKS ?= compile report model step compare_modula
SWEEPS ?=

READY := .venv/ready
RUN := .venv/bin/python
# One thread a worker: torch would otherwise start as many as there are cores in each.
TEST := OMP_NUM_THREADS=1 $(RUN) -m pytest

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check golden bench transfer figures docs screenshots clean

help: # list the targets
	@echo "usage: make TARGET"; echo
	@sed -n 's/^\([a-z]*\):[^#=]*# \(.*\)/  \1\t\2/p' Makefile | expand -t 15

demo: $(READY) # compile a small GPT, report its modular norm, train it on real text
	@mkdir -p runs/demo
	@rm -f runs/demo/gpt.pt runs/demo/gpt.jsonl
	.venv/bin/modnorm compile examples/gpt.mod -o runs/demo/gpt.py --force
	.venv/bin/modnorm report examples/gpt.mod
	$(RUN) examples/train.py runs/demo/gpt.py --steps $(STEPS) --threads 1 --eval-batches 20 \
	    --checkpoint runs/demo/gpt.pt --log runs/demo/gpt.jsonl
	@echo "runs/demo: gpt.py is the model with its optimizers, gpt.pt the trained state, gpt.jsonl the losses"

test: $(READY) # run the whole test suite; what needs a GPU is skipped without one
	@$(TEST) -n $(WORKERS) $(TESTS)

check: $(READY) # lint, formatting, types, and whether the generated documentation is up to date
	@$(RUN) -m ruff check
	@$(RUN) -m ruff format --check
	@$(RUN) tools/typecheck.py
	@$(RUN) tools/docs.py --check

golden: $(READY) # write the golden files of the tests anew; look at the difference before committing
	@MODNORM_GOLDEN=1 $(TEST) $(TESTS)

bench: $(READY) # run the benchmarks; tables go to runs/bench
	@mkdir -p runs/bench
	@for name in $(BENCHMARKS); do \
	    echo "benchmarks/$$name.py → runs/bench/$$name.md"; \
	    $(RUN) benchmarks/$$name.py > runs/bench/$$name.md || exit 1; \
	done

transfer: $(READY) # run the sweeps behind docs/transfer.md; goes on where it was stopped
	@$(RUN) -m pip install -qq --disable-pip-version-check --no-deps mup pyyaml
	@$(RUN) benchmarks/transfer/run.py $(SWEEPS)

figures: $(READY) # draw README's figure and its like from the committed results of sweeps
	@$(RUN) tools/evidence.py

docs: $(READY) # write the generated parts of README.md and docs anew
	@$(RUN) tools/docs.py

screenshots: $(READY) # write the pictures in docs/images anew; needs Chromium and chromedriver
	@$(RUN) tools/screenshots.py

clean: # remove the environment, caches and results
	rm -rf .venv build dist runs .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || { echo "There is no $(PYTHON): install Python 3.11 or newer, or name one with PYTHON=…" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, but $(PYTHON) is {v[0]}.{v[1]}: name another with PYTHON=…")'
	@echo "Setting up .venv (once; a few minutes, most of them for torch) …"
	@test -x $(RUN) || "$(PYTHON)" -m venv .venv
	@$(RUN) -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[torch,dev,browser,clients]"
	@touch $@
