"""What all methods share: the backbone's input, class names that CLIP cannot tell apart, initial weights."""

import shutil

import pytest
import torch
import yaml

from dassl.engine import build_trainer
from dassl.utils import load_checkpoint
from trainers.model import cosine_logits


def test_normalisation_is_no_choice(run, capsys):
    """`--transforms random_flip` chooses the augmentation; pixels are normalised all the same, in testing too."""
    expected, _ = run("with", "INPUT.TRANSFORMS", "('random_flip', 'normalize')", trainer="ZeroshotCLIP")
    got, folder = run("without", "--transforms", "random_flip", trainer="ZeroshotCLIP")
    assert "INPUT.TRANSFORMS: normalize is added" in capsys.readouterr().out
    assert got == expected
    assert list(yaml.safe_load((folder / "config.yaml").read_text())["INPUT"]["TRANSFORMS"]) == [
        "random_flip",
        "normalize",
    ]


@pytest.mark.parametrize(
    ("key", "value"), [("SIZE", "(112, 112)"), ("PIXEL_MEAN", "[0.1, 0.1, 0.1]"), ("PIXEL_STD", "[1.0, 1.0, 1.0]")]
)
def test_an_input_that_the_backbone_does_not_take_is_said_to_have_no_effect(run, capsys, key, value):
    run("out", f"INPUT.{key}", value, trainer="ZeroshotCLIP")
    assert f"INPUT.{key} {value} has no effect: tiny takes" in capsys.readouterr().out


def test_classes_that_clip_reads_alike_are_named_once(run, image_root, tmp_path, capsys):
    root = tmp_path / "twins"
    shutil.copytree(image_root / "photo", root, ignore=shutil.ignore_patterns("*.json", "split_fewshot"))
    (root / "classnames.txt").write_text("apple hot_dog\nfish Cat\nhouse hot dog\nkey cat\n")
    run("out", root=root, trainer="ZeroshotCLIP")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Warning: CLIP reads")]
    assert "'hot_dog' (0) = 'hot dog' (2), 'Cat' (1) = 'cat' (3);" in line
    run("plain", trainer="ZeroshotCLIP")
    assert "Warning: CLIP reads" not in capsys.readouterr().out


def test_initial_weights_go_into_the_learnables(run):
    _, folder = run("first", trainer="CoOp")
    path = folder / "prompt_learner" / "model.pth.tar-2"
    trainer = build_trainer(run.config("second", "MODEL.INIT_WEIGHTS", str(path), trainer="CoOp"))
    assert torch.equal(trainer.model.learner.ctx, load_checkpoint(str(path))["state_dict"]["ctx"])


def test_the_activations_that_may_be_kept_reach_the_backbone_and_change_no_result(run):
    key = "MODEL.BACKBONE.ACTIVATIONS_GB"
    results = [run(f"out{gb}", key, gb)[0] for gb in ("0", "0.00001")]  # an image's blocks take more
    assert results[0] == results[1]
    for gb, expected in (("0", None), ("1.5", 1_500_000_000)):
        assert build_trainer(run.config(f"built{gb}", key, gb)).clip.activation_bytes == expected


def test_cosine_logits_of_shared_and_of_each_images_own_text():
    torch.manual_seed(0)
    image, text = torch.randn(3, 8), torch.nn.functional.normalize(torch.randn(5, 8), dim=-1)
    expected = 7 * torch.cosine_similarity(image[:, None], text[None], dim=-1)
    scale = torch.tensor(7.0)
    assert torch.allclose(cosine_logits(image, text, scale), expected, atol=1e-5)
    assert torch.allclose(cosine_logits(image, text.expand(3, 5, 8), scale), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "value"),
    [("MODEL.HEAD.HIDDEN_LAYERS", "(8,)"), ("DATALOADER.K_TRANSFORMS", "2"), ("INPUT.NO_TRANSFORM", "True")],
)
def test_keys_that_no_method_reads_are_refused(run, key, value):
    with pytest.raises(ValueError, match=key):
        run("out", key, value, trainer="CoOp")


def test_a_test_with_other_keys_of_the_method_says_so(run, capsys):
    _, folder = run("trained", trainer="CLIPAdapter")
    load = ("--eval-only", "--model-dir", str(folder))
    run("same", *load, trainer="CLIPAdapter")
    assert "the weights were trained with" not in capsys.readouterr().out
    run("other", *load, "TRAINER.CLIPADAPTER.RATIO", "0.5", trainer="CLIPAdapter")
    assert "TRAINER.CLIPADAPTER.RATIO is 0.5; the weights were trained with 0.2" in capsys.readouterr().out


def test_classes_that_share_a_name_keep_their_own_label(run, monkeypatch):
    from trainers.base import CLIPTrainer

    trainer = CLIPTrainer.__new__(CLIPTrainer)
    monkeypatch.setattr(CLIPTrainer, "classnames", ["crane", "missile", "crane", "new"])
    trainer.trained_classes = ["missile", "crane", "crane", "missile"]
    assert trainer.labels_in_training() == [1, 0, 2, None]
