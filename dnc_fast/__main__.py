"""`python -m dnc_fast` is the command `dnc-fast`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
