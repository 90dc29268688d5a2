"""Exports: they load back to the same logits, and the class embeddings work in open_clip alone."""

import contextlib
import io
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from datasets.rendered.render import render
from protocols.definitions import trainers as methods
from trainers import load_run
from trainers.export import export, main

REPO = Path(__file__).parents[2]
BASE = ("DATASET.SUBSAMPLE_CLASSES", "base")
METHODS = methods()
BY_IMAGE = ("CoCoOp", "GOPro")
WHOLE = ("CoOp", "KgCoOp", "PRE", "ProDA", "ProGrad", "TCP", "ZeroshotCLIP")
TEXT_ALONE = {  # with these values the image side stays as it is
    "CLIPLoRA": ("TRAINER.CLIPLORA.ENCODER", "text"),
    "IVLP": ("TRAINER.IVLP.PROMPT_DEPTH_VISION", "0"),
    "PromptSRC": ("TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION", "0"),
}
BLOCKS, README_BLOCKS = (
    re.findall(r"```python\n(.*?)```", (REPO / name).read_text(), re.DOTALL)
    for name in ("docs/predict.md", "README.md")
)


@pytest.fixture(scope="module")
def picture(image_root):
    return str(sorted(image_root.glob("photo/fish/*.png"))[0])


@pytest.fixture
def short(run, backbones):
    """short(method, *args): folder of a run of one step."""

    def start(method, *args):
        few = ("OPTIM.MAX_EPOCH", "1", "OPTIM.LR", "0.05", "OPTIM.WARMUP_EPOCH", "-1")
        if method.startswith("Tip"):
            few += ("TRAINER.TIPADAPTER.AUGMENT_EPOCH", "1", "TRAINER.TIPADAPTER.SEARCH_STEP", "(3, 3)")
        return run(method, *BASE, *few, *args, trainer=method)[1]

    return start


CASES = [pytest.param(method, (), method in WHOLE, id=method) for method in METHODS]
CASES += [pytest.param(method, args, True, id=f"{method} text") for method, args in TEXT_ALONE.items()]


@pytest.mark.parametrize(("method", "args", "complete"), CASES)
def test_an_export_gives_the_same_logits_and_says_what_it_is(short, picture, tmp_path, method, args, complete):
    folder, out = short(method, *args), tmp_path / "export"
    card = main([str(folder), str(out)])
    run, back = load_run(folder), load_run(out)
    assert torch.equal(run.logits(picture), back.logits(picture))
    assert torch.equal(run.logits(picture, ["key", "apple"]), back.logits(picture, ["key", "apple"]))

    assert card == json.loads((out / "card.json").read_text())
    record = json.loads((folder / "results.json").read_text())
    assert (card["format"], card["trainer"], card["backbone"]) == (1, method, "tiny")
    assert card["weights"] == run.trainer_for().backbone_digest and card["classnames"] == run.classnames
    assert card["config"] == run.config == back.config
    assert card["results"]["results"] == record["results"] and card["results"]["split"] == "test"
    assert card["versions"]["torch"] and "commit" in card
    states = {f"{name}/{k}": v for name, (_, c) in run.source.checkpoints.items() for k, v in c["state_dict"].items()}
    written = load_file(out / "learned.safetensors")
    assert set(written) == set(states) and all(torch.equal(written[key], states[key]) for key in states)

    assert card["classes"]["complete"] is complete and (complete or method in card["classes"]["why"])
    if method in BY_IMAGE:
        assert not (out / "classes.safetensors").exists()
        return
    head = load_file(out / "classes.safetensors")
    with safe_open(out / "classes.safetensors", "pt") as file:
        assert json.loads(file.metadata()["classnames"]) == card["classnames"]
    lengths = head["classes"].norm(dim=-1)
    assert card["classes"]["normalised"] is (method != "ProDA") is bool(((lengths - 1).abs() < 1e-3).all())
    frozen = torch.nn.functional.normalize(
        run.trainer_for().clip.encode_image(run.transform(Image.open(picture))[None])
    )
    difference = (head["logit_scale"] * frozen @ head["classes"].T - run.logits(picture)).abs().max()
    assert bool(difference < 1e-3) is complete


@contextlib.contextmanager
def documented(tmp_path, monkeypatch):
    """The folder in which the examples of docs/predict.md run; gives what they print."""
    for name in ("configs", "clip"):
        (tmp_path / name).symlink_to(REPO / name)
    for name in ("star", "fish"):
        (tmp_path / "my_images" / name).mkdir(parents=True)
        for i in range(8):
            picture = render("Shapes", name, "photo", random.Random(f"{name}{i}"), 64)
            picture.save(tmp_path / "my_images" / name / f"{i}.png")
    render("Shapes", "star", "photo", random.Random("asked"), 64).save(tmp_path / "photo.jpg", quality=95)
    monkeypatch.chdir(tmp_path)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        yield said


