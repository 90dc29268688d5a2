"""The recipe of the tiny CLIP that ships with the package: `python -m tools.pretrain_tiny`.

A ViT image tower and a causal text tower (CLIP's tokenizer, open_clip's model) learn from the rendered sets of
`datasets.rendered`, mostly in the `photo` domain and through captions that are often wrong or vague, as web captions
are. So the tiny CLIP knows photos well and sketches badly: the shift that prompt learning is there to close. The
images are rendered with seeds of their own and are none of the images of the data sets.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import dataclass
from itertools import product
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torchvision.transforms import v2

from clip.backbone import FrozenCLIP
from clip.load import TINY_DIR, load
from clip.tokenizer import EOT, tokenize
from dassl.utils import progress
from datasets.rendered.render import VOCABULARIES, render

TEMPLATES = {
    "photo": ("a photo of a {}.", "a {}.", "a picture of a {}.", "an image of a {}.", "this is a {}."),
    "sketch": ("a sketch of a {}.", "a drawing of a {}.", "a pencil sketch of a {}."),
    "painting": ("a painting of a {}.", "an oil painting of a {}.", "art of a {}."),
    "cartoon": ("a cartoon of a {}.", "a cartoon {}.", "a comic of a {}."),
}
VAGUE = ("a photo.", "a picture of something.", "an image.", "a thing.", "art.", "a drawing.")


@dataclass
class Recipe:
    """Everything that the weights depend on.

    Attributes:
        seed: Of rendering, captions, initial weights and batches.
        images: Rendered training images.
        shares: Share of each domain among them, summing to 1.
        wrong: Probability that a caption names another concept.
        vague: Probability that a caption names none.
        steps: Optimisation steps.
        batch_size: Images a step.
        lr: Peak learning rate (AdamW, cosine, 5 % warm-up).
        weight_decay: On weight matrices only.
        render_px: Side of the rendered images; random crops of `image_size` are taken from them.
    """

    seed: int = 0
    images: int = 40_000
    shares: tuple[tuple[str, float], ...] = (("photo", 0.62), ("painting", 0.14), ("cartoon", 0.10), ("sketch", 0.14))
    wrong: float = 0.1
    vague: float = 0.1
    steps: int = 2600
    batch_size: int = 192
    lr: float = 1.5e-3
    weight_decay: float = 0.05
    render_px: int = 68


def _render_one(job: tuple[str, str, str, int, str]) -> np.ndarray:
    dataset, concept, domain, size, seed = job
    return np.asarray(render(dataset, concept, domain, random.Random(seed), size), dtype=np.uint8)


def render_images(jobs: list[tuple[str, str, str, int, str]], description: str) -> torch.Tensor:
    """Render (data set, concept, domain, pixels, seed) jobs on all cores, with a progress bar; uint8 [N, 3, H, W]."""
    with Pool() as pool:
        images = list(progress(pool.imap(_render_one, jobs, chunksize=64), description, total=len(jobs)))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def caption(rng: random.Random, concept: str, others: list[str], domain: str, recipe: Recipe) -> str:
    """One caption of an image, wrong or vague with the recipe's probabilities."""
    draw = rng.random()
    if draw < recipe.vague:
        return rng.choice(VAGUE)
    if draw < recipe.vague + recipe.wrong:
        concept = rng.choice(others)
    return rng.choice(TEMPLATES[domain]).format(concept)


def contrastive_loss(image: torch.Tensor, text: torch.Tensor, owner: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """CLIP's symmetric loss where equal captions count as one: B images, U different captions.

    Args:
        image: [B, E], normalised.
        text: [U, E], normalised.
        owner: Long [B], the caption of each image.
        scale: Factor on cosines.

    Returns:
        Scalar.
    """
    logits = scale * image @ text.t()
    target = F.one_hot(owner, len(text)).float()
    to_image = -(logits.t().log_softmax(-1) * target.t()).sum(-1) / target.sum(0)
    return (F.cross_entropy(logits, owner) + to_image.mean()) / 2


@torch.no_grad()
def zero_shot(clip_model: FrozenCLIP, recipe: Recipe, per_class: int = 12) -> dict[str, dict[str, float]]:
    """Zero-shot accuracy in percent on fresh images, per data set and domain, prompt "a photo of a {}."."""
    prepare = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(clip_model.mean, clip_model.std)])
    table: dict[str, dict[str, float]] = {}
    for dataset, names in VOCABULARIES.items():
        text = F.normalize(clip_model.encode_text(clip_model.tokenize([f"a photo of a {n}." for n in names])))
        table[dataset] = {}
        for domain, _ in recipe.shares:
            jobs = [
                (dataset, name, domain, clip_model.image_size, f"pretrain-test/{dataset}/{domain}/{name}/{i}")
                for name, i in product(names, range(per_class))
            ]
            images = prepare(render_images(jobs, f"test images, {dataset} {domain}"))
            feats = torch.cat([F.normalize(clip_model.encode_image(x)) for x in images.split(256)])
            labels = torch.arange(len(names)).repeat_interleave(per_class)
            table[dataset][domain] = 100 * ((feats @ text.t()).argmax(-1) == labels).float().mean().item()
    return table


