"""Say what images show, by a trained run or by zero-shot CLIP: the most probable classes of each image.

The probabilities are the softmax of the logits over the classes, as they are: raw, not calibrated.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from os.path import expanduser
from typing import IO, TYPE_CHECKING, Any

from dassl.startup import importing

if TYPE_CHECKING:  # heavy imports wait until the arguments are parsed, so that --help answers at once
    from trainers import LoadedRun, Prediction

EXAMPLE = """examples:
  python predict.py --model-dir output/mine photo.jpg folder/
  python predict.py photo.jpg --model-dir output/mine --classes "red fox" "snow leopard"
  python predict.py folder --backbone ViT-B/16 --classes-file names.txt --format csv --out answers.csv

Exit status: 0 all images were answered, 3 some could not be read (named on stderr; the rest is answered), 1 wrong input
or the work broke off, 2 words that are no options. Answers go to stdout or --out, everything else to stderr.
"""
NOTE = "probabilities: the raw softmax of the logits, not calibrated"
SOME_UNREAD = 3  # exit status; 1 and 2 are Python's own for errors
FORMATS = ("table", "json", "jsonl", "csv")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("images", nargs="*", metavar="IMAGE_OR_FOLDER", help="images, and folders with all below them")
    add("--model-dir", type=expanduser, help="folder of a run, of a test, or of an export")
    add("--load-epoch", type=int, help="epoch to load (default: the one that the run tested)")
    add("--trainer", help="without a run: a method that learns nothing (default ZeroshotCLIP)")
    add(
        "--backbone",
        help="without a run: CLIP by name, MODEL:TAG or file (default ViT-B/16); with one: where it is now",
    )
    add("--classes", nargs="+", metavar="NAME", help="class names in place of the run's; after the images")
    add("--classes-file", type=expanduser, help="the same from a file, one name a line")
    add("--top", type=int, default=5, help="classes of each image (default %(default)s)")
    add("--format", choices=FORMATS, default="table", help="of the answers (default %(default)s)")
    add("--out", type=expanduser, help="file for the answers, there when all are (default: stdout)")
    add("--explain", type=expanduser, metavar="FOLDER", help="draw a picture of each image's answer")
    add("--overwrite", action="store_true", help="replace the file --out, and pictures in --explain")
    add("--batch-size", type=int, help="images a batch (default: that of the run's tests)")
    add("--device", help="where to compute, e.g. cpu, cuda or cuda:1 (default: a GPU if there is one)")
    return parser


def check_args(args: argparse.Namespace) -> None:
    """Refuse what cannot be, before anything is loaded.

    Raises:
        ValueError: Arguments without effect or sense.
        FileNotFoundError: An image, folder or file that is not there.
        FileExistsError: The output file is there already.
    """
    if not args.images:
        after = f"; put them before --classes, which took {' '.join(args.classes)}" if args.classes else ""
        raise ValueError(f"no images given{after}")
    if args.classes and args.classes_file:
        raise ValueError("--classes and --classes-file both give the class names: take one of them")
    if args.model_dir and args.trainer:
        raise ValueError("--trainer has no effect beside --model-dir, whose run has its own")
    if args.load_epoch is not None and not args.model_dir:
        raise ValueError("--load-epoch has no effect without --model-dir")
    if not args.model_dir and not args.classes and not args.classes_file:
        raise ValueError("give --model-dir, or for zero-shot CLIP the class names: --classes or --classes-file")
    for flag, value in (("--top", args.top), ("--batch-size", args.batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"{flag} must be at least 1, got {value}")
    for name in args.classes or ():
        if os.path.isfile(name):
            raise ValueError(f"--classes takes all words after it as names, also the file {name}: put images before it")
    for path in args.images:
        if not os.path.exists(path):
            raise FileNotFoundError(f"no such image or folder: {path}")
    if args.out and os.path.isdir(args.out):
        raise IsADirectoryError(f"--out {args.out} is a folder; give a file")
    if args.out and os.path.exists(args.out) and not args.overwrite:
        raise FileExistsError(f"--out {args.out} exists; --overwrite replaces it")
    if args.explain and os.path.exists(args.explain) and not os.path.isdir(args.explain):
        raise NotADirectoryError(f"--explain {args.explain} is no folder")
    if args.explain and os.path.isdir(args.explain) and os.listdir(args.explain) and not args.overwrite:
        raise FileExistsError(f"--explain {args.explain} is not empty; --overwrite replaces pictures in it")
    if args.overwrite and not (args.out or args.explain):
        raise ValueError("--overwrite has no effect without --out or --explain")


def read_names(path: str) -> list[str]:
    """Class names of a file, one a line; blank lines do not count."""
    from dassl.utils import read_text

    names = [line.strip() for line in read_text(path).split("\n") if line.strip()]
    if not names:
        raise ValueError(f"--classes-file {path} holds no class names")
    return names


def image_paths(given: Sequence[str], failed: Callable[[OSError], None]) -> Iterator[str]:
    """The images of a command line, those of folders found as they are asked for."""
    from dassl.utils.images import find_images

    for path in given:
        yield from find_images(path, failed) if os.path.isdir(path) else [path]


def load(args: argparse.Namespace, names: list[str] | None) -> LoadedRun:
    """The model that the arguments ask for."""
    from trainers import load_run, zero_shot
    from trainers.loaded_run import checked_names

    if names is not None:
        checked_names(names)  # before the backbone is loaded
    if args.model_dir:
        return load_run(args.model_dir, args.device, args.load_epoch, args.backbone)
    assert names is not None
    return zero_shot(names, args.backbone or "ViT-B/16", args.trainer or "ZeroshotCLIP", args.device)


class Answers:
    """Writes answers one by one, so that no more than one is held.

    Args:
        file: Where to.
        form: One of `FORMATS`.
        about: What is told of the model, where the format has a place for it.
    """

    def __init__(self, file: IO[str], form: str, about: dict[str, Any]) -> None:
        self.file, self.form, self.count = file, form, 0
        self.table = csv.writer(file, lineterminator="\n")
        if form == "table":
            file.write(f"{NOTE}\n")
        elif form == "csv":
            self.table.writerow(["image", "rank", "class", "label", "raw_probability", "error"])
        elif form == "json":
            file.write(json.dumps({"note": NOTE, **about})[:-1] + ', "images": [')

    def add(self, path: str, answer: list[Prediction] | Exception) -> None:
        """An image with its classes, or with the error where it could not be read."""
        found, error = ([], str(answer)) if isinstance(answer, Exception) else (answer, "")
        rows = [(p.classname, p.label, float(f"{p.probability:.6g}")) for p in found]  # six digits: more is noise
        if self.form == "table":
            lines = [f"  {100 * p.probability:5.1f} %  {p.classname}" for p in found] or [f"  {error}"]
            self.file.write("\n".join([path, *lines, ""]))
        elif self.form == "csv":
            ranked = [[path, rank, *row, ""] for rank, row in enumerate(rows, 1)]
            self.table.writerows(ranked or [[path, "", "", "", "", error]])
        else:
            classes = [dict(zip(("class", "label", "raw_probability"), row, strict=True)) for row in rows]
            line = json.dumps({"image": path, **({"error": error} if error else {"classes": classes})})
            self.file.write(f"{line}\n" if self.form == "jsonl" else f"{',' * bool(self.count)}\n{line}")
        self.count += 1
        self.file.flush()  # a pipe gets answers as they come

    def end(self) -> None:
        """What closes the format."""
        if self.form == "json":
            self.file.write("\n]}\n")


def draw(run: LoadedRun, names: list[str] | None, path: str, place: int, args: argparse.Namespace) -> None:
    """The picture of an answer, called after its place among the answers and the beginning of the image's own name."""
    from dassl.utils import read_image
    from trainers.explain import MOST_CLASSES, explain

    file = f"{place:05d}_{os.path.splitext(os.path.basename(path))[0][:40]}.png"
    image = read_image(path, run.as_people_see)
    explain(run.trainer_for(names), image, os.path.join(args.explain, file), min(args.top, MOST_CLASSES))


