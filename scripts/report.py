"""The tables of a benchmark: `python scripts/report.py --help`; the code is `protocols/report.py`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from protocols.report import main

if __name__ == "__main__":
    sys.exit(main())
