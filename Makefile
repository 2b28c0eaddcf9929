# make demo   train K-Net on the built-in shapes, evaluate it, draw its results (CPU, minutes)
# make test   lint and test
# make clean  remove what the two made, the environment too
#
# Both set up .venv first if it is missing or older than the requirements. They need a Python 3.10;
# name one with PYTHON=... if none is found.

VENV := .venv
READY := $(VENV)/.ready

.PHONY: demo test setup clean

demo: $(READY)
	$(VENV)/bin/python projects/KNet/tools/run_demo.py

test: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/python -m pytest

setup: $(READY)

$(READY): requirements.txt requirements-dev.txt setup.py pyproject.toml
	@set -e; \
	python=$$(PYTHON="$(PYTHON)" sh projects/KNet/tools/find_python.sh); \
	echo "Setting up $(VENV) with $$python"; \
	rm -f $(READY); \
	[ -x $(VENV)/bin/python ] || $$python -m venv --clear $(VENV); \
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt; \
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .; \
	touch $(READY)

clean:
	rm -rf $(VENV) output/demo datasets/shapes
