"""`python -m selgen_ray.data`; see `selgen_ray.sweep.show_data`."""

import sys

# the face of a command of `sweep`, which reads a search space; `python -m` looks for it in this package
from selgen_ray.sweep.show_data import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
