"""Importing the package registers every set, and every config file names one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import datasets
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY
from datasets import catalog

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "datasets").rglob("*.yaml"))


def test_every_file_with_a_reader_is_found():
    """No list of readers is typed anywhere: a new file is enough."""
    folder = Path(datasets.__file__).parent
    declared = {
        name
        for file in folder.glob("*.py")
        for name in re.findall(r"@DATASET_REGISTRY\.register\(\)\nclass (\w+)", file.read_text(encoding="utf-8"))
    }
    assert declared and declared <= set(DATASET_REGISTRY.registered_names())
    assert declared == {catalog.reader_class(path.stem).__name__ for path in CONFIGS}


def test_programs_are_not_imported_with_the_readers():
    """Else `python -m` would warn that they exist twice."""
    code = "import sys, datasets; print(sorted(m for m in sys.modules if m.startswith('datasets.')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert "datasets.dtd" in loaded
    assert not any(f"datasets.{program}'" in loaded for program in datasets.PROGRAMS)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_config_names_its_reader(path):
    cfg = get_cfg_default()
    cfg.merge_from_file(str(path))
    assert DATASET_REGISTRY.get(cfg.DATASET.NAME) is catalog.reader_class(path.stem)
