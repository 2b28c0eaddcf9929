#!/usr/bin/env python
"""The command ``knet compare`` from a checkout."""

import sys

from knet.commands.compare import main

if __name__ == "__main__":
    sys.exit(main())
