# The two commands of README that do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)

.PHONY: demo test test-slow test-lowest test-newest lint format install release check-release

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
	$(BIN)/python -m pytest -q -m slow -n 2 --dist worksteal tests/corpus
	$(BIN)/python -m pytest -q -m slow --ignore=tests/corpus

# The bounds of pyproject.toml: gigabytes each, so outside .ci/run. Python 3.10 for the lowest, 3.13 or newer for the newest.
BOUNDS ?= build/bounds

test-lowest:
	$(PYTHON) -m venv $(BOUNDS)/lowest
	$(BOUNDS)/lowest/bin/pip install -q uv
	$(BOUNDS)/lowest/bin/uv pip install -q --python $(BOUNDS)/lowest/bin/python --resolution lowest-direct -e '.[dev,train]'
	$(BOUNDS)/lowest/bin/python -m pytest -q -m "not slow" -n 2 --dist worksteal

test-newest:
	$(PYTHON) -m venv $(BOUNDS)/newest
	$(BOUNDS)/newest/bin/pip install -q --upgrade -e '.[dev]'
	$(BOUNDS)/newest/bin/python -m pytest -q -m "not slow" -n 2 --dist worksteal

# What is published, from what is committed: refuses while `home` in pyproject.toml is empty (release/build.py).
release: $(VENV)/release
	$(BIN)/python release/build.py dist

# The same for a home that is nobody's, and the linters of what only runs elsewhere.
check-release: $(VENV)/release
	$(BIN)/python release/build.py build/release --home https://example.invalid/nobody/magnet
	$(BIN)/check-jsonschema -q --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema -q --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml
	$(BIN)/zizmor --offline -q .github/workflows
	$(BIN)/hadolint Dockerfile

$(VENV)/release: $(VENV)/dev pyproject.toml
	$(BIN)/pip install -q -c constraints.txt -e '.[release]'
	@touch $@
