#!/usr/bin/env python
"""The command ``knet benchmark`` from a checkout."""

import sys

from knet.commands.benchmark import main

if __name__ == "__main__":
    sys.exit(main())
