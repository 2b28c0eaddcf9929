#!/usr/bin/env python
"""The command ``knet model-file`` from a checkout."""

import sys

from knet.commands.make_model_file import main

if __name__ == "__main__":
    sys.exit(main())
