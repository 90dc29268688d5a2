"""The trainer: every variant and precision trains, saves, resumes and tests, and the backbone stays as it was."""

import json
import shutil
from dataclasses import asdict

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import clip
import train
import trainers.base
from clip.load import TINY_DIR
from dassl.engine import SimpleTrainer, build_trainer
from dassl.engine.trainer import TrainerBase
from dassl.utils import load_checkpoint
from trainers.gopro import RELEASED, build_gopro
from trainers.gopro.model import GOProModel
from trainers.gopro.trainer import GOPro


def lines(folder, split="train"):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["split"] == split]


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "amp"])
def test_trains_tests_and_leaves_the_backbone_bitwise_unchanged(run, variant, precision, monkeypatch):
    loaded = []
    original = clip.load

    def remember(*args, **kwargs):
        loaded.append(original(*args, **kwargs))
        loaded.append({k: v.clone() for k, v in loaded[0].state_dict().items()})
        return loaded[0]

    monkeypatch.setattr(trainers.base.clip, "load", remember)
    results, folder = run("out", "TRAINER.GOPRO.VARIANT", variant, "TRAINER.GOPRO.PREC", precision)
    model, before = loaded
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    record = json.loads((folder / "results.json").read_text())
    assert results["accuracy"] == pytest.approx(sum(record["per_class"].values()) / 5)  # as many images of each class
    steps = lines(folder)
    assert len(steps) == 2 * 2  # epochs of 5 classes x 2 shots in batches of 4, the last 2 images dropped
    assert set(steps[0]) >= {"loss", "loss_ce", "loss_sem", "loss_con", "acc", "lr"}
    assert all(torch.isfinite(torch.tensor([s["loss"] for s in steps])))
    checkpoint = load_checkpoint(str(folder / "gopro" / "model.pth.tar-2"))
    assert all(value.dtype == torch.float32 for key, value in checkpoint["state_dict"].items() if "tracked" not in key)
    assert (folder / "done").exists()


