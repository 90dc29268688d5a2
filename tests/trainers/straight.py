"""Published prompt-learning methods, written down straight on open_clip's CLIP: what the fast trainers must agree with.

Plain on purpose: rows of full context length, every block for every class, one class a row, fp32, eval mode. Each
method is a function of named tensors, class names, images and labels, and gives the logits and the loss of a training
step. Where a paper and its authors' code differ, the code is followed and the docstring says so; the casts to half of
the released codes are left out.

B images, C classes, L context length, D text width, Dv image width, E embedding, M context tokens, P prompts, N keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Params = dict[str, Tensor]  # learnable tensors by their published names, or those named in the docstring
Replace = dict[int, tuple[slice, Tensor]]  # before this block, these positions become [C or 1, n, D]
LowRank = dict[int, dict[str, Tensor]]  # in this block, added to the weight of q, k, v or o: [width, width]

A_PHOTO = "a photo of a {}."


# ---------------------------------------------------------------------------------------------------------- towers


def run_block(block, x: Tensor, mask: Tensor | None = None, updates: dict[str, Tensor] | None = None) -> Tensor:
    """x + attention(ln_1 x), then x + mlp(ln_2 x); with `updates`, attention by projections of its own.

    Args:
        block: A residual attention block of open_clip's.
        x: [N, L, width].
        mask: Added to the attention scores, [L, L].
        updates: See `LowRank`.
    """
    y = block.ln_1(x)
    if updates:
        y = attention(block.attn, y, mask, updates)
    else:
        y = block.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
    x = x + y
    return x + block.mlp(block.ln_2(x))


def attention(attn, x: Tensor, mask: Tensor | None, updates: dict[str, Tensor]) -> Tensor:
    """softmax(q k^T / sqrt(width of a head) + mask) v, then o; each of the four is (W + update) x + bias."""
    rows, length, width = x.shape
    weights = dict(zip("qkv", attn.in_proj_weight.chunk(3), strict=True), o=attn.out_proj.weight)
    biases = dict(zip("qkv", attn.in_proj_bias.chunk(3), strict=True), o=attn.out_proj.bias)

    def project(name: str, value: Tensor) -> Tensor:
        weight = weights[name]
        return F.linear(value, weight + updates[name] if name in updates else weight, biases[name])

    def heads(value: Tensor) -> Tensor:
        return value.reshape(rows, length, attn.num_heads, -1).transpose(1, 2)

    q, k, v = (heads(project(name, x)) for name in "qkv")
    scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores + mask
    return project("o", (scores.softmax(-1) @ v).transpose(1, 2).reshape(rows, length, width))


def text_features(
    backbone, rows: Tensor, eot: Tensor, replace: Replace | None = None, low_rank: LowRank | None = None
) -> Tensor:
    """Features of rows of token embeddings, [N, E], not normalised.

    Args:
        backbone: A `clip.FrozenCLIP`.
        rows: [N, L, D], without positions.
        eot: [N], where each row's end token stands.
        replace: Tokens that take the place of others inside the tower.
        low_rank: Updates of the attention weights.
    """
    model = backbone.model
    x = rows + model.positional_embedding
    for i, block in enumerate(model.transformer.resblocks):
        if replace and i in replace:
            where, values = replace[i]
            x = torch.cat([x[:, : where.start], values.expand(len(x), -1, -1), x[:, where.stop :]], dim=1)
        x = run_block(block, x, model.attn_mask, (low_rank or {}).get(i))
    x = model.ln_final(x)
    return x[torch.arange(len(x), device=x.device), eot] @ model.text_projection


def image_features(backbone, images: Tensor, tokens: Sequence[Tensor] = (), low_rank: LowRank | None = None) -> Tensor:
    """Features of images, [B, E], not normalised.

    Args:
        backbone: A `clip.FrozenCLIP` with a ViT.
        images: [B, 3, H, W].
        tokens: Prompts, [n, Dv] each: the first stands after the patches, with no position, from before ln_pre on; the
            j-th takes its place before block j. What the last one has become goes on through the later blocks.
        low_rank: Updates of the attention weights.
    """
    visual = backbone.model.visual
    x = visual.conv1(images).flatten(2).transpose(1, 2)  # [B, patches, Dv]
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1) + visual.positional_embedding
    if tokens:
        x = torch.cat([x, tokens[0].expand(len(x), -1, -1)], dim=1)
    x = visual.ln_pre(x)
    for j, block in enumerate(visual.transformer.resblocks):
        if 0 < j < len(tokens):
            x = torch.cat([x[:, : -len(tokens[j])], tokens[j].expand(len(x), -1, -1)], dim=1)
        x = run_block(block, x, updates=(low_rank or {}).get(j))
    return visual.ln_post(x[:, 0]) @ visual.proj


# ------------------------------------------------------------------------------------------------ what methods share


def unit(x: Tensor) -> Tensor:
    """x / |x| along the last dimension."""
    return x / x.norm(dim=-1, keepdim=True)


def spaced(classnames: Sequence[str]) -> list[str]:
    """Class names with spaces for underscores."""
    return [name.replace("_", " ") for name in classnames]


def filler(length: int, words: str = "") -> str:
    """The template of a context of this length: X for each token, the words in the last places, the name, a stop."""
    places = ["X"] * (length - len(words.split())) + words.split()
    return " ".join([*places, "{}."])


def embed(backbone, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token embeddings [N, L, D] and the places of the end tokens [N]."""
    ids = backbone.tokenize(list(texts)).to(backbone.model.positional_embedding.device)
    return backbone.model.token_embedding(ids), ids.argmax(dim=1)


