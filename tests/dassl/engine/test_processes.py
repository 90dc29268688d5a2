"""A process that is killed ends the others, and a run goes on with as many processes, or another number of them."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dassl_toy as toy
import processes
import pytest
import torch
from torch import nn

from dassl.engine.checkpoint import OtherConfigError

pytestmark = pytest.mark.slow
MakeCfg = Callable[..., Any]
MINUTE = 60


def with_batch(size: int, *opts: str) -> tuple[str, ...]:
    return (*opts, "DATALOADER.TRAIN_X.BATCH_SIZE", str(size))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    kept: dict[str, torch.Tensor] = torch.load(folder / "model" / f"model.pth.tar-{toy.EPOCHS}")["state_dict"]
    return kept


# A killed process ---------------------------------------------------------------------------------------------------


def in_build() -> None:
    toy.ToyTrainer.build_model = toy.die  # type: ignore[method-assign]


def in_test() -> None:
    toy.ToyTrainer.model_inference = toy.die  # type: ignore[method-assign]


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("moment", [in_build, toy.in_epoch(2), in_test], ids=["build", "epoch", "test"])
def test_a_killed_process_ends_the_others_with_a_reason(
    moment: Callable[[], None], victim: int, make_cfg: MakeCfg, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Here gloo alone ends them; what torchrun adds is in test_torchrun.py.
    cfg = make_cfg(*with_batch(2))

    def job() -> None:
        if int(os.environ["RANK"]) == victim:
            moment()
        toy.run_toy(cfg)

    codes = processes.wait(processes.start(job), MINUTE)
    assert codes[victim] == -9 and codes[1 - victim] == 1
    assert "ConnectionError: another of this run's 2 processes ended" in capfd.readouterr().err
    if victim == 1:  # the first process writes the files
        error = json.loads((tmp_path / "run" / "failed.json").read_text())["error"]
        assert "another of this run's 2 processes ended" in error
    processes.together(lambda: toy.run_toy(cfg))
    whole = make_cfg(*with_batch(2), "OUTPUT_DIR", str(tmp_path / "whole"))
    processes.together(lambda: toy.run_toy(whole))
    for key, value in weights(tmp_path / "whole").items():
        assert torch.equal(weights(tmp_path / "run")[key], value), key
    assert (tmp_path / "run" / "done").exists() and not (tmp_path / "run" / "failed.json").exists()


# Another number of processes ----------------------------------------------------------------------------------------


@pytest.fixture
def no_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: x)


def train(cfg: Any, count: int) -> None:
    if count == 1:
        toy.run_toy(cfg)
    else:
        processes.together(lambda: toy.run_toy(cfg), count)


def interrupted(cfg: Any, count: int) -> None:
    """A run that ends in its second epoch."""

    def job() -> None:
        toy.in_epoch(2)()
        toy.run_toy(cfg)

    codes = processes.wait(processes.start(job, count) if count > 1 else [toy.in_child(job)], MINUTE)
    assert -9 in codes


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 4), (4, 1)])
def test_a_run_goes_on_with_another_number_of_processes(
    before: int, after: int, make_cfg: MakeCfg, tmp_path: Path, no_dropout: None
) -> None:
    opts = ("OPTIM.AVERAGE", "uniform", "OPTIM.NAME", "adam", "OPTIM.LR_STEP", "batch")
    interrupted(make_cfg(*with_batch(4 // before, *opts)), before)
    assert [path.name for path in (tmp_path / "run" / "model").glob("*-*")] == ["model.pth.tar-1"]
    train(make_cfg(*with_batch(4 // after, *opts)), after)
    train(make_cfg(*with_batch(4, *opts), "OUTPUT_DIR", str(tmp_path / "whole")), 1)
    for key, value in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "run")[key], value, rtol=1e-4, atol=1e-5)
    steps, expected = (
        [(r["loss"], r["acc"]) for r in toy.read_metrics(tmp_path / name) if r["split"] == "train"]
        for name in ("run", "whole")
    )
    assert len(steps) == len(expected) == toy.EPOCHS * toy.BATCHES
    for step, as_one in zip(steps, expected, strict=True):
        assert step == pytest.approx(as_one, rel=1e-3)
    environment = json.loads((tmp_path / "run" / "env.json").read_text())
    assert environment["processes"] == after


@pytest.mark.parametrize(
    ("before", "after", "size", "said"),
    [
        (
            2,
            1,
            2,
            "4 images there, 2 here; give DATALOADER.TRAIN_X.BATCH_SIZE 4, go on with torchrun --nproc_per_node 2",
        ),
        (
            1,
            2,
            4,
            "4 images there, 8 here; give DATALOADER.TRAIN_X.BATCH_SIZE 2, go on with torchrun --nproc_per_node 1",
        ),
        (2, 4, 2, "4 images there, 8 here; give DATALOADER.TRAIN_X.BATCH_SIZE 1, go on with"),
        (1, 2, 3, "3 images there, 6 here; go on with"),  # 3 cannot be shared
    ],
)
def test_other_steps_are_refused_with_both_numbers(
    before: int, after: int, size: int, said: str, make_cfg: MakeCfg, tmp_path: Path, no_dropout: None
) -> None:
    cfg = make_cfg(*with_batch(size))
    interrupted(cfg, before)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file() and path.name != "log.txt"]
    kept = {path: path.read_bytes() for path in files}

    def job() -> None:
        with pytest.raises(OtherConfigError) as caught:
            toy.run_toy(cfg)
        assert f"holds a run on {before} processes, and this is one on {after}" in str(caught.value)
        assert said in str(caught.value)

    if after == 1:
        job()
    else:
        processes.together(job, after)
    assert kept == {path: path.read_bytes() for path in files}


def test_other_random_draws_are_refused(make_cfg: MakeCfg, tmp_path: Path) -> None:
    interrupted(make_cfg(*with_batch(2)), 2)
    with pytest.raises(OtherConfigError, match="run on 2 processes, and this is one on 1, .* draws in training"):
        toy.run_toy(make_cfg(*with_batch(4)))