def main(argv: Sequence[str] | None = None) -> int:
    """Predict from a command line.

    Args:
        argv: Arguments without the program's name; None takes sys.argv.

    Returns:
        The exit status: 0, or `SOME_UNREAD` where images could not be read.
    """
    args = build_parser().parse_intermixed_args(argv)
    check_args(args)

    with importing():
        from tqdm import tqdm

        import trainers  # noqa: F401  for `load`
        from dassl.utils.tools import open_atomically, progress

    names = read_names(args.classes_file) if args.classes_file else args.classes
    problems = 0

    def tell(what: object) -> None:
        nonlocal problems
        problems += 1
        tqdm.write(f"not read: {what}", file=sys.stderr)

    for folder in filter(os.path.isdir, args.images):  # before the backbone is loaded
        if next(image_paths([folder], lambda error: None), None) is None:
            raise ValueError(f"the folder {folder} holds no images that Pillow reads")
    run = load(args, names)
    model = run.trainer_for(names)  # wrong names show before the first image is read
    classes = len(model.classnames)
    about = {"model": args.model_dir, "trainer": type(model).__name__, "classes": classes, "backbone": model.clip.name}
    print(f"{about['trainer']} on {about['backbone']}, {classes} classes; {NOTE}", file=sys.stderr)
    # For the bar's end alone.
    total = sum(1 for _ in image_paths(args.images, lambda error: None)) if sys.stderr.isatty() else None
    output: AbstractContextManager[IO[str]] = open_atomically(args.out, "w") if args.out else nullcontext(sys.stdout)
    with output as file:
        answers = Answers(file, args.format, about)
        paths = image_paths(args.images, tell)
        found = run.stream(paths, names, args.top, args.batch_size)
        for image, answer in progress(found, "predicting", total=total, unit="image"):
            path = os.fsencode(str(image)).decode("utf-8", "replace")
            if isinstance(answer, Exception):
                tell(answer)
            with tqdm.external_write_mode(file):
                answers.add(path, answer)
            if args.explain and not isinstance(answer, Exception):
                draw(run, names, str(image), answers.count, args)
        answers.end()
    if problems:
        print(f"{problems} of what was given could not be read; {answers.count} images were seen", file=sys.stderr)
    return SOME_UNREAD if problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:  # as of `| head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"predict.py: {type(error).__name__}: {error}")
