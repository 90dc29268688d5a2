"""A run that is killed and started again ends as one that was not."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dassl_toy as toy
import pytest
import torch

from dassl.config.free_keys import FREE_KEYS
from dassl.engine import Run
from dassl.utils import load_checkpoint

REPO = Path(__file__).parents[3]
RUN_MODULE = sys.modules[Run.__module__]  # the package's `run` is the function
RICH = (
    *("TEST.FINAL_MODEL", "best_val", "TRAINER.TOY.TWO_MODELS", "True", "TRAINER.TOY.PREC", "amp"),
    *("TRAIN.CHECKPOINT_FREQ", "2", "OPTIM.NAME", "adam", "DATASET.NUM_SHOTS", "4"),
)
PLAIN = ("TEST.SPLIT", "val")
BY_BATCH = ("OPTIM.LR_STEP", "batch", "OPTIM.COSINE_MIN_LR", "0.001")
VARIANTS = {"plain": PLAIN, "rich": RICH}


def die_at(module: Any, name: str, matches: Callable[..., bool], half: bool = False) -> Callable[[], None]:
    """Die instead of a call of module.name whose arguments match; with `half`, after writing a bit of the file."""

    def arm() -> None:
        original = getattr(module, name)

        def replaced(*args: Any, **kwargs: Any) -> Any:
            if matches(*args, **kwargs):
                if half:
                    args[1].write(b"PK half a checkpoint")
                    args[1].flush()
                toy.die()
            return original(*args, **kwargs)

        setattr(module, name, replaced)

    return arm


MOMENTS = {
    "in the first epoch": toy.in_epoch(1),
    "in the last epoch": toy.in_epoch(3),
    "half of a checkpoint written": die_at(torch, "save", lambda state, _: state["epoch"] == 2, half=True),
    "checkpoint written but not named": die_at(os, "replace", lambda _, to: str(to).endswith("model.pth.tar-2")),
    "last checkpoint written but not named": die_at(os, "replace", lambda _, to: str(to).endswith("model.pth.tar-3")),
    "best or first checkpoint not yet there": die_at(
        os, "replace", lambda _, to: str(to).endswith(("model-best.pth.tar", "model.pth.tar-1"))
    ),
    "old checkpoint not yet removed": die_at(Path, "unlink", lambda path, **_: path.name == "model.pth.tar-1"),
    "last old checkpoint not yet removed": die_at(Path, "unlink", lambda path, **_: path.name == "model.pth.tar-2"),
    "before the final test": die_at(toy.ToyTrainer, "after_train", lambda self: True),
    "after the final test": die_at(Run, "finish", lambda *_: True),
    "before done": die_at(RUN_MODULE, "write_text", lambda _, path: path.name == "done"),
}


def state_of(folder: Path) -> dict[str, Any]:
    """All that must not depend on a kill: figures, results, names of the files, checkpoints."""
    results = json.loads((folder / "results.json").read_text())
    del results["train_time_sec"]
    for part in (results, results["train"]):
        part["settings"] = {key: value for key, value in part["settings"].items() if key not in FREE_KEYS}
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if ".tmp" not in path.name)
    return {
        "metrics": toy.read_metrics(folder),
        "board": toy.read_board(folder),
        "results": results,
        "files": [name for name in files if "tfevents" not in name],
        "named": {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.glob("*/checkpoint"))},
        "checkpoints": {
            str(path.relative_to(folder)): load_checkpoint(str(path)) for path in sorted(folder.glob("*/model*.tar*"))
            if ".tmp" not in path.name
        },
    }  # fmt: skip


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Equal in every value, tensors bitwise; names the place where not."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            if key != "config":  # holds the output folder
                assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}/{i}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


@pytest.fixture(scope="module")
def undisturbed(toy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """State after a run that nobody killed, by variant."""
    states = {}
    for name, opts in VARIANTS.items():
        folder = tmp_path_factory.mktemp(name)
        toy.run_toy(toy.toy_cfg(toy_root, folder, *opts))
        states[name] = state_of(folder)
    return states


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_run_ends_as_an_undisturbed_one(
    moment: str, variant: str, make_cfg: Callable[..., Any], tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    cfg = make_cfg(*VARIANTS[variant])

    def run_and_die() -> None:
        MOMENTS[moment]()
        toy.run_toy(cfg)

    code = toy.wait_for(toy.in_child(run_and_die))
    if variant == "rich" and moment == "last old checkpoint not yet removed":
        assert code == 0  # CHECKPOINT_FREQ 2 keeps that one
    else:
        assert code == -9
        assert not (tmp_path / "run" / "done").exists()
    toy.run_toy(cfg)
    assert (tmp_path / "run" / "done").exists()
    assert_same(state_of(tmp_path / "run"), undisturbed[variant])


def assert_kills_change_nothing(make_cfg: Callable[..., Any], tmp_path: Path, opts: tuple[str, ...]) -> None:
    """A run killed in an epoch, each in turn, and one that nobody killed end alike; `opts` say what kind of run."""
    toy.run_toy(make_cfg(*opts, "OUTPUT_DIR", str(tmp_path / "whole")))
    whole = state_of(tmp_path / "whole")
    for epoch in (1, 2, 3):
        cfg = make_cfg(*opts, "OUTPUT_DIR", str(tmp_path / f"killed{epoch}"))
        assert toy.wait_for(toy.in_child(lambda epoch=epoch, cfg=cfg: (toy.in_epoch(epoch)(), toy.run_toy(cfg)))) == -9
        assert toy.run_toy(cfg).start_epoch == epoch - 1
        assert_same(state_of(tmp_path / f"killed{epoch}"), whole)


@pytest.mark.parametrize("warmup", ["constant", "linear"])
def test_schedule_over_batches_goes_on_as_if_not_killed(
    warmup: str, make_cfg: Callable[..., Any], tmp_path: Path
) -> None:
    assert_kills_change_nothing(make_cfg, tmp_path, (*BY_BATCH, "OPTIM.WARMUP_TYPE", warmup))


@pytest.mark.parametrize("opts", [(), BY_BATCH, RICH])
def test_run_that_ends_within_an_epoch_goes_on_as_if_not_killed(
    opts: tuple[str, ...], make_cfg: Callable[..., Any], tmp_path: Path
) -> None:
    assert_kills_change_nothing(make_cfg, tmp_path, (*opts, "OPTIM.MAX_ITER", "8", "OPTIM.MAX_EPOCH", "7"))
    before = state_of(tmp_path / "whole")
    toy.run_toy(make_cfg(*opts, "OPTIM.MAX_ITER", "8", "OPTIM.MAX_EPOCH", "7", "OUTPUT_DIR", str(tmp_path / "whole")))
    assert_same(state_of(tmp_path / "whole"), before)  # finished: it goes no further


AVERAGED = ("OPTIM.AVERAGE", "gaussian", "OPTIM.AVERAGE_MEAN", "2", "OPTIM.AVERAGE_STD", "1.5")
AVERAGED_RICH = (*RICH[2:], "OPTIM.AVERAGE", "uniform", "OPTIM.MAX_ITER", "8", "OPTIM.LR_STEP", "batch")


@pytest.mark.parametrize("opts", [AVERAGED, AVERAGED_RICH], ids=["gaussian", "uniform, rich"])
def test_average_over_epochs_goes_on_as_if_not_killed_and_is_taken_once(
    opts: tuple[str, ...], make_cfg: Callable[..., Any], tmp_path: Path
) -> None:
    assert_kills_change_nothing(make_cfg, tmp_path, opts)
    whole = state_of(tmp_path / "whole")
    moments = ("half of a checkpoint written", "last checkpoint written but not named", "before the final test")
    for i, moment in enumerate(moments):
        cfg = make_cfg(*opts, "OUTPUT_DIR", str(tmp_path / f"at{i}"))
        assert toy.wait_for(toy.in_child(lambda cfg=cfg, arm=MOMENTS[moment]: (arm(), toy.run_toy(cfg)))) == -9
        toy.run_toy(cfg)
        assert_same(state_of(tmp_path / f"at{i}"), whole)
    toy.run_toy(make_cfg(*opts, "OUTPUT_DIR", str(tmp_path / "whole")))
    assert_same(state_of(tmp_path / "whole"), whole)  # finished: it is not averaged again


def test_checkpoint_without_the_average_is_not_continued(make_cfg: Callable[..., Any], tmp_path: Path) -> None:
    cfg = make_cfg(*AVERAGED)
    assert toy.wait_for(toy.in_child(lambda: (toy.in_epoch(3)(), toy.run_toy(cfg)))) == -9
    path = tmp_path / "run" / "model" / "model.pth.tar-2"
    torch.save({**load_checkpoint(str(path)), "average": None}, path)
    with pytest.raises(ValueError, match="model.pth.tar-2 holds no running average of the weights"):
        toy.run_toy(cfg)


def test_run_killed_twice_and_with_rubbish_left_ends_as_an_undisturbed_one(
    make_cfg: Callable[..., Any], tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    cfg, folder = make_cfg(*PLAIN), tmp_path / "run"
    for epoch in (2, 3):
        assert toy.wait_for(toy.in_child(lambda epoch=epoch: (toy.in_epoch(epoch)(), toy.run_toy(cfg)))) == -9
        with open(folder / "metrics.jsonl", "a") as file:
            file.write('{"split": "train", "epoch": 1, "st')
        (folder / "model" / f"model.pth.tar-{epoch}.4711.tmp").write_bytes(b"PK")
    toy.run_toy(cfg)
    assert_same(state_of(folder), undisturbed["plain"])


def test_complete_last_line_without_newline_is_not_glued_to_the_next(
    make_cfg: Callable[..., Any], tmp_path: Path
) -> None:
    cfg, metrics = make_cfg(), tmp_path / "run" / "metrics.jsonl"
    assert toy.wait_for(toy.in_child(lambda: (toy.in_epoch(2)(), toy.run_toy(cfg)))) == -9
    kept = metrics.read_text().splitlines()[: toy.BATCHES]
    metrics.write_text("\n".join(kept))
    toy.run_toy(cfg)
    assert len(toy.read_metrics(tmp_path / "run")) == toy.EPOCHS * toy.BATCHES + 1


def test_killed_process_started_anew_from_the_shell_ends_as_an_undisturbed_one(
    toy_root: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    folder = tmp_path / "run"
    cfg = toy.toy_cfg(toy_root, folder, *RICH)
    assert toy.wait_for(toy.in_child(lambda: (toy.in_epoch(3)(), toy.run_toy(cfg)))) == -9
    command = [sys.executable, toy.__file__, str(toy_root), str(folder), *RICH]
    environ = {**os.environ, "PYTHONPATH": str(REPO), "TOY_SECONDS_AHEAD": str(toy.seconds_ahead)}
    subprocess.run(command, check=True, env=environ, capture_output=True)
    assert_same(state_of(folder), undisturbed["rich"])


def test_workers_change_nothing_even_when_killed(
    make_cfg: Callable[..., Any], tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    cfg = make_cfg(*PLAIN, "DATALOADER.NUM_WORKERS", "2")
    assert toy.wait_for(toy.in_child(lambda: (toy.in_epoch(3)(), toy.run_toy(cfg)))) == -9
    toy.run_toy(cfg)
    assert_same(state_of(tmp_path / "run"), undisturbed["plain"])


def test_persistent_workers_change_nothing(
    make_cfg: Callable[..., Any], tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    toy.run_toy(make_cfg(*PLAIN, "DATALOADER.NUM_WORKERS", "2"))
    assert_same(state_of(tmp_path / "run"), undisturbed["plain"])


def test_same_seed_gives_the_same_run_and_another_seed_another(
    make_cfg: Callable[..., Any], tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    toy.run_toy(make_cfg(*PLAIN))
    assert_same(state_of(tmp_path / "run"), undisturbed["plain"])
    toy.run_toy(make_cfg(*PLAIN, "SEED", "2", "OUTPUT_DIR", str(tmp_path / "other")))
    losses = [record["loss"] for record in toy.read_metrics(tmp_path / "other") if record["split"] == "train"]
    assert losses != [record["loss"] for record in undisturbed["plain"]["metrics"] if record["split"] == "train"]


def test_seed_zero_is_a_seed(make_cfg: Callable[..., Any], tmp_path: Path) -> None:
    for name in ("a", "b"):
        toy.run_toy(make_cfg("SEED", "0", "OUTPUT_DIR", str(tmp_path / name)))
    assert toy.read_metrics(tmp_path / "a") == toy.read_metrics(tmp_path / "b")


def test_negative_seed_draws_one_and_a_killed_run_keeps_it(make_cfg: Callable[..., Any], tmp_path: Path) -> None:
    cfg, folder = make_cfg("SEED", "-1"), tmp_path / "run"
    assert toy.wait_for(toy.in_child(lambda: (toy.in_epoch(3)(), toy.run_toy(cfg)))) == -9
    drawn = json.loads((folder / "env.json").read_text())["seed"]
    assert drawn >= 0
    toy.run_toy(cfg)
    whole = toy.run_toy(make_cfg("SEED", str(drawn), "OUTPUT_DIR", str(tmp_path / "whole")))
    assert_same(state_of(folder), state_of(tmp_path / "whole"))
    assert whole.cfg.SEED == json.loads((folder / "results.json").read_text())["seed"] == drawn
    another = toy.run_toy(make_cfg("SEED", "-1", "OUTPUT_DIR", str(tmp_path / "another")))
    assert another.cfg.SEED not in (-1, drawn)


def test_finished_run_started_again_trains_no_further(make_cfg: Callable[..., Any], tmp_path: Path) -> None:
    cfg = make_cfg(*RICH)
    toy.run_toy(cfg)
    before = state_of(tmp_path / "run")
    toy.run_toy(cfg)
    assert_same(state_of(tmp_path / "run"), before)


def test_models_resume_from_the_newest_epoch_that_all_have(make_cfg: Callable[..., Any], tmp_path: Path) -> None:
    cfg = make_cfg("TRAINER.TOY.TWO_MODELS", "True", "TRAIN.CHECKPOINT_FREQ", "1")
    first = toy.run_toy(cfg)
    before = state_of(tmp_path / "run")
    (tmp_path / "run" / "head" / "model.pth.tar-3").unlink()
    again = toy.run_toy(cfg)
    assert (first.start_epoch, again.start_epoch) == (0, 2)
    assert_same(state_of(tmp_path / "run"), before)


def test_resume_from_another_folder_continues_there_and_keeps_the_best_model(
    make_cfg: Callable[..., Any], tmp_path: Path
) -> None:
    opts = ("TEST.FINAL_MODEL", "best_val", "OPTIM.LR", "1e-9", "OPTIM.WARMUP_CONS_LR", "1e-9")  # epoch 1 stays best
    cfg = make_cfg(*opts)
    assert toy.wait_for(toy.in_child(lambda: (toy.in_epoch(3)(), toy.run_toy(cfg)))) == -9
    other = tmp_path / "other"
    resumed = toy.run_toy(make_cfg(*opts, "RESUME", str(tmp_path / "run"), "OUTPUT_DIR", str(other)))
    assert resumed.start_epoch == 2
    assert json.loads((other / "results.json").read_text())["epoch"] == 1
    assert (other / "model" / "model.pth.tar-3").is_file()


def test_log_keeps_what_was_printed_before_a_kill(make_cfg: Callable[..., Any], tmp_path: Path) -> None:
    assert toy.wait_for(toy.in_child(lambda: (toy.in_epoch(3)(), toy.run_toy(make_cfg())))) == -9
    assert "epoch [2/3] batch [3/3]" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("OPTIM.LR", "0.2", ("0.1", "0.2")),
        ("OPTIM.MAX_EPOCH", "4", ("3", "4")),
        ("OPTIM.AVERAGE", "uniform", ("''", "'uniform'")),
        ("SEED", "2", ("1", "2")),
        ("DATASET.NUM_SHOTS", "3", ("-1", "3")),
        (
            "INPUT.TRANSFORMS",
            "('normalize',)",
            ("['random_resized_crop', 'random_flip', 'normalize']", "['normalize']"),
        ),
        ("TRAINER.TOY.WIDTH", "5", ("4", "5")),  # changes a shape: the key must be named, not the tensor
    ],
)
def test_run_of_another_config_is_not_continued(
    key: str, value: str, shown: tuple[str, str], make_cfg: Callable[..., Any], tmp_path: Path
) -> None:
    toy.run_toy(make_cfg())
    with pytest.raises(ValueError, match="another config") as caught:
        toy.run_toy(make_cfg(key, value))
    message = str(caught.value)
    assert f"{key} ({shown[0]} in the checkpoint, {shown[1]} now)" in message
    assert str(tmp_path / "run") in message


def test_all_keys_that_differ_are_named(make_cfg: Callable[..., Any]) -> None:
    toy.run_toy(make_cfg())
    with pytest.raises(ValueError, match="OPTIM.LR .*; OPTIM.MOMENTUM "):
        toy.run_toy(make_cfg("OPTIM.LR", "0.2", "OPTIM.MOMENTUM", "0.5"))


def test_refused_continuation_leaves_the_finished_run_as_it_was(make_cfg: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    toy.run_toy(make_cfg())
    kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "log.txt"}
    with pytest.raises(ValueError, match="OPTIM.LR"):
        toy.run_toy(make_cfg("OPTIM.LR", "0.2"))
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "log.txt"} == kept
    assert "OPTIM.LR" in (folder / "log.txt").read_text()


def test_keys_that_change_no_result_may_differ(make_cfg: Callable[..., Any], tmp_path: Path, toy_root: Path) -> None:
    toy.run_toy(make_cfg())
    before = toy.read_metrics(tmp_path / "run")
    moved, images = tmp_path / "moved", tmp_path / "images"
    shutil.copytree(tmp_path / "run", moved)
    shutil.copytree(toy_root, images)
    free = {
        "OUTPUT_DIR": str(moved),
        "DATASET.ROOT": str(images),
        "VERBOSE": "True",
        "DATALOADER.NUM_WORKERS": "1",
        "DATALOADER.TEST.BATCH_SIZE": "2",
        "TRAIN.PRINT_FREQ": "1",
        "TRAIN.CHECKPOINT_FREQ": "1",
        "TEST.PER_CLASS_RESULT": "True",
        "TEST.COMPUTE_CMAT": "True",
    }
    trainer = toy.run_toy(make_cfg(*[word for pair in free.items() for word in pair]))
    assert trainer.start_epoch == toy.EPOCHS
    after = toy.read_metrics(moved)
    assert after[:-1] == before[:-1]
    assert after[-1]["accuracy"] == before[-1]["accuracy"]


def test_checkpoint_of_another_program_is_not_continued(make_cfg: Callable[..., Any], tmp_path: Path) -> None:
    toy.run_toy(make_cfg())
    path = tmp_path / "run" / "model" / "model.pth.tar-3"
    checkpoint = load_checkpoint(str(path))
    torch.save({"state_dict": checkpoint["state_dict"], "epoch": 3, "optimizer": None, "scheduler": None}, path)
    with pytest.raises(ValueError, match="model.pth.tar-3.*optimizer"):
        toy.run_toy(make_cfg())
