"""A run's folder as an object: its logits are those of the test loop, for every method, for old and new class names."""

import json
import shutil

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.transforms.v2 import functional

import train
import trainers
from clip.load import TINY_DIR
from dassl.config import flatten
from dassl.engine import TRAINER_REGISTRY
from dassl.utils.images import ImageReadError, read_image
from protocols.definitions import learns
from protocols.definitions import trainers as methods
from trainers import load_run, zero_shot

METHODS = methods()
SHORT = {"AUGMENT_EPOCH": "2", "SEARCH_STEP": "(5, 5)", "TEMPLATES": "clip7"}  # keys that make a run short
BASE = ("DATASET.SUBSAMPLE_CLASSES", "base")
TRAINED, NEW = ["apple", "fish", "house"], ["key", "a red star"]
CSC = ("TRAINER.COOP.CTX_INIT", "''", "TRAINER.COOP.N_CTX", "3", "TRAINER.COOP.CSC", "True")
BY_IMAGE = ("CoCoOp", "GOPro")  # methods whose class embeddings depend on the image


def short(method):
    args = train.parse_args(["--config-file", f"configs/trainers/{method}/tiny.yaml"])
    own = train.build_config(args).TRAINER[TRAINER_REGISTRY.get(method).config_key]
    key = f"TRAINER.{TRAINER_REGISTRY.get(method).config_key}"
    return [word for name, value in SHORT.items() if name in own for word in (f"{key}.{name}", value)]


@pytest.fixture(scope="module")
def trained(runner, backbones, tmp_path_factory):
    """trained(method, *args): folder of a run on the base classes, done once, and the trainer that ended it."""
    done = {}

    def of(method, *args):
        if (method, args) not in done:
            kept = []
            with pytest.MonkeyPatch.context() as patch:
                build = trainers.loaded_run.build_trainer
                patch.setattr("dassl.engine.build_trainer", lambda cfg: kept.append(build(cfg)) or kept[-1])
                _, folder = runner(tmp_path_factory.mktemp(method))("run", *BASE, *short(method), *args, trainer=method)
            done[method, args] = folder, kept[-1]
        return done[method, args]

    return of


@torch.no_grad()
def test_loop(trainer):
    """Logits of a trainer's test loop, as `SimpleTrainer.test` gives them to the evaluator."""
    trainer.set_model_mode("eval")
    logits = []
    for images, _ in trainer.test_inputs("test", trainer.test_loader):
        with trainer.autocast():
            logits.append(trainer.model_inference(images))
    return torch.cat(logits)


test_loop.__test__ = False


def paths_of(trainer):
    return [item.impath for item in trainer.dataset.test]


CASES = [pytest.param(method, (), id=method) for method in METHODS]
CASES += [pytest.param("CoOp", CSC, id="CoOp CSC"), pytest.param("GOPro", ("TRAINER.GOPRO.VARIANT", "released"))]
CASES += [pytest.param("MaPLe", ("TRAINER.MAPLE.PREC", name), id=f"MaPLe {name}") for name in ("fp16", "bf16", "amp")]


@pytest.mark.parametrize(("method", "args"), CASES)
def test_logits_are_those_of_the_test_loop_bit_by_bit(trained, method, args):
    folder, trainer = trained(method, *args)
    run = load_run(folder)
    assert run.classnames == TRAINED
    expected = test_loop(trainer)
    found = run.logits(paths_of(trainer))
    assert found.dtype == expected.dtype and torch.equal(found, expected)

    best = run.predict(paths_of(trainer), top=2)
    values, labels = expected.float().softmax(-1).topk(2)
    assert [[p.label for p in one] for one in best] == labels.tolist()
    assert [[p.probability for p in one] for one in best] == values.tolist()
    assert all(p.classname == TRAINED[p.label] for one in best for p in one)


