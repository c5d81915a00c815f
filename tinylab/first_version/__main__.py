"""`python -m tinylab.first_version FILE.json… --data-dir DIR --out CONF_DIR`."""

import sys

from tinylab.first_version.command import main

if __name__ == "__main__":
    sys.exit(main())
