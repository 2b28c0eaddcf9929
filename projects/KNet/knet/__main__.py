"""``python -m knet``: the command ``knet``."""

import sys

from knet_cli import main

if __name__ == "__main__":
    sys.exit(main())
