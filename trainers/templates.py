"""Hand-written prompts: the sentences that CoOp and its successors put a class name into."""

from __future__ import annotations

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


def fill(template: str, classnames: list[str]) -> list[str]:
    """One sentence a class.

    Args:
        template: A sentence with `{}` where the name belongs.
        classnames: C names; underscores are read as spaces, as CoOp does.
    """
    return [template.replace("{}", name.replace("_", " ")) for name in classnames]


def has_one_place(template: str) -> bool:
    """Whether a sentence has one `{}` and no other braces."""
    return template.count("{}") == 1 and template.count("{") == template.count("}") == 1
