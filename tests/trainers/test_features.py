"""Frozen image features that are computed once: the same figures, and never those of something else."""

import os

import pytest

import clip

METHODS = ["ZeroshotCLIP", "CoOp", "CoCoOp", "TCP", "ProDA", "CLIPAdapter", "TipAdapter"]


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "features"


def files(cache):
    return sorted(cache.iterdir()) if cache.exists() else []


def test_methods_share_features_and_get_the_same_figures(run, cache, monkeypatch):
    plain = {name: run(name, trainer=name)[0] for name in METHODS}
    with_cache = ("TEST.FEATURE_CACHE", str(cache))
    assert run("first", *with_cache, trainer="ZeroshotCLIP")[0] == plain["ZeroshotCLIP"]
    (kept,) = files(cache)
    content = kept.read_bytes()
    original = clip.FrozenCLIP.encode_image

    def of_training_only(self, images, *args):
        assert len(images) <= 10, "40 test images in batches of 40"
        return original(self, images, *args)

    monkeypatch.setattr(clip.FrozenCLIP, "encode_image", of_training_only)
    for name in METHODS:
        assert run(f"{name} again", *with_cache, trainer=name)[0] == plain[name]
    assert kept.read_bytes() == content
    assert len(files(cache)) == 2  # TipAdapter's validation images beside


def test_methods_that_change_the_tower_keep_away(run, cache):
    for name in ("MaPLe", "VPT", "PromptSRC", "CLIPLoRA", "GOPro"):
        run(name, "TEST.FEATURE_CACHE", str(cache), trainer=name)
    assert files(cache) == []
    run("text", "TEST.FEATURE_CACHE", str(cache), "TRAINER.CLIPLORA.ENCODER", "text", trainer="CLIPLoRA")
    assert len(files(cache)) == 1


def test_other_settings_and_changed_images_have_files_of_their_own(run, cache, image_root):
    settings = ("TEST.FEATURE_CACHE", str(cache))
    run("a", *settings, trainer="ZeroshotCLIP")
    variants = [
        ("TRAINER.ZSCLIP.PREC", "bf16"),
        ("INPUT.INTERPOLATION", "bilinear"),
        ("DATALOADER.TEST.BATCH_SIZE", "7"),
    ]
    for i, pair in enumerate(variants):
        run(f"b{i}", *settings, *pair, trainer="ZeroshotCLIP")
        assert len(files(cache)) == 2 + i
    for target in image_root.rglob("*.png"):  # whichever part of the split it is in
        os.utime(target, (1, 1))
    run("c", *settings, trainer="ZeroshotCLIP")
    assert len(files(cache)) == 5


def test_a_damaged_file_is_computed_anew(run, cache):
    settings = ("TEST.FEATURE_CACHE", str(cache))
    before, _ = run("a", *settings, trainer="ZeroshotCLIP")
    (kept,) = files(cache)
    content = kept.read_bytes()
    kept.write_bytes(content[:100])
    assert run("b", *settings, trainer="ZeroshotCLIP")[0] == before
    assert kept.read_bytes() == content
