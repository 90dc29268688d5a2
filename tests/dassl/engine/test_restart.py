"""A start in a folder that holds a run already: what is gone on with, what is refused, and what is left as it was."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dassl_toy as toy
import pytest
import torch
from torch import nn

from dassl.config import get_cfg_default, merge_opts
from dassl.engine import build_trainer, run
from dassl.engine.checkpoint import OtherConfigError, check_same_config, plain_config
from dassl.utils import load_checkpoint, read_json, write_json

MakeCfg = Callable[..., Any]


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the log, which tells of every start."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "log.txt"
    }


def die_in_epoch(number: int, cfg: Any) -> None:
    """A run that is killed at an epoch's second batch."""

    def job() -> None:
        toy.in_epoch(number)()
        toy.run_toy(cfg)

    assert toy.wait_for(toy.in_child(job)) == -9


@toy.TRAINER_REGISTRY.register()
class FixedTrainer(toy.ToyTrainer):
    """Nothing to learn, as zero-shot CLIP."""

    def build_model(self) -> None:
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))


OTHER_STARTS: dict[str, tuple[str, ...]] = {
    "data that is not there": ("DATASET.ROOT", "/gone"),
    "trainer that does not exist": ("TRAINER.NAME", "ToyTrain"),
    "trainer without learnables": ("TRAINER.NAME", "FixedTrainer"),
    "another backbone": ("MODEL.BACKBONE.NAME", "other"),
    "more epochs": ("OPTIM.MAX_EPOCH", "4"),
    "another seed": ("SEED", "2"),
    "other models": ("TRAINER.TOY.TWO_MODELS", "True"),
    "bad value": ("TEST.FINAL_MODEL", "best_test"),
}


@pytest.mark.parametrize("start", OTHER_STARTS)
@pytest.mark.parametrize("finished", [True, False])
def test_start_that_fails_or_is_another_run_changes_nothing(
    finished: bool, start: str, make_cfg: MakeCfg, tmp_path: Path
) -> None:
    folder, opts = tmp_path / "run", ("TEST.COMPUTE_CMAT", "True", "DATASET.NUM_SHOTS", "4")
    if finished:
        toy.run_toy(make_cfg(*opts))
    else:
        die_in_epoch(3, make_cfg(*opts))
    before, log = contents(folder), (folder / "log.txt").read_text()
    with pytest.raises((ValueError, OSError)):
        toy.run_toy(make_cfg(*opts, *OTHER_STARTS[start]))
    after = contents(folder)
    failure = after.pop("failed.json", None)
    assert after == before
    assert failure is None or not finished  # an unfinished run may say why the last start failed
    assert (folder / "log.txt").read_text().startswith(log)
    trainer = toy.run_toy(make_cfg(*opts))
    assert trainer.start_epoch == (3 if finished else 2)
    assert (folder / "done").exists() and not (folder / "failed.json").exists()


def test_training_or_another_test_in_a_finished_tests_folder_is_refused(make_cfg: MakeCfg, tmp_path: Path) -> None:
    toy.run_toy(make_cfg("TRAIN.CHECKPOINT_FREQ", "1"))
    cfg, folder = make_cfg("OUTPUT_DIR", str(tmp_path / "eval")), tmp_path / "eval"
    toy.test_toy(cfg, tmp_path / "run")
    before = contents(folder)
    with pytest.raises(OtherConfigError, match="holds a finished test, and this is a training"):
        toy.run_toy(cfg)
    with pytest.raises(OtherConfigError, match=r"the finished test of .*run, and this is one of .*run \(epoch 1\)"):
        toy.test_toy(cfg, tmp_path / "run", epoch=1)
    with pytest.raises(OtherConfigError, match=r"SEED \(1 in"):
        toy.test_toy(make_cfg("OUTPUT_DIR", str(folder), "SEED", "2"), tmp_path / "run")
    assert contents(folder) == before
    again = toy.test_toy(cfg, tmp_path / "run")  # the same one is done again
    assert again.results == read_json(folder / "results.json")["results"]


