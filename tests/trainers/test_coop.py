"""CoOp against a straight transcription over padded rows, and end to end on the tiny CLIP."""

import json

import pytest
import torch
import torch.nn.functional as F

import clip
from dassl.utils import load_checkpoint
from trainers.model import ContextCLIP, ContextLearner, initial_context

NAMES = ["dog", "tabby_cat", "boeing 737-200", "boeing 737-300", "a house"]


def transcription(backbone, context, images):
    """Eq. 2 of the paper: every class a whole row of tokens, the words' embeddings replaced by the context."""
    model = backbone.model
    tokens = backbone.tokenize([" ".join(["x"] * len(context)) + f" {name.replace('_', ' ')}." for name in NAMES])
    rows = model.token_embedding(tokens)
    rows = torch.cat([rows[:, :1], context.expand(len(NAMES), -1, -1), rows[:, 1 + len(context) :]], dim=1)
    x = rows + model.positional_embedding
    for block in model.transformer.resblocks:
        x = block(x, attn_mask=model.attn_mask)
    x = model.ln_final(x)[torch.arange(len(NAMES)), tokens.argmax(-1)] @ model.text_projection
    return model.logit_scale.exp() * F.normalize(model.encode_image(images), dim=-1) @ F.normalize(x, dim=-1).t()


@pytest.mark.parametrize("name", ["tiny", "ViT-B/16"])
def test_logits_loss_and_gradient_are_those_of_the_formula(name):
    backbone = clip.load(name, pretrained=name == "tiny")
    torch.manual_seed(0)
    images, label = torch.randn(2, 3, backbone.image_size, backbone.image_size), torch.tensor([1, 4])
    start = initial_context(backbone, 6)
    learner = ContextLearner(start.clone())
    ours = ContextCLIP(backbone, backbone.prompt_tree(NAMES, 6), learner)(images).logits
    reference = start.clone().requires_grad_()
    expected = transcription(backbone, reference, images)
    assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    F.cross_entropy(ours, label).backward()
    F.cross_entropy(expected, label).backward()
    tolerance = 1e-4 * reference.grad.abs().max().item()
    assert torch.allclose(learner.ctx.grad, reference.grad, rtol=1e-4, atol=tolerance)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "amp"])
def test_trains_saves_and_tests_on_new_classes(run, precision):
    base = ("DATASET.SUBSAMPLE_CLASSES", "base", "TRAINER.COOP.PREC", precision)
    _, folder = run("base", *base, trainer="CoOp")
    state = load_checkpoint(str(folder / "prompt_learner" / "model.pth.tar-2"))["state_dict"]
    assert {key: (value.shape, value.dtype) for key, value in state.items()} == {"ctx": ((4, 64), torch.float32)}
    load = ("--eval-only", "--model-dir", str(folder), "DATASET.SUBSAMPLE_CLASSES", "new")
    _, tested = run("new", *load, "TRAINER.COOP.PREC", precision, trainer="CoOp")
    assert list(json.loads((tested / "results.json").read_text())["per_class"]) == ["key", "star"]


def test_starts_as_zero_shot_clip_with_the_words_of_the_context(run):
    still = ("OPTIM.LR", "1e-12", "OPTIM.WARMUP_EPOCH", "-1")
    zero_shot, _ = run("zs", trainer="ZeroshotCLIP")
    # The calibration error shows the rounding of the logits.
    assert run("start", *still, trainer="CoOp")[0] == pytest.approx(zero_shot, abs=1e-3)


def test_the_context_can_learn_labels_that_the_words_get_wrong():
    backbone = clip.load("tiny")
    torch.manual_seed(0)
    learner = ContextLearner(initial_context(backbone, 4))
    model = ContextCLIP(backbone, backbone.prompt_tree(NAMES, 4), learner)
    images = torch.randn(5, 3, 60, 60)
    label = (model(images).logits.argmax(1) + 1) % 5
    optim = torch.optim.Adam([learner.ctx], lr=0.01)
    losses = []
    for _ in range(60):
        optim.zero_grad()
        losses.append(loss := F.cross_entropy(model(images).logits, label))
        loss.backward()
        optim.step()
    assert losses[-1] < 0.25 * losses[0]


def test_a_checkpoint_of_another_method_is_refused_by_name(run):
    _, folder = run("coop", trainer="CoOp")
    with pytest.raises(FileNotFoundError, match="no model at"):
        run("gopro", "--eval-only", "--model-dir", str(folder))


def test_n_ctx_beside_words_is_said_to_have_no_effect(run, capsys):
    run("out", "TRAINER.COOP.N_CTX", "7", trainer="CoOp")
    assert "TRAINER.COOP.N_CTX 7 has no effect beside CTX_INIT" in capsys.readouterr().out
