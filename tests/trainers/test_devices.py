"""Where tensors lie, without a GPU: forward passes on fake tensors of a CUDA device, in all precisions."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from datasets.rendered.render import render

from .on_fake_cuda import CASES

NAMES = ["boeing 737-200", "boeing 737-300", "house", "tabby_cat"]


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """What went wrong, by case."""
    folder = tmp_path_factory.mktemp("named") / "images"
    for name in NAMES:
        (folder / name).mkdir(parents=True)
        for i in range(4):
            image = render("Shapes", "star", "photo", random.Random(f"{name}{i}"), 32)
            image.save(folder / name / f"{i}.png")
    command = [sys.executable, "-m", "tests.trainers.on_fake_cuda", str(folder)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", CASES)
def test_nothing_stays_on_the_cpu(case, errors):
    assert not errors[case], errors[case]


def test_what_stays_on_the_cpu_is_noticed(errors):
    assert "two devices, cuda:0 and cpu" in errors["a tensor on the cpu"]
