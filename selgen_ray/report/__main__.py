"""The entry point of `python -m selgen_ray.report`."""

import sys

from selgen_ray.report import main

if __name__ == "__main__":
    sys.exit(main())
