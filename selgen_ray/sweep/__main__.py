"""`python -m selgen_ray.sweep`."""

import sys

from selgen_ray.sweep import main

if __name__ == "__main__":
    sys.exit(main())