@pytest.mark.parametrize(("method", "args"), CASES)
def test_other_class_names_are_those_of_a_test_on_them_or_refused(run, trained, built, method, args):
    folder, _ = trained(method, *args)
    loaded = load_run(folder)
    if args is CSC:
        with pytest.raises(ValueError, match=r"CSC learned a context of each class .* none for 2 of these classes"):
            loaded.logits([], NEW)
        assert loaded.predict(Image.new("RGB", (60, 60)), list(reversed(TRAINED)))  # the same ones in another order
        return
    load = ("--eval-only", "--model-dir", str(folder)) if learns(method) else ()
    run("new", *load, "DATASET.SUBSAMPLE_CLASSES", "new", *short(method), *args, trainer=method)
    trainer = built[-1]
    assert trainer.classnames == ["key", "star"]
    assert torch.equal(loaded.logits(paths_of(trainer), ["key", "star"]), test_loop(trainer))
    # Of names that no data set has: the first is as before, up to the rounding of another batch of text.
    mixed = loaded.logits(paths_of(trainer), NEW)
    torch.testing.assert_close(mixed[:, 0], test_loop(trainer)[:, 0], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_features_make_up_the_logits(trained, method):
    folder, trainer = trained(method)
    run, paths = load_run(folder), paths_of(trainer)[:5]
    image, scale = run.encode_image(paths), float(run.trainer_for().model.scale)
    torch.testing.assert_close(image.norm(dim=-1), torch.ones(5))
    if method in BY_IMAGE:
        with pytest.raises(ValueError, match=f"class embeddings of {method} depend on the image: give images"):
            run.encode_text()
        text = run.encode_text(images=paths)
        logits = scale * torch.einsum("be,bce->bc", image, text)
    else:
        with pytest.raises(ValueError, match="are the same for all images: give none"):
            run.encode_text(images=paths)
        text = run.encode_text()
        logits = scale * image @ text.t()
    assert text.shape == ((5, 3, 128) if method in BY_IMAGE else (3, 128))
    difference = (logits - run.logits(paths)).abs().max()
    assert (difference > 1e-2) if method.startswith("TipAdapter") else (difference < 1e-3)  # these have a bank besides


def test_the_backbone_is_loaded_once_whatever_the_names(trained, monkeypatch):
    folder, _ = trained("CoOp")
    loads, original = [], trainers.base.clip.load
    monkeypatch.setattr(trainers.base.clip, "load", lambda *args: loads.append(args) or original(*args))
    run, image = load_run(folder), Image.new("RGB", (80, 60), "red")
    answers = [run.predict(image, [f"thing {i}", "apple"]) for i in range(8)]
    assert len(loads) == 1 and all(len(answer[0]) == 2 for answer in answers)
    assert run.predict(image, ["thing 0", "apple"]) == answers[0]  # long forgotten
    assert len(run._built) <= 1 + trainers.loaded_run.KEPT
    assert run.predict(image) == run.predict([image]) and run.classnames == TRAINED


def test_building_prints_to_stderr_once_and_draws_nothing_of_the_callers(trained, capsys):
    folder, _ = trained("CoOp")
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    capsys.readouterr()
    run = load_run(folder)
    run.predict(Image.new("RGB", (60, 60)), ["apple", "apples and pears"])
    assert torch.equal(torch.rand(2), expected)
    run.predict(Image.new("RGB", (60, 60)), ["red_fox", "red fox"])
    out, err = capsys.readouterr()
    assert out == "" and err.count("Learnable parameters") == 1
    assert err.count("Warning: CLIP reads the same words for 'red_fox' (0) = 'red fox' (1)") == 1
    assert err.count("The tiny CLIP knows rendered pictures only") == 1


# --------------------------------------------------------------------------------------------------------- images


def test_paths_pictures_and_tensors(trained, tmp_path):
    folder, trainer = trained("CoOp")
    run, paths = load_run(folder), paths_of(trainer)[:3]
    pictures = [read_image(path) for path in paths]
    expected = run.logits(paths)
    assert torch.equal(run.logits(pictures), expected)
    assert torch.equal(run.logits(path for path in paths), expected)
    # Tensors go through torchvision's kernels for tensors, which round otherwise than Pillow's.
    bytes_ = torch.stack([functional.pil_to_tensor(picture) for picture in pictures])
    for given in (bytes_, bytes_ / 255, list(bytes_ / 255)):
        torch.testing.assert_close(run.logits(given), expected, rtol=0, atol=1.0)
    assert torch.equal(run.logits(bytes_[0]), run.logits(bytes_[:1]))
    batch = torch.stack([run.transform(picture) for picture in pictures])
    assert torch.equal(run.classify(batch), expected)
    # A picture on its side is turned, and the caller's stays as it is.
    exif = pictures[0].getexif()
    exif[0x0112] = 6
    pictures[0].save(tmp_path / "side.png", exif=exif)
    with Image.open(tmp_path / "side.png") as turned:
        assert torch.equal(run.logits(turned), run.logits(tmp_path / "side.png"))
        assert turned.getexif()[0x0112] == 6
    assert torch.equal(run.logits(tmp_path / "side.png"), run.logits(pictures[0].rotate(-90, expand=True)))
    run.as_people_see = False
    assert torch.equal(run.logits(tmp_path / "side.png"), run.logits(paths[:1]))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.randn(3, 60, 60), r"float in 0..1 and not normalised, got torch.float32 from -\d"),
        (torch.full((3, 60, 60), float("nan")), "from nan to nan"),
        (torch.zeros(3, 60, 60, dtype=torch.long), "got torch.int64 from 0 to 0"),
        (torch.zeros(1, 60, 60), r"must be \[3, H, W\], RGB, got \[1, 60, 60\]"),
        (torch.zeros(2, 4, 60, 60), r"must be \[3, H, W\], RGB, got \[4, 60, 60\]"),
    ],
)
def test_tensors_that_are_no_images(trained, image, message):
    with pytest.raises(ValueError, match=message):
        load_run(trained("CoOp")[0]).predict(image)


