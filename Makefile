# make demo   environment, training on the shipped corpus, WER on unseen voices, a file transcribed
# make test   environment, lint, format and type checks, the whole test suite
# make quick  the same without the tests that take more than ten seconds
# make bench  layers, recurrence and CTC loss against what one would use instead; docs/benchmarks.md and its chart anew
#             (43 min on 2 cores; LAYER_OPTIONS chooses sizes: see python benchmarks/layer.py --help)
# make gpu-check  on a machine with a GPU, the CUDA toolkit (nvcc, compute-sanitizer), a C++ compiler, and torch, pytest,
#             hypothesis and ninja in $(PYTHON): the tests that need a GPU,
#             compute-sanitizer on small shapes, the benchmark into benchmarks/results/gpu.json
# PYTHON=python3.12 chooses the interpreter; .venv is what is made outside data/ and runs/, and the kernels in ~/.cache/sru_asr; `make clean`
# removes tools' caches, and bench and gpu-check renew benchmarks/results and docs/benchmarks.*

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
BENCH := .venv/.bench
PEERS := .venv/peers
RESULTS := benchmarks/results
LAYER_OPTIONS ?=

.PHONY: demo test quick check bench gpu-check clean

demo: $(INSTALLED)
	$(BIN)/sru-asr info
	$(BIN)/python recipes/alphanum/train.py --output-dir runs/alphanum
	@echo "unseen voices:"
	$(BIN)/python recipes/alphanum/evaluate.py --model runs/alphanum --split test --json runs/alphanum/test.json
	$(BIN)/sru-asr transcribe --model runs/alphanum $(firstword $(wildcard data/alphanum/audio/af_sarah-*.opus))

test: check
	$(BIN)/pytest -n 2 -rs  # what was skipped, and why

quick: check
	$(BIN)/pytest -n 2 -m "not slow"

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The package `sru` compiles when imported, with the environment's ninja.
bench: $(BENCH)
	PATH="$(CURDIR)/$(BIN):$$PATH" PYTHONPATH=$(PEERS) \
		$(BIN)/python benchmarks/layer.py $(LAYER_OPTIONS) --json $(RESULTS)/layer.json
	$(BIN)/python benchmarks/ctc.py --json $(RESULTS)/ctc.json
	$(BIN)/python benchmarks/recurrence.py --json $(RESULTS)/recurrence.json
	$(BIN)/python benchmarks/report.py

# Not in an environment of its own: the machines that lend GPUs have torch, and often no network.
gpu-check: export PYTHONPATH := $(CURDIR)
gpu-check:
	$(PYTHON) -c "import torch, sys; sys.exit(None if torch.cuda.is_available() else 'make gpu-check: torch finds no GPU')"
	failed=; \
	$(PYTHON) -m pytest -q -p no:cacheprovider tests/test_cuda.py -k "gpu or compile or registers or library or graph" \
		|| failed="$$failed tests"; \
	$(PYTHON) benchmarks/gpu.py --json $(RESULTS)/gpu.json || failed="$$failed benchmark"; \
	for tool in memcheck racecheck; do \
		PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $$tool --error-exitcode 1 \
			$(PYTHON) benchmarks/gpu.py --small || failed="$$failed $$tool"; done; \
	if [ "$$failed" ]; then echo "make gpu-check: failed:$$failed"; exit 1; fi

# torch first: a build of the kernels, should one be wanted, finds it then. Written last, so that an interrupted
# installation is taken up again.
$(INSTALLED): pyproject.toml constraints.txt setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch torchaudio
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

# What only benchmarks need. The package `sru` is kept apart from what the tests import; what it depends on, torch and
# ninja, is there already.
$(BENCH): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[bench]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(PEERS) sru==2.6.0
	@touch $@

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache
