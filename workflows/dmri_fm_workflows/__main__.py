"""`python -m dmri_fm_workflows` is `drope-bidsapp`."""

import sys

from dmri_fm_workflows.cli import main

if __name__ == "__main__":
    sys.exit(main())