def test_other_things_that_cannot_be_answered(trained, tmp_path):
    run = load_run(trained("CoOp")[0])
    with pytest.raises(TypeError, match="a path, a PIL image or a tensor, got a int"):
        run.predict([3])
    with pytest.raises(ImageReadError, match="cannot read image .*nowhere.png"):
        run.predict(tmp_path / "nowhere.png")
    with pytest.raises(ImageReadError, match="cannot read image .*nowhere.png"):
        run.encode_image(tmp_path / "nowhere.png")
    picture = Image.new("RGB", (60, 60))
    for kind, message in (({"top": 0}, "top must be at least 1, got 0"), ({"batch_size": 0}, "batch_size must be at")):
        with pytest.raises(ValueError, match=message):
            run.predict(picture, **kind)
    for names, message in (
        ([], "there are no classes"),
        (["a", " "], "class 1 has an empty name"),
        (["a", "b", "a "], "class names come twice: a"),
        ("red fox", "must be a list of names, got the text 'red fox'"),
        (["fox", "very " * 40 + "red fox"], "very very very"),
    ):
        with pytest.raises(ValueError, match=message):
            run.predict(picture, names)
    assert run.predict([]) == []
    with pytest.raises(ValueError, match="there are no images"):
        run.logits([])
    assert len(run.predict(picture, top=50)[0]) == 3


def test_logits_that_are_not_finite_are_no_answer(trained):
    run = load_run(trained("CoOp")[0])
    with torch.no_grad():
        run.trainer_for().model.learner.ctx.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        run.predict(Image.new("RGB", (60, 60)))


# ------------------------------------------------------------------------------------------------- kinds of folders


def test_the_best_model_and_epochs(run, backbones):
    few = (
        "DATASET.NUM_SHOTS",
        "2",
        "TEST.FINAL_MODEL",
        "best_val",
        "TRAIN.CHECKPOINT_FREQ",
        "1",
        "OPTIM.MAX_EPOCH",
        "3",
    )
    _, folder = run("best", *few, "OPTIM.LR", "0.5", trainer="CoOp")
    best = torch.load(folder / "prompt_learner" / "model-best.pth.tar", weights_only=True)
    found = load_run(folder)
    assert torch.equal(found.trainer_for().model.learner.ctx.detach(), best["state_dict"]["ctx"])
    assert found.trainer_for().epoch == best["epoch"]
    states = []
    for epoch in (1, 2, 3):
        path = folder / "prompt_learner" / f"model.pth.tar-{epoch}"
        states.append(torch.load(path, weights_only=True)["state_dict"]["ctx"])
        assert torch.equal(load_run(folder, epoch=epoch).trainer_for().model.learner.ctx.detach(), states[-1])
    assert not torch.equal(states[0], states[2])
    with pytest.raises(FileNotFoundError, match=r"no model at .*model.pth.tar-9; epochs in .*best: \[1, 2, 3\]"):
        load_run(folder, epoch=9)


