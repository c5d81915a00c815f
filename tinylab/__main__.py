"""`python -m tinylab`."""

import sys

from tinylab.program import main

if __name__ == "__main__":
    sys.exit(main())
