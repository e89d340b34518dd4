# make demo   environment, training on the shipped corpus, WER on unseen voices, a file transcribed
# make test   environment, lint, format and type checks, the whole test suite
# make quick  the same without the tests that take more than ten seconds
# make benchmark   the recurrence against torch.compile, the CTC loss against torch's
# PYTHON=python3.12 chooses the interpreter; .venv is the only thing made outside data/ and runs/.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test quick check benchmark clean

demo: $(INSTALLED)
	$(BIN)/sru-asr info
	$(BIN)/python recipes/alphanum/train.py --output-dir runs/alphanum
	@echo "unseen voices:"
	$(BIN)/python recipes/alphanum/evaluate.py --model runs/alphanum --split test --json runs/alphanum/test.json
	$(BIN)/sru-asr transcribe --model runs/alphanum $(firstword $(wildcard data/alphanum/audio/af_sarah-*.opus))

test: check
	$(BIN)/pytest -n 2

quick: check
	$(BIN)/pytest -n 2 -m "not slow"

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: $(INSTALLED)
	$(BIN)/python benchmarks/recurrence.py
	$(BIN)/python benchmarks/ctc.py

# torch first: a build of the kernels, should one be wanted, finds it then. Written last, so that an interrupted
# installation is taken up again.
$(INSTALLED): pyproject.toml constraints.txt setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch torchaudio
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache
