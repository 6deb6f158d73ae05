"""The first lines of a helper: FILE PATHS MODULE ARGUMENTS...; see `shimpy.daemon.helper.begin`."""

import sys

if __name__ == "__main__":
    sys.path += [path for path in sys.argv[1].split(":") if path not in sys.path]
    # Not by runpy, which would import a third of the standard library's own tools.
    sys.exit(__import__(sys.argv[2], fromlist=["main"]).main(sys.argv[3:]))
