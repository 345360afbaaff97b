# make demo          the newcomer's first minute: a virtual environment, refembed, one embedding
# make test          lint, types, import contract, all tests (fast and oracle tiers)
# make test-fast     the tests of parts, which need no llama.cpp: the inner loop
# make check         lint, types, import contract, no test that cannot fail
# make conformance   the suite against live llama.cpp, with its report
# make bench         speed beside the native engines
# make test-slow     fuzzing and long sweeps, a quarter of an hour and more
# make test-attack   mutants, kills, interruptions, hostile clients: docs/security.md; ARGS="--seed 5" for others
# make test-peers    against PyTorch, in a virtual environment of its own: gigabytes the first time
# make vocabularies  real vocabularies against live llama.cpp, 20,000 texts each
# make docs          the site, docs/build/html/index.html: warnings are errors, every link is followed
# make docs-links    links to other sites, which takes network and minutes
# make notebooks     the lessons of docs/course as notebooks, run: build/notebooks
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
WORKERS ?= 2  # processes that tests are dealt to, a file at a time; 0: this one alone
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test test-fast check conformance bench test-slow test-attack test-peers vocabularies docs docs-links notebooks clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/refembed embed "Hello, world!"
	@echo 'From here: `. $(BIN)/activate` makes `refembed` a command of this shell, and the lines of README.md run.' >&2

test: check
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.check_tests

test-fast: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not oracle and not system and not slow and not peers and not attack"

conformance: $(VENV)/.test
	$(BIN)/python -m conformance run

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m "slow and not peers" --hypothesis-profile=ci

test-attack: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) -m "not peers" tests/attack tests/server/test_attacks.py tests/kernels/fast/test_interrupts.py $(ARGS)

test-peers: .venv-peers/.done
	.venv-peers/bin/python -m pytest -m "peers and not slow" $(ARGS)

.venv-peers/.done: pyproject.toml
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip --disable-pip-version-check --quiet install --editable ".[test,peers]"
	touch $@

docs: .venv-docs/.done
	rm -rf docs/build/html docs/made
	.venv-docs/bin/python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet docs docs/build/html
	.venv-docs/bin/python -m tools.site.check docs/build/html
	@echo 'the site: docs/build/html/index.html' >&2

docs-links: .venv-docs/.done
	.venv-docs/bin/python -m sphinx --builder linkcheck --quiet docs docs/build/links

notebooks: .venv-docs/.done
	.venv-docs/bin/python -m tools.lessons

.venv-docs/.done: pyproject.toml
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip --disable-pip-version-check --quiet install --editable ".[docs]"
	touch $@

vocabularies: $(VENV)/.test
	$(BIN)/python -m conformance fetch vocabularies
	$(BIN)/python -m conformance vocabularies --texts 20000

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml
	$(PIP) install --editable ".[server]"
	touch $@

$(VENV)/.test: $(VENV)/bin/python pyproject.toml
	$(PIP) install --editable ".[test]"
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) .venv-peers .venv-docs build dist docs/build docs/made *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
