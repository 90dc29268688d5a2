"""Every method that has a config, by the same tests: a new one is found and needs no entry here.

What does not hold of a method is data, with its reason. Training, precisions, checkpoints, kills, several processes;
wrong input is in test_bad_input.py.
"""

import json
import math
import os
import shutil
from pathlib import Path

import processes
import pytest
import torch
from safetensors.torch import load_file, save_file

import train
from clip.load import TINY_DIR
from dassl.config import flatten
from dassl.engine import TRAINER_REGISTRY, SimpleTrainer
from dassl.engine.optimisation import PRECISIONS
from dassl.utils import load_checkpoint
from protocols.definitions import learns, trainers

REPO = Path(__file__).parents[2]
METHODS = trainers()
LEARNING = [method for method in METHODS if learns(method)]
BASE = ("DATASET.SUBSAMPLE_CLASSES", "base")
# Keys that make a run short, for the methods that have them.
SHORT = {"AUGMENT_EPOCH": "2", "SEARCH_STEP": "(5, 5)", "TEMPLATES": "clip7"}
NO_STEPS = {"TipAdapter": "its only epoch fills the bank and searches: there are no steps, so there are no losses"}
UNMOVED = {"TipAdapter": "nothing of it has a gradient"}
# Further settings with state or random draws of their own.
VARIANTS = {
    "CoOp CSC": ("TRAINER.COOP.CTX_INIT", "''", "TRAINER.COOP.N_CTX", "3", "TRAINER.COOP.CSC", "True"),
    "GOPro released": ("TRAINER.GOPRO.VARIANT", "released"),  # batch norm's buffers
    "PRE two layers": ("TRAINER.PRE.LAYERS", "2"),  # dropout between them
    "CLIPLoRA dropout": ("TRAINER.CLIPLORA.DROPOUT", "0.7", "OPTIM.LR", "0.05"),
    "ProDA one by one": ("TRAINER.PRODA.PROMPT_BATCH", "1"),
}
# What the sizes of the learnables depend on, by the key's name; other whole numbers have their reason.
NO_SIZE = {
    "PROMPT_BATCH": "prompts of a step, of those that there are",
    "AUGMENT_EPOCH": "views of an image in the bank, which holds their mean",
    "SEM_CLASSES": "classes of a step's consistency loss",
    "BLOCK": "before which block the same tensors come",
    "SEVERITY": "augmentation",
    "WIDTH": "augmentation",
    "DEPTH": "augmentation",
}
# Several processes are not one with the whole batch.
NOT_SPLIT = dict.fromkeys(
    ("CLIPLoRA", "CLIPLoRA dropout", "PRE two layers"), "a process draws masks for its own images"
)


def node_of(method):
    return TRAINER_REGISTRY.get(method).config_key


def options(method):
    """The method's own keys, with the values of its config for the tiny CLIP."""
    args = train.parse_args(["--config-file", f"configs/trainers/{method}/tiny.yaml"])
    args.opts = ["OUTPUT_DIR", "unused"]
    return flatten({"TRAINER": {node_of(method): train.build_config(args).TRAINER[node_of(method)]}})


def short(method):
    own = options(method)
    pairs = [(f"TRAINER.{node_of(method)}.{key}", value) for key, value in SHORT.items()]
    return [word for key, value in pairs if key in own for word in (key, value)]


def records(folder, split="train"):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record for record in found if record["split"] == split]


def checkpoints(folder):
    return {path.parent.name: load_checkpoint(str(path)) for path in folder.glob("*/model.pth.tar-*")}


def results(folder):
    """Of results.json what must not depend on folder or time."""
    record = json.loads((folder / "results.json").read_text())
    return {key: record[key] for key in ("results", "per_class", "num_images", "epoch", "test_images")}


