import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def test_ruff_is_pinned_to_one_version():
    (pin,) = re.findall(r"^(ruff==\S+)", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE)
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    pins = [hook["additional_dependencies"] for hook in hooks if hook["id"].startswith("ruff")]
    assert pins == [[pin], [pin]]


def test_make_help_lists_every_target():
    text = (ROOT / "Makefile").read_text()
    (targets,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    out = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^  make (\S+)", out, re.MULTILINE) == targets.split()


@pytest.mark.parametrize("path", [".ci/run", *(f"scripts/{p.name}" for p in (ROOT / "scripts").glob("*.sh"))])
def test_shell_files_are_short_and_parse(path):
    assert len((ROOT / path).read_text().splitlines()) <= 40
    shell = "sh" if path.startswith("scripts") else "bash"
    subprocess.run([shell, "-n", str(ROOT / path)], check=True)
