"""`python -m selgen_ray.data`; see `selgen_ray.sweep.show_data`."""

import sys

# the one import upwards: `python -m` wants the command in this package, and a search space is read above it
from selgen_ray.sweep.show_data import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
