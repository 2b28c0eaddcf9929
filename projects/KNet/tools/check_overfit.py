#!/usr/bin/env python
"""The command ``knet check-overfit`` from a checkout."""

import sys

from knet.commands.check_overfit import main

if __name__ == "__main__":
    sys.exit(main())