@pytest.mark.parametrize("precision", ["fp16", "bf16", "amp"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_testing_in_half_precision_is_as_accurate(run, device, precision):
    cuda = ("USE_CUDA", str(device == "cuda"))
    _, folder = run("trained", "TRAINER.GOPRO.PREC", "fp32", *cuda)
    load = ("--eval-only", "--model-dir", str(folder))
    expected, _ = run("full", *load, "TRAINER.GOPRO.PREC", "fp32", *cuda)
    got, folder = run("half", *load, "TRAINER.GOPRO.PREC", precision, *cuda)
    images = json.loads((folder / "results.json").read_text())["num_images"]
    assert got["accuracy"] == pytest.approx(expected["accuracy"], abs=100 / images + 1e-6)  # one image on the edge


def test_total_is_the_weighted_sum_of_the_parts(run):
    _, folder = run("out", "TRAINER.GOPRO.W_SEM", "0.5", "TRAINER.GOPRO.W_CON", "0.25")
    for step in lines(folder):
        total = step["loss_ce"] + 0.5 * step["loss_sem"] + 0.25 * step["loss_con"]
        assert step["loss"] == pytest.approx(total, rel=1e-5)


def test_consistency_of_some_classes_draws_by_step_and_not_by_what_went_before(run, monkeypatch):
    chosen = []
    original = GOProModel.choose_sem_classes

    def remember(self, labels):
        chosen.append(labels)
        original(self, labels)

    monkeypatch.setattr(GOProModel, "choose_sem_classes", remember)
    _, whole = run("whole", "TRAINER.GOPRO.SEM_CLASSES", "2")
    drawn = list(chosen)
    assert all(len(labels) == 2 and labels == sorted(set(labels)) for labels in drawn)
    assert len({tuple(labels) for labels in drawn}) > 1
    monkeypatch.setattr(GOPro, "after_train", lambda self: None)  # ends after the first epoch, and goes on
    monkeypatch.setattr(SimpleTrainer, "train", lambda self: TrainerBase.train(self, 0, 1))
    chosen.clear()
    run("parts", "TRAINER.GOPRO.SEM_CLASSES", "2")
    monkeypatch.undo()
    monkeypatch.setattr(GOProModel, "choose_sem_classes", remember)
    (whole.parent / "parts" / "done").unlink(missing_ok=True)
    _, parts = run("parts", "TRAINER.GOPRO.SEM_CLASSES", "2")
    assert chosen == drawn
    assert lines(parts) == lines(whole)
    _, full = run("full")
    assert lines(full) != lines(whole)
    _, all_classes = run("all", "TRAINER.GOPRO.SEM_CLASSES", "5")
    assert lines(all_classes) == lines(full)


def test_checkpoint_holds_learnables_backbone_classes_and_config_only(run):
    _, folder = run("out")
    path = folder / "gopro" / "model.pth.tar-2"
    checkpoint = torch.load(path, weights_only=True)
    assert all(key.startswith(("prompt_learner.", "simproj.")) for key in checkpoint["state_dict"])
    assert checkpoint["meta"]["backbone"] == "tiny"
    assert checkpoint["meta"]["classnames"] == ["apple", "fish", "house", "key", "star"]
    assert checkpoint["meta"]["config"] == yaml.safe_load((folder / "config.yaml").read_text())
    learnables = sum(v.numel() for v in checkpoint["state_dict"].values())
    # Weights and SGD's momentum in fp32, and some kilobytes of generator states: no frozen tensor fits in there.
    assert path.stat().st_size < 2 * 4 * learnables + 60_000


def test_same_seed_gives_bitwise_the_same_losses_and_another_seed_does_not(run):
    first, second = (lines(run(name)[1]) for name in ("a", "b"))
    assert [s["loss"] for s in first] == [s["loss"] for s in second]
    other = lines(run("c", "--seed", "0")[1])
    assert [s["loss"] for s in first] != [s["loss"] for s in other]


def test_new_classes_are_tested_with_their_own_names_for_equal_and_unequal_counts(run, capsys):
    _, folder = run("base", "DATASET.SUBSAMPLE_CLASSES", "base")  # apple, fish, house
    _, test_new = run("new", "--eval-only", "--model-dir", str(folder), "DATASET.SUBSAMPLE_CLASSES", "new")
    record = json.loads((test_new / "results.json").read_text())
    assert list(record["per_class"]) == ["key", "star"] and record["num_classes"] == 2
    assert record["train"]["subsample_classes"] == "base"
    # The learnables of step 0 on the base classes are CLIP on the new ones: with the base names they would not be.
    _, start = run("start", "DATASET.SUBSAMPLE_CLASSES", "base", "OPTIM.LR", "1e-12", "OPTIM.WARMUP_EPOCH", "-1")
    ours, _ = run("ours", "--eval-only", "--model-dir", str(start), "DATASET.SUBSAMPLE_CLASSES", "new")
    zero_shot, _ = run("zs", "DATASET.SUBSAMPLE_CLASSES", "new", trainer="ZeroshotCLIP")
    assert ours == pytest.approx(zero_shot, abs=1e-3)  # the calibration error shows the rounding of the logits
    everything, _ = run("all", "--eval-only", "--model-dir", str(start))
    assert everything == pytest.approx(run("zs_all", trainer="ZeroshotCLIP")[0], abs=1e-3)


def test_equal_counts_of_base_and_new_classes(run, image_root, tmp_path):
    root = tmp_path / "four"
    shutil.copytree(image_root, root, ignore=shutil.ignore_patterns("apple", "*.json", "split_fewshot"))
    start = ("DATASET.SUBSAMPLE_CLASSES", "base", "OPTIM.LR", "1e-12", "OPTIM.WARMUP_EPOCH", "-1")
    _, folder = run("base", *start, root=root)
    ours, out = run("new", "--eval-only", "--model-dir", str(folder), "DATASET.SUBSAMPLE_CLASSES", "new", root=root)
    zero_shot, _ = run("zs", "DATASET.SUBSAMPLE_CLASSES", "new", trainer="ZeroshotCLIP", root=root)
    assert list(json.loads((out / "results.json").read_text())["per_class"]) == ["key", "star"]
    assert ours == pytest.approx(zero_shot, abs=1e-3)


def published_checkpoint(folder, num_classes=2):
    """A file as the published code writes it: the whole model, and optimiser and scheduler objects."""
    torch.manual_seed(7)
    tiny = clip.load("tiny")
    learner = build_gopro(tiny, ["a", "b"], variant=RELEASED).learner
    for p in learner.parameters():
        torch.nn.init.normal_(p, std=0.05)
    state = dict(learner.state_dict())
    state["prompt_learner.meta_net.linear1.weight"] = torch.zeros(8, 128)
    state["prompt_learner.token_prefix"] = torch.zeros(num_classes, 1, 64)
    state["prompt_learner.token_suffix"] = torch.zeros(num_classes, 27, 64)
    state["image_encoder.proj"] = torch.zeros(128, 128)
    state["text_encoder.text_projection"] = torch.zeros(64, 128)
    state["logit_scale"] = torch.zeros(())
    optim = torch.optim.SGD(learner.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optim, 5)
    path = folder / "gopro" / "model.pth.tar-50"
    path.parent.mkdir(parents=True)
    torch.save(
        {"state_dict": state, "epoch": 50, "optimizer": optim.state_dict(), "scheduler": {"successor": scheduler}}, path
    )
    return learner


def test_every_mixture_of_the_two_variants_trains_and_is_told(run, capsys):
    """One field at a time from `paper` towards `released`: the ablation that the paper lacks."""
    for field, value in asdict(RELEASED).items():
        _, folder = run(field, f"TRAINER.GOPRO.{field.upper()}", value)
        assert f"{field} {value}" in capsys.readouterr().out
        assert torch.isfinite(torch.tensor([step["loss"] for step in lines(folder)])).all()
    fields = asdict(RELEASED).items()
    mixed = run("mixed", *[word for field, value in fields for word in (f"TRAINER.GOPRO.{field.upper()}", value)])[1]
    released = run("released", "TRAINER.GOPRO.VARIANT", "released")[1]
    assert [step["loss"] for step in lines(mixed)] == [step["loss"] for step in lines(released)]


def test_weights_trained_for_other_logits_are_refused(run):
    _, folder = run("projected")
    with pytest.raises(ValueError, match="trained with TRAINER.GOPRO.LOGITS projected, here they are clip"):
        run("clip", "--eval-only", "--model-dir", str(folder), "TRAINER.GOPRO.LOGITS", "clip")


def test_a_published_checkpoint_loads_into_released_and_is_refused_by_paper(run, tmp_path):
    learner = published_checkpoint(tmp_path / "published")
    args = ("--eval-only", "--model-dir", str(tmp_path / "published"), "--load-epoch", "50")
    cfg = run.config("released", *args, "TRAINER.GOPRO.VARIANT", "released")
    trainer = build_trainer(cfg)
    trainer.load_model(str(tmp_path / "published"), epoch=50)
    loaded = trainer.model.learner.state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in learner.state_dict().items())
    with pytest.raises(
        ValueError, match="model.pth.tar-50: .*missing prompt_learner.rho_moco.*unexpected simproj.batchnorm"
    ):
        run("paper", *args)


def copy_of_tiny(folder, change=False):
    """The tiny CLIP in another folder; with other weights if asked."""
    shutil.copytree(TINY_DIR, folder)
    if change:
        path = str(folder / "open_clip_model.safetensors")
        save_file({name: value * 1.5 for name, value in load_file(path).items()}, path)
    return str(folder)


def test_a_checkpoint_of_another_backbone_is_refused_and_the_same_weights_may_move(run, tmp_path):
    _, folder = run("tiny")
    load = ("--eval-only", "--model-dir", str(folder))
    with pytest.raises(ValueError, match="trained on backbone 'tiny', MODEL.BACKBONE.NAME is '.*other_clip'"):
        run("other", "--backbone", copy_of_tiny(tmp_path / "other_clip", change=True), *load)
    moved = copy_of_tiny(tmp_path / "moved_clip")
    assert run("there", *load)[0] == run("moved", "--backbone", moved, *load)[0]


def test_a_run_goes_on_with_the_same_weights_at_another_path_and_not_with_others(run, tmp_path):
    _, folder = run("run")
    (folder / "done").unlink()
    run("run", "--backbone", copy_of_tiny(tmp_path / "moved_clip"))
    with pytest.raises(ValueError, match="MODEL.BACKBONE.NAME"):
        run("run", "--backbone", copy_of_tiny(tmp_path / "other_clip", change=True))


def test_nan_loss_names_the_images(run, monkeypatch):
    import trainers.gopro.loss

    monkeypatch.setattr(trainers.gopro.loss, "nt_xent", lambda a, b, t: a.sum() * float("nan"))
    with pytest.raises(FloatingPointError, match=r"epoch 1, batch 1 \(.*loss_con nan.*images: .*\.png"):
        run("out")


def test_a_class_name_that_does_not_fit_is_named(run, image_root, tmp_path):
    root = tmp_path / "long"
    shutil.copytree(image_root, root, ignore=shutil.ignore_patterns("*.json", "split_fewshot"))
    (root / "classnames.txt").write_text("apple " + "very " * 40 + "long\n")
    with pytest.raises(ValueError, match="class name 'very very.*leaves 27 after 4 context tokens"):
        run("out", root=root)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("VARIANT", "papr", "TRAINER.GOPRO.VARIANT must be one of"),
        ("PREC", "fp8", "TRAINER.GOPRO.PREC must be one of"),
        ("SEM_REDUCTION", "max", "SEM_REDUCTION must be one of auto, sum, mean"),
        ("W_SEM", "-1.0", "W_SEM must be at least 0"),
        ("SEM_CLASSES", "-1", "SEM_CLASSES must be at least 0"),
        ("TEMPERATURE", "0.0", "TEMPERATURE must be positive"),
        ("CTX_INIT", "  ", "CTX_INIT must be empty or a text that is not blank"),
        ("N_CTX", "0", "N_CTX must be at least 1"),
        ("LOGITS", "both", "LOGITS must be one of auto, projected, clip"),
        ("MOCO.BLUR_SIGMA", "(1,)", r"MOCO.BLUR_SIGMA must be two numbers"),
        ("MOCO.SCALE", "(0.5,)", r"MOCO.SCALE must be two numbers"),
        ("MOCO.JITTER", "(0.4, 0.4, 0.2, 0.9)", "JITTER must be four numbers .* got"),
        ("AUGMIX.SEVERITY", "11", "AUGMIX.SEVERITY must be from 1 to 10"),
        ("AUGMIX.DEPTH", "0", "AUGMIX.DEPTH must be -1 or at least 1"),
    ],
)
def test_bad_values_are_refused_before_the_backbone_is_loaded(run, monkeypatch, key, value, message):
    monkeypatch.setattr(trainers.base.clip, "load", lambda *a, **k: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=message):
        run("out", f"TRAINER.GOPRO.{key}", value)


