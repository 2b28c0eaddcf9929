# make demo   train K-Net on the built-in shapes, evaluate it, draw its results (CPU, minutes)
# make test   lint and test
# make docs   build the documentation as a site into site/; a warning is an error
# make clean  remove what these made, the environment too
#
# All set up .venv first if it is missing or older than the requirements (docs/install.md):
#   PYTHON=python3.10   with this Python, by name or path; else python3, or the newest that is found
#   TORCH_INDEX=<URL>   with torch from this package index, e.g. one of builds without GPU support
#   VENV=<folder>       there instead of in .venv

VENV := .venv

# any Python starts the program, which finds the right one; some names on PATH may not run
ANY_PYTHON = $(shell for name in $(PYTHON) python3 python $${PYENV_ROOT:-~/.pyenv}/versions/3*/bin/python; do \
    $$name -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null && echo $$name && break; done)

.PHONY: demo test docs setup clean

demo: setup
	$(VENV)/bin/python projects/KNet/tools/train_shapes.py

test: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

docs: setup
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict

setup:
	@$(or $(ANY_PYTHON),$(error no Python is found: install 3.10 or newer, or name one with PYTHON=/path/to/python3)) \
	    projects/KNet/tools/set_up.py --venv "$(VENV)" \
	    $(if $(PYTHON),--python "$(PYTHON)") $(if $(TORCH_INDEX),--torch-index "$(TORCH_INDEX)")

clean:
	rm -rf $(VENV) output/demo datasets/shapes site