def test_failure_while_a_finished_run_is_tested_again_loses_no_figure(
    make_cfg: MakeCfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.run_toy(make_cfg("TRAIN.CHECKPOINT_FREQ", "1"))
    before = contents(tmp_path / "run")
    monkeypatch.setattr(toy.ToyTrainer, "model_inference", lambda self, input: input / 0)
    with pytest.raises(FloatingPointError):
        toy.run_toy(make_cfg())  # CHECKPOINT_FREQ 0 would not have kept the second epoch
    assert contents(tmp_path / "run") == before


def test_run_whose_models_were_removed_is_trained_anew_and_not_done_meanwhile(
    make_cfg: MakeCfg, tmp_path: Path
) -> None:
    toy.run_toy(make_cfg())
    figures = toy.read_metrics(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "model")
    die_in_epoch(2, make_cfg())
    assert not (tmp_path / "run" / "done").exists()
    toy.run_toy(make_cfg())
    assert toy.read_metrics(tmp_path / "run") == figures


# What may differ -----------------------------------------------------------------------------------------------------


def test_keys_that_came_or_went_with_an_upgrade() -> None:
    cfg = get_cfg_default()
    cfg.OWN_KEY = 1  # of a method
    merge_opts(cfg, ["OPTIM.LR", "0.5"])
    saved = plain_config(cfg)
    del saved["OPTIM"]["WARMUP_RECOUNT"], saved["TRAIN"], saved["OWN_KEY"]
    saved["OPTIM"]["OLD_KEY"] = 3
    saved["DATALOADER"]["CACHE_MB"] = 64
    check_same_config(saved, cfg, "folder")
    merge_opts(cfg, ["OPTIM.WARMUP_RECOUNT", "False"])
    with pytest.raises(OtherConfigError, match=r"OPTIM.WARMUP_RECOUNT \('not set' in the checkpoint, False now\)"):
        check_same_config(saved, cfg, "folder")
    merge_opts(cfg, ["OPTIM.WARMUP_RECOUNT", "True", "OWN_KEY", "2"])
    with pytest.raises(OtherConfigError, match=r"OWN_KEY \('not set' in the checkpoint, 2 now\)"):
        check_same_config(saved, cfg, "folder")


def test_data_may_move_but_not_change(make_cfg: MakeCfg, tmp_path: Path, toy_root: Path) -> None:
    die_in_epoch(3, make_cfg())
    moved = tmp_path / "elsewhere" / "data"
    shutil.copytree(toy_root, moved)
    (moved / "toy" / "val" / "red" / "1.png").unlink()
    before = contents(tmp_path / "run")
    with pytest.raises(OtherConfigError, match="run on other images.*DATASET.SPLIT_FILE 'there.json'"):
        toy.run_toy(make_cfg("DATASET.ROOT", str(moved), "DATASET.SPLIT_FILE", "there.json"))
    assert contents(tmp_path / "run") == before
    shutil.copy(toy_root / "toy" / "val" / "red" / "1.png", moved / "toy" / "val" / "red")
    assert toy.run_toy(make_cfg("DATASET.ROOT", str(moved), "DATASET.SPLIT_FILE", "there.json")).start_epoch == 2


# Files that a crash or an editor left odd ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["done", "results.json", "config.yaml", "env.json", "metrics.jsonl", "log.txt"])
def test_folder_where_a_file_belongs_is_named(name: str, make_cfg: MakeCfg, tmp_path: Path) -> None:
    (tmp_path / "run" / name).mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match=f"a folder lies where a run keeps a file: .*run/{name}"):
        toy.run_toy(make_cfg())


