# Two commands do everything on a machine that has only Python >= 3.11:
#   make study   install, run the built-in study, print where the report is
#   make test    install with the dev extra, then lint, types, import order, tests
#   make check   the same with the fast tests alone
#   make release build the wheel and the sdist, check them, and use each in a fresh environment
#   make docs    the documentation as a site, in site/
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
FAST   := tests/test_architecture.py tests/test_registry.py tests/test_losses.py tests/test_noise.py tests/config \
          tests/stats tests/threat tests/weights tests/objectives tests/certification tests/executors tests/data \
          tests/claims tests/results/test_files.py tests/results/test_run_folder.py
OUT    ?= robustlens-out/quickstart

# pip compiles one file after the other: half of an installation's time. All cores do it in a fraction of that, and of
# the largest packages, and of tests that come with packages, next to nothing is ever imported: half of all source.
# Some packages have templates that are no Python.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable
SELDOM  := /site-packages/(.*/tests|databricks|mlflow|pip|plotly|pygments|ray|transformers)/
COMPILE := $(BIN)/python -m compileall -qq -j 0 -x '$(SELDOM)'
# What is compiled while the tests run, checks of types and shapes among it, is kept for the next process.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: study test check docs lint types imports tests fast browser release bench bench-peers mutants clean

study: $(VENV)/.installed
	$(BIN)/robustlens study quickstart --out $(OUT)

# mypy takes one core for a minute, and the imports are looked at behind it; the tests begin beside them.
test: lint
	$(MAKE) -j 2 types tests imports

# The house itself and the rooms whose tests are quick, in about a minute: for between two edits.
check: lint types imports fast

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

imports: $(VENV)/.installed-dev
	$(BIN)/lint-imports

tests: $(VENV)/.installed-dev browser
	$(BIN)/python -m pytest -n auto --dist loadscope --no-loadscope-reorder

fast: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto -m 'not slow' $(FAST)

# The report is opened in a headless Chromium by the tests.
browser: $(VENV)/.installed-dev
	$(BIN)/python tools/ensure_browser.py

# Publishes nothing: .github/workflows/release.yml does, for a tag.
release: $(VENV)/.installed-dev
	$(BIN)/python tools/release.py

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[hub]'
	$(COMPILE) $(VENV)/lib src || true
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[dev]'
	$(COMPILE) $(VENV)/lib src || true
	touch $@ $(VENV)/.installed

# The sample study of the site first (minutes, once), then the pages; a warning is an error.
docs: $(VENV)/.installed-dev
	$(BIN)/python tools/build_docs.py

bench: $(VENV)/.installed
	$(BIN)/python bench/training_step.py

# Against torchattacks and foolbox, whose dependencies would bring another torch; takes an hour, and resumes.
bench-peers: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-deps --requirement bench/requirements-peers.txt
	$(BIN)/python bench/peers.py

# Small changes of one room's source, against its own tests: make mutants ROOM=threat MINUTES=10 (processor time).
MINUTES ?= 10
mutants: $(VENV)/.installed-dev
	@test -n "$(ROOM)" || { echo "make mutants: give a room, for instance ROOM=threat"; exit 2; }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[mutants]'
	$(BIN)/python tools/mutants.py $(ROOM) --minutes $(MINUTES)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis
