"""Every method's step against its straight transcription: logits, loss and gradients, through the real trainers."""

import random

import pytest
import torch

import clip
import train
import trainers.base
from dassl.engine import build_trainer
from datasets.rendered.render import render

from . import straight

NAMES = ["boeing 737-200", "boeing 737-300", "house", "tabby_cat"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("named")
    for name in NAMES:
        (folder / name).mkdir()
        for i in range(8):
            image = render("Shapes", "star", "photo", random.Random(f"{name}{i}"), 32)
            image.save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def backbones():
    torch.manual_seed(0)
    return {"tiny": clip.load("tiny"), "ViT-B/16": clip.load("ViT-B/16", pretrained=False)}


TIP = {"alpha": 1.5, "beta": 2.0}
CASES = {
    "CoOp": ("CoOp", straight.coop, {}, {}),
    "CoOp middle": (
        "CoOp",
        straight.coop,
        {"CTX_INIT": "''", "N_CTX": 5, "CLASS_TOKEN_POSITION": "middle"},
        {"position": "middle"},
    ),
    "CoOp front": ("CoOp", straight.coop, {"CLASS_TOKEN_POSITION": "front"}, {"position": "front"}),
    "CoOp CSC": ("CoOp", straight.coop, {"CTX_INIT": "''", "N_CTX": 3, "CSC": True}, {}),
    "CoOp CSC middle": (
        "CoOp",
        straight.coop,
        {"CTX_INIT": "''", "N_CTX": 4, "CSC": True, "CLASS_TOKEN_POSITION": "middle"},
        {"position": "middle"},
    ),
    "CoOp CSC front": (
        "CoOp",
        straight.coop,
        {"CTX_INIT": "''", "N_CTX": 4, "CSC": True, "CLASS_TOKEN_POSITION": "front"},
        {"position": "front"},
    ),
    "CoCoOp": ("CoCoOp", straight.cocoop, {}, {}),
    "KgCoOp": ("KgCoOp", straight.kgcoop, {}, {}),
    "ProGrad": ("ProGrad", straight.prograd, {"N_CTX": 8}, {}),
    "ProDA": ("ProDA", straight.proda, {"N_PROMPT": 8, "PROMPT_BATCH": 4, "N_CTX": 4}, {}),
    "PRE": ("PRE", straight.pre, {}, {}),
    "TCP": ("TCP", straight.tcp, {}, {}),
    "MaPLe": ("MaPLe", straight.maple, {}, {}),
    "MaPLe shallow": ("MaPLe", straight.maple, {"PROMPT_DEPTH": 1, "N_CTX": 3}, {}),
    "IVLP": ("IVLP", straight.ivlp, {}, {}),
    "language prompting": ("IVLP", straight.ivlp, {"PROMPT_DEPTH_VISION": 0, "N_CTX_TEXT": 4}, {}),
    "VPT": ("VPT", straight.vpt, {}, {}),
    "PromptSRC": ("PromptSRC", straight.promptsrc, {"TEMPLATES": "clip7"}, {"templates": clip.imagenet_sentences(7)}),
    "CLIPAdapter": ("CLIPAdapter", straight.clip_adapter, {}, {}),
    "TipAdapterF": ("TipAdapterF", straight.tip_adapter_f, {}, TIP),
    "CLIPLoRA": ("CLIPLoRA", straight.clip_lora, {"DROPOUT": 0.0}, {}),
}
DEPTHS = {"tiny": {"BLOCK": 2, "PROMPT_DEPTH": 3, "PROMPT_DEPTH_TEXT": 4, "PROMPT_DEPTH_VISION": 3}}
DEPTHS["ViT-B/16"] = {"BLOCK": 8, "PROMPT_DEPTH": 9, "PROMPT_DEPTH_TEXT": 9, "PROMPT_DEPTH_VISION": 12}


def built(method, backbone, settings, root, tmp_path, monkeypatch):
    """The trainer of a method on a folder of images, with the given CLIP and keys of its own node."""
    monkeypatch.setattr(trainers.base.clip, "load", lambda *args, **kwargs: backbone)
    argv = ["--root", str(root), "--seed", "1", "--output-dir", str(tmp_path / "out")]
    argv += ["--dataset-config-file", "configs/datasets/image_folder.yaml"]
    argv += ["--config-file", f"configs/trainers/{method}/tiny.yaml", "--backbone", backbone.name]
    key = {"TipAdapterF": "TIPADAPTER"}.get(method, method.upper())
    defaults = train.build_config(train.parse_args(argv)).TRAINER[key]
    chosen = {k: v for k, v in DEPTHS[backbone.name].items() if k in defaults} | settings
    pairs = [str(word) for k, v in chosen.items() for word in (f"TRAINER.{key}.{k}", v)]
    pairs += ["DATALOADER.NUM_WORKERS", "0", "DATASET.NUM_SHOTS", "2", "DATALOADER.TRAIN_X.BATCH_SIZE", "2"]
    return build_trainer(train.build_config(train.parse_args([*argv, *pairs])))


@pytest.mark.parametrize("backbone", ["tiny", "ViT-B/16"])
@pytest.mark.parametrize("case", CASES)
def test_a_step_is_that_of_the_transcription(case, backbone, backbones, root, tmp_path, monkeypatch):
    method, reference, settings, kwargs = CASES[case]
    backbone = backbones[backbone]
    trainer = built(method, backbone, settings, root, tmp_path, monkeypatch)
    trainer.epoch = trainer.batch_idx = trainer.start_epoch = 0
    learner = next(iter(trainer._models.values()))
    torch.manual_seed(1)
    with torch.no_grad():  # away from zeros and from what all blocks share
        for parameter in learner.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter) * (1 + parameter.abs().mean()))
    kwargs = dict(kwargs) | ({"block": DEPTHS[backbone.name]["BLOCK"]} if method == "TCP" else {})
    if method == "TipAdapterF":
        learner.labels.copy_(torch.arange(len(learner.labels)) % len(NAMES))
        learner.alpha.fill_(kwargs["alpha"])
        learner.beta.fill_(kwargs["beta"])
        kwargs["values"] = torch.nn.functional.one_hot(learner.labels, len(NAMES)).float()
    params = {name: p.detach().clone().requires_grad_() for name, p in learner.named_parameters()}
    images, label = torch.randn(2, 3, backbone.image_size, backbone.image_size), torch.tensor([1, 3])
    trainer.set_model_mode("train")
    with torch.enable_grad():
        before = {name: p.detach().clone() for name, p in learner.named_parameters()}
        figures = trainer.forward_backward({"img": images, "label": label, "impath": []})
        gradients = {name: p.grad.clone() for name, p in learner.named_parameters()}
    learner.load_state_dict(before, strict=False)
    if method == "ProDA":
        kwargs["chosen"] = trainer.model.chosen
    found = reference(backbone, params, trainer.classnames, images, label, **kwargs)
    if method == "ProGrad":
        logits, (loss, general), expected = found
        assert float(figures["loss_general"]) == pytest.approx(general.item(), rel=1e-4)
    else:
        logits, loss = found
        loss.backward()
        expected = {name: p.grad for name, p in params.items()}
    assert float(figures["loss"]) == pytest.approx(loss.item(), rel=1e-4)
    if method != "ProDA":  # whose training logits are the bound's
        ours = trainer.model(images).logits
        assert torch.allclose(ours, logits, rtol=1e-4, atol=1e-4 * logits.abs().max().item())
    assert set(gradients) == set(expected)
    for name, gradient in expected.items():
        assert torch.allclose(gradients[name], gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max().item()), name
        assert gradient.abs().max() > 0, name


