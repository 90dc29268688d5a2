"""ImageNet's own archives, which only its website's users can download, brought into class folders."""

import os
import shutil
import tempfile

from tqdm import tqdm

from ..files import read_lines
from .download import DAMAGED, DownloadError, UnpackError, checksum, tar_members, unpack
from .matfile import read_mat

ARCHIVES = {
    "train": ("ILSVRC2012_img_train.tar", "1d675b47d978889d74fa0da5fadfb00e"),
    "val": ("ILSVRC2012_img_val.tar", "29b22e2961454d5413ddabcf34fc5622"),
    "devkit": ("ILSVRC2012_devkit_t12.tar.gz", "fa75699e90414af021442c21a62c3abf"),
}


def unpack_imagenet(folder: str, scratch_dir: str) -> None:
    """Unpack what of the three archives lies in `folder` into ``images/train`` and ``images/val``.

    Args:
        folder: the set's folder.
        scratch_dir: a folder on the same disk for unfinished work.

    Raises:
        DownloadError: an archive is not the published one.
        UnpackError: an archive is damaged.
        OSError: the disk is full or cannot be written to.
    """
    paths = {}
    for key, (name, md5) in ARCHIVES.items():
        path = os.path.join(folder, name)
        done = key != "devkit" and os.path.exists(os.path.join(folder, "images", key))
        if os.path.isfile(path) and not done:
            if checksum(path, "md5") != md5:
                raise DownloadError(f"{path} is not the published file (its MD5 differs).")
            paths[key] = path
    os.makedirs(os.path.join(folder, "images"), exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unpack-", dir=scratch_dir) as scratch:
        if "train" in paths:
            _unpack_train(paths["train"], scratch)
            os.replace(os.path.join(scratch, "train"), os.path.join(folder, "images", "train"))
        if "val" in paths and "devkit" in paths:
            _unpack_val(paths["val"], paths["devkit"], scratch)
            os.replace(os.path.join(scratch, "val"), os.path.join(folder, "images", "val"))
        elif "val" in paths:
            print(f"  {ARCHIVES['devkit'][0]} is needed too: it says which class each validation image has.")


def _unpack_train(archive: str, scratch: str) -> None:
    """One archive of 1,000 archives, each of one class; taken one by one, as all of them would double the space."""
    try:
        with tqdm(total=os.path.getsize(archive), unit="B", unit_scale=True, desc="Unpacking train") as bar:
            for name, _, source in tar_members(archive, bar):
                if source is None or not name.endswith(".tar"):
                    continue
                inner = os.path.join(scratch, os.path.basename(name))
                with source, open(inner, "wb") as f:
                    shutil.copyfileobj(source, f)
                unpack(inner, os.path.join(scratch, "train", os.path.basename(name).removesuffix(".tar")), bar=False)
                os.remove(inner)
    except DAMAGED as e:
        raise UnpackError(f"{archive} is damaged ({e}).") from e


def _unpack_val(archive: str, devkit: str, scratch: str) -> None:
    """50,000 images in one folder; the devkit has the class number of each, and the classes' folder names."""
    unpack(devkit, os.path.join(scratch, "devkit"))
    data = os.path.join(scratch, "devkit", "ILSVRC2012_devkit_t12", "data")
    synsets = read_mat(os.path.join(data, "meta.mat"))["synsets"]
    wnids = {int(s["ILSVRC2012_ID"][0]): s["WNID"] for s in synsets if not s["num_children"][0]}
    numbers = [int(line) for line in read_lines(os.path.join(data, "ILSVRC2012_validation_ground_truth.txt"))]
    unpack(archive, os.path.join(scratch, "flat"))
    images = sorted(os.listdir(os.path.join(scratch, "flat")))
    if len(images) != len(numbers):
        raise UnpackError(f"{archive} holds {len(images)} images, the devkit names {len(numbers)}.")
    for image, number in zip(images, numbers, strict=True):
        target = os.path.join(scratch, "val", wnids[number])
        os.makedirs(target, exist_ok=True)
        shutil.move(os.path.join(scratch, "flat", image), target)
