"""`python -m sparse_icnet` is the command `sparse-icnet`."""

import sys

from sparse_icnet.cli import main

if __name__ == "__main__":
    sys.exit(main())