def test_a_test_of_weights_and_a_zero_shot_run(run, trained):
    folder, _ = trained("CoOp")
    new = ("DATASET.SUBSAMPLE_CLASSES", "new")
    _, tested = run("tested", "--eval-only", "--model-dir", str(folder), "--load-epoch", "2", *new, trainer="CoOp")
    found, whole = load_run(tested), load_run(folder)
    assert found.classnames == ["key", "star"] == json.loads((tested / "results.json").read_text())["classnames"]
    picture = Image.new("RGB", (60, 60), "blue")
    assert torch.equal(found.logits(picture), whole.logits(picture, ["key", "star"]))

    record = json.loads((tested / "results.json").read_text())
    del record["classnames"]
    (tested / "results.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=f"results.json names no classes.*load {folder} with these class names"):
        load_run(tested)
    env = json.loads((tested / "env.json").read_text())
    (tested / "env.json").write_text(json.dumps(env | {"weights": "/gone"}))
    with pytest.raises(FileNotFoundError, match="is a test of the weights in /gone: no run at /gone"):
        load_run(tested)

    _, zero = run("zero", trainer="ZeroshotCLIP")
    assert torch.equal(
        load_run(zero).logits(picture), zero_shot(load_run(zero).classnames, backbone="tiny").logits(picture)
    )
    with pytest.raises(ValueError, match="learns nothing: there are no epochs"):
        load_run(zero, epoch=1)


def test_runs_that_do_not_say_how_their_images_were_decoded(trained, tmp_path):
    folder, _ = trained("CoOp")
    assert load_run(folder).as_people_see is True
    for name, seen in (("ImageFolder", True), ("Shapes", False)):
        old = tmp_path / name
        shutil.copytree(folder, old)
        path = old / "prompt_learner" / "model.pth.tar-2"
        checkpoint = torch.load(path, weights_only=True)
        del checkpoint["meta"]["as_people_see"]
        checkpoint["meta"]["config"]["DATASET"]["NAME"] = name
        checkpoint["meta"]["config"]["OPTIM"]["DROPPED_KEY"] = 3
        torch.save(checkpoint, path)
        assert load_run(old).as_people_see is seen


def test_keys_of_another_version_are_told(trained, tmp_path, capsys):
    test_runs_that_do_not_say_how_their_images_were_decoded(trained, tmp_path)
    assert (
        "Warning: config keys that this version does not know are left out: OPTIM.DROPPED_KEY"
        in capsys.readouterr().err
    )


def test_the_config_is_plain(trained):
    folder, _ = trained("CoOp")
    config = load_run(folder).config
    assert yaml.safe_load(yaml.safe_dump(config)) == config
    saved = flatten(yaml.safe_load((folder / "config.yaml").read_text()))
    differing = {key for key, value in flatten(config).items() if saved[key] != value}
    assert differing <= {"VERBOSE", "TEST.FEATURE_CACHE"}


def test_folders_that_hold_no_model(trained, tmp_path):
    folder, _ = trained("CoOp")
    with pytest.raises(FileNotFoundError, match="no run at .*nowhere: there is no such folder"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is no run's folder: it holds neither checkpoints"):
        load_run(tmp_path)

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "done").unlink()
    with pytest.raises(ValueError, match="is not finished: no file done; an epoch may be chosen .*holds: 2$"):
        load_run(copy)
    assert load_run(copy, epoch=2).classnames == TRAINED
    (copy / "failed.json").touch()
    with pytest.raises(ValueError, match="failed.json says why"):
        load_run(copy)
    (copy / "done").touch()

    path = copy / "prompt_learner" / "model.pth.tar-2"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="model.pth.tar-2 is no readable checkpoint"):
        load_run(copy)
    checkpoint = torch.load(folder / "prompt_learner" / "model.pth.tar-2", weights_only=True)
    torch.save({**checkpoint, "meta": {}}, path)
    with pytest.raises(ValueError, match="does not say what its weights belong to"):
        load_run(copy)
    torch.save({**checkpoint, "state_dict": {}}, path)
    with pytest.raises(ValueError, match="tensors do not fit prompt_learner: missing ctx"):
        load_run(copy)
    shutil.rmtree(copy / "prompt_learner")
    with pytest.raises(ValueError, match="a training's folder without its checkpoints"):
        load_run(copy)


