# Set-up in two commands, on Debian 12, Ubuntu 24.04 or the like with Python >= 3.11 and gcc with g++, or clang:
#
#   make demo    environment, build, the bundled pilot, then the hour of its outage over real Modbus sockets
#   make test    environment with the tools, build, ruff, mypy, pytest
#
# Another Python: make PYTHON=python3.12 demo

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What the compiled parts are made of. All other files are used in place and need no rebuild.
SOURCES := pyproject.toml setup.py $(addprefix emulator/,fields.py cells.py exact.py trace.py emit.py) \
	$(wildcard emulator/*.pyx emulator/*.pxd emulator/*.h emulator/model/*.py hil/*.pyx)

# Much of the tests is waiting for a real clock: one worker more than there are cores, and at most five.
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
WORKERS := $(shell expr \( $(CORES) \< 4 \) \* $(CORES) + \( $(CORES) \>= 4 \) \* 4 + 1)

.PHONY: help demo test test-slow build plots doctor clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    set up, then run the bundled pilot and an hour of it over real Modbus sockets"
	@echo "make test    set up with the tools, then ruff, mypy and pytest"
	@echo "make test-slow the tests of more than 20 s each, which make test leaves out"
	@echo "make build   set up with the tools and compile, no more"
	@echo "make plots   run the plant for every figure and table of docs/model, and draw them; some minutes"
	@echo "make doctor  say what this machine lacks, with the cure"
	@echo "make clean   remove all that make made, $(VENV) included; records in runs/ stay"

demo: $(VENV)/run.stamp
	$(BIN)/ridethrough run
	$(BIN)/ridethrough run --from 18:00 --for 1h --level hil --speed 60

test: $(VENV)/test.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(WORKERS)

# What takes more than about 20 s each and is left out of `make test`.
test-slow: $(VENV)/test.stamp
	$(BIN)/python -m pytest -n $(WORKERS) -m "slow and not endurance"

build: $(VENV)/test.stamp

plots: $(VENV)/docs.stamp
	$(BIN)/python -m tests.plots

# A stamp says: this environment was made and these sources compiled after their last change.
$(VENV)/run.stamp: $(SOURCES) | doctor
	@echo "Making $(VENV) and compiling; the first time takes a minute or two."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

# The tools of the extra `test` are added to it, and nothing is compiled twice.
$(VENV)/test.stamp: $(VENV)/run.stamp
	@echo "Adding the test tools to $(VENV)."
	@$(BIN)/python -c "import tomllib; from pathlib import Path; project = tomllib.loads(Path('pyproject.toml') \
		.read_text())['project']; print(*project['optional-dependencies']['test'], sep='\n')" > $(VENV)/test.txt
	$(BIN)/python -m pip install --quiet --requirement $(VENV)/test.txt
	@touch $@

# The tools of the extra `docs`, likewise.
$(VENV)/docs.stamp: $(VENV)/test.stamp
	@echo "Adding the drawing tools to $(VENV)."
	@$(BIN)/python -c "import tomllib; from pathlib import Path; project = tomllib.loads(Path('pyproject.toml') \
		.read_text())['project']; print(*project['optional-dependencies']['docs'], sep='\n')" > $(VENV)/docs.txt
	$(BIN)/python -m pip install --quiet --requirement $(VENV)/docs.txt
	@touch $@

# The compiler is the one Python will call; a file is put to it, because gcc without libc6-dev is there but no use.
doctor:
	@fails=0; \
	lack() { echo "missing: $$1" >&2; echo "   cure: $$2" >&2; fails=1; }; \
	ask() { $(PYTHON) -c "import os, sysconfig; print($$1)"; }; \
	if ! command -v $(PYTHON) >/dev/null; then \
		lack "$(PYTHON)" "apt-get install python3, or name another one: make PYTHON=python3.12 ..."; \
	elif ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
		lack "Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)" \
			"install one and name it: make PYTHON=python3.12 ..."; \
	else \
		$(PYTHON) -c 'import ensurepip, venv' || \
			lack "the venv module of $(PYTHON)" "apt-get install python3-venv"; \
		cc=$$(ask 'os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"'); \
		include="-I$$(ask 'sysconfig.get_path("include")') -I$$(ask 'sysconfig.get_path("platinclude")')"; \
		if ! echo '#include <stdio.h>' | $$cc -x c -fsyntax-only -; then \
			lack "a C compiler that works; Python calls '$$cc'" "apt-get install gcc g++ libc6-dev"; \
		elif ! echo '#include <cstdint>' | $${CXX:-$$(ask 'sysconfig.get_config_var("CXX") or "c++"')} -x c++ -fsyntax-only -; then \
			lack "a C++ compiler that works" "apt-get install g++"; \
		elif ! echo '#include <Python.h>' | $$cc $$include -x c -fsyntax-only -; then \
			lack "Python.h for $(PYTHON)" "apt-get install python3-dev"; \
		fi; \
	fi; \
	exit $$fails

clean:
	rm -rf $(VENV) build dist *.egg-info emulator/*.so emulator/*.c emulator/*.cpp hil/*.so
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