def words_context(backbone, words: str, length: int) -> Tensor:
    """The first `length` token embeddings of some words, [length, D]: a context's initial value."""
    return embed(backbone, [words])[0][0, 1 : 1 + length].detach().clone()


def zero_shot_text(backbone, classnames: Sequence[str], template: str = A_PHOTO) -> Tensor:
    """Normalised features of one template, [C, E], without gradient."""
    with torch.no_grad():
        return unit(text_features(backbone, *embed(backbone, [template.format(c) for c in spaced(classnames)])))


def zero_shot_images(backbone, images: Tensor) -> Tensor:
    """Normalised features of the frozen image tower, [B, E], without gradient."""
    with torch.no_grad():
        return unit(image_features(backbone, images))


def prompt_rows(
    backbone, classnames: Sequence[str], ctx: Tensor, template: str | None = None, position: str = "end"
) -> tuple[Tensor, Tensor]:
    """Rows [C, L, D] with the context in place of the template's first M tokens, and the places of the end tokens.

    end: SOT ctx name rest; middle: SOT ctx[:M/2] name ctx[M/2:] rest; front: SOT name ctx rest. The length of a name
    is that of its tokens alone; what else the template says beyond M tokens stands before the name (in end) or after.

    Args:
        backbone: A `clip.FrozenCLIP`.
        classnames: C names.
        ctx: [M, D] or [C, M, D].
        template: Text of a class; its first M tokens are dropped. None: M times X, the name, a full stop.
        position: Where the name stands, seen from the context: end, middle or front.
    """
    length = ctx.shape[-2]
    texts = [(template or filler(length)).format(name) for name in spaced(classnames)]
    whole, eot = embed(backbone, texts)
    names = embed(backbone, spaced(classnames))[1] - 1  # tokens of the name alone
    before = {"end": length, "middle": length // 2, "front": 0}[position]
    rows = []
    for own, row, name in zip(ctx.expand(len(texts), -1, -1), whole, names, strict=True):
        rest = row[1 + length :]
        rows.append(torch.cat([row[:1], own[:before], rest[:name], own[before:], rest[name:]]))
    return torch.stack(rows), eot


def cosine_logits(backbone, images: Tensor, texts: Tensor) -> Tensor:
    """logit scale x cosine of features, [B, C]."""
    return backbone.logit_scale * unit(images) @ unit(texts).T


def with_loss(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """The logits and their mean cross-entropy."""
    return logits, F.cross_entropy(logits, label)


def distance(texts: Tensor, teacher: Tensor) -> Tensor:
    """1 - mean over classes of cos(text, teacher)."""
    return 1 - F.cosine_similarity(texts, teacher, dim=1, eps=1e-7).mean()


# ----------------------------------------------------------------------------------------------------- text prompts


def coop(backbone, params: Params, classnames, images, label, position="end", template=None):
    """CoOp (Zhou et al., IJCV 2022): p(y | x) = softmax_y(s cos(f(x), g([V1 ... VM, name of y]))).

    params: ctx [M, D], or [C, M, D] for one context a class.
    """
    texts = text_features(backbone, *prompt_rows(backbone, classnames, params["ctx"], template, position))
    return with_loss(cosine_logits(backbone, zero_shot_images(backbone, images), texts), label)


def cocoop(backbone, params: Params, classnames, images, label):
    """CoCoOp (Zhou et al., CVPR 2022): v_m(x) = v_m + h(x), h = linear2(relu(linear1(f(x) / |f(x)|))).

    params: ctx [M, D], meta_net.linear1.weight [h, E], .bias, meta_net.linear2.weight [D, h], .bias. In the code the
    network reads the normalised image feature, of which the paper says nothing.
    """
    images = zero_shot_images(backbone, images)
    hidden = F.relu(F.linear(images, params["meta_net.linear1.weight"], params["meta_net.linear1.bias"]))
    shifts = F.linear(hidden, params["meta_net.linear2.weight"], params["meta_net.linear2.bias"])
    logits = []
    for image, shift in zip(images, shifts, strict=True):
        texts = text_features(backbone, *prompt_rows(backbone, classnames, params["ctx"] + shift))
        logits.append(cosine_logits(backbone, image[None], texts)[0])
    return with_loss(torch.stack(logits), label)


def kgcoop(backbone, params: Params, classnames, images, label, teacher=A_PHOTO, weight=8.0):
    """KgCoOp (Yao et al., CVPR 2023): CE + weight x distance to the text features of hand-written prompts.

    params: ctx [M, D]. The paper's term is |g - g_clip|^2 of the features; the code's is 1 - cos, half of it where both
    are normalised.
    """
    texts = text_features(backbone, *prompt_rows(backbone, classnames, params["ctx"]))
    logits, ce = with_loss(cosine_logits(backbone, zero_shot_images(backbone, images), texts), label)
    return logits, ce + weight * distance(texts, zero_shot_text(backbone, classnames, teacher))


def lstm(x: Tensor, params: Params, ending: str) -> Tensor:
    """One direction of an LSTM (Hochreiter and Schmidhuber, 1997) over x [M, D]: c = f c + i g, h = o tanh(c)."""
    weights = [params[f"{kind}_{ending}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    hidden = cell = torch.zeros(weights[1].shape[1])
    outputs = []
    for vector in x:
        gates = weights[0] @ vector + weights[2] + weights[1] @ hidden + weights[3]
        i, f, g, o = gates.chunk(4)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        outputs.append(hidden)
    return torch.stack(outputs)


def pre(backbone, params: Params, classnames, images, label):
    """PRE (Pham Thi Minh et al., 2023): CoOp with the context u + [forward LSTM of u, backward LSTM of u].

    params: ctx [M, D], encoder_network.lstm_head.*, torch's names of a layer and of its reverse.
    """
    start = "encoder_network.lstm_head."
    parts = {name.removeprefix(start): tensor for name, tensor in params.items()}
    ctx = params["ctx"]
    encoded = torch.cat([lstm(ctx, parts, "l0"), lstm(ctx.flip(0), parts, "l0_reverse").flip(0)], dim=-1)
    return coop(backbone, {"ctx": ctx + encoded}, classnames, images, label)


def prograd_start(backbone, length: int, template=A_PHOTO) -> Tensor:
    """ProGrad's initial context, [M, D]: zeros, then the template's words in the last places.

    The code counts words, not tokens: of a template with a comma the last word does not find a place in the context.
    """
    words = template.replace(" {}.", "")
    count = len(words.split())
    own = words_context(backbone, words, count)
    return torch.cat([own.new_zeros(length - count, own.shape[1]), own])


def prograd(backbone, params: Params, classnames, images, label, template=A_PHOTO, lam=1.0):
    """ProGrad (Zhu et al., ICCV 2023): the gradient of CE without its part against the gradient of the KL term.

    With a = d CE, b = d KL, u = b / |b|, per tensor: a where <a, u> >= 0, else a - lam <a, u> u. KL at T = 1 is, in the
    code, the cross-entropy of softmax(zero-shot logits) and the student's, which has the same gradient. The words of
    the template that do not fit the context by the code's count (see `prograd_start`) stand before the name.

    params: ctx [M, D].

    Returns:
        Logits, (CE, KL) and the gradients by name.
    """
    student = filler(len(params["ctx"]), template.replace(" {}.", ""))
    logits, ce = coop(backbone, params, classnames, images, label, template=student)
    with torch.no_grad():
        texts = zero_shot_text(backbone, classnames, template)
        teacher = cosine_logits(backbone, image_features(backbone, images), texts).softmax(dim=1)
    kl = -(teacher * logits.log_softmax(dim=1)).sum(dim=1).mean()
    tensors = list(params.values())
    of_ce = torch.autograd.grad(ce, tensors, retain_graph=True)
    of_kl = torch.autograd.grad(kl, tensors, retain_graph=True)
    gradients = {}
    for name, a, b in zip(params, of_ce, of_kl, strict=True):
        direction = b / b.norm()
        along = (a * direction).sum()
        gradients[name] = a - lam * along * direction if along < 0 else a
    return logits, (ce, kl), gradients


def proda_positions(prompts: int) -> list[str]:
    """A quarter of the prompts in front, a quarter in the middle, half at the end; a single one at the end."""
    if prompts == 1:
        return ["end"]
    return ["front"] * (prompts // 4) + ["middle"] * (prompts // 4) + ["end"] * (prompts // 2)


def proda_texts(backbone, ctx: Tensor, classnames, positions: Sequence[str]) -> Tensor:
    """Normalised features of each class with each prompt, [C, P, E]."""
    texts = []
    for own, position in zip(ctx, positions, strict=True):
        texts.append(unit(text_features(backbone, *prompt_rows(backbone, classnames, own, position=position))))
    return torch.stack(texts, dim=1)


def proda(backbone, params: Params, classnames, images, label, chosen=None, positions=None, alpha=0.1):
    """ProDA (Lu et al., CVPR 2022): the Gaussian's bound of the CE, and prompts that differ without a class.

    With w the normalised text features, mu_j their mean over prompts and Cov their covariance,
    logits_bj = s <f_b, mu_j> + s^2 / 2 f_b^T (Cov_yy + Cov_jj - 2 Cov_yj) f_b, where y is the label;
    loss = CE + alpha x mean over pairs p != q of |<g_p, g_q>|, g_p the normalised feature of prompt p with no name.
    In the code Cov is diagonal over feature dimensions and divided by P + 1, the mean is not normalised, g is taken of
    all prompts even where a step uses some, and ends as a row with the name at the end would.

    params: ctx [P, M, D]. chosen: The prompts of this step; None takes all. positions: One of each prompt.
    """
    ctx, scale = params["ctx"], backbone.logit_scale
    positions = positions or proda_positions(len(ctx))
    chosen = range(len(ctx)) if chosen is None else chosen
    texts = proda_texts(backbone, ctx[list(chosen)], classnames, [positions[p] for p in chosen])
    images = zero_shot_images(backbone, images)
    mean = texts.mean(dim=1)
    centred = texts - mean[:, None]
    covariance = torch.einsum("ipe,jpe->ije", centred, centred) / (texts.shape[1] + 1)  # [C, C, E]
    spread = torch.einsum("be,ije->bij", images**2, covariance)  # [B, C, C]
    each = torch.arange(len(label), device=label.device)
    own = spread[each, label, label][:, None]
    others = spread.diagonal(dim1=1, dim2=2)
    variance = own + others - 2 * spread[each, label]
    logits, ce = with_loss(scale * images @ mean.T + scale**2 / 2 * variance, label)

    whole, eot = embed(backbone, [filler(ctx.shape[1]).replace(" {}", "")])
    rows = [torch.cat([whole[0, :1], own, whole[0, 1 + len(own) :]]) for own in ctx]
    nameless = unit(text_features(backbone, torch.stack(rows), eot.expand(len(rows))))
    apart = ~torch.eye(len(rows), dtype=torch.bool, device=nameless.device)
    return logits, ce + alpha * (nameless @ nameless.T)[apart].abs().mean()


def proda_test(backbone, params: Params, classnames, images, positions=None):
    """ProDA's logits of a test: scale x <f, mean of the normalised text features>, the mean as it is."""
    positions = positions or proda_positions(len(params["ctx"]))
    mean = proda_texts(backbone, params["ctx"], classnames, positions).mean(dim=1)
    return backbone.logit_scale * zero_shot_images(backbone, images) @ mean.T


def tcp(backbone, params: Params, classnames, images, label, template=None, teacher=A_PHOTO, block=8, weight=8.0):
    """TCP (Yao et al., CVPR 2024): class-aware prompts T(g_clip) put into the text tower; CE + weight x distance.

    T = linear2(quick_gelu(linear1(g_clip / |g_clip|))), read as [C, 4, D]; it takes the places 1 to 4 before one block.
    In the code the block is the ninth and the weight 8.0, whatever the config says; student and teacher have templates
    of their own.

    params: ctx [4, D], meta_net.linear1.weight [h, E], .bias, meta_net.linear2.weight [4 D, h], .bias. template: the
    student's; its first four tokens are dropped. None: X X X X, the name, a full stop.
    """
    fixed = zero_shot_text(backbone, classnames, teacher)
    hidden = F.linear(fixed, params["meta_net.linear1.weight"], params["meta_net.linear1.bias"])
    hidden = hidden * torch.sigmoid(1.702 * hidden)
    prompts = F.linear(hidden, params["meta_net.linear2.weight"], params["meta_net.linear2.bias"])
    prompts = prompts.reshape(len(fixed), -1, params["ctx"].shape[1])
    rows, eot = prompt_rows(backbone, classnames, params["ctx"], template)
    texts = text_features(backbone, rows, eot, {block: (slice(1, 1 + prompts.shape[1]), prompts)})
    logits, ce = with_loss(cosine_logits(backbone, zero_shot_images(backbone, images), texts), label)
    return logits, ce + weight * distance(texts, fixed)


# --------------------------------------------------------------------------------------------- prompts in both towers


def numbered(params: Params, prefix: str) -> dict[int, Tensor]:
    """The tensors named prefix.0, prefix.1 and so on, by number."""
    return {int(name.removeprefix(prefix + ".")): p for name, p in params.items() if name.startswith(prefix + ".")}


def deep_text(backbone, ctx: Tensor, classnames, deep: dict[int, Tensor]) -> Tensor:
    """Text features where block i sees deep[i] [M, D] at places 1 to M; ctx [M, D] in front of the first block.

    Contexts of up to four tokens stand for the first words of "a photo of a"; the other words stay where they are.
    """
    length = len(ctx)
    rows, eot = prompt_rows(backbone, classnames, ctx, A_PHOTO if length <= 4 else None)
    return text_features(backbone, rows, eot, {i: (slice(1, 1 + length), value[None]) for i, value in deep.items()})


def maple(backbone, params: Params, classnames, images, label):
    """MaPLe (Khattak et al., CVPR 2023): text prompts P_i in both towers, in the image's as F_i(P_i), F_i linear.

    params: ctx [n, D] and proj.weight [Dv, D], .bias for the first block; compound_prompts_text.{i} [n, D] and
    compound_prompt_projections.{i}.weight [Dv, D], .bias for block i + 1, i from 0.
    """
    deep = numbered(params, "compound_prompts_text")
    tokens = [F.linear(params["ctx"], params["proj.weight"], params["proj.bias"])]
    for i in sorted(deep):
        name = f"compound_prompt_projections.{i}"
        tokens.append(F.linear(deep[i], params[f"{name}.weight"], params[f"{name}.bias"]))
    texts = deep_text(backbone, params["ctx"], classnames, {i + 1: value for i, value in deep.items()})
    return with_loss(cosine_logits(backbone, image_features(backbone, images, tokens), texts), label)


def ivlp_features(backbone, params: Params, classnames, images) -> tuple[Tensor, Tensor]:
    """Image features [B, E] and text features [C, E] of independent prompts; see `ivlp` for the names."""
    vision = numbered(params, "vision")
    texts = deep_text(backbone, params["ctx"], classnames, numbered(params, "text"))
    return image_features(backbone, images, [vision[i] for i in sorted(vision)]), texts


def ivlp(backbone, params: Params, classnames, images, label):
    """Independent vision-language prompts (the baseline of the MaPLe paper): own tokens in each block of each tower.

    params: ctx [n, D] and text.{i} [n, D] for block i from 1; vision.{i} [m, Dv] for block i from 0, or none.
    """
    return with_loss(cosine_logits(backbone, *ivlp_features(backbone, params, classnames, images)), label)


def vpt(backbone, params: Params, classnames, images, label):
    """VPT (Jia et al., ECCV 2022) on CLIP, as in MaPLe's code: image prompts alone, text of one template for all sets.

    params: vision.{i} [m, Dv] for block i from 0.
    """
    vision = numbered(params, "vision")
    images = image_features(backbone, images, [vision[i] for i in sorted(vision)])
    return with_loss(cosine_logits(backbone, images, zero_shot_text(backbone, classnames)), label)


def promptsrc(
    backbone,
    params: Params,
    classnames,
    images,
    label,
    templates=(A_PHOTO,),
    text_weight=25.0,
    image_weight=10.0,
    kl_weight=1.0,
):
    """PromptSRC (Khattak et al., ICCV 2023): CE + 25 L1(g, g0) + 10 L1(f, f0) + KL(softmax(q0) || softmax(q)).

    Features g, f, g0, f0 are normalised, 0 marks the frozen CLIP, q are logits. In the code both L1 terms are means
    over all elements, KL is the sum divided by B x C, and g0 is the mean of unnormalised features over the templates,
    normalised after. The average over epochs is no part of a step.

    params: As for `ivlp`.
    """
    images_own, texts = (unit(x) for x in ivlp_features(backbone, params, classnames, images))
    logits, ce = with_loss(backbone.logit_scale * images_own @ texts.T, label)
    with torch.no_grad():
        each = [text_features(backbone, *embed(backbone, [t.format(c) for c in spaced(classnames)])) for t in templates]
        fixed = unit(torch.stack(each).mean(dim=0))
        images_fixed = zero_shot_images(backbone, images)
        target = (backbone.logit_scale * images_fixed @ fixed.T).log_softmax(dim=1)
    kl = (target.exp() * (target - logits.log_softmax(dim=1))).sum() / logits.numel()
    text_term, image_term = (texts - fixed).abs().mean(), (images_own - images_fixed).abs().mean()
    return logits, ce + text_weight * text_term + image_weight * image_term + kl_weight * kl


# ------------------------------------------------------------------------------------------ adapters, cache, low rank


def clip_adapter(backbone, params: Params, classnames, images, label, template=A_PHOTO, ratio=0.2):
    """CLIP-Adapter (Gao et al., IJCV 2024): f' = ratio relu(W2 relu(W1 f)) + (1 - ratio) f on the unnormalised feature.

    params: fc.0.weight [E / 4, E], fc.2.weight [E, E / 4], no biases. The code has the image's adapter alone and the
    ratio 0.2 for every set.
    """
    with torch.no_grad():
        feature = image_features(backbone, images)
    adapted = F.relu(F.linear(F.relu(F.linear(feature, params["fc.0.weight"])), params["fc.2.weight"]))
    mixed = ratio * adapted + (1 - ratio) * feature
    return with_loss(cosine_logits(backbone, mixed, zero_shot_text(backbone, classnames, template)), label)


def tip_adapter(backbone, params: Params, classnames, images, values, templates=(A_PHOTO,), alpha=1.0, beta=1.0):
    """Tip-Adapter (Zhang et al., ECCV 2022), the logits alone: 100 f W^T + alpha exp(-beta (1 - f K^T)) V.

    f is normalised; W is the normalised mean of the normalised text features of the templates. The scale is 100 in the
    code, whatever the model's.

    params: keys [N, E]. values: One-hot labels of the keys, [N, C].
    """
    texts = unit(torch.stack([zero_shot_text(backbone, classnames, t) for t in templates]).mean(dim=0))
    images = zero_shot_images(backbone, images)
    affinity = images @ params["keys"].T
    return 100.0 * images @ texts.T + alpha * torch.exp(-beta * (1 - affinity)) @ values


def tip_adapter_f(backbone, params: Params, classnames, images, label, values, **settings):
    """Tip-Adapter-F: the CE of `tip_adapter`, whose keys learn; they are not normalised again."""
    return with_loss(tip_adapter(backbone, params, classnames, images, values, **settings), label)


def low_rank_updates(params: Params, tower: str, alpha: float) -> LowRank:
    """alpha / sqrt(r) B A for each pair named {tower}.{block}.{q, k, v or o}.A [r, width] and .B [width, r]."""
    updates: LowRank = {}
    for name, a in params.items():
        if name.startswith(tower + ".") and name.endswith(".A"):
            _, block, projection, _ = name.split(".")
            product = params[name.removesuffix("A") + "B"] @ a
            updates.setdefault(int(block), {})[projection] = alpha / len(a) ** 0.5 * product
    return updates


def clip_lora(backbone, params: Params, classnames, images, label, template=A_PHOTO, alpha=1.0, scale=100.0):
    """CLIP-LoRA (Zanella and Ben Ayed, CVPR workshops 2024): W + gamma B A for q, k, v of every block of both towers.

    In the code gamma is alpha / sqrt(r), where LoRA itself has alpha / r; the logits' scale is 100 and the template one
    for all sets. Without the code's dropout of a quarter of the update's input, drawn apart for q, k and v.

    params: text.{block}.{q, k, v}.A [r, D], .B [D, r]; vision.{block}.{q, k, v}.A [r, Dv], .B [Dv, r].
    """
    rows, eot = embed(backbone, [template.format(c) for c in spaced(classnames)])
    texts = unit(text_features(backbone, rows, eot, low_rank=low_rank_updates(params, "text", alpha)))
    own = unit(image_features(backbone, images, low_rank=low_rank_updates(params, "vision", alpha)))
    return with_loss(scale * own @ texts.T, label)


# ---------------------------------------------------------------------------------------------------------- shapes


def shapes(method: str, text=512, vision=768, embed=512, blocks=(12, 12), length=4, depth=9, hidden=None):
    """Names and shapes of a method's learnable tensors; the sizes given here are ViT-B/16's.

    Args:
        method: The name of one of the functions above.
        text: D.
        vision: Dv.
        embed: E.
        blocks: Of the text and of the image tower, for clip_lora.
        length: Tokens of a prompt; for proda prompts and tokens; for clip_lora the rank.
        depth: Prompted blocks of each tower.
        hidden: Width of a meta net or an adapter; None takes the published share of E.
    """
    if method in ("coop", "kgcoop", "prograd"):
        return {"ctx": (length, text)}
    if method == "proda":
        return {"ctx": (*length, text)}
    if method in ("cocoop", "tcp"):
        hidden, out = (hidden or embed // 16, text) if method == "cocoop" else (hidden or embed // 4, length * text)
        first = {"meta_net.linear1.weight": (hidden, embed), "meta_net.linear1.bias": (hidden,)}
        return {
            "ctx": (length, text),
            **first,
            "meta_net.linear2.weight": (out, hidden),
            "meta_net.linear2.bias": (out,),
        }
    if method == "maple":
        found = {"ctx": (length, text), "proj.weight": (vision, text), "proj.bias": (vision,)}
        for i in range(depth - 1):
            found[f"compound_prompts_text.{i}"] = (length, text)
            found[f"compound_prompt_projections.{i}.weight"] = (vision, text)
            found[f"compound_prompt_projections.{i}.bias"] = (vision,)
        return found
    images = {f"vision.{i}": (length, vision) for i in range(depth)}
    if method == "vpt":
        return images
    if method in ("ivlp", "promptsrc"):
        return {"ctx": (length, text), **{f"text.{i}": (length, text) for i in range(1, depth)}, **images}
    if method == "clip_adapter":
        hidden = hidden or embed // 4
        return {"fc.0.weight": (hidden, embed), "fc.2.weight": (embed, hidden)}
    if method == "clip_lora":
        found = {}
        for tower, width, count in (("text", text, blocks[0]), ("vision", vision, blocks[1])):
            for name in (f"{tower}.{i}.{projection}" for i in range(count) for projection in "qkv"):
                found |= {f"{name}.A": (length, width), f"{name}.B": (width, length)}
        return found
    raise ValueError(f"no shapes of {method!r}")
