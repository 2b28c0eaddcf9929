#!/usr/bin/env python
"""The command ``knet check-data`` from a checkout."""

import sys

from knet.commands.check_dataset import main

if __name__ == "__main__":
    sys.exit(main())