@pytest.mark.parametrize("backbone", ["tiny", "ViT-B/16"])
def test_prodas_test_is_the_mean_over_all_prompts(backbone, backbones, root, tmp_path, monkeypatch):
    backbone = backbones[backbone]
    settings = {"N_PROMPT": 8, "PROMPT_BATCH": 4, "N_CTX": 4}
    trainer = built("ProDA", backbone, settings, root, tmp_path, monkeypatch)
    images = torch.randn(2, 3, backbone.image_size, backbone.image_size)
    with torch.no_grad():
        ours = trainer.model_inference(images)
        params = dict(trainer.model.learner.named_parameters())
        expected = straight.proda_test(backbone, params, trainer.classnames, images)
    assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("backbone", ["tiny", "ViT-B/16"])
def test_tip_adapters_logits_are_those_of_the_transcription(backbone, backbones, root, tmp_path, monkeypatch):
    backbone = backbones[backbone]
    trainer = built("TipAdapter", backbone, {}, root, tmp_path, monkeypatch)
    bank = trainer.model.learner
    with torch.no_grad():
        bank.keys.copy_(torch.nn.functional.normalize(torch.randn_like(bank.keys), dim=-1))
        bank.labels.copy_(torch.arange(len(bank.labels)) % len(NAMES))
        bank.alpha.fill_(TIP["alpha"])
        bank.beta.fill_(TIP["beta"])
    images = torch.randn(2, 3, backbone.image_size, backbone.image_size)
    values = torch.nn.functional.one_hot(bank.labels, len(NAMES)).float()
    with torch.no_grad():
        ours = trainer.model_inference(images)
        expected = straight.tip_adapter(backbone, {"keys": bank.keys}, trainer.classnames, images, values, **TIP)
    assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("backbone", ["tiny", "ViT-B/16"])
def test_low_rank_updates_are_the_same_beside_the_weights_and_in_them(backbone, backbones, root, tmp_path, monkeypatch):
    trainer = built("CLIPLoRA", backbones[backbone], {"PARAMS": "('q','v','o')"}, root, tmp_path, monkeypatch)
    size = backbones[backbone].image_size
    images, learner = torch.randn(2, 3, size, size), trainer.model.learner
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for block in (*learner.text, *learner.vision):
            block.dropout = 0.0
        beside = trainer.model(images).logits
        trainer.set_model_mode("eval")
        inside = trainer.model(images).logits
    assert torch.allclose(beside, inside, rtol=1e-4, atol=1e-4 * beside.abs().max().item())


@pytest.mark.parametrize("template", ["clip7", "auto+clip7"])
def test_zero_shot_ensembles_average_normalised_features(template, backbones, root, tmp_path, monkeypatch):
    backbone = backbones["tiny"]
    monkeypatch.setattr(trainers.base.clip, "load", lambda *args, **kwargs: backbone)
    argv = ["--root", str(root), "--seed", "1", "--output-dir", str(tmp_path / "out")]
    argv += ["--dataset-config-file", "configs/datasets/image_folder.yaml"]
    argv += ["--config-file", "configs/trainers/ZeroshotCLIP/tiny.yaml", "TRAINER.ZSCLIP.TEMPLATE", template]
    trainer = build_trainer(train.build_config(train.parse_args(argv)))
    sentences = list(clip.imagenet_sentences(7)) + ["a photo of a {}."] * template.startswith("auto")
    texts = torch.stack([straight.zero_shot_text(backbone, trainer.classnames, t) for t in sentences])
    images = torch.randn(2, 3, 60, 60)
    expected = straight.cosine_logits(backbone, straight.image_features(backbone, images), texts.mean(0))
    assert torch.allclose(trainer.model_inference(images), expected, rtol=1e-4, atol=1e-3)