def test_a_backbone_that_moved_or_changed(run, backbones, tmp_path, capsys):
    old, new = tmp_path / "old_clip", tmp_path / "new_clip"
    shutil.copytree(TINY_DIR, old)
    _, folder = run("run", *BASE, "--backbone", str(old), trainer="CoOp")
    picture = Image.new("RGB", (60, 60), "green")
    expected = load_run(folder).logits(picture)
    assert "Warning" not in capsys.readouterr().err
    old.rename(new)
    with pytest.raises(ValueError, match="of the run in .* cannot be loaded: .*old_clip.* --backbone .* lies now"):
        load_run(folder)
    assert torch.equal(load_run(folder, backbone=str(new)).logits(picture), expected)
    capsys.readouterr()

    weights = str(new / "open_clip_model.safetensors")
    save_file({name: value * 1.5 for name, value in load_file(weights).items()}, weights)
    with pytest.raises(ValueError, match="trained on backbone '.*old_clip', MODEL.BACKBONE.NAME is '.*new_clip'"):
        load_run(folder, backbone=str(new))
    new.rename(old)
    load_run(folder)
    assert "Warning: the weights of " in capsys.readouterr().err


def test_zero_shot_needs_names_and_a_method_that_learns_nothing(backbones):
    for names, message in (([], "there are no classes"), (["fox", "fox"], "come twice: fox")):
        with pytest.raises(ValueError, match=message):
            zero_shot(names, backbone="tiny")
    with pytest.raises(ValueError, match="CoOp learns: load the folder of a run of it"):
        zero_shot(["fox"], backbone="tiny", trainer="CoOp")
    with pytest.raises(ValueError, match="unknown TRAINER: 'ZeroshotCLP'.*ZeroshotCLIP"):
        zero_shot(["fox"], backbone="tiny", trainer="ZeroshotCLP")
    with pytest.raises(ValueError, match="unknown backbone 'tinny'"):
        zero_shot(["fox"], backbone="tinny")
    for key, value, message in (
        ("TRAINER.ZSCLIP.TEMPLAT", "clip7", "unknown config key TRAINER.ZSCLIP.TEMPLAT"),
        ("TRAINER.ZSCLIP.TEMPLATE", "a photo", "TRAINER.ZSCLIP.TEMPLATE must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            zero_shot(["fox"], backbone="tiny", settings={key: value})
    assert [TRAINER_REGISTRY.get(method).learns for method in METHODS] == [learns(method) for method in METHODS]
    one = zero_shot(["fox", "dog"], backbone="tiny")
    other = zero_shot(["fox", "dog"], backbone="tiny", settings={"TRAINER.ZSCLIP.TEMPLATE": "clip7"})
    assert not torch.equal(one.encode_text(), other.encode_text())


def test_devices(trained):
    folder, _ = trained("CoOp")
    assert load_run(folder, device="cpu").device == torch.device("cpu")
    for device in ("gpu", "cuda:99", "cpu:x"):
        with pytest.raises(ValueError, match=f"device '{device}' cannot be used here; there is cpu"):
            load_run(folder, device=device)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_answers(trained):
    folder, trainer = trained("CoOp")
    paths = paths_of(trainer)
    on_gpu, on_cpu = (load_run(folder, device=device) for device in ("cuda:0", "cpu"))
    assert on_gpu.device == torch.device("cuda:0")
    torch.testing.assert_close(on_gpu.logits(paths), on_cpu.logits(paths), rtol=0.01, atol=0.05)
    assert on_gpu.encode_text(["a", "b"]).device.type == "cpu"
