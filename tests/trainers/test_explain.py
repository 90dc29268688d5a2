"""Maps with known answers, and a picture for every method."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

import clip
import trainers.explain
from clip.load import TINY_DIR
from dassl.data.transforms import build_transform
from dassl.engine import build_trainer
from datasets.rendered.render import VOCABULARIES, render
from protocols import definitions
from reporting.explanation import save
from trainers.explain import BATCH, MOST_WINDOWS, explain, log_odds, occlusion, smooth, window_size
from trainers.words import learned_words

NAMES = list(VOCABULARIES["Shapes"])


def looks_at(top, left, side, calls=None):
    """A classifier whose second class counts the brightness of one square."""

    def predict(images):
        if calls is not None:
            calls.append(len(images))
        square = images[:, :, top : top + side, left : left + side].mean((1, 2, 3))
        return torch.stack([torch.zeros(len(images)), square, torch.full((len(images),), -1.0)], 1)

    return predict


@pytest.mark.parametrize(("top", "left"), [(0, 0), (20, 40), (50, 50)])
def test_the_map_is_highest_where_a_classifier_looks_and_nothing_elsewhere(top, left):
    falls = occlusion(looks_at(top, left, 10), torch.ones(3, 60, 60), 1, window=10)
    assert falls.shape == (6, 6)
    odds = log_odds(torch.tensor([[0.0, 1.0, -1.0], [0.0, 0.0, -1.0]]), 1)
    expected = torch.zeros(6, 6)
    expected[top // 10, left // 10] = odds[0] - odds[1]
    torch.testing.assert_close(falls, expected)
    large = smooth(falls, 10, 60, 60)
    y, x = divmod(int(large.argmax()), 60)
    assert large.shape == (60, 60) and top <= y < top + 10 and left <= x < left + 10


def test_what_speaks_against_a_class_is_negative():
    falls = occlusion(looks_at(0, 0, 10), torch.ones(3, 60, 60), 0, window=10)
    assert falls[0, 0] < 0 and int((falls != 0).sum()) == 1


@pytest.mark.parametrize("classes", [1, 3])
def test_a_classifier_that_sees_nothing_has_a_flat_map(classes):
    falls = occlusion(lambda images: torch.ones(len(images), classes), torch.randn(3, 60, 60), 0, window=20)
    assert torch.equal(falls, torch.zeros(3, 3))
    assert torch.equal(smooth(falls, 20, 60, 60), torch.zeros(60, 60))


def test_a_symmetric_classifier_has_a_symmetric_map():
    image = torch.rand(3, 60, 60, generator=torch.Generator().manual_seed(0))
    image = image + image.flip(-1)
    weight = torch.rand(60, 30, generator=torch.Generator().manual_seed(1))
    weight = torch.cat([weight, weight.flip(-1)], 1)

    def predict(images):
        return torch.stack([(images * weight).mean((1, 2, 3)), torch.zeros(len(images))], 1)

    falls = occlusion(predict, image, 0, window=10)
    torch.testing.assert_close(falls, falls.flip(-1))
    assert falls.std() > 0


def test_windows_at_the_edges_are_cut_and_no_call_gets_more_than_a_batch():
    calls = []
    falls = occlusion(looks_at(56, 56, 4, calls), torch.ones(3, 60, 60), 1, window=7)
    assert falls.shape == (9, 9) and int(falls.argmax()) == 80
    assert sum(calls) == 82 and max(calls) <= BATCH
    assert torch.equal(falls, occlusion(looks_at(56, 56, 4), torch.ones(3, 60, 60), 1, window=7, batch=5))
    assert smooth(falls, 7, 60, 60).shape == (60, 60)


def test_log_odds_are_those_of_the_softmax_and_have_no_ceiling():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).double()
    p = logits.softmax(1)[:, 2]
    torch.testing.assert_close(log_odds(logits, 2), p.log() - (1 - p).log())
    sure = torch.tensor([[500.0, 0.0], [400.0, 0.0]])
    assert log_odds(sure, 0).tolist() == [500, 400]
    assert log_odds(torch.tensor([[3.0]]), 0).tolist() == [3]


@pytest.mark.parametrize(
    ("image", "patch", "window"),
    [
        (60, 10, 10),
        (224, 16, 32),
        (224, 32, 32),
        (224, 14, 28),
        (336, 14, 42),
        (288, 32, 32),
        (384, 32, 64),
        (518, 14, 70),
    ],
)
def test_windows_are_whole_patches_and_few(image, patch, window):
    assert window_size(image, patch) == window and -(-image // window) <= MOST_WINDOWS


@pytest.mark.parametrize(
    ("shape", "window", "batch"), [((1, 3, 60, 60), 10, 4), ((3, 60, 60), 0, 4), ((3, 60, 60), 10, 0)]
)
def test_wrong_input_of_the_map(shape, window, batch):
    with pytest.raises(ValueError, match="image must be .* got"):
        occlusion(looks_at(0, 0, 10), torch.zeros(shape), 0, window, batch)


def test_the_tiny_clip_finds_the_quadrant_with_the_object():
    model = clip.load("tiny")
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (model.mean, model.std))
    text = F.normalize(model.encode_sentences([f"a photo of a {name}." for name in NAMES]), dim=-1)

    def predict(images):
        return model.logit_scale * F.normalize(model.encode_image(images), dim=-1) @ text.t()

    shares = []
    for name in NAMES[::2]:
        for quadrant in range(4):
            y, x = 30 * (quadrant // 2), 30 * (quadrant % 2)
            drawn = render("Shapes", name, "photo", random.Random(f"{name}/{quadrant}"), 30)
            scene = Image.new("RGB", (60, 60), (190, 190, 190))
            scene.paste(drawn, (x, y))
            image = (torch.from_numpy(np.asarray(scene).copy()).permute(2, 0, 1) / 255 - mean) / std
            label = int(predict(image[None]).argmax())
            falls = occlusion(predict, image, label, window_size(60, model.patch_size)).clamp(min=0)
            quarters = falls.view(2, 3, 2, 3).sum((1, 3)).flatten()
            shares.append(quarters / quarters.sum().clamp(min=1e-9))
    # The covering colour is not the background's, so covering that changes something, too. Chance is a quarter.
    shares = torch.stack(shares)
    right = shares.argmax(1) == torch.arange(4).repeat(len(shares) // 4)
    own = shares[torch.arange(len(shares)), torch.arange(4).repeat(len(shares) // 4)]
    print(
        f"most in the object's quadrant: {right.float().mean():.2f} of {len(right)}; its mean share: {own.mean():.2f}"
    )
    assert right.float().mean() > 0.85 and own.mean() > 0.5


# ------------------------------------------------------------------------------------------------------- pictures


@pytest.fixture
def build(run, backbones):
    return lambda method, *args: build_trainer(run.config("unused", *args, trainer=method))


@pytest.mark.parametrize("method", definitions.trainers())
def test_a_picture_of_every_method(build, tmp_path, monkeypatch, method):
    trainer, drawn, sizes = build(method), [], []
    image = render("Shapes", "star", "photo", random.Random(0), 120).crop((0, 0, 120, 90))
    inference = trainer.model_inference
    monkeypatch.setattr(trainer, "model_inference", lambda images: sizes.append(len(images)) or inference(images))
    monkeypatch.setattr(trainers.explain, "save", lambda picture, file: drawn.append(picture) or save(picture, file))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    generator = torch.get_rng_state()
    explain(trainer, image, tmp_path / "pictures" / "star.png", top=3)
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    with Image.open(tmp_path / "pictures" / "star.png") as png:
        assert png.format == "PNG" and png.width > 1000
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["star.png"]
    assert sum(sizes) == 1 + 1 + 36 and max(sizes) <= BATCH

    (picture,) = drawn
    pixels = build_transform(trainer.cfg, is_train=False)(image)[None]
    with torch.no_grad():
        chances = inference(pixels.to(trainer.device))[0].softmax(-1).cpu()
    order = chances.argsort(descending=True)[:3].tolist()
    assert [name for name, _ in picture.classes] == [trainer.classnames[i] for i in order]
    assert [p for _, p in picture.classes] == pytest.approx(chances[order].tolist(), abs=1e-5)
    assert picture.image.shape == (90, 120, 3) and picture.seen.shape == (60, 60, 3) == (*picture.falls.shape, 3)
    assert np.isfinite(picture.falls).all() and picture.falls.std() > 0
    assert list(picture.words) == list(learned_words(trainer, 1, pixels, order[0]))
    # What the model sees is the middle of the image.
    middle = np.asarray(image.crop((15, 0, 105, 90)).resize((60, 60), Image.Resampling.BICUBIC)).astype(int)
    assert abs(picture.seen.astype(int) - middle).mean() < 3


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """A folder with a small ResNet as image tower, weights random."""
    folder = tmp_path_factory.mktemp("backbone") / "small_resnet"
    folder.mkdir()
    config = json.loads((Path(TINY_DIR) / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"] = {"layers": [1, 1, 1, 1], "width": 16, "image_size": 96, "head_width": 64}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**config["model_cfg"])
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return str(folder)


@pytest.mark.parametrize("method", ["ZeroshotCLIP", "CoCoOp"])
def test_a_picture_with_a_resnet(build, resnet, tmp_path, monkeypatch, method):
    drawn = []
    monkeypatch.setattr(trainers.explain, "save", lambda picture, file: drawn.append(picture))
    explain(build(method, "--backbone", resnet), Image.new("RGB", (200, 100), "red"), tmp_path / "red.png")
    assert drawn[0].falls.shape == (96, 96) and "9 windows of 32 x 32 pixels" in drawn[0].covered


def test_in_half_precision_and_with_a_single_class(build, tmp_path, image_root):
    root = tmp_path / "single" / "star"
    shutil.copytree(image_root / "photo" / "star", root)
    for name, args, kwargs in (("half", ("TRAINER.COOP.PREC", "bf16"), {}), ("one", ("--root", str(root.parent)), {})):
        explain(build("CoOp", *args, **kwargs), Image.new("L", (70, 70), 80), tmp_path / f"{name}.png", top=5)
        assert Image.open(tmp_path / f"{name}.png").format == "PNG"


def test_a_picture_that_is_not_finished_is_not_there(build, tmp_path, monkeypatch):
    file, trainer, image = tmp_path / "star.png", build("ZeroshotCLIP"), Image.new("RGB", (60, 60))
    explain(trainer, image, file)
    whole = file.read_bytes()

    def killed(picture, out):
        out.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(trainers.explain, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        explain(trainer, image, file)
    assert file.read_bytes() == whole and [path.name for path in tmp_path.glob("*.png*")] == ["star.png"]


@pytest.mark.parametrize("top", [0, 21])
def test_how_many_classes(build, tmp_path, top):
    with pytest.raises(ValueError, match=f"top must be from 1 to 20, got {top}"):
        explain(build("ZeroshotCLIP"), Image.new("RGB", (60, 60)), tmp_path / "x.png", top)
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("windows", "table"), [("6 x 6 of 10", 38), ("7 x 7 of 32", 51), ("8 x 8 of 28", 66), ("8 x 8 of 42", 66)]
)
def test_the_costs_that_the_documents_name(windows, table):
    side, of = int(windows[0]), int(windows.rpartition(" ")[2])
    sizes = {10: (60, 10), 32: (224, 16), 28: (224, 14), 42: (336, 14)}
    assert window_size(*sizes[of]) == of and -(-sizes[of][0] // of) == side and table == 2 + side * side
    told = (Path(__file__).parents[2] / "docs" / "explain.md").read_text()
    assert f"| {windows} pixels | {table} |" in told
