"""What a run leaves behind, and that its figures agree everywhere."""

import json
import os
import platform
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dassl_toy as toy
import numpy as np
import pytest
import yaml

import dassl.engine.checkpoint
from dassl.config import flatten
from dassl.engine import Run, build_trainer, run
from dassl.engine.metrics_log import MetricsLog
from dassl.utils.tools import versions

MakeCfg = Callable[..., Any]
REPO = Path(__file__).parents[3]
HOST = platform.node().partition(".")[0]
RESULT_KEYS = {
    *("schema", "config", "trainer", "dataset", "subsample_classes", "source_domains", "target_domains", "num_shots"),
    *("seed", "backbone", "eval_only", "train", "epoch", "split", "num_classes", "num_images", "results", "per_class"),
    *("train_time_sec", "settings", "test_images", "classnames", "as_people_see"),
}


def figures(text: str) -> list[dict[str, float]]:
    """Epoch, batch, last values and rate of every training line that was printed."""
    pattern = r"epoch \[(\d+)/3\] batch \[(\d+)/3\] .*? loss ([\d.]+) \(.*?\) acc ([\d.]+) \(.*?\) lr ([\de.+-]+) eta"
    names = ("epoch", "batch", "loss", "acc", "lr")
    return [dict(zip(names, map(float, found), strict=True)) for found in re.findall(pattern, text)]


