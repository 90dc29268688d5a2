"""Show samples of a rendered data set: ``python -m datasets.rendered.contact_sheet out.png --dataset Shapes``."""

import argparse
from collections.abc import Sequence

from PIL import Image, ImageDraw

from ..shapes import image_rng
from .render import DOMAINS, VOCABULARIES, render

LABEL_PX, HEAD_PX = 84, 16


def contact_sheet(name: str, size: int = 64, per_domain: int = 2, columns: int = 2, seed: int = 0) -> Image.Image:
    """Draw samples of all classes (rows) in all domains (columns).

    Args:
        name: a key of `datasets.rendered.render.VOCABULARIES`.
        size: side of a sample in pixels.
        per_domain: samples of each class and domain.
        columns: how many columns of classes stand side by side.
        seed: seed of the pictures; 0 gives those of the data set (at another size).

    Returns:
        An RGB picture.
    """
    classes = list(VOCABULARIES[name])
    rows = -(-len(classes) // columns)
    width = LABEL_PX + len(DOMAINS) * per_domain * size
    sheet = Image.new("RGB", (columns * width, HEAD_PX + rows * size), "white")
    draw = ImageDraw.Draw(sheet)
    for k, class_name in enumerate(classes):
        left, top = k // rows * width, HEAD_PX + k % rows * size
        draw.text((left + 3, top + size // 2 - 5), class_name, fill="black")
        for j, domain in enumerate(DOMAINS):
            x = left + LABEL_PX + j * per_domain * size
            draw.text((x + 3, 2), domain, fill="black")
            for i in range(per_domain):
                rng = image_rng(name, class_name, domain, i, seed)
                sheet.paste(render(name, class_name, domain, rng, size), (x + i * size, top))
    return sheet


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Draw a contact sheet of a rendered data set.")
    parser.add_argument("out", help="picture to write, such as sheet.png")
    parser.add_argument("--dataset", default="Shapes", choices=list(VOCABULARIES))
    parser.add_argument("--size", type=int, default=64, help="side of a sample in pixels (default 64)")
    parser.add_argument("--per-domain", type=int, default=2, help="samples of each class and domain (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the pictures (default 0, the data set's)")
    args = parser.parse_args(argv)
    contact_sheet(args.dataset, args.size, args.per_domain, seed=args.seed).save(args.out)


if __name__ == "__main__":
    main()