def _encode_text(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    # open_clip pads to the full context; captions here are short, and nothing after the end token matters.
    tokens = tokens[:, : int((tokens == EOT).nonzero()[:, 1].max()) + 1]
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    features: torch.Tensor = x[torch.arange(len(x)), tokens.argmax(-1)] @ model.text_projection
    return features


def pretrain(recipe: Recipe, out: Path, log_every: int = 500) -> dict[str, dict[str, float]]:
    """Render, train, test, and write `open_clip_model.safetensors` (fp16) and `training.json` into `out`.

    Args:
        recipe: See `Recipe`.
        out: Folder that holds `open_clip_config.json`.
        log_every: Steps between printed losses.

    Returns:
        The zero-shot table.
    """
    start = time.time()
    rng = random.Random(recipe.seed)
    torch.manual_seed(recipe.seed)
    pairs = [(dataset, name) for dataset, names in VOCABULARIES.items() for name in names]
    names = [name for _, name in pairs]
    jobs, domains = [], []
    for domain, share in recipe.shares:
        for i in range(round(share * recipe.images)):
            dataset, name = pairs[i % len(pairs)]
            jobs.append((dataset, name, domain, recipe.render_px, f"pretrain/{recipe.seed}/{domain}/{i}"))
            domains.append(domain)
    images = render_images(jobs, "rendering")
    # Captions are fixed per image, as on the web: a wrong one stays wrong.
    texts = [caption(rng, job[1], names, domain, recipe) for job, domain in zip(jobs, domains, strict=True)]
    captions = sorted(set(texts))
    owner = torch.tensor([captions.index(t) for t in texts])
    model = open_clip.create_model(f"local-dir:{out}", load_weights=False)
    tokens = tokenize(captions, model.context_length)

    decay = [p for p in model.parameters() if p.ndim >= 2 and p is not model.token_embedding.weight]
    rest = [p for p in model.parameters() if p.ndim < 2 or p is model.token_embedding.weight]
    groups = [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optim = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98))
    sched = torch.optim.lr_scheduler.OneCycleLR(
        optim, recipe.lr, total_steps=recipe.steps, pct_start=0.05, cycle_momentum=False
    )
    size = model.visual.image_size[0]
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (model.visual.image_mean, model.visual.image_std))
    model.train()
    for step in progress(range(recipe.steps), "pre-training"):
        pick = torch.randint(len(images), (recipe.batch_size,))
        top, left = (int(x) for x in torch.randint(recipe.render_px - size + 1, (2,)))
        x = images[pick, :, top : top + size, left : left + size].float().div_(255).sub_(mean).div_(std)
        if torch.rand(()) < 0.5:
            x = x.flip(-1)
        unique, local = torch.unique(owner[pick], return_inverse=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            image = model.encode_image(x)
            text = _encode_text(model, tokens[unique])
        loss = contrastive_loss(F.normalize(image.float()), F.normalize(text.float()), local, model.logit_scale.exp())
        optim.zero_grad()
        torch.autograd.backward(loss)
        optim.step()
        sched.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=float(np.log(100)))
        if (step + 1) % log_every == 0:
            print(f"step {step + 1}: loss {loss.item():.3f}, scale {model.logit_scale.exp().item():.1f}")

    state = {k: v.detach().half().contiguous() for k, v in model.state_dict().items()}
    save_file(state, str(out / "open_clip_model.safetensors"))
    table = zero_shot(load(str(out)), recipe)
    record = {"recipe": vars(recipe), "minutes": round((time.time() - start) / 60, 1), "zero_shot_pct": table}
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    for dataset, row in table.items():
        print(dataset, {domain: f"{accuracy:.1f}" for domain, accuracy in row.items()})
    print(f"took {record['minutes']} min, weights in {out}")
    return table


def main(argv: list[str] | None = None) -> None:
    """Command line: every field of `Recipe` that is worth trying, and the output folder."""
    parser = argparse.ArgumentParser(description="Pre-train the tiny CLIP on the rendered sets.")
    parser.add_argument("--out", type=Path, default=TINY_DIR, help="folder with open_clip_config.json")
    for field in ("seed", "images", "steps", "batch_size", "wrong", "vague", "lr", "weight_decay"):
        default = getattr(Recipe, field)
        parser.add_argument(f"--{field.replace('_', '-')}", type=type(default), default=default)
    usual = " ".join(f"{k}={v}" for k, v in Recipe.shares)
    parser.add_argument("--shares", default=usual, help='share of each domain, e.g. "photo=0.9 sketch=0.1"')
    args = vars(parser.parse_args(argv))
    shares = tuple((k, float(v)) for k, v in (pair.split("=") for pair in args.pop("shares").split()))
    out = args.pop("out")
    pretrain(Recipe(shares=shares, **args), out)


if __name__ == "__main__":
    main()
