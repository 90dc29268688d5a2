"""Hand-written prompts: the sentences that CoOp and its successors put a class name into."""

from __future__ import annotations

from collections.abc import Sequence

import clip

# By data set; those of CoOp's zero-shot rows. Other data sets use DEFAULT_TEMPLATE.
TEMPLATES = {
    "OxfordPets": "a photo of a {}, a type of pet.",
    "OxfordFlowers": "a photo of a {}, a type of flower.",
    "FGVCAircraft": "a photo of a {}, a type of aircraft.",
    "DescribableTextures": "{} texture.",
    "EuroSAT": "a centered satellite photo of {}.",
    "Food101": "a photo of {}, a type of food.",
    "UCF101": "a photo of a person doing {}.",
}
DEFAULT_TEMPLATE = "a photo of a {}."

# What other methods' code has instead; the rest is as above.
KGCOOP = {**TEMPLATES, "DescribableTextures": "a photo of a {}, a type of texture."}
PROGRAD = {
    **TEMPLATES,
    "OxfordPets": "a type of pet, a photo of a {}.",
    "OxfordFlowers": "a type of flower, a photo of a {}.",
    "FGVCAircraft": "a type of aircraft, a photo of a {}.",
    "DescribableTextures": "a texture of {}.",
    "Food101": "a type of food, a photo of {}.",
}
TCP_TEACHER = {
    **KGCOOP,
    "FGVCAircraft": "a photo of an aircraft {}.",
    "Food101": "a photo of a {}, a type of food.",
}
# What follows TCP's four context tokens; data sets that are not here go on with the name and a full stop.
TCP_STUDENT = {
    "OxfordPets": "{}, a type of pet.",
    "OxfordFlowers": "{}, a type of flower.",
    "FGVCAircraft": "{}, a type of aircraft.",
    "DescribableTextures": "{} texture.",
    "StanfordCars": "{}, a type of car",
    "Food101": "{}, a type of food.",
    "UCF101": "person doing {}.",
}

# PromptSRC's teacher: 60 of CLIP's 80 sentences, for every data set.
_NOT_IN_PROMPTSRC = {
    *("a jpeg corrupted photo of the {}.", "a good photo of a {}.", "a plushie {}.", "a photo of the nice {}."),
    *("a photo of the small {}.", "a photo of the weird {}.", "the cartoon {}.", "art of the {}."),
    *("a drawing of the {}.", "a photo of the large {}.", "a black and white photo of a {}.", "the plushie {}."),
    *("a dark photo of a {}.", "itap of a {}.", "graffiti of the {}.", "a toy {}.", "itap of my {}."),
    *("a photo of a cool {}.", "a photo of a small {}.", "a tattoo of the {}."),
}

# Sets of sentences by name: CLIP's seven best for ImageNet, all its 80, and PromptSRC's.
ENSEMBLES = ("clip7", "clip80", "promptsrc")


def ensemble(name: str) -> tuple[str, ...]:
    """The sentences of one of `ENSEMBLES`."""
    if name == "promptsrc":
        return tuple(t for t in clip.imagenet_sentences(80) if t not in _NOT_IN_PROMPTSRC)
    return clip.imagenet_sentences(int(name.removeprefix("clip")))


def fill(template: str, classnames: Sequence[str]) -> list[str]:
    """One sentence a class.

    Args:
        template: A sentence with `{}` where the name belongs.
        classnames: C names; underscores are read as spaces, as CoOp does.
    """
    return [template.replace("{}", name.replace("_", " ")) for name in classnames]


def has_one_place(template: str) -> bool:
    """Whether a sentence has one `{}` and no other braces."""
    return template.count("{}") == 1 and template.count("{") == template.count("}") == 1