@pytest.mark.parametrize("final", ["last_step", "best_val"])
def test_console_log_metrics_and_tensorboard_carry_the_same_figures(
    final: str, make_cfg: MakeCfg, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.run_toy(make_cfg("TRAIN.PRINT_FREQ", "1", "TEST.FINAL_MODEL", final))
    folder, printed = tmp_path / "run", capsys.readouterr().out
    records = toy.read_metrics(folder)
    train = [record for record in records if record["split"] == "train"]
    assert [record["step"] for record in train] == list(range(9))
    assert [(record["epoch"], record["batch"]) for record in train] == [(e, b) for e in (1, 2, 3) for b in (1, 2, 3)]
    for text in (printed, (folder / "log.txt").read_text()):
        lines = figures(text)
        assert len(lines) == 9
        for line, record in zip(lines, train, strict=True):
            assert line == pytest.approx({name: record[name] for name in line}, abs=6e-5, rel=6e-5)
    board = toy.read_board(folder)
    expected: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        for name in record.keys() - {"split", "epoch", "step", "batch"}:
            expected.setdefault(f"{record['split']}/{name}", []).append(
                (record["step"], float(np.float32(record[name])))
            )
    assert board == expected
    assert {tag.split("/")[0] for tag in board} == (
        {"train", "val", "test"} if final == "best_val" else {"train", "test"}
    )
    last = records[-1]
    results = json.loads((folder / "results.json").read_text())
    assert results["results"] == {name: last[name] for name in results["results"]}
    accuracies = re.findall(r"\* accuracy: ([\d.]+)%", printed)
    assert accuracies == [f"{record['accuracy']:.1f}" for record in records if record["split"] != "train"]


def test_printed_averages_are_those_of_the_epoch_so_far(
    make_cfg: MakeCfg, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.run_toy(make_cfg("TRAIN.PRINT_FREQ", "2"))
    printed = re.findall(r"epoch \[(\d)/3\] batch \[(\d)/3\].*? loss [\d.]+ \(([\d.]+)\)", capsys.readouterr().out)
    assert [(epoch, batch) for epoch, batch, _ in printed] == [(e, b) for e in "123" for b in "23"]
    train = [record for record in toy.read_metrics(tmp_path / "run") if record["split"] == "train"]
    for epoch, batch, average in printed:
        losses = [r["loss"] for r in train if r["epoch"] == int(epoch) and r["batch"] <= int(batch)]
        assert float(average) == pytest.approx(sum(losses) / len(losses), abs=6e-5)


def test_run_folder_holds_what_the_documents_promise(make_cfg: MakeCfg, tmp_path: Path) -> None:
    cfg = make_cfg("DATASET.NUM_SHOTS", "2", "TEST.COMPUTE_CMAT", "True")
    trainer = toy.run_toy(cfg)
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == {
        *("config.yaml", "env.json", "log.txt", "tensorboard", "metrics.jsonl", "few_shot.json", "model"),
        *("results.json", "done", "cmat.pt"),
    }
    told = (REPO / "docs" / "runs.md").read_text()
    assert [path.name for path in folder.iterdir() if path.name != "model" and f"`{path.name}" not in told] == []
    assert "`<model>/model.pth.tar-<epoch>`" in told
    assert yaml.safe_load((folder / "config.yaml").read_text()) == yaml.safe_load(cfg.dump())
    env = json.loads((folder / "env.json").read_text())
    assert env["command"] == "python train.py --toy"
    assert env["seed"] == 1
    assert env["versions"] == versions()
    assert re.fullmatch(r"([0-9a-f]{40}\+?)?", env["commit"])
    few = json.loads((folder / "few_shot.json").read_text())
    data = trainer.dm.dataset
    assert len(few["train"]) == 6
    for split, items in (("train", data.train_x), ("val", data.val)):
        assert few[split] == [[item.impath, item.label, item.classname] for item in items]
    log = (folder / "log.txt").read_text()
    assert "python train.py --toy" in log and "MAX_EPOCH: 3" in log
    results = json.loads((folder / "results.json").read_text())
    assert set(results) == RESULT_KEYS
    expected = {
        **{"schema": 2, "config": "toy", "trainer": "ToyTrainer", "dataset": "ToyImages", "subsample_classes": "all"},
        **{"source_domains": [], "target_domains": [], "num_shots": 2, "seed": 1, "eval_only": False, "epoch": 3},
        **{"split": "test", "num_classes": 3, "num_images": 9},
        **{"classnames": ["blue", "green", "red"], "as_people_see": False},
    }
    assert {key: results[key] for key in expected} == expected
    assert set(results["train"]) == {
        *("dataset", "subsample_classes", "source_domains", "target_domains", "num_shots", "seed", "settings"),
    }
    assert (
        results["settings"]
        == results["train"]["settings"]
        == flatten(yaml.safe_load(cfg.dump())) | {"DATASET.ROOT": os.path.realpath(cfg.DATASET.ROOT)}
    )
    assert re.fullmatch(r"[0-9a-f]{12}", results["test_images"])
    assert set(results["results"]) == {"accuracy", "error_rate", "macro_f1", "ece"}
    assert set(results["per_class"]) == {"blue", "green", "red"}
    assert results["train_time_sec"] > 0


def test_all_images_leave_no_few_shot_list(make_cfg: MakeCfg, tmp_path: Path) -> None:
    toy.run_toy(make_cfg())
    assert not (tmp_path / "run" / "few_shot.json").exists()


def test_done_is_written_last(make_cfg: MakeCfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    replace = os.replace

    def record(source: Any, target: Any) -> None:
        written.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", record)
    toy.run_toy(make_cfg())
    assert written[-2:] == ["results.json", "done"]
    assert written.count("done") == 1


def test_error_leaves_failed_json_and_the_traceback_in_the_log_and_no_done(make_cfg: MakeCfg, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(RuntimeError, match="told to fail"), run(make_cfg()) as this_run:
        this_run.begin()
        raise RuntimeError("told to fail")
    failure = json.loads((folder / "failed.json").read_text())
    assert failure["error"] == "RuntimeError: told to fail"
    assert set(failure) == {"error", "when"}
    assert not (folder / "done").exists()
    log = (folder / "log.txt").read_text()
    assert "Traceback" in log and "RuntimeError: told to fail" in log
    toy.run_toy(make_cfg())
    assert (folder / "done").exists() and not (folder / "failed.json").exists()


def test_interrupt_counts_as_a_failure(make_cfg: MakeCfg, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), run(make_cfg()):
        raise KeyboardInterrupt
    assert json.loads((tmp_path / "run" / "failed.json").read_text())["error"].startswith("KeyboardInterrupt")


def test_stdout_is_given_back(make_cfg: MakeCfg) -> None:
    before = sys.stdout
    with run(make_cfg()):
        assert sys.stdout is not before
    assert sys.stdout is before
    with pytest.raises(RuntimeError), run(make_cfg()):
        raise RuntimeError
    assert sys.stdout is before


def test_config_as_changed_by_the_trainer_is_kept(
    make_cfg: MakeCfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = toy.ToyTrainer.build_data_loader

    def build_data_loader(self: Any) -> None:
        self.cfg.defrost()
        self.cfg.INPUT.SIZE = (6, 6)
        self.cfg.freeze()
        build(self)

    monkeypatch.setattr(toy.ToyTrainer, "build_data_loader", build_data_loader)
    toy.run_toy(make_cfg())
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["INPUT"]["SIZE"] == [6, 6]
    assert toy.run_toy(make_cfg()).start_epoch == toy.EPOCHS


def test_evaluation_keeps_its_figures_on_disk_at_once(make_cfg: MakeCfg, tmp_path: Path) -> None:
    toy.run_toy(make_cfg())
    folder = tmp_path / "eval"
    trainer = build_trainer(make_cfg("OUTPUT_DIR", str(folder)))
    trainer.load_model(str(tmp_path / "run"))
    trainer.test()  # nothing is closed or flushed afterwards
    assert toy.read_metrics(folder)[0]["accuracy"] == trainer.results["accuracy"]
    assert toy.read_board(folder)["test/accuracy"][0][1] == pytest.approx(trainer.results["accuracy"])
    trainer.close_writer()


def test_figures_are_on_disk_before_the_checkpoint_that_a_run_goes_on_from(
    make_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    monkeypatch.setattr(MetricsLog, "add", lambda *args, **kwargs: order.append("add"))
    monkeypatch.setattr(MetricsLog, "flush", lambda self: order.append("flush"))
    monkeypatch.setattr(dassl.engine.checkpoint, "save_checkpoint", lambda *_, **__: order.append("save"))
    build_trainer(make_cfg()).train()
    assert order == [*["add", "add", "add", "flush", "save"] * toy.EPOCHS, "add", "flush"]


def test_write_scalar_reaches_tensorboard_while_a_writer_is_open(make_cfg: MakeCfg, tmp_path: Path) -> None:
    trainer = build_trainer(make_cfg())
    trainer.write_scalar("own/figure", 1.0, 0)  # none is open: nothing happens
    trainer.init_writer(str(tmp_path / "run" / "tensorboard"))
    trainer.write_scalar("own/figure", 2.5, 7)
    trainer.close_writer()
    assert toy.read_board(tmp_path / "run")["own/figure"] == [(7, 2.5)]


def test_finish_records_the_name_of_the_config_file(make_cfg: MakeCfg, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    Run(make_cfg(), "vit_b16").finish({"anything": 1})
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == {
        "schema": 2,
        "config": "vit_b16",
        "anything": 1,
    }


FAILING_STARTS = {
    "a data folder that is not there": ("DATASET.ROOT", "/gone"),
    "a trainer that is not there": ("TRAINER.NAME", "Nobody"),
    "another seed": ("SEED", "2"),
    "more epochs": ("OPTIM.MAX_EPOCH", "9"),
    "another model": ("TRAINER.TOY.WIDTH", "5"),
    "a value that is refused": ("TEST.FINAL_MODEL", "best_test"),
}


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "log.txt"}


@pytest.mark.parametrize("change", FAILING_STARTS.values(), ids=FAILING_STARTS)
def test_a_start_that_fails_changes_nothing_of_a_finished_run(
    change: tuple[str, str], make_cfg: MakeCfg, tmp_path: Path
) -> None:
    toy.run_toy(make_cfg())
    folder = tmp_path / "run"
    before, log = files_of(folder), (folder / "log.txt").read_text()
    with pytest.raises((ValueError, OSError)):
        toy.run_toy(make_cfg(*change))
    assert files_of(folder) == before
    assert (folder / "log.txt").read_text().startswith(log)


def test_a_test_does_not_take_the_folder_of_a_training_nor_the_other_way_round(
    make_cfg: MakeCfg, tmp_path: Path
) -> None:
    toy.run_toy(make_cfg())
    before = files_of(tmp_path / "run")
    with pytest.raises(ValueError, match="run holds a finished training, and this is a test; use another --output-dir"):
        toy.test_toy(make_cfg(), tmp_path / "run")
    assert files_of(tmp_path / "run") == before
    own = make_cfg("OUTPUT_DIR", str(tmp_path / "test"))
    toy.test_toy(own, tmp_path / "run")
    tested = files_of(tmp_path / "test")
    with pytest.raises(ValueError, match="test holds a finished test, and this is a training"):
        toy.run_toy(own)
    with pytest.raises(ValueError, match="OPTIM.LR .* in the checkpoint"):
        toy.test_toy(make_cfg("OUTPUT_DIR", str(tmp_path / "test"), "OPTIM.LR", "0.7"), tmp_path / "run")
    other = make_cfg("OUTPUT_DIR", str(tmp_path / "other"), "SEED", "2")
    toy.run_toy(other)
    with pytest.raises(ValueError, match="holds the finished test of .*run, and this is one of .*other"):
        toy.test_toy(own, tmp_path / "other")
    assert files_of(tmp_path / "test") == tested
    toy.test_toy(own, tmp_path / "run")  # the same test again
    assert (tmp_path / "test" / "done").exists()


def test_a_test_does_not_take_the_folder_of_an_unfinished_training(make_cfg: MakeCfg, tmp_path: Path) -> None:
    toy.run_toy(make_cfg())
    (tmp_path / "run" / "done").unlink()
    with pytest.raises(ValueError, match="holds an? unfinished training, and this is a test"):
        toy.test_toy(make_cfg(), tmp_path / "run")


def test_a_finished_run_started_again_keeps_its_records_until_the_new_ones_are_complete(
    make_cfg: MakeCfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.run_toy(make_cfg())
    folder = tmp_path / "run"
    before = {name: (folder / name).read_bytes() for name in ("results.json", "done", "config.yaml", "env.json")}
    monkeypatch.setattr(toy.ToyTrainer, "test", lambda self, split=None: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        toy.run_toy(make_cfg("TRAIN.PRINT_FREQ", "3"))
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert not (folder / "failed.json").exists()
    monkeypatch.undo()
    toy.run_toy(make_cfg("TRAIN.PRINT_FREQ", "3"))
    assert yaml.safe_load((folder / "config.yaml").read_text())["TRAIN"]["PRINT_FREQ"] == 3


def test_a_failed_first_start_is_told_and_the_next_one_takes_the_folder(make_cfg: MakeCfg, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(FileNotFoundError):
        toy.run_toy(make_cfg("DATASET.ROOT", "/gone"))
    assert "gone" in json.loads((folder / "failed.json").read_text())["error"]
    assert yaml.safe_load((folder / "config.yaml").read_text())["DATASET"]["ROOT"] == "/gone"
    toy.run_toy(make_cfg("OPTIM.LR", "0.3"))
    assert not (folder / "failed.json").exists() and (folder / "done").exists()


@pytest.mark.parametrize("line", ["5", "{}", "[1]", '{"step": "x", "split": "train"}', "\xff\xfe", "null", '{"step'])
def test_lines_of_metrics_that_are_no_records_are_dropped_and_counted(
    line: str, make_cfg: MakeCfg, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.run_toy(make_cfg())
    path = tmp_path / "run" / "metrics.jsonl"
    before = toy.read_metrics(tmp_path / "run")
    path.write_bytes(path.read_bytes() + line.encode("latin-1") + b"\n")
    toy.run_toy(make_cfg())
    assert "metrics.jsonl: 1 line(s) that are no records are dropped" in capsys.readouterr().out
    assert [record["step"] for record in toy.read_metrics(tmp_path / "run")] == [record["step"] for record in before]


@pytest.mark.parametrize(
    ("name", "content"),
    [("config.yaml", b"\xff\xfe\x00x: ["), ("env.json", b'{"command'), ("env.json", b"\x80\x81"), ("env.json", b"7")],
)
def test_odd_records_of_a_finished_test_are_named_or_harmless(
    name: str, content: bytes, make_cfg: MakeCfg, tmp_path: Path
) -> None:
    toy.run_toy(make_cfg())
    own = make_cfg("OUTPUT_DIR", str(tmp_path / "test"))
    toy.test_toy(own, tmp_path / "run")
    (tmp_path / "test" / name).write_bytes(content)
    if content == b"7":
        toy.test_toy(own, tmp_path / "run")
        return
    with pytest.raises(ValueError, match=name):
        toy.test_toy(own, tmp_path / "run")


@pytest.mark.parametrize("name", ["metrics.jsonl", "log.txt", "tensorboard"])
def test_a_folder_or_file_where_the_other_belongs_is_named(name: str, make_cfg: MakeCfg, tmp_path: Path) -> None:
    path = tmp_path / "run" / name
    if name == "tensorboard":
        path.parent.mkdir()
        path.write_text("a file")
    else:
        path.mkdir(parents=True)
    with pytest.raises(OSError, match=name):
        toy.run_toy(make_cfg())


def test_unfinished_files_of_dead_processes_are_removed(make_cfg: MakeCfg, tmp_path: Path) -> None:
    pid = toy.in_child(lambda: None)
    toy.wait_for(pid)
    folder = tmp_path / "run" / "model"
    folder.mkdir(parents=True)
    dead, alive = (folder / f".model.pth.tar-1.{HOST}-{number}.tmp" for number in (pid, os.getppid()))
    elsewhere = folder / f".model.pth.tar-1.another-{pid}.tmp"
    for path in (dead, alive, elsewhere):
        path.touch()
    toy.run_toy(make_cfg())
    assert not dead.exists() and alive.exists() and elsewhere.exists()


@pytest.mark.parametrize("share", [None, 0.0, 0.13, 0.3, 0.4, 0.55, 0.7, 0.82, 0.99])
def test_what_a_cut_tensorboard_file_lost_is_written_anew_from_the_metrics(
    share: float | None, make_cfg: MakeCfg, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.run_toy(make_cfg())
    expected, texts = toy.read_board(tmp_path / "run"), toy.texts_of(tmp_path / "run")
    (events,) = (tmp_path / "run" / "tensorboard").glob("events*")
    content = events.read_bytes()
    first, last = content.find(b"train/loss"), content.find(b"test/accuracy")
    events.write_bytes(content[: 0 if share is None else int(first + share * (last - first))])
    toy.run_toy(make_cfg())
    assert re.search(r"tensorboard lacked \d+ figures of metrics.jsonl", capsys.readouterr().out)
    assert toy.read_board(tmp_path / "run") == expected
    assert {name: [text for _, text in found] for name, found in toy.texts_of(tmp_path / "run").items()} == {
        name: [text for _, text in found] for name, found in texts.items()
    }


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. ..."), "shared memory.*NUM_WORKERS 0"),
        (RuntimeError("unable to write to file </torch_7_8_9>: No space left on device (28)"), "shared memory"),
        (OSError(28, "No space left on device"), "no space left on the disk .* MB free in .*the same command goes on"),
    ],
)
def test_a_full_disk_and_full_shared_memory_are_told(
    error: Exception, message: str, make_cfg: MakeCfg, tmp_path: Path
) -> None:
    with pytest.raises(OSError, match=message), run(make_cfg()) as this_run:
        this_run.begin()
        raise error
    assert json.loads((tmp_path / "run" / "failed.json").read_text())["error"].startswith("OSError: [Errno 28]")
