"""Wrong input to every method: one error, before any long work, that names the key, what came and what is allowed."""

import json
import re
import shutil

import pytest

import clip
import trainers
from dassl.config import flatten, get_cfg_default
from dassl.engine import TRAINER_REGISTRY
from protocols.definitions import learns
from protocols.definitions import trainers as methods

METHODS = methods()
# Methods that work inside the image tower's blocks, which a ResNet lacks: why.
INSIDE = {
    "CLIPLoRA": "updates the weights of attention",
    "GOPro": "reads statistics of every block's tokens",
    "IVLP": "puts tokens into blocks",
    "MaPLe": "puts tokens into blocks",
    "PromptSRC": "puts tokens into blocks",
    "VPT": "puts tokens into blocks",
}
# And with these values they do not.
OUTSIDE = {
    "CLIPLoRA": ("TRAINER.CLIPLORA.ENCODER", "text"),
    "IVLP": ("TRAINER.IVLP.PROMPT_DEPTH_VISION", "0"),
    "PromptSRC": ("TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION", "0"),
}


def own_keys(method):
    """The method's keys with their defaults."""
    cfg = get_cfg_default()
    trainers.add_config(cfg)
    node = TRAINER_REGISTRY.get(method).config_key
    return flatten({"TRAINER": {node: cfg.TRAINER[node]}})


KEYS = {method: own_keys(method) for method in METHODS}


def keys_like(pattern):
    return [(m, key) for m, own in KEYS.items() for key in own if re.search(pattern, key.rpartition(".")[2])]


@pytest.fixture
def no_work(monkeypatch):
    """Neither texts nor images go through a tower."""
    for name in ("encode_image", "encode_image_statistics", "encode_text", "encode_prompts"):
        monkeypatch.setattr(clip.FrozenCLIP, name, lambda *_, _name=name, **__: pytest.fail(f"{_name} was called"))


@pytest.fixture
def no_backbone(monkeypatch):
    monkeypatch.setattr(trainers.base.clip, "load", lambda *_, **__: pytest.fail("the backbone was loaded"))


# --------------------------------------------------------------------------------------------- values of the keys


@pytest.mark.parametrize("method", METHODS)
def test_every_key_of_a_method_has_a_rule_that_its_default_follows(method):
    free = {key for key, value in KEYS[method].items() if isinstance(value, bool)}
    assert set(KEYS[method]) - free == set(KEYS[method]) & set(trainers.RULES)
    for key in set(KEYS[method]) - free:
        assert trainers.RULES[key].accepts(KEYS[method][key]), key


@pytest.mark.parametrize("method", METHODS)
def test_wrong_values_are_refused_before_the_backbone_is_loaded(run, no_backbone, method):
    wrong = {int: "-7", float: "-7.5", str: "'  '", tuple: "(-7.0,)", bool: "7", list: "(-7.0,)"}
    for key, default in KEYS[method].items():
        value = wrong[type(default)]
        with pytest.raises(ValueError, match=re.escape(key)) as caught:
            run("out", key, value, trainer=method)
        assert value.strip("'(),") in str(caught.value) and "must be" in str(caught.value), key
        with pytest.raises(ValueError, match=f"unknown config key {key}X.*{key}"):
            run("out", f"{key}X", str(default), trainer=method)


@pytest.mark.parametrize(("method", "key"), keys_like("(DEPTH(?!$)|DEPTH_|PROMPT_DEPTH|BLOCK)"))
def test_more_blocks_than_the_tower_has(run, backbones, no_work, method, key):
    tiny = clip.load("tiny")
    most = tiny.vision_layers if key.endswith("VISION") else min(tiny.text_layers, tiny.vision_layers)
    most -= key.endswith("BLOCK")  # an index
    with pytest.raises(ValueError, match=rf"{key} must be at most {most}, .*got 99"):
        run("out", key, "99", trainer=method)


@pytest.mark.parametrize(("method", "key"), keys_like("^N_CTX(_TEXT)?$"))
def test_a_context_that_leaves_no_room_for_the_names(run, backbones, no_work, method, key):
    words = key.rpartition(".")[0] + ".CTX_INIT"
    no_words = (words, "''") if words in KEYS[method] and KEYS[method][words] != "auto" else ()
    for value in ("40", "1000000000000"):
        with pytest.raises(ValueError, match=rf"{key} must be at most 28 tokens, .*'apple'.* 32 of tiny, got {value}"):
            run("out", *no_words, key, value, trainer=method)


@pytest.mark.parametrize(("method", "key"), keys_like("^CTX_INIT$"))
def test_words_that_leave_no_room_for_the_names(run, backbones, no_work, method, key):
    with pytest.raises(ValueError, match=rf"{key} must be at most 28 tokens, .*got 'very very .*, 40 tokens"):
        run("out", key, " ".join(["very"] * 40), trainer=method)
    for nothing in ("&nbsp;", "_"):
        with pytest.raises(ValueError, match=rf"{key} must be empty or hold words that CLIP reads, got '{nothing}'"):
            run("out", key, nothing, trainer=method)


