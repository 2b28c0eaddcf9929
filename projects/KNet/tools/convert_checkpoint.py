#!/usr/bin/env python
"""The command ``knet convert`` from a checkout."""

import sys

from knet.commands.convert_checkpoint import main

if __name__ == "__main__":
    sys.exit(main())
