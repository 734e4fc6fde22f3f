"""`python -m tyk_pump` is the command `tyk-pump`."""

import sys

from tyk_pump.cli import main

if __name__ == "__main__":
    sys.exit(main())
