"""`python -m shimpy.daemon.containerd`; see `shimpy.daemon.containerd.main`."""

import sys

from shimpy.daemon.containerd.main import main

if __name__ == "__main__":
    sys.exit(main())
