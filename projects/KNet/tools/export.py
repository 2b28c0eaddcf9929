#!/usr/bin/env python
"""The command ``knet export`` from a checkout."""

import sys

from knet.commands.export import main

if __name__ == "__main__":
    sys.exit(main())
