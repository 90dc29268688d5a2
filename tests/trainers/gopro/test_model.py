"""GOPro's model against the independent transcription in benchmarks/naive.py, and against CLIP at step 0."""

import itertools
from dataclasses import replace

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
        # rho's bias shifts all widths alike, which every layer norm removes: its true gradient is 0, noise is left.
        expected_grad = torch.zeros_like(p) if name.endswith("rho.bias") else gradients[name]
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


@pytest.mark.parametrize("part", ["style", "content"])
def test_prompts_of_one_primitive_alone(tiny, part):
    torch.manual_seed(0)
    both, alone = build_gopro(tiny, NAMES), build_gopro(tiny, NAMES, variant=replace(PAPER, primitives=part))
    kept = {k: v for k, v in both.learner.state_dict().items() if "style" not in k and "content" not in k or part in k}
    alone.learner.load_state_dict(kept)
    for model in (both, alone):
        torch.nn.init.normal_(model.learner.prompt_learner.rho.weight, generator=torch.Generator().manual_seed(1))
    image = tiny.encode_image_statistics(views(tiny)[0])
    generate = both.learner.prompt_learner
    other = generate.content if part == "style" else generate.style
    for linear in other.linear:  # (s + 0) / 2: half the shift of one alone
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    shifts = [m.learner.prompt_learner(image) - m.learner.prompt_learner.ctx for m in (both, alone)]
    bias = generate.rho.bias
    assert shifts[0].abs().max() > 1e-3
    assert torch.allclose(2 * (shifts[0] - bias), shifts[1] - bias, atol=1e-5)


@pytest.mark.parametrize(("views_of_sem", "left_out"), [("moco", "augmix"), ("augmix", "moco")])
def test_consistency_of_one_view_alone(tiny, views_of_sem, left_out):
    torch.manual_seed(0)
    model, images, label = build_gopro(tiny, NAMES), views(tiny), torch.tensor([1, 4])
    for name, parameter in model.learner.prompt_learner.named_parameters():
        if name.startswith("rho"):
            torch.nn.init.normal_(parameter)
    output = model(*images)
    kept = getattr(output, f"text_{views_of_sem}")
    expected = (output.text - kept).square().sum(-1).mean()
    loss = gopro_loss(output, label, sem_views=views_of_sem)["loss_sem"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss.item() > 0
    gradients = dict(
        zip(
            ("moco", "augmix"),
            torch.autograd.grad(loss, [output.text_moco, output.text_augmix], allow_unused=True),
            strict=True,
        )
    )
    assert gradients[left_out] is None
    assert gradients[views_of_sem].abs().max() > 0


def test_consistency_of_some_classes_is_unbiased(tiny):
    """The mean over all draws of two of five classes is the loss of all five, in value and gradient."""
    torch.manual_seed(0)
    model, images, label = build_gopro(tiny, NAMES), views(tiny), torch.tensor([1, 4])
    learner = model.learner.prompt_learner
    for rho in (learner.rho, learner.rho_moco, learner.rho_augmix):
        torch.nn.init.normal_(rho.weight)

    def loss_and_gradient(classes):
        model.choose_sem_classes(classes)
        parts = gopro_loss(output := model(*images), label)
        assert output.text_moco.shape[1] == len(classes or NAMES)
        return parts["loss_sem"].detach(), torch.autograd.grad(parts["loss_sem"], learner.rho_moco.weight)[0], parts

    draws = [loss_and_gradient(classes) for classes in itertools.combinations(range(len(NAMES)), 2)]
    full, gradient, parts = loss_and_gradient(None)
    assert max(draw[0] for draw in draws) > 1.02 * full
    assert torch.stack([draw[0] for draw in draws]).mean().item() == pytest.approx(full.item(), rel=1e-5)
    mean = torch.stack([draw[1] for draw in draws]).mean(0)
    assert torch.allclose(mean, gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max().item())
    for name in ("loss_ce", "loss_con"):  # these are of all classes
        assert draws[0][2][name].item() == pytest.approx(parts[name].item(), rel=1e-5)


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
