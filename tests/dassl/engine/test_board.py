"""What TensorBoard shows of a run beside its figures, read back from the event files."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dassl_toy as toy
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from dassl.config import flatten
from dassl.engine import build_trainer
from dassl.engine.projector import Projector
from dassl.utils.tools import versions

MakeCfg = Callable[..., Any]
PICTURES = {"test/accuracy_per_class", "test/confusion_matrix"}
CHARTS = "custom_scalars__config__"


def pictures_of(folder: Path) -> dict[str, list[tuple[int, tuple[int, int]]]]:
    """(step, size) of every picture, by tag; each decodes to the size that TensorBoard is told."""
    found: dict[str, list[tuple[int, tuple[int, int]]]] = {}
    board = toy.board_of(folder)
    for tag in board.Tags()["images"]:
        for event in board.Images(tag):
            size = Image.open(io.BytesIO(event.encoded_image_string)).size
            assert size == (event.width, event.height)
            found.setdefault(tag, []).append((event.step, size))
    return found


def charts_of(folder: Path) -> list[dict[str, list[str]]]:
    """The patterns of each chart by title, for every layout there is."""
    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

    layouts = [
        Layout.FromString(event.tensor_proto.string_val[0]) for event in toy.board_of(folder, old=False).Tensors(CHARTS)
    ]
    return [
        {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}
        for layout in layouts
    ]


def shown(folder: Path) -> dict[str, Any]:
    """Everything but the speed and what a path or a time is part of."""
    return {
        "pictures": pictures_of(folder),
        "charts": charts_of(folder),
        "hparams": toy.hparams_of(folder),
        "texts": {name: [step for step, _ in found] for name, found in toy.texts_of(folder).items()},
        "speed": [step for step, _ in toy.read_board(folder, speed=True)["train_speed/seconds_per_step"]],
    }


def test_texts_are_the_config_the_command_and_the_versions(make_cfg: MakeCfg, tmp_path: Path) -> None:
    cfg = make_cfg()
    toy.run_toy(cfg)
    texts = toy.texts_of(tmp_path / "run")
    assert set(texts) == {"run/config", "run/command", "run/versions"}
    (config,) = [text for _, text in texts["run/config"]]
    fenced = re.fullmatch("```yaml\n(.*)\n```", config, re.DOTALL)
    assert fenced and yaml.safe_load(fenced[1]) == yaml.safe_load(cfg.dump())
    assert [text for _, text in texts["run/command"]] == ["```\npython train.py --toy\n```"]
    (table,) = [text for _, text in texts["run/versions"]]
    assert all(f"| {name} | {version} |" in table for name, version in versions().items())


@pytest.mark.parametrize("final", ["last_step", "best_val"])
def test_pictures_of_the_final_test_alone(final: str, make_cfg: MakeCfg, tmp_path: Path) -> None:
    toy.run_toy(make_cfg("TEST.FINAL_MODEL", final))
    pictures = pictures_of(tmp_path / "run")
    assert set(pictures) == PICTURES
    for found in pictures.values():
        ((step, size),) = found
        assert step == toy.EPOCHS * toy.BATCHES and min(size) > 100


def test_hyperparameters_stand_in_the_runs_own_folder(make_cfg: MakeCfg, tmp_path: Path) -> None:
    cfg = make_cfg("OPTIM.STEPSIZE", "(1, 2)")
    toy.run_toy(cfg)
    (events,) = (tmp_path / "run").rglob("events*")  # no run of its own
    assert events.parent == tmp_path / "run" / "tensorboard"
    hparams = toy.hparams_of(tmp_path / "run")
    settings = flatten(yaml.safe_load(cfg.dump()))
    assert {"TRAINER.NAME", "DATASET.NAME", "DATASET.NUM_SHOTS", "MODEL.BACKBONE.NAME", "SEED"} <= set(hparams)
    assert {key for key in settings if key.startswith("OPTIM.")} <= set(hparams)
    for key, value in hparams.items():
        assert value == (str(settings[key]) if isinstance(settings[key], list) else settings[key])
    # TensorBoard finds the metrics among the run's own tags.
    assert {"test/accuracy", "test/macro_f1", "test/ece"} <= set(toy.read_board(tmp_path / "run"))


def test_a_test_of_other_weights_shows_the_optimisation_that_made_them(make_cfg: MakeCfg, tmp_path: Path) -> None:
    toy.run_toy(make_cfg("OPTIM.LR", "0.05"))
    assert toy.hparams_of(tmp_path / "run")["OPTIM.LR"] == 0.05
    toy.test_toy(make_cfg("OUTPUT_DIR", str(tmp_path / "test"), "OPTIM.LR", "0.7"), tmp_path / "run")
    assert toy.hparams_of(tmp_path / "test")["OPTIM.LR"] == 0.05
    assert set(pictures_of(tmp_path / "test")) == PICTURES
    assert CHARTS not in toy.board_of(tmp_path / "test").Tags()["tensors"]


def test_one_chart_holds_all_parts_of_the_loss(
    make_cfg: MakeCfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = toy.ToyTrainer.forward_backward
    with_parts = lambda self, batch: {**step(self, batch), "loss_ce": 1.0, "loss_con": 2.0}  # noqa: E731
    monkeypatch.setattr(toy.ToyTrainer, "forward_backward", with_parts)
    toy.run_toy(make_cfg())
    (charts,) = charts_of(tmp_path / "run")
    tags = list(toy.read_board(tmp_path / "run", speed=True))
    (losses,), (accuracy,) = charts["loss and its parts"], charts["accuracy (%)"]
    assert {tag for tag in tags if re.match(losses, tag)} == {"train/loss", "train/loss_ce", "train/loss_con"}
    assert {tag for tag in tags if re.match(accuracy, tag)} == {"train/acc", "test/accuracy"}


def test_speed_is_that_of_the_printed_lines_and_in_tensorboard_alone(
    make_cfg: MakeCfg, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.run_toy(make_cfg("TRAIN.PRINT_FREQ", "2"))
    board = toy.read_board(tmp_path / "run", speed=True)
    seconds, images = board["train_speed/seconds_per_step"], board["train_speed/images_per_second"]
    assert [step for step, _ in seconds] == [step for step, _ in images] == [1, 2, 4, 5, 7, 8]
    printed = re.findall(r" time [\d.]+ \(([\d.]+)\)", capsys.readouterr().out)
    assert [value for _, value in seconds] == pytest.approx(list(map(float, printed)), abs=6e-4)
    assert [a * b for (_, a), (_, b) in zip(seconds, images, strict=True)] == pytest.approx([4] * 6, rel=1e-4)
    assert "speed" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def killed_before_done() -> None:
    from dassl.engine import Run

    Run.finish = toy.die  # type: ignore[assignment, method-assign]


@pytest.mark.parametrize(
    "moments",
    [(toy.in_epoch(1),), (toy.in_epoch(2),), (toy.in_epoch(2), toy.in_epoch(3)), (killed_before_done,)],
    ids=["in the first epoch", "in the second", "twice", "after the test"],
)
def test_after_kills_everything_is_shown_once(
    moments: tuple[Callable[[], None], ...], make_cfg: MakeCfg, tmp_path: Path
) -> None:
    whole, killed = (make_cfg("OUTPUT_DIR", str(tmp_path / name)) for name in ("whole", "killed"))
    toy.run_toy(whole)
    for arm in moments:
        assert toy.wait_for(toy.in_child(lambda arm=arm: (arm(), toy.run_toy(killed)))) == -9
    toy.run_toy(killed)
    expected = shown(tmp_path / "whole")
    assert shown(tmp_path / "killed") == expected
    assert all(steps == [0] for steps in expected["texts"].values()) and len(expected["charts"]) == 1
    ((_, config),) = toy.texts_of(tmp_path / "killed")["run/config"]
    assert yaml.safe_load(config.removeprefix("```yaml").removesuffix("```")) == yaml.safe_load(killed.dump())
    toy.run_toy(killed)  # finished: tested again
    assert shown(tmp_path / "killed") == expected


def test_a_text_that_changed_stands_at_the_step_from_which_it_holds(make_cfg: MakeCfg, tmp_path: Path) -> None:
    cfg = make_cfg()
    assert toy.wait_for(toy.in_child(lambda: (toy.in_epoch(2)(), toy.run_toy(cfg)))) == -9
    toy.run_toy(make_cfg("TRAIN.PRINT_FREQ", "7"))
    texts = toy.texts_of(tmp_path / "run")
    assert [(step, "PRINT_FREQ: 7" in text) for step, text in texts["run/config"]] == [(0, False), (3, True)]
    assert [step for step, _ in texts["run/command"]] == [0]


# ----------------------------------------------------------------------------------------------------- projector


def projected(folder: Path) -> tuple[np.ndarray, list[list[str]], tuple[int, int]]:
    """Features, classes with predictions, and the size of the picture that holds the thumbnails."""
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    board = folder / "tensorboard"
    config = text_format.Parse((board / "projector_config.pbtxt").read_text(), ProjectorConfig())
    (embedding,) = config.embeddings
    matrix = np.loadtxt(board / embedding.tensor_path, delimiter="\t", ndmin=2)
    lines = [line.split("\t") for line in (board / embedding.metadata_path).read_text().splitlines()]
    assert lines[0] == ["class", "predicted"] and list(embedding.sprite.single_image_dim) == [32, 32]
    return matrix, lines[1:], Image.open(board / embedding.sprite.image_path).size


@pytest.mark.parametrize(("wanted", "rows", "side"), [(6, 6, 3), (1000, 9, 3), (1, 1, 1)])
def test_projector_shows_features_with_classes_and_thumbnails(
    wanted: int, rows: int, side: int, make_cfg: MakeCfg, tmp_path: Path
) -> None:
    cfg = make_cfg("TEST.PROJECTOR", str(wanted), "TEST.FINAL_MODEL", "best_val")
    trainer = toy.run_toy(cfg)
    matrix, lines, size = projected(tmp_path / "run")
    assert matrix.shape == (rows, 5) and len(lines) == rows and size == (32 * side, 32 * side)
    if rows > 1:
        assert [line[0] for line in lines] == sorted(toy.CLASSES * (rows // 3))  # evenly of every class
    images = torch.cat([trainer.parse_batch_test(batch)[0] for batch in trainer.test_loader])
    every = trainer.test_features(images)
    assert all((every - torch.tensor(row, dtype=torch.float32)).abs().amax(1).min() < 1e-4 for row in matrix)
    accuracy = np.mean([line[0] == line[1] for line in lines])
    if rows == 9:
        assert 100 * accuracy == pytest.approx(trainer.results["accuracy"])
    before = sorted((tmp_path / "run").rglob("*.tsv"))
    toy.run_toy(cfg)
    assert sorted((tmp_path / "run").rglob("*.tsv")) == before and len(before) == 2
    np.testing.assert_array_equal(projected(tmp_path / "run")[0], matrix)


def test_projector_changes_no_result(make_cfg: MakeCfg, tmp_path: Path) -> None:
    toy.run_toy(make_cfg())
    toy.run_toy(make_cfg("OUTPUT_DIR", str(tmp_path / "other"), "TEST.PROJECTOR", "5"))
    records = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("run", "other")]
    assert records[0]["results"] == records[1]["results"]
    toy.run_toy(make_cfg("TEST.PROJECTOR", "5"))  # the same run goes on
    assert len(projected(tmp_path / "run")[0]) == 5


def test_projector_without_features_is_refused_at_the_start(make_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(toy.ToyTrainer, "test_features")
    with pytest.raises(ValueError, match="TEST.PROJECTOR must be 0 with TRAINER.NAME ToyTrainer.*test_features.*got 5"):
        build_trainer(make_cfg("TEST.PROJECTOR", "5"))


@pytest.mark.parametrize("total", [1, 2, 7, 360, 1000])
@pytest.mark.parametrize("wanted", [1, 3, 7, 100, 1000])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_projector_takes_as_many_as_wanted_evenly_whatever_the_batches(wanted: int, total: int, size: int) -> None:
    projector, taken = Projector(wanted, total), []
    for first in range(0, total, size):
        taken += [first + row for row in projector.rows(min(size, total - first))]
    assert len(taken) == min(wanted, total) == len(set(taken))
    gaps = np.diff(taken)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_nothing_slow_is_imported_before_it_is_needed() -> None:
    code = "import sys, dassl.engine, dassl.evaluation; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "dassl.engine.projector" in loaded
    assert not {"matplotlib", "tensorboard", "torch.utils.tensorboard"} & set(loaded)
