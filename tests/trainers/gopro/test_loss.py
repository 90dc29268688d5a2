"""The text losses of some images at a time: as of all at once, with less kept and nothing computed again."""

import json

import pytest
import torch

import clip
import trainers.gopro.model
from clip.keep import Keep, choose
from dassl.engine.optimisation import PRECISIONS
from trainers.gopro import VARIANTS, build_gopro, gopro_loss

NAMES = ["dog", "tabby_cat", "boeing 737-200", "boeing 737-300", "a house"]
TOLERANCE = {"fp32": 1e-5, "fp16": 2e-2, "amp": 2e-2, "bf16": 1e-1}  # of the largest gradient
SCALE = 1024.0  # the first of a run overflows here
LABELS = torch.tensor([1, 4, 0, 2])
SEM = [0, 2, 3]


def build(precision="fp32", variant="paper", sem_classes=None):
    torch.manual_seed(0)
    backbone = clip.load("tiny", dtype=PRECISIONS[precision].weights)
    model = build_gopro(backbone, NAMES, variant=VARIANTS[variant]).train()
    for name, parameter in model.learner.prompt_learner.named_parameters():
        if name.startswith("rho"):  # the views' prompts differ
            torch.nn.init.normal_(parameter, std=0.1)
    model.choose_sem_classes(sem_classes)
    return model


def hold(monkeypatch, model, images):
    """Let the prompts of this many images be kept at once."""
    trees = [model.tree, *2 * [model._sem[0] if model._sem else model.tree]]
    each = model.clip.prompt_bytes(len(model.learner.prompt_learner.ctx), trees)
    monkeypatch.setattr(trainers.gopro.model, "GROUP_BYTES", int(each * (images + 0.1)))


def loss_of(model, batch, precision="fp32", **options):
    torch.manual_seed(3)
    size = model.clip.image_size
    images = [torch.randn(batch, 3, size, size) for _ in range(3)]
    compute = PRECISIONS[precision].compute
    with torch.autocast("cpu", compute, enabled=compute is not torch.float32):
        output = model(*images)
    return output, gopro_loss(output, LABELS[:batch], 0.5, **options)


@pytest.mark.parametrize("sem_classes", [None, SEM], ids=["all", "some"])
@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.parametrize("precision", list(PRECISIONS))
def test_groups_give_the_losses_logits_and_gradients_of_all_images_at_once(
    precision, variant, sem_classes, monkeypatch
):
    model, scale = build(precision, variant, sem_classes), SCALE if precision in ("fp16", "amp") else 1.0
    results = []
    for images, at_once in ((3, 3), (2, 2), (1, 1)):  # two and one: groups of unequal size
        hold(monkeypatch, model, images)
        output, parts = loss_of(model, 3, precision, scale=scale)
        assert output.at_once == at_once
        model.zero_grad()
        (parts["loss"] * scale).backward()
        gradients = {name: p.grad / scale for name, p in model.learner.named_parameters()}
        results.append((parts, output.logits, gradients))
    (expected, logits, gradients), *grouped = results
    tolerance = TOLERANCE[precision]
    largest = max(x.abs().max().item() for x in gradients.values())
    assert all(x.isfinite().all() for x in gradients.values()) and largest > 0
    for parts, own_logits, own in grouped:
        for name, value in expected.items():
            assert parts[name].item() == pytest.approx(value.item(), rel=tolerance), name
        assert torch.allclose(own_logits, logits, atol=tolerance * logits.abs().max().item())
        for name, value in gradients.items():
            limit = tolerance * max(value.abs().max().item(), 0.1 * largest)  # a norm removes shifts: true gradient 0
            assert (own[name] - value).abs().max() <= limit, name


def test_a_view_that_is_left_out_has_no_gradient_in_groups_either(monkeypatch):
    model = build()
    for images in (2, 1):
        hold(monkeypatch, model, images)
        model.zero_grad()
        loss_of(model, 2, sem_views="moco")[1]["loss"].backward()
        generate = model.learner.prompt_learner
        assert generate.rho_moco.weight.grad.any() and not generate.rho_augmix.weight.grad.any()


def test_without_gradients_there_is_one_group(monkeypatch):
    model = build()
    hold(monkeypatch, model, 1)
    with torch.no_grad():
        output, parts = loss_of(model, 2)
    assert output.at_once == 2 and not parts["loss"].requires_grad


class Kept:
    """Bytes that graphs hold for their backward pass, frozen weights left out: now, and at most."""

    def __init__(self, model):
        self.frozen = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.now = self.most = 0

    def pack(self, tensor):
        held = Held(self, tensor)
        self.most = max(self.most, self.now)
        return held


class Held:
    def __init__(self, kept, tensor):
        frozen = tensor.untyped_storage().data_ptr() in kept.frozen
        self.kept, self.tensor, self.bytes = kept, tensor, 0 if frozen else tensor.nbytes
        kept.now += self.bytes

    def __del__(self):
        self.kept.now -= self.bytes


@pytest.mark.parametrize("sem_classes", [None, SEM], ids=["all", "some"])
def test_groups_keep_less_and_compute_nothing_again(sem_classes, monkeypatch):
    model, most, chosen = build(sem_classes=sem_classes), [], []

    def note(blocks, budget):
        chosen.extend(choose(blocks, budget))
        return choose(blocks, budget)

    monkeypatch.setattr("clip.prompts.choose", note)
    for images in (4, 2, 1):
        hold(monkeypatch, model, images)
        kept = Kept(model)
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda held: held.tensor):
            loss_of(model, 4)[1]["loss"].backward()
        most.append(kept.most)
    assert set(chosen) == {Keep.ALL}
    assert most[1] < 0.6 * most[0] and most[2] < 0.6 * most[1]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_run_takes_groups_with_its_loss_scale(run, precision, monkeypatch):
    scales, original = [], trainers.gopro.model.mean_over_groups

    def note(function, size, scale, *inputs):
        scales.append(scale)
        return original(function, size, scale, *inputs)

    monkeypatch.setattr(trainers.gopro.model, "mean_over_groups", note)

    def steps(*options):
        folder = run(f"run{len(options)}", "TRAINER.GOPRO.PREC", precision, *options)[1]
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [record for record in records if record["split"] == "train"]

    whole = steps()
    assert not scales
    monkeypatch.setattr(trainers.gopro.model, "GROUP_BYTES", 1)
    few = steps("MODEL.BACKBONE.ACTIVATIONS_GB", "0")
    assert len(scales) == len(few) == len(whole)
    assert set(scales) == {65536.0 if precision == "fp16" else 1.0}
    for got, expected in zip(few, whole, strict=True):
        assert got["acc"] == expected["acc"]
        for name in ("loss", "loss_ce", "loss_sem", "loss_con"):
            wanted = pytest.approx(expected[name], rel=1e-4 if precision == "fp32" else 2e-2, abs=1e-3)
            assert got[name] == wanted, name
