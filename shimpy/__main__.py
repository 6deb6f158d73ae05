"""`python -m shimpy`; see `shimpy.daemon.main`."""

import sys

from shimpy.daemon.main import main

if __name__ == "__main__":
    sys.exit(main())