@pytest.mark.parametrize("content", [b'{"seed": ', b"\xff\xfe\x00", b"", b"null"])
def test_damaged_env_is_named_where_it_matters(content: bytes, make_cfg: MakeCfg, tmp_path: Path) -> None:
    toy.run_toy(make_cfg())
    (tmp_path / "run" / "env.json").write_bytes(content)
    with pytest.raises(ValueError, match="run/env.json"):
        toy.run_toy(make_cfg("SEED", "-1"))
    toy.run_toy(make_cfg())  # its seed is given


@pytest.mark.parametrize("content", [b"a: [", b"\xff\xfe\x00"])
def test_damaged_config_is_named(content: bytes, make_cfg: MakeCfg, tmp_path: Path) -> None:
    toy.run_toy(make_cfg())
    (tmp_path / "run" / "config.yaml").write_bytes(content)
    with pytest.raises(ValueError, match="run/config.yaml"):
        toy.run_toy(make_cfg())


def test_env_without_the_drawn_seed_is_named(make_cfg: MakeCfg, tmp_path: Path) -> None:
    write_json({"seed": None}, tmp_path / "run" / "env.json")
    with pytest.raises(ValueError, match="run/env.json holds no seed.*give its SEED"):
        toy.run_toy(make_cfg("SEED", "-1"))


@pytest.mark.parametrize(
    "change",
    [{"epoch": None}, {"meta": 5}, {"state_dict": 5}, {"rng": {}}, {"rng": 1}, {"optimizer": [1]}, {"best_result": []}],
)
def test_checkpoint_with_odd_values_is_named(change: dict[str, Any], make_cfg: MakeCfg, tmp_path: Path) -> None:
    die_in_epoch(3, make_cfg())
    path = tmp_path / "run" / "model" / "model.pth.tar-2"
    torch.save({**load_checkpoint(str(path)), **change}, path)
    if change.keys() & {"epoch", "meta", "state_dict"}:
        with pytest.raises(ValueError, match="model.pth.tar-2"):
            build_trainer(make_cfg()).load_model(str(tmp_path / "run"))
    if "epoch" not in change:  # resuming takes it from the name
        with pytest.raises(ValueError, match="model.pth.tar-2"):
            toy.run_toy(make_cfg())


# Full disks and small shared memory ---------------------------------------------------------------------------------


def test_full_disk_is_said_and_the_last_checkpoint_stays(
    make_cfg: MakeCfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    die_in_epoch(3, make_cfg())
    before = contents(folder)

    def fsync(number: int) -> None:
        if "model.pth.tar-3" in os.readlink(f"/proc/self/fd/{number}"):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=r"no space left on the disk .* MB free in .*model.pth.tar-3.*the same command"):
        toy.run_toy(make_cfg())
    after = contents(folder)
    assert {n: c for n, c in after.items() if "model" in n} == {n: c for n, c in before.items() if "model" in n}
    assert json.loads(after["failed.json"])["error"].startswith("OSError: [Errno 28] no space left on the disk")
    monkeypatch.undo()
    assert toy.run_toy(make_cfg()).start_epoch == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_full_disk_of_a_log_is_said(make_cfg: MakeCfg, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.txt").symlink_to("/dev/full")
    with pytest.raises(OSError, match=rf"no space left on the disk .* MB free in {tmp_path}/run"):
        toy.run_toy(make_cfg())


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("Caught OSError in DataLoader worker process 0.\nOSError: [Errno 28] No space left on device", "--shm-size"),
        ("received 0 items of ancdata: Too many open files", "ulimit -n"),
    ],
)
def test_workers_out_of_room_are_told_what_to_change(message: str, said: str, make_cfg: MakeCfg) -> None:
    with pytest.raises(OSError, match=said), run(make_cfg()):
        raise RuntimeError(message)


@pytest.mark.parametrize("error", [RuntimeError("no"), FileNotFoundError(2, "No such file", "x"), KeyboardInterrupt()])
def test_other_errors_are_left_as_they_are(error: BaseException, make_cfg: MakeCfg) -> None:
    with pytest.raises(type(error)) as caught, run(make_cfg()):
        raise error
    assert caught.value is error
