"""One drawn image folder for all tests of the engine, and a config maker on it."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # for dassl_toy

import dassl_toy


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dassl_toy.draw_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def make_cfg(toy_root: Path, tmp_path: Path) -> Callable[..., Any]:
    """Config by KEY VALUE pairs; its run folder is tmp_path/run unless OUTPUT_DIR is given."""

    def build(*opts: Any) -> Any:
        return dassl_toy.toy_cfg(toy_root, tmp_path / "run", *opts)

    return build
