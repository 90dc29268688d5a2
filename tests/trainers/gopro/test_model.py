"""GOPro's model against the independent transcription in benchmarks/naive.py, and against CLIP at step 0."""

import pytest
import torch
import torch.nn.functional as F

import clip
from benchmarks.naive import NaiveGOPro, naive_loss
from trainers.gopro import PAPER, RELEASED, VARIANTS, build_gopro, gopro_loss
from trainers.losses import nt_xent
from trainers.model import initial_context

NAMES = ["dog", "tabby_cat", "boeing 737-200", "boeing 737-300", "a house"]


def views(model, batch=2):
    torch.manual_seed(3)
    return [torch.randn(batch, 3, model.image_size, model.image_size) for _ in range(3)]


@pytest.fixture(scope="module", params=["tiny", "ViT-B/16"])
def backbone(request):
    return clip.load(request.param, pretrained=request.param == "tiny")


def test_released_equals_the_published_algorithm_in_logits_losses_and_gradients(backbone):
    torch.manual_seed(0)
    naive = NaiveGOPro(backbone.model, backbone.tokenize, NAMES)
    ours = build_gopro(backbone, NAMES, variant=RELEASED)
    ours.learner.load_state_dict(naive.state_dict())  # the published names, one to one
    images, label = views(backbone), torch.tensor([1, 4])

    expected = naive_loss(outputs := naive(*images), label)
    expected["loss"].backward()
    got = gopro_loss(out := ours(*images), label, 1.0, 0.1, 0.1, RELEASED.sem_reduction)
    got["loss"].backward()

    assert torch.allclose(out.logits, outputs[0], rtol=1e-4, atol=1e-4 * outputs[0].abs().max().item())
    for name, value in expected.items():
        assert got[name].item() == pytest.approx(value.item(), rel=1e-4), name
    gradients = {name: p.grad for name, p in naive.named_parameters()}
    largest = max(grad.abs().max().item() for grad in gradients.values())
    for name, p in ours.learner.named_parameters():
        expected_grad = gradients[name]
        # rho's bias shifts all widths alike, which every layer norm removes: its true gradient is 0, noise is left.
        tolerance = 1e-4 * expected_grad.abs().max().item() + 1e-6 * largest
        assert torch.allclose(p.grad, expected_grad, rtol=1e-4, atol=tolerance), name


def test_paper_starts_as_zero_shot_clip(backbone):
    model = build_gopro(backbone, NAMES, variant=PAPER)
    images = views(backbone)[0]
    text = F.normalize(
        backbone.encode_text(backbone.tokenize([f"a photo of a {n.replace('_', ' ')}." for n in NAMES])), dim=-1
    )
    expected = backbone.logit_scale * F.normalize(backbone.encode_image(images), dim=-1) @ text.t()
    assert torch.allclose(model(images).logits, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.fixture(scope="module")
def tiny():
    return clip.load("tiny")


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_testing_needs_one_view_and_equals_the_original_view_of_training(tiny, variant):
    torch.manual_seed(0)
    model = build_gopro(tiny, NAMES, variant=VARIANTS[variant]).eval()
    torch.nn.init.normal_(model.learner.prompt_learner.rho.weight)
    images = views(tiny)
    alone, together = model(images[0]), model(*images)
    assert torch.allclose(alone.logits, together.logits, atol=1e-4)
    assert alone.text_moco is None and alone.projected_moco is None


def test_paper_has_a_text_projector_per_view_and_tests_with_the_first(tiny):
    model = build_gopro(tiny, NAMES, variant=PAPER)
    images = views(tiny)
    before = model(*images)
    torch.nn.init.normal_(model.learner.prompt_learner.rho_moco.weight)
    torch.nn.init.normal_(model.learner.prompt_learner.rho_augmix.weight)
    after = model(*images)
    assert torch.equal(before.logits, after.logits)
    assert not torch.allclose(before.text_moco, after.text_moco, atol=1e-3)
    assert not torch.allclose(before.text_augmix, after.text_augmix, atol=1e-3)


def test_contrastive_loss_shapes_predictions_in_paper_and_not_in_released(tiny):
    for variant, changed in (("paper", True), ("released", False)):
        torch.manual_seed(0)
        model = build_gopro(tiny, NAMES, variant=VARIANTS[variant])
        images = views(tiny)
        before = model(*images).logits
        torch.nn.init.normal_(model.learner.simproj.linear.weight)
        assert torch.equal(before, model(*images).logits) is not changed


def test_prompts_differ_from_image_to_image_once_rho_is_not_zero(tiny):
    model = build_gopro(tiny, NAMES, variant=PAPER)
    torch.nn.init.normal_(model.learner.prompt_learner.rho.weight)
    text = model(views(tiny)[0]).text
    assert text.shape == (2, len(NAMES), 128)
    assert torch.allclose(text.norm(dim=-1), torch.ones(2, len(NAMES)), atol=1e-5)
    assert not torch.allclose(text[0], text[1], atol=1e-3)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_a_batch_of_one(tiny, variant):
    model = build_gopro(tiny, NAMES, variant=VARIANTS[variant]).train()
    out = model(*views(tiny, batch=1))
    loss = F.cross_entropy(out.logits, torch.tensor([0])) + nt_xent(out.projected, out.projected_moco)
    loss.backward()
    assert torch.isfinite(loss) and model.learner.prompt_learner.ctx.grad is not None


def test_style_and_content_follow_the_formulas(tiny):
    torch.manual_seed(0)
    learner = build_gopro(tiny, NAMES, variant=RELEASED).learner.prompt_learner
    image = tiny.encode_image_statistics(views(tiny)[0])
    context = learner(image)
    g = []
    for layer in range(5):
        sigma = torch.sqrt(image.var[:, layer] + 2.3e-8)
        s = learner.style.linear[layer]((image.mean[:, layer] + sigma) / 2)
        t = learner.content.linear[layer](image.mean[:, layer])
        g.append((s + t) / 2)
    delta = sum(w * x for w, x in zip(learner.rho.weight[0], g, strict=True)) + learner.rho.bias
    assert torch.allclose(context, learner.ctx + delta[:, None], atol=1e-5)


def test_context_from_words_from_numbers_and_bad_values(tiny):
    assert torch.allclose(build_gopro(tiny, NAMES).learner.prompt_learner.ctx, tiny.embed_words("a photo of a"))
    assert initial_context(tiny, 4, "a_sketch_of").shape == (3, 64)
    torch.manual_seed(0)
    random = initial_context(tiny, 9, "")
    assert random.shape == (9, 64) and random.std().item() == pytest.approx(0.02, rel=0.2)
    assert build_gopro(tiny, NAMES, random).learner.prompt_learner.ctx.shape == (9, 64)
    with pytest.raises(ValueError, match="N_CTX must be at least 1, got 0"):
        initial_context(tiny, 0, "")


def test_learnables_have_the_published_names(tiny):
    expected = {"prompt_learner.ctx", "prompt_learner.rho.weight", "prompt_learner.rho.bias"}
    for part in ("style", "content"):
        expected |= {f"prompt_learner.{part}.linear.{i}.{p}" for i in range(5) for p in ("weight", "bias")}
    expected |= {"simproj.linear.weight", "simproj.linear.bias"}
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected |= {f"simproj.batchnorm.{p}" for p in norm}
    assert set(build_gopro(tiny, NAMES, variant=RELEASED).learner.state_dict()) == expected
