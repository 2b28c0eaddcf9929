#!/usr/bin/env python
"""The command ``knet report`` from a checkout."""

import sys

from knet.commands.report import main

if __name__ == "__main__":
    sys.exit(main())
