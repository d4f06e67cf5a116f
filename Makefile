# The two commands of README that do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test test-slow lint format install

$(BIN)/magnet: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e .
	@touch $@

demo: $(BIN)/magnet
	$(BIN)/magnet gen "lofi piano" -o out.wav --force

$(VENV)/dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

install: $(VENV)/dev

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: $(VENV)/dev
	$(BIN)/python -m pytest -q -m "not slow" -n 2 --dist worksteal

# What takes minutes or needs other programs (see .ci/run for their Debian packages).
test-slow: $(VENV)/dev
	$(BIN)/python -m pytest -q -m slow
