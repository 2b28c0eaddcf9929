#!/bin/sh
# Prints the path of a Python 3.10: $PYTHON if set, else one on PATH, else one of pyenv's.
# A name on PATH may be a pyenv shim that does not run, so each candidate is tried.

is_310() { [ "$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = 3.10 ]; }

if [ -n "${PYTHON:-}" ]; then
    is_310 "$PYTHON" && { command -v "$PYTHON"; exit 0; }
    echo "PYTHON=$PYTHON is not a Python 3.10: name one, e.g. make test PYTHON=/usr/bin/python3.10" >&2
    exit 1
fi
pyenv_root=${PYENV_ROOT:-$(pyenv root 2>/dev/null || echo "$HOME/.pyenv")}
for candidate in python3.10 python3 python "$pyenv_root"/versions/3.10*/bin/python3.10; do
    is_310 "$candidate" && { command -v "$candidate"; exit 0; }
done
echo "No Python 3.10 found: install it (e.g. pyenv install 3.10.13) or name one, as in make test PYTHON=/path/to/python3.10" >&2
exit 1
