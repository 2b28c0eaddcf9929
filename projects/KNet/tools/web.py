#!/usr/bin/env python
"""The command ``knet web`` from a checkout."""

import sys

from knet.commands.web import main

if __name__ == "__main__":
    sys.exit(main())