def same(one, other, where=""):
    """Equal, tensors bitwise; names the place where not."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            if key != "config":  # it holds the folder
                same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other, strict=True)):
            same(*pair, f"{where}/{i}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other or one != one, where


@pytest.fixture(scope="module")
def trained(runner, backbones, tmp_path_factory):
    """trained(method): folder of a run on the base classes, done once."""
    done = {}

    def of(method, *args):
        if (method, args) not in done:
            run = runner(tmp_path_factory.mktemp(method))
            done[method, args] = run("run", *BASE, *short(method), *args, trainer=method)[1]
        return done[method, args]

    return of


# ------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize(
    "precision", [pytest.param(name, marks=[pytest.mark.slow] * (name in ("bf16", "amp"))) for name in PRECISIONS]
)
@pytest.mark.parametrize("method", LEARNING)
def test_trains_in_every_precision_and_tests_on_new_classes(run, backbones, built, method, precision, monkeypatch):
    figures, start = [], {}
    cls = TRAINER_REGISTRY.get(method)
    step, begin = cls.forward_backward, SimpleTrainer.before_train

    def forward_backward(self, batch):
        figures.append(step(self, batch))
        return figures[-1]

    def before_train(self):
        begin(self)
        start.update({name: {k: v.clone() for k, v in m.state_dict().items()} for name, m in self._models.items()})

    monkeypatch.setattr(cls, "forward_backward", forward_backward)
    monkeypatch.setattr(SimpleTrainer, "before_train", before_train)
    own = (*short(method), f"TRAINER.{node_of(method)}.PREC", precision)
    sizes = ("DATALOADER.TRAIN_X.BATCH_SIZE", "2")
    _, folder = run("base", *BASE, *sizes, *own, trainer=method)
    (trainer,) = built

    logged = records(folder)
    assert len(logged) == (0 if method in NO_STEPS else 2 * 3)  # epochs of 3 classes x 2 shots
    for line, given in zip(logged, figures, strict=True):
        values = {key: line[key] for key in given}
        assert {"loss", "acc"} <= set(values) and all(map(math.isfinite, values.values()))
    assert all(math.isfinite(value) for value in json.loads((folder / "results.json").read_text())["results"].values())

    saved = checkpoints(folder)
    assert list(saved) == trainer.get_model_names() == list(start)
    frozen = backbones["tiny", True, PRECISIONS[precision].weights]
    for name, checkpoint in saved.items():
        state = checkpoint["state_dict"]
        assert list(state) == list(trainer._models[name].state_dict())
        assert all(value.dtype == torch.float32 for value in state.values() if value.is_floating_point())
        for key, value in state.items():
            twins = [k for k, v in frozen[1].items() if v.shape == value.shape and torch.equal(v.float(), value)]
            assert value.ndim == 0 or not twins, (key, twins)
        # Weights, two moments of Adam's, a mean over epochs; generators and config.
        numbers = sum(value.numel() for value in state.values())
        assert next(folder.glob(f"{name}/model.pth.tar-2")).stat().st_size < 16 * numbers + 100_000
        if precision == "fp32" and method not in UNMOVED:
            learnables = [key for key, _ in trainer._models[name].named_parameters()]
            still = [key for key in learnables if torch.equal(state[key], start[name][key])]
            assert learnables and not still

    load = ("--eval-only", "--model-dir", str(folder), "DATASET.SUBSAMPLE_CLASSES", "new")
    _, tested = run("new", *load, *own, trainer=method)
    assert list(results(tested)["per_class"]) == ["key", "star"]
    assert math.isfinite(results(tested)["results"]["accuracy"])
    model, before = frozen
    assert built[0].clip is model and built[1].clip is model
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
def test_batches_of_one_image(run, backbones, method):
    ones = ("DATALOADER.TRAIN_X.BATCH_SIZE", "1", "DATALOADER.TEST.BATCH_SIZE", "1", "OPTIM.MAX_EPOCH", "1")
    _, folder = run("ones", *BASE, *short(method), *ones, trainer=method)
    assert learns(method) or not (folder / "metrics.jsonl").exists() or not records(folder)
    assert len(records(folder)) == (6 if method in LEARNING and method not in NO_STEPS else 0)
    # One batch of all images gives the same, up to a rounding that tips one of 12 images.
    if not learns(method):
        expected, _ = run("all", *BASE, *short(method), trainer=method)
        assert results(folder)["results"]["accuracy"] == pytest.approx(expected["accuracy"], abs=100 / 12 + 1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_single_class(run, backbones, image_root, tmp_path, method):
    root = tmp_path / "single"
    for i, path in enumerate(sorted(image_root.glob("*/star/*.png"))):
        (root / "star").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / "star" / f"{i}.png")
    _, folder = run("one", *short(method), root=root, trainer=method)
    assert results(folder)["per_class"] == {"star": 100.0}


# ---------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize(
    ("method", "args"),
    [
        *(pytest.param(method, (), id=method) for method in LEARNING),
        *(pytest.param(name.split()[0], args, id=name) for name, args in VARIANTS.items()),
    ],
)
def test_a_killed_run_ends_bitwise_as_one_that_was_not(run, trained, method, args, monkeypatch):
    class Killed(BaseException):
        pass

    kept = SimpleTrainer.after_epoch

    def die_late_in_the_second_epoch(self):
        if self.epoch == 1:
            raise Killed
        kept(self)

    whole = trained(method, *args)
    job = ("killed", *BASE, *short(method), *args)
    with monkeypatch.context() as patch:
        patch.setattr(SimpleTrainer, "after_epoch", die_late_in_the_second_epoch)
        with pytest.raises(Killed):
            run(*job, trainer=method)
    _, folder = run(*job, trainer=method)
    assert "Resuming from" in (folder / "log.txt").read_text()
    same(checkpoints(folder), checkpoints(whole))
    assert (folder / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    assert results(folder) == results(whole)


@pytest.mark.parametrize("method", METHODS)
def test_testing_a_checkpoint_gives_what_the_training_ended_with(run, trained, method):
    folder = trained(method)
    _, tested = run("again", "--eval-only", "--model-dir", str(folder), *BASE, *short(method), trainer=method)
    assert results(tested) == results(folder)


@pytest.mark.parametrize("method", LEARNING)
def test_a_checkpoint_of_another_method_is_refused_by_name(run, trained, tmp_path, built, method):
    other = LEARNING[LEARNING.index(method) - 1]
    folder = trained(other)
    for flags in (("--eval-only", "--model-dir"), ("--resume",)):
        with pytest.raises((ValueError, OSError), match=rf"'{other}'.*'{method}'"):
            run("other", *flags, str(folder), *BASE, *short(method), trainer=method)
    # The same in the folder that this method reads.
    renamed = tmp_path / "renamed"
    (source,) = folder.glob("*/model.pth.tar-2")
    for name in built[-1].get_model_names():
        (renamed / name).mkdir(parents=True)
        shutil.copy(source, renamed / name)
    with pytest.raises(ValueError, match=rf"model.pth.tar-2: .*'{other}'.*'{method}'"):
        run("other", "--eval-only", "--model-dir", str(renamed), *BASE, *short(method), trainer=method)


@pytest.fixture(scope="module")
def other_backbone(tmp_path_factory):
    """The tiny CLIP with other weights."""
    folder = tmp_path_factory.mktemp("backbone") / "other_clip"
    shutil.copytree(TINY_DIR, folder)
    path = str(folder / "open_clip_model.safetensors")
    save_file({name: value * 1.5 for name, value in load_file(path).items()}, path)
    return str(folder)


@pytest.mark.parametrize("method", LEARNING)
def test_a_checkpoint_of_another_backbone_is_refused(run, trained, other_backbone, method):
    load = ("--eval-only", "--model-dir", str(trained(method)), "--backbone", other_backbone)
    with pytest.raises(ValueError, match="trained on backbone 'tiny', MODEL.BACKBONE.NAME is '.*other_clip'"):
        run("other", *load, *BASE, *short(method), trainer=method)


SIZES = [
    (method, key, value)
    for method in LEARNING
    for key, value in options(method).items()
    if type(value) is int and key.rpartition(".")[2] not in NO_SIZE
]


@pytest.mark.parametrize(("method", "key", "value"), SIZES, ids=[f"{m}-{k.rpartition('.')[2]}" for m, k, _ in SIZES])
def test_a_checkpoint_of_another_size_is_refused_and_its_tensor_named(run, trained, built, method, key, value):
    words = f"{key.rpartition('.')[0]}.CTX_INIT"
    others = (words, "''") if words in options(method) and key.endswith(".N_CTX") else ()
    new = value // 2 if value > 1 else 2
    load = ("--eval-only", "--model-dir", str(trained(method)), key, str(new), *others)
    with pytest.raises(ValueError, match="tensors do not fit") as caught:
        run("other", *BASE, *short(method), *load, trainer=method)
    states = [checkpoint["state_dict"] for checkpoint in checkpoints(trained(method)).values()]
    states += [model.state_dict() for model in built[-1]._models.values()]
    assert any(name in str(caught.value) for state in states for name in state)


# ---------------------------------------------------------------------------------------------- several processes

PARTS = {  # of the mixtures of a method, those that take other ways from a batch to its loss
    **{method: (method, ()) for method in METHODS if learns(method)},
    **{name: (name.split()[0], args) for name, args in VARIANTS.items()},
    "GOPro some classes": ("GOPro", ("TRAINER.GOPRO.SEM_CLASSES", "2", *VARIANTS["GOPro released"])),
}


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_take_the_steps_of_one_with_the_whole_batch(count, run, backbones):
    names = [name for name in PARTS if name not in NOT_SPLIT]

    def arguments(name, processes):
        method, args = PARTS[name]
        batch = ("DATALOADER.TRAIN_X.BATCH_SIZE", str(4 // processes))  # of four, each has one image
        # Without the first steps of a warm-up, which would show little.
        steps = ("OPTIM.MAX_ITER", "2", "OPTIM.WARMUP_EPOCH", "-1", "TEST.NO_TEST", "True")
        return run.arguments(f"{name} {processes}", *short(method), *args, *batch, *steps, trainer=method)

    ports = [processes.free_port() for _ in names]

    def job():
        for name, port in zip(names, ports, strict=True):
            os.environ["MASTER_PORT"] = port
            train.main(arguments(name, count))

    folders = {}
    for name in names:  # these load the backbone that the others share
        argv = arguments(name, 1)
        train.main(argv)
        folders[name] = Path(argv[argv.index("--output-dir") + 1])
    processes.together(job, count, seconds=400)
    for name, one in folders.items():
        several = one.with_name(f"{name} {count}")
        expected, got = checkpoints(one), checkpoints(several)
        assert list(expected) == list(got) and expected
        for model in expected:
            for key, value in expected[model]["state_dict"].items():  # batch norm's buffers among them
                torch.testing.assert_close(got[model]["state_dict"][key], value, rtol=0, atol=1e-5, msg=f"{name} {key}")
        if PARTS[name][0] in NO_STEPS:
            continue
        taken, expected_steps = records(several), records(one)
        assert len(taken) == len(expected_steps) == 2
        for step, expected_step in zip(taken, expected_steps, strict=True):
            for key in (key for key in expected_step if key.startswith(("loss", "acc"))):
                assert step[key] == pytest.approx(expected_step[key], rel=1e-4, abs=1e-6), f"{name} {key}"