def test_views_of_the_first_batch_go_to_tensorboard(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, folder = run("out")
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0}).Reload()
    (image,) = events.Images("train/views")
    assert image.height == 3 * (60 + 2) + 2 and image.width == 4 * (60 + 2) + 2  # three rows of four images


def test_random_weights_are_the_same_in_training_and_testing(run):
    random = ("MODEL.BACKBONE.PRETRAINED", "False")
    trained, folder = run("a", *random)
    tested, _ = run("b", "--eval-only", "--model-dir", str(folder), *random)
    assert trained == tested


def test_input_size_mean_and_std_are_the_backbones(run):
    _, folder = run("out", "INPUT.SIZE", "(224, 224)")
    used = yaml.safe_load((folder / "config.yaml").read_text())["INPUT"]
    assert used["SIZE"] == [60, 60] and used["PIXEL_MEAN"] == [0.5, 0.5, 0.5] and used["PIXEL_STD"] == [0.25] * 3


def test_unknown_trainer_and_data_set_name_close_matches(run):
    with pytest.raises(ValueError, match="unknown TRAINER: 'GoPro'[.] Did you mean GOPro"):
        run("out", "--trainer", "GoPro")
    with pytest.raises(ValueError, match="unknown DATASET: 'ImageFolders'[.] Did you mean ImageFolder"):
        run("out2", "DATASET.NAME", "ImageFolders")
    with pytest.raises(ValueError, match="unknown config key TRAINER.GOPRO.N_CTXT.*TRAINER.GOPRO.N_CTX"):
        run("out3", "TRAINER.GOPRO.N_CTXT", "4")


