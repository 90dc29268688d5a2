"""The garbage collector stays out of the imports of a command, and only of these."""

import gc
import subprocess
import sys

import torch  # noqa: F401  the tests' process has it

from dassl.startup import importing

ALONE = """
import gc, sys
from dassl.startup import importing
assert "torch" not in sys.modules
try:
    with importing():
        assert not gc.isenabled()
        raise ImportError("as of a package that is not there")
except ImportError:
    pass
assert gc.isenabled() and gc.get_freeze_count() > 0
"""


def test_a_command_imports_without_the_collector_and_has_it_afterwards():
    subprocess.run([sys.executable, "-c", ALONE], check=True)


def test_nothing_happens_where_pytorch_is_imported():
    frozen = gc.get_freeze_count()
    with importing():
        assert gc.isenabled()
    assert gc.get_freeze_count() == frozen