@pytest.mark.parametrize("method", METHODS)
def test_a_class_name_that_is_too_long_is_named(run, backbones, image_root, tmp_path, method):
    root = tmp_path / "long"
    shutil.copytree(image_root / "photo", root, ignore=shutil.ignore_patterns("*.json", "split_fewshot"))
    (root / "classnames.txt").write_text("apple " + "very " * 40 + "long\n")
    with pytest.raises(ValueError, match="very very very very"):
        run("out", root=root, trainer=method)


@pytest.mark.parametrize("method", METHODS)
def test_a_template_without_a_place_for_the_name_is_refused(run, no_backbone, method):
    for key in (key for key in KEYS[method] if re.search("TEMPLATES?$", key)):
        with pytest.raises(ValueError, match=rf"{key} must be one of .*got 'a photo'"):
            run("out", key, "a photo", trainer=method)


# ------------------------------------------------------------------------------------------------- what cannot be


def test_contexts_of_classes_have_nothing_for_new_ones(run, backbones):
    own = ("TRAINER.COOP.CTX_INIT", "''", "TRAINER.COOP.N_CTX", "3", "TRAINER.COOP.CSC", "True")
    _, folder = run("base", "DATASET.SUBSAMPLE_CLASSES", "base", *own, trainer="CoOp")
    message = r"TRAINER.COOP.CSC learned a context of each class .* has none for 2 of these classes \(key, star\)"
    for classes in ("new", "all"):
        with pytest.raises(ValueError, match=message):
            run(
                classes,
                *("--eval-only", "--model-dir", str(folder), "DATASET.SUBSAMPLE_CLASSES", classes),
                *own,
                trainer="CoOp",
            )
    with pytest.raises(ValueError, match=r"ctx has shape \[3, 3, 64\], not \[3, 64\]"):
        run("out", "--eval-only", "--model-dir", str(folder), *own[:4], trainer="CoOp")


@pytest.mark.parametrize("method", METHODS)
def test_without_validation_images(run, backbones, image_root, tmp_path, method):
    root = tmp_path / "parts"
    for part in ("train", "test"):
        shutil.copytree(image_root / "photo", root / part, ignore=shutil.ignore_patterns("*.json", "split_fewshot"))
    search = next((key for key in KEYS[method] if key.endswith(".SEARCH_SCALE")), None)
    few = [word for key in KEYS[method] if key.endswith(".AUGMENT_EPOCH") for word in (key, "1")]
    if search is None:
        run("out", *few, root=root, trainer=method)
        return
    with pytest.raises(ValueError, match=rf"{method} chooses alpha and beta on validation images, .*{search} \(\)"):
        run("out", *few, root=root, trainer=method)
    run("kept", *few, search, "()", root=root, trainer=method)


@pytest.mark.parametrize(("total", "step"), [("8", "3"), ("4", "8")])
def test_prompts_that_cannot_take_turns(run, no_backbone, total, step):
    message = rf"TRAINER.PRODA.PROMPT_BATCH must divide TRAINER.PRODA.N_PROMPT, {total}, got {step}"
    with pytest.raises(ValueError, match=message):
        run("out", "TRAINER.PRODA.N_PROMPT", total, "TRAINER.PRODA.PROMPT_BATCH", step, trainer="ProDA")


RN50 = ("--backbone", "RN50", "MODEL.BACKBONE.PRETRAINED", "False")


@pytest.mark.parametrize("method", [method for method in METHODS if method in INSIDE])
def test_a_resnet_is_refused_by_methods_inside_the_blocks(run, backbones, no_work, method):
    depths = [word for _, key in keys_like("DEPTH_|PROMPT_DEPTH") if key in KEYS[method] for word in (key, "12")]
    with pytest.raises(ValueError, match=rf"{method} .*blocks? of the image tower; 'RN50' .*Use a ViT"):
        run("out", *RN50, *depths, trainer=method)


@pytest.mark.parametrize(
    ("method", "args"),
    [
        *(pytest.param(method, (), id=method) for method in METHODS if method not in INSIDE),
        *(pytest.param(method, args, id=f"{method} text") for method, args in OUTSIDE.items()),
    ],
)
def test_a_resnet_takes_a_step_with_the_others(run, backbones, image_root, tmp_path, method, args):
    root = tmp_path / "few"  # a training, a validation and a test image of each of two classes
    for part, i in (("train", 0), ("val", 1), ("test", 2)):
        for name in ("star", "house"):
            (root / part / name).mkdir(parents=True)
            shutil.copy(image_root / "photo" / name / f"{i}.png", root / part / name)
    few = {"AUGMENT_EPOCH": "1", "SEARCH_STEP": "(2, 2)", "TEMPLATES": "clip7"}
    few = [
        word for key in KEYS[method] for word in (key, few.get(key.rpartition(".")[2])) if key.rpartition(".")[2] in few
    ]
    sizes = ("DATALOADER.TRAIN_X.BATCH_SIZE", "2", "OPTIM.MAX_ITER", "1")
    _, folder = run("out", *RN50, *few, *sizes, *args, root=root, trainer=method)
    assert json.loads((folder / "results.json").read_text())["num_images"] == 2
    assert bool(list(folder.glob("*/model.pth.tar-1"))) == learns(method)