def test_no_train_builds_everything_and_writes_no_result(run):
    results, folder = run("out", "--no-train")
    assert results is None and not (folder / "results.json").exists() and not (folder / "done").exists()


def test_help_lists_coops_flags(capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    text = capsys.readouterr().out
    flags = (
        "root output-dir resume seed source-domains target-domains transforms config-file dataset-config-file trainer"
    )
    for flag in [*flags.split(), "backbone", "head", "eval-only", "model-dir", "load-epoch", "no-train"]:
        assert f"--{flag}" in text


def test_every_view_is_made_from_its_own_image(tmp_path):
    """One solid colour a class: the MoCo and AugMix views of an image keep its strongest channel."""
    from PIL import Image

    for channel, name in enumerate(("red", "green", "blue")):
        folder = tmp_path / "colours" / name
        folder.mkdir(parents=True)
        colour = [60, 60, 60]
        colour[channel] = 200
        for i in range(6):
            Image.new("RGB", (80, 80), tuple(colour)).save(folder / f"{i}.png")
    argv = ["--root", str(tmp_path / "colours"), "--seed", "1", "--output-dir", str(tmp_path / "out")]
    argv += ["--dataset-config-file", "configs/datasets/image_folder.yaml"]
    argv += ["--config-file", "configs/trainers/GOPro/tiny.yaml", "DATALOADER.NUM_WORKERS", "0"]
    argv += ["TRAINER.GOPRO.MOCO.JITTER_P", "0.0", "TRAINER.GOPRO.MOCO.GRAY_P", "0.0"]
    argv += ["DATALOADER.TRAIN_X.BATCH_SIZE", "6"]
    trainer = build_trainer(train.build_config(train.parse_args(argv)))
    strongest = {"red": 0, "green": 1, "blue": 2}
    seen = set()
    for batch in trainer.train_loader_x:
        for i, label in enumerate(batch["label"].tolist()):
            name = trainer.lab2cname[label]
            seen.add(name)
            for key in ("img", "img2", "img3"):
                assert batch[key][i].mean(dim=(1, 2)).argmax() == strongest[name], (key, name)
    assert len(seen) >= 2


def test_a_missing_data_folder_is_named_before_the_backbone_is_loaded(run, tmp_path, monkeypatch):
    monkeypatch.setattr(trainers.base.clip, "load", lambda *a, **k: pytest.fail("loaded"))
    with pytest.raises(FileNotFoundError, match="nowhere .DATASET.ROOT. is missing. Expected in it"):
        run("out", root=tmp_path / "nowhere")