def test_the_examples_of_the_documents_run_as_they_stand(tmp_path, monkeypatch):
    example, five_lines = BLOCKS
    assert len(example.strip().splitlines()) <= 20
    assert len([line for line in five_lines.splitlines() if line and not line.startswith("import")]) == 5
    with documented(tmp_path, monkeypatch) as said:
        exec(example, {})
        lines = said.getvalue().splitlines()[-5:]
        assert {line.split(":")[0] for line in lines[:2]} == {"star", "fish"} and lines[0].startswith("star: 0.")
        main(["output/mine", "exported/mine"])
        assert "classes.safetensors is the whole method" in said.getvalue()
        space = {}
        exec(five_lines, space)
        assert said.getvalue().splitlines()[-1] == "star"
        (short_one,) = README_BLOCKS
        exec(short_one, space)
        assert "classname='star'" in said.getvalue().splitlines()[-1]
        assert {answer.classname for answer in space["other"][0]} == {"red fox", "snow leopard"}
        assert space["image"].shape == (1, space["run"].encode_text().shape[-1])
    torch.testing.assert_close(space["logits"], load_run("output/mine").logits("photo.jpg"), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("encoder", ["both", "text", "vision"])
def test_merged_weights_are_the_whole_method_in_open_clip(short, picture, tmp_path, encoder):
    args = ("TRAINER.CLIPLORA.PARAMS", "('q', 'v', 'o')", "TRAINER.CLIPLORA.ENCODER", encoder)
    folder, out = short("CLIPLoRA", *args), tmp_path / "export"
    card = main([str(folder), str(out), "--merged"])
    run = load_run(out)
    assert card["classes"]["complete_with"] == "merged.safetensors"
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{REPO / 'clip' / 'tiny'}")
    image = preprocess(Image.open(picture))[None]
    frozen = {"image": model.eval().encode_image(image)}
    merged = load_file(out / "merged.safetensors")
    changed = {key.split(".")[0] for key, value in model.state_dict().items() if not torch.equal(value, merged[key])}
    assert changed == {"both": {"visual", "transformer"}, "text": {"transformer"}, "vision": {"visual"}}[encoder]
    model.load_state_dict(merged)
    head = load_file(out / "classes.safetensors")
    with torch.no_grad():
        features = model.encode_image(image, normalize=True)
        sentences = run.trainer_for().clip.tokenize([f"a photo of a {name}." for name in card["classnames"]])
        torch.testing.assert_close(model.encode_text(sentences, normalize=True), head["classes"], rtol=0, atol=1e-5)
    torch.testing.assert_close(
        head["logit_scale"] * features @ head["classes"].T, run.logits(picture), rtol=1e-4, atol=1e-3
    )
    assert torch.allclose(frozen["image"], model.encode_image(image)) is (encoder == "text")
    main([str(folder), str(out), "--overwrite"])
    assert not (out / "merged.safetensors").exists()


def test_nothing_to_merge(short, tmp_path):
    with pytest.raises(ValueError, match="CoOp adds nothing to the backbone's weights: there is nothing to merge"):
        main([str(short("CoOp")), str(tmp_path / "export"), "--merged"])
    assert not (tmp_path / "export").exists()


def test_what_is_in_the_way_is_refused(short, tmp_path, monkeypatch):
    folder, out = short("CoOp"), tmp_path / "export"
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="is a file; an export is a folder"):
        main([str(folder), str(tmp_path / "file")])
    with pytest.raises(FileExistsError, match="holds something else than an export"):
        main([str(folder), str(folder)])
    main([str(folder), str(out)])
    with pytest.raises(FileExistsError, match="holds an earlier export; --overwrite replaces it"):
        main([str(folder), str(out)])
    with monkeypatch.context() as patch:  # before anything is loaded
        patch.setattr("trainers.load_run", lambda *_: pytest.fail("loaded"))
        with pytest.raises(FileExistsError, match="--overwrite"):
            main([str(folder), str(out)])
    export(load_run(out), tmp_path / "again")  # an export of an export
    assert main([str(folder), str(out), "--overwrite"])["models"] == ["prompt_learner"]
    assert (out / "learned.safetensors").read_bytes() == (tmp_path / "again" / "learned.safetensors").read_bytes()


def test_a_damaged_export_is_named(short, tmp_path):
    out = tmp_path / "export"
    main([str(short("CoOp")), str(out)])
    card = json.loads((out / "card.json").read_text())
    with pytest.raises(ValueError, match="is an exported model, of one epoch"):
        load_run(out, epoch=1)
    for change, message in (
        ({"format": 2}, r"has the format 2; this version reads 1"),
        ({"classnames": []}, "names no config and classnames"),
        ({"trainer": "KgCoOp", "config": {**card["config"], "TRAINER": {"NAME": "KgCoOp"}}}, None),
    ):
        (out / "card.json").write_text(json.dumps(card | change))
        if message is None:  # the same tensors, another method: what the card says counts
            assert load_run(out).trainer_for().config_key == "KGCOOP"
            continue
        with pytest.raises(ValueError, match=message):
            load_run(out)
    (out / "card.json").write_text(json.dumps(card))
    whole = (out / "learned.safetensors").read_bytes()
    (out / "learned.safetensors").write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="learned.safetensors is no readable file of tensors"):
        load_run(out)
    (out / "learned.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="learned.safetensors is missing: card.json says that prompt_learner"):
        load_run(out)
    (out / "card.json").write_text("{")
    with pytest.raises(ValueError, match="card.json is not valid JSON"):
        load_run(out)


def test_export_runs_as_a_command():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "trainers.export", "--help"], cwd=REPO, capture_output=True, text=True
    )
    assert done.returncode == 0 and "card.json" in done.stdout and done.stderr == ""
