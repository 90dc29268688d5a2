"""The plain transcriptions alone: towers are open_clip's, no learned change is zero-shot CLIP, formulas hold."""

import copy
import inspect
import math

import pytest
import torch
import torch.nn.functional as F

import clip

from . import straight

NAMES = ["star", "fire_engine", "cat"]
WORDS = "a photo of a"
CLOSE = {"atol": 1e-4, "rtol": 1e-4}  # logits and losses, up to 100 in size
SIZES = {"text": 64, "vision": 128, "embed": 128, "blocks": (4, 5)}


@pytest.fixture(scope="module")
def tiny():
    return clip.load("tiny")


@pytest.fixture(scope="module")
def images():
    return torch.randn(4, 3, 60, 60, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def label():
    return torch.tensor([0, 2, 1, 1])


def learnable(method, std=0.02, **sizes):
    generator = torch.Generator().manual_seed(1)
    found = straight.shapes(method, **{**SIZES, **sizes})
    return {name: (torch.randn(shape, generator=generator) * std).requires_grad_() for name, shape in found.items()}


def zero_shot(tiny, images, template=straight.A_PHOTO, scale=None):
    texts = [template.format(name.replace("_", " ")) for name in NAMES]
    with torch.no_grad():
        f = F.normalize(tiny.model.encode_image(images), dim=1)
        t = F.normalize(tiny.model.encode_text(tiny.tokenize(texts)), dim=1)
    return (tiny.model.logit_scale.exp() if scale is None else scale) * f @ t.T


def ctx(tiny, words=WORDS):
    return straight.words_context(tiny, words, len(words.split())).requires_grad_()


# Towers


def test_towers_are_those_of_open_clip(tiny, images):
    tokens = tiny.tokenize(["a photo of a star.", "", "two words of a fire engine"])
    with torch.no_grad():
        texts = straight.text_features(tiny, tiny.model.token_embedding(tokens), tokens.argmax(1))
        assert torch.allclose(texts, tiny.model.encode_text(tokens), atol=1e-5)
        assert torch.allclose(straight.image_features(tiny, images), tiny.model.encode_image(images), atol=1e-5)


def test_an_attention_of_own_projections_is_the_same(tiny, images):
    tokens = tiny.tokenize(["a photo of a star.", "cat"])
    none = {i: {"q": torch.zeros(64, 64), "o": torch.zeros(64, 64)} for i in range(4)}
    with torch.no_grad():
        texts = straight.text_features(tiny, tiny.model.token_embedding(tokens), tokens.argmax(1), low_rank=none)
        assert torch.allclose(texts, tiny.model.encode_text(tokens), atol=1e-5)
        found = straight.image_features(tiny, images, low_rank={2: {"v": torch.zeros(128, 128)}})
        assert torch.allclose(found, tiny.model.encode_image(images), atol=1e-5)


def hooked(module, change):
    """Puts change(first argument) in the place of the first argument of the module's forward."""
    return module.register_forward_pre_hook(lambda m, args: (change(args[0]), *args[1:]))


def test_replaced_tokens_are_those_of_hooks_on_open_clip(tiny, images):
    tokens = tiny.tokenize(["a photo of a star.", "a photo of a fire engine."])
    shared, own = torch.randn(1, 2, 64), torch.randn(2, 3, 64)
    replace = {1: (slice(1, 3), shared), 3: (slice(1, 4), own)}
    visual, prompts = tiny.model.visual, [torch.randn(2, 128) for _ in range(3)]

    def put(start, values):
        def change(x):
            x = x.clone()
            x[:, start : start + values.shape[-2]] = values
            return x

        return change

    hooks = [hooked(tiny.model.transformer.resblocks[i], put(1, values)) for i, (_, values) in replace.items()]
    hooks.append(hooked(visual.ln_pre, lambda x: torch.cat([x, prompts[0].expand(len(x), 2, 128)], 1)))
    hooks += [hooked(visual.transformer.resblocks[j], put(37, prompts[j])) for j in (1, 2)]
    with torch.no_grad():
        expected = tiny.model.encode_text(tokens), tiny.model.encode_image(images)
        for hook in hooks:
            hook.remove()
        texts = straight.text_features(tiny, tiny.model.token_embedding(tokens), tokens.argmax(1), replace)
        assert torch.allclose(texts, expected[0], atol=1e-5)
        assert torch.allclose(straight.image_features(tiny, images, prompts), expected[1], atol=1e-5)
        assert not torch.allclose(expected[1], tiny.model.encode_image(images), atol=1e-2)  # the hooks are gone


# Text prompts


@pytest.mark.parametrize(
    ("position", "template"),
    [("end", "a photo of a {}."), ("middle", "a photo {} of a."), ("front", "{} a photo of a.")],
)
def test_coop_with_words_is_zero_shot(tiny, images, label, position, template):
    logits, loss = straight.coop(tiny, {"ctx": ctx(tiny)}, NAMES, images, label, position)
    expected = zero_shot(tiny, images, template)
    assert torch.allclose(logits, expected, **CLOSE)
    assert torch.allclose(loss, F.cross_entropy(expected, label), **CLOSE)


def test_coop_with_a_context_a_class(tiny, images, label):
    own = torch.stack([ctx(tiny, words) for words in ("a photo of a", "the big red old", "one two three four")])
    logits = straight.coop(tiny, {"ctx": own}, NAMES, images, label)[0]
    assert torch.allclose(logits[:, 0], zero_shot(tiny, images)[:, 0], **CLOSE)
    assert torch.allclose(logits[:, 1], zero_shot(tiny, images, "the big red old {}.")[:, 1], **CLOSE)


def test_cocoop_shifts_the_context_of_each_image(tiny, images, label):
    params = learnable("cocoop", std=0.1)
    network = torch.nn.Sequential(torch.nn.Linear(128, 8), torch.nn.ReLU(), torch.nn.Linear(8, 64))
    names = ["linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias"]
    network.load_state_dict(dict(zip(network.state_dict(), (params[f"meta_net.{n}"] for n in names), strict=True)))
    logits = straight.cocoop(tiny, params, NAMES, images, label)[0]
    shifts = network(F.normalize(tiny.model.encode_image(images), dim=1))
    for b in range(4):
        one = straight.coop(tiny, {"ctx": params["ctx"] + shifts[b]}, NAMES, images[b : b + 1], label[:1])[0]
        assert torch.allclose(logits[b], one[0], **CLOSE)


def test_kgcoop_and_its_distance(tiny, images, label):
    logits, loss = straight.kgcoop(tiny, {"ctx": ctx(tiny)}, NAMES, images, label)
    assert torch.allclose(logits, zero_shot(tiny, images), **CLOSE)
    assert torch.allclose(loss, F.cross_entropy(logits, label), **CLOSE)
    teacher = "a centered satellite photo of {}."
    loss = straight.kgcoop(tiny, {"ctx": ctx(tiny)}, NAMES, images, label, teacher)[1]
    distance = straight.distance(*(straight.zero_shot_text(tiny, NAMES, t) for t in (straight.A_PHOTO, teacher)))
    assert distance > 0.01
    assert torch.allclose(loss, F.cross_entropy(logits, label) + 8 * distance, **CLOSE)
    texts = [
        F.normalize(tiny.encode_text(tiny.tokenize([t + n for n in ("star.", "cat.")])), dim=1) for t in ("", "a ")
    ]
    assert torch.allclose(straight.distance(*texts), ((texts[0] - texts[1]) ** 2).sum(1).mean() / 2, atol=1e-6)


@pytest.mark.parametrize("length", [8, 11])
def test_prograd_starts_from_a_template_with_a_comma(tiny, images, label, length):
    template = "a type of pet, a photo of a {}."  # 8 words, 9 tokens
    params = {"ctx": straight.prograd_start(tiny, length, template).requires_grad_()}
    assert params["ctx"].shape == (length, 64) and (params["ctx"].abs().sum(1) == 0).sum() == length - 8
    logits, (ce, kl), gradients = straight.prograd(tiny, params, NAMES, images, label, template)
    expected = zero_shot(tiny, images, template)
    entropy = torch.distributions.Categorical(logits=expected).entropy().mean()
    if length == 8:
        assert torch.allclose(logits, expected, **CLOSE)
        assert torch.allclose(kl, entropy, **CLOSE)
    else:
        assert kl > entropy
    assert torch.allclose(ce, F.cross_entropy(logits, label), **CLOSE)
    assert gradients["ctx"].shape == (length, 64)


def test_prograd_takes_off_the_part_against_the_teacher(tiny, images):
    params = learnable("prograd", std=0.3)
    teacher = zero_shot(tiny, images)
    logits = straight.coop(tiny, params, NAMES, images, teacher.argmax(1))[0]
    against = (logits - logits.logsumexp(1, True) - teacher).argmax(1)  # labels where the student is to move away
    seen = set()
    for label in (teacher.argmax(1), against, teacher.argmin(1)):
        _, (ce, kl), gradients = straight.prograd(tiny, params, NAMES, images, label, lam=0.8)
        a, b = (torch.autograd.grad(loss, params["ctx"], retain_graph=True)[0] for loss in (ce, kl))
        conflict = bool((a * b).sum() < 0)
        left = ((gradients["ctx"] * b).sum() / (a * b).sum()).item()
        assert left == pytest.approx(0.2 if conflict else 1.0, abs=1e-3)
        seen.add(conflict)
    assert seen == {True, False}


def test_proda_of_equal_prompts_is_zero_shot(tiny, images, label):
    params = {"ctx": torch.stack([ctx(tiny).detach()] * 3).requires_grad_()}
    logits, loss = straight.proda(tiny, params, NAMES, images, label, positions=["end"] * 3)
    assert torch.allclose(logits, zero_shot(tiny, images), **CLOSE)
    assert torch.allclose(loss, F.cross_entropy(logits, label) + 0.1, **CLOSE)  # prompts wholly alike
    assert torch.allclose(
        straight.proda_test(tiny, params, NAMES, images, ["end"] * 3), zero_shot(tiny, images), **CLOSE
    )


def test_proda_s_bound_entry_by_entry(tiny, images, label):
    params = learnable("proda", length=(8, 4), std=0.3)
    positions = straight.proda_positions(8)
    assert positions == ["front"] * 2 + ["middle"] * 2 + ["end"] * 4
    chosen = [0, 3, 5]
    logits, loss = straight.proda(tiny, params, NAMES, images, label, chosen)
    with torch.no_grad():
        w = straight.proda_texts(tiny, params["ctx"][chosen], NAMES, [positions[p] for p in chosen])
        f, s = F.normalize(tiny.model.encode_image(images), dim=1), tiny.logit_scale.item()
        mean = w.mean(1)
        for b, y in enumerate(label.tolist()):
            for j in range(3):
                # Var of <f, w_j - w_y> with independent feature dimensions
                gap = (w[j] - mean[j]) - (w[y] - mean[y])  # [P, E]
                variance = (f[b] ** 2 * (gap**2).sum(0) / 4).sum()
                assert logits[b, j] == pytest.approx(float(s * f[b] @ mean[j] + s**2 / 2 * variance), abs=1e-3)
        rows = tiny.model.token_embedding(tiny.tokenize(["X X X X."] * 8))
        rows[:, 1:5] = params["ctx"]
        g = F.normalize(straight.text_features(tiny, rows, torch.full((8,), 6)), dim=1)
        pairs = [abs(float(g[p] @ g[q])) for p in range(8) for q in range(8) if p != q]
        expected = F.cross_entropy(logits, label) + 0.1 * sum(pairs) / len(pairs)
    assert torch.allclose(loss, expected, **CLOSE)


def test_tcp_puts_its_prompts_before_one_block(tiny, images, label):
    params = {**learnable("tcp", std=1.0), "ctx": ctx(tiny)}
    tokens = tiny.tokenize([f"a photo of a {name.replace('_', ' ')}." for name in NAMES])
    texts = F.normalize(tiny.encode_text(tokens), dim=1)
    hidden = texts @ params["meta_net.linear1.weight"].T + params["meta_net.linear1.bias"]
    hidden = hidden / (1 + torch.exp(-1.702 * hidden))
    prompts = (hidden @ params["meta_net.linear2.weight"].T + params["meta_net.linear2.bias"]).view(3, 4, 64).detach()
    hook = hooked(tiny.model.transformer.resblocks[2], lambda x: torch.cat([x[:, :1], prompts, x[:, 5:]], 1))
    expected, student = zero_shot(tiny, images), F.normalize(tiny.encode_text(tokens), dim=1)
    hook.remove()
    logits, loss = straight.tcp(tiny, params, NAMES, images, label, block=2)
    assert torch.allclose(logits, expected, **CLOSE)
    distance = 1 - (student * texts).sum(1).mean()
    assert torch.allclose(loss, F.cross_entropy(expected, label) + 8 * distance, **CLOSE)
    assert not torch.allclose(expected, zero_shot(tiny, images), atol=1e-2)


def test_tcp_without_its_block_is_zero_shot(tiny, images, label):
    params = {**learnable("tcp"), "ctx": ctx(tiny)}
    logits, loss = straight.tcp(tiny, params, NAMES, images, label, block=8)  # the tiny tower has four blocks
    assert torch.allclose(logits, zero_shot(tiny, images), **CLOSE)
    assert torch.allclose(loss, F.cross_entropy(logits, label), **CLOSE)
    student = straight.tcp(tiny, params, NAMES, images, label, "X X X X {} texture")[0]
    assert torch.allclose(student, zero_shot(tiny, images, "a photo of a {} texture"), **CLOSE)


# Prompts in both towers


def test_ivlp_of_words_and_no_image_tokens_is_zero_shot(tiny, images, label):
    for words in ("a photo of a", "a photo"):  # of two, the other two words stay
        params = {"ctx": ctx(tiny, words)}
        logits, loss = straight.ivlp(tiny, params, NAMES, images, label)
        assert torch.allclose(logits, zero_shot(tiny, images), **CLOSE)
        assert torch.allclose(loss, F.cross_entropy(logits, label), **CLOSE)
    params["text.1"] = torch.zeros(2, 64)
    assert not torch.allclose(straight.ivlp(tiny, params, NAMES, images, label)[0], logits, atol=1e-2)


def test_maple_is_independent_prompts_that_are_mapped(tiny, images, label):
    params = learnable("maple", length=2, depth=4, std=0.1)
    own = {"ctx": params["ctx"], "vision.0": params["ctx"] @ params["proj.weight"].T + params["proj.bias"]}
    for i in range(3):
        deep, name = params[f"compound_prompts_text.{i}"], f"compound_prompt_projections.{i}"
        own[f"text.{i + 1}"] = deep
        own[f"vision.{i + 1}"] = deep @ params[f"{name}.weight"].T + params[f"{name}.bias"]
    found, expected = (m(tiny, p, NAMES, images, label) for m, p in ((straight.maple, params), (straight.ivlp, own)))
    assert torch.allclose(found[0], expected[0], **CLOSE) and torch.allclose(found[1], expected[1], **CLOSE)


def test_vpt_is_ivlp_of_fixed_words(tiny, images, label):
    vision = learnable("vpt", length=3, depth=5)
    found = straight.vpt(tiny, vision, NAMES, images, label)
    expected = straight.ivlp(tiny, {**vision, "ctx": ctx(tiny)}, NAMES, images, label)
    assert torch.allclose(found[0], expected[0], **CLOSE) and torch.allclose(found[1], expected[1], **CLOSE)
    assert torch.allclose(straight.vpt(tiny, {}, NAMES, images, label)[0], zero_shot(tiny, images), **CLOSE)


def test_promptsrc_of_no_change_has_no_terms_but_the_cross_entropy(tiny, images, label):
    logits, loss = straight.promptsrc(tiny, {"ctx": ctx(tiny)}, NAMES, images, label)
    assert torch.allclose(logits, zero_shot(tiny, images), **CLOSE)
    assert torch.allclose(loss, F.cross_entropy(logits, label), **CLOSE)


def test_promptsrc_s_terms(tiny, images, label):
    params = learnable("promptsrc", depth=3, std=0.1)
    templates = ["a photo of a {}.", "the big {} in a video game."]
    logits, loss = straight.promptsrc(tiny, params, NAMES, images, label, templates)
    f, t = (F.normalize(x, dim=1) for x in straight.ivlp_features(tiny, params, NAMES, images))
    tokens = [tiny.tokenize([text.format(n.replace("_", " ")) for n in NAMES]) for text in templates]
    t0 = F.normalize((tiny.encode_text(tokens[0]) + tiny.encode_text(tokens[1])) / 2, dim=1)
    f0 = F.normalize(tiny.encode_image(images), dim=1)
    teacher = (tiny.logit_scale * f0 @ t0.T).softmax(1)
    kl = F.kl_div(logits.log_softmax(1), teacher, reduction="sum") / 12  # entries of the logits
    expected = F.cross_entropy(logits, label) + 25 * F.l1_loss(t, t0) + 10 * F.l1_loss(f, f0) + kl
    assert torch.allclose(logits, straight.ivlp(tiny, params, NAMES, images, label)[0], **CLOSE)
    assert torch.allclose(loss, expected, **CLOSE)


# Adapters, cache, low rank


def test_clip_adapter(tiny, images, label):
    nothing = {"fc.0.weight": torch.randn(32, 128), "fc.2.weight": torch.zeros(128, 32)}
    logits, loss = straight.clip_adapter(tiny, nothing, NAMES, images, label)
    assert torch.allclose(logits, zero_shot(tiny, images), **CLOSE)
    assert torch.allclose(loss, F.cross_entropy(logits, label), **CLOSE)
    params = learnable("clip_adapter", std=0.3)
    f = tiny.encode_image(images)
    a = ((f @ params["fc.0.weight"].T).clamp(min=0) @ params["fc.2.weight"].T).clamp(min=0)
    texts = straight.zero_shot_text(tiny, NAMES)
    expected = tiny.logit_scale * F.normalize(0.2 * a + 0.8 * f, dim=1) @ texts.T
    assert torch.allclose(straight.clip_adapter(tiny, params, NAMES, images, label)[0], expected, **CLOSE)


def test_tip_adapter(tiny, images, label):
    keys = {"keys": F.normalize(tiny.encode_image(images), dim=1).requires_grad_()}
    values = F.one_hot(label, 3).float()
    without = straight.tip_adapter(tiny, keys, NAMES, images, values, alpha=0.0)
    assert torch.allclose(without, zero_shot(tiny, images, scale=100.0), **CLOSE)
    sharp = straight.tip_adapter(tiny, keys, NAMES, images, values, alpha=2.0, beta=1e6)  # a key meets itself alone
    assert torch.allclose(sharp, without + 2 * values, atol=0.5)
    logits, loss = straight.tip_adapter_f(tiny, keys, NAMES, images, label, values, alpha=3.0, beta=1.5)
    affinity = keys["keys"].detach() @ keys["keys"].detach().T
    expected = without.detach() + 3 * (1.5 * affinity - 1.5).exp() @ values
    assert torch.allclose(logits, expected, **CLOSE)
    assert torch.autograd.grad(loss, keys["keys"])[0].abs().sum() > 0


def test_clip_lora_is_the_merged_model(tiny, images, label):
    start = learnable("clip_lora", length=2)
    start = {name: torch.zeros_like(p) if name.endswith(".B") else p for name, p in start.items()}
    logits, loss = straight.clip_lora(tiny, start, NAMES, images, label)
    assert torch.allclose(logits, zero_shot(tiny, images, scale=100.0), **CLOSE)
    assert torch.allclose(loss, F.cross_entropy(logits, label), **CLOSE)
    params, merged = learnable("clip_lora", length=2, std=0.2), copy.deepcopy(tiny)
    for name in (n.removesuffix(".A") for n in params if n.endswith(".A")):
        tower, block, projection = name.split(".")
        blocks = (merged.model if tower == "text" else merged.model.visual).transformer.resblocks
        weight = blocks[int(block)].attn.in_proj_weight
        width, place = weight.shape[1], "qkv".index(projection)
        update = params[f"{name}.B"].detach() @ params[f"{name}.A"].detach() / math.sqrt(2)
        weight.data[place * width : (place + 1) * width] += update
    found = straight.clip_lora(tiny, params, NAMES, images, label)[0]
    assert torch.allclose(found, zero_shot(merged, images, scale=100.0), atol=1e-3)
    assert not torch.allclose(found, logits, atol=0.1)


# Names and counts


@pytest.mark.parametrize(
    ("method", "sizes", "count"),
    [
        ("coop", {"length": 16}, 8192),
        ("cocoop", {}, 35_360),
        ("kgcoop", {}, 2048),
        ("proda", {"length": (32, 16)}, 262_144),
        ("maple", {"length": 2}, 3_555_072),
        ("ivlp", {"length": 2, "depth": 12}, 30_720),
        ("vpt", {"length": 8, "depth": 12}, 73_728),
        ("promptsrc", {}, 46_080),
        ("tcp", {}, 331_904),
        ("clip_adapter", {}, 131_072),
        ("clip_lora", {"length": 2}, 184_320),
    ],
)
def test_learnable_counts_of_vit_b_16(method, sizes, count):
    assert sum(math.prod(shape) for shape in straight.shapes(method, **sizes).values()) == count


@pytest.mark.parametrize(
    ("method", "sizes"),
    [
        ("coop", {}),
        ("cocoop", {}),
        ("kgcoop", {}),
        ("proda", {"length": (4, 4)}),
        ("maple", {"length": 2, "depth": 4}),
        ("ivlp", {"length": 2, "depth": 4}),
        ("vpt", {"length": 2, "depth": 5}),
        ("promptsrc", {"depth": 4}),
        ("tcp", {}),
        ("clip_adapter", {}),
        ("clip_lora", {"length": 2}),
    ],
)
def test_every_named_tensor_learns_and_clip_does_not(tiny, images, label, method, sizes):
    params = learnable(method, std=0.1, **sizes)
    function = getattr(straight, method)
    extra = {"block": 2} if "block" in inspect.signature(function).parameters else {}
    logits, loss = function(tiny, params, NAMES, images, label, **extra)
    assert logits.shape == (4, 3) and loss.shape == ()
    for name, gradient in zip(params, torch.autograd.grad(loss, list(params.values())), strict=True):
        assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0, name
    assert not any(p.requires_grad for p in tiny.parameters())
