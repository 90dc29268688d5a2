"""`python -m datasets.prepare` against a server on the loopback interface, with small archives like the real ones."""

import base64
import errno
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from datasets import catalog, files, prepare
from datasets.fetch import download, imagenet_archives

SAMPLES = json.loads((Path(__file__).parent / "mat_samples.json").read_text())
REPO = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(download, "PAUSE_SEC", 0.0)


def tgz(files, mode="w:gz"):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def zipped(files):
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return raw.getvalue()


def md5(data):
    return hashlib.md5(data).hexdigest()


def png(seed):
    from PIL import Image

    raw = io.BytesIO()
    Image.new("RGB", (4, 4), (seed % 256, 0, 0)).save(raw, "PNG")
    return raw.getvalue()


def split(folder, classes=("a", "b"), n=10):
    """Images of `classes` and a split file over them."""
    images = {f"{folder}{c}/{i}.png": png(i) for c in classes for i in range(n)}
    rows = [[f"{c}/{i}.png", y, c] for y, c in enumerate(classes) for i in range(n)]
    return images, json.dumps({"train": rows[::2], "val": rows[1:2], "test": rows[3::2]}).encode()


@pytest.fixture
def run(tmp_path, web, capsys):
    """Run the command on a table; returns exit status, output and error output."""
    root = tmp_path / "data"

    def command(*args, table=None):
        if table is not None:
            (tmp_path / "sources.yaml").write_text(yaml.safe_dump(table))
        capsys.readouterr()
        status = prepare.main([*args, "--root", str(root), "--sources", str(tmp_path / "sources.yaml")])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    command.root = root
    return command


@pytest.fixture
def pets(web):
    """OxfordPets in the archives of its authors, and in the zip of a mirror."""
    images, split_file = split("images/")
    flat = {f"images/{name.replace('/', '_')[7:]}": data for name, data in images.items()}
    rows = json.loads(split_file)
    for part in rows.values():
        for row in part:
            row[0] = row[0].replace("/", "_")
    split_file = json.dumps(rows).encode()
    web.files["/pets/images.tar.gz"] = tgz({**flat, "images/._a_0.png": b"junk"})
    web.files["/pets/annotations.tar.gz"] = tgz({"annotations/trainval.txt": b"x", "annotations/test.txt": b"y"})
    web.files["/pets/split.json"] = split_file
    everything = {f"oxford_pets/{name}": data for name, data in flat.items()}
    everything |= {"oxford_pets/split_zhou_OxfordPets.json": split_file, "oxford_pets/annotations/test.txt": b"y"}
    web.files["/mirror/oxford_pets.zip"] = zipped(everything)

    def source(name, **options):
        return {"url": f"{web.url}/{name}", **options}

    mirror = source("mirror/oxford_pets.zip")
    return {
        "oxford_pets": {
            "size_gb": 0.8,
            "parts": [
                {"needs": ["images"],
                 "sources": [source("pets/images.tar.gz", md5=md5(web.files["/pets/images.tar.gz"])), mirror]},
                {"needs": ["annotations"], "sources": [source("pets/annotations.tar.gz"), mirror]},
                {"needs": ["split_zhou_OxfordPets.json"],
                 "sources": [source("pets/split.json", file="split_zhou_OxfordPets.json"), mirror]},
            ],
        }
    }  # fmt: skip


def read_pets(root, config):
    from datasets.oxford_pets import OxfordPets

    return OxfordPets(config(root))


class TestCommand:
    def test_gets_everything_and_then_nothing(self, run, pets, web, config):
        status, out, err = run("oxford_pets", table=pets)
        assert (status, err.count("missing")) == (0, 0)
        assert "ready; check it with" in out
        dataset = read_pets(run.root, config)
        assert (len(dataset.train_x), len(dataset.test)) == (10, 9)
        folder = run.root / "oxford_pets"
        assert sorted(p.name for p in folder.iterdir()) == ["annotations", "images", "split_zhou_OxfordPets.json"]
        assert not list(folder.rglob("._*"))
        assert "images.tar.gz: 100%" in err  # the progress bar
        asked = len(web.asked)
        status, out, _ = run("OxfordPets", "oxford_pets")
        assert (status, len(web.asked)) == (0, asked)
        assert "is there already" in out

    def test_broken_connections(self, run, pets, web, config, monkeypatch):
        monkeypatch.setattr(download, "PROGRESS_BYTES", 50)  # the archive itself has some hundreds
        web.cuts["/pets/images.tar.gz"] = [100, 50, 0, 200]
        assert run("oxford_pets", table=pets)[0] == 0
        assert len(read_pets(run.root, config).train_x) == 10
        assert not any("mirror" in path for path, _ in web.asked)

    def test_the_next_call_goes_on_after_a_kill(self, run, pets, web, config):
        """Half a download is completed, half an unpacking cleared away."""
        del pets["oxford_pets"]["parts"][0]["sources"][1]
        web.cuts["/pets/images.tar.gz"] = [100, 0, 0]
        status, _, err = run("oxford_pets", table=pets)
        assert (status, "the connection ended after 100 of" in err) == (1, True)
        leftover = run.root / "oxford_pets" / ".downloads" / "unpack-killed" / "images" / "1.png"
        leftover.parent.mkdir(parents=True)
        leftover.write_bytes(b"half")
        web.codes["/pets/images.tar.gz"] = [404]
        assert run("oxford_pets")[0] == 1
        assert not list(run.root.rglob("unpack-*"))
        web.asked.clear()
        assert run("oxford_pets")[0] == 0
        assert web.asked == [("/pets/images.tar.gz", "bytes=100-")]
        assert len(read_pets(run.root, config).train_x) == 10

    def test_wrong_checksum_goes_to_the_next_source(self, run, pets, web, config):
        pets["oxford_pets"]["parts"][0]["sources"][0]["md5"] = "0" * 32
        assert run("oxford_pets", table=pets)[0] == 0
        assert ("/mirror/oxford_pets.zip", "") in web.asked
        assert len(read_pets(run.root, config).train_x) == 10

    def test_wrong_checksum_everywhere(self, run, pets, web):
        for source in pets["oxford_pets"]["parts"][0]["sources"]:
            source["md5"] = "0" * 32
        status, _, err = run("oxford_pets", table=pets)
        assert status == 1
        assert f"{run.root}/oxford_pets/images is missing" in err
        assert err.count("published is 000") == 2
        assert "Not complete: oxford_pets" in err
        assert not (run.root / "oxford_pets" / "images").exists()

    def test_dead_links_are_all_named(self, run, pets, web):
        web.files.clear()
        pets["oxford_pets"]["manual"] = "Ask the authors, and put images into FOLDER."
        status, _, err = run("oxford_pets", table=pets)
        assert status == 1
        assert f"{web.url}/pets/images.tar.gz: the server says 404" in err
        assert f"{web.url}/mirror/oxford_pets.zip: the server says 404" in err
        assert f"put images into {run.root}/oxford_pets." in err

    def test_one_dead_part_and_a_second_run(self, run, pets, web):
        kept = web.files.pop("/pets/split.json"), web.files.pop("/mirror/oxford_pets.zip")
        status, _, err = run("oxford_pets", table=pets)
        assert status == 1
        assert "split_zhou_OxfordPets.json is missing" in err
        assert "images is missing" not in err
        web.files["/pets/split.json"] = kept[0]
        web.asked.clear()
        assert run("oxford_pets")[0] == 0
        assert {path for path, _ in web.asked} == {"/pets/split.json"}

    def test_split_out_of_the_mirrors_zip(self, run, pets, web):
        del web.files["/pets/split.json"]
        assert run("oxford_pets", table=pets)[0] == 0
        assert json.loads((run.root / "oxford_pets" / "split_zhou_OxfordPets.json").read_text())["train"]

    @pytest.mark.parametrize(("content", "kind"), [(b"<html>quota</html>", "text/html"), (b"Sorry!", "text/plain")])
    def test_error_message_in_place_of_a_split(self, run, pets, web, content, kind):
        web.files["/pets/split.json"], web.types["/pets/split.json"] = content, kind
        assert run("oxford_pets", table=pets)[0] == 0  # from the mirror
        del web.files["/mirror/oxford_pets.zip"]
        (run.root / "oxford_pets" / "split_zhou_OxfordPets.json").unlink()
        status, _, err = run("oxford_pets")
        assert status == 1
        assert "web page came instead" in err or "gave something else than split_zhou_OxfordPets.json" in err

    def test_damaged_archive_is_not_kept(self, run, pets, web):
        good = web.files["/pets/annotations.tar.gz"]
        web.files["/pets/annotations.tar.gz"] = good[: len(good) // 2]
        mirror = web.files.pop("/mirror/oxford_pets.zip")
        status, _, err = run("oxford_pets", table=pets)
        assert status == 1
        assert "annotations.tar.gz is damaged" in err
        web.files |= {"/pets/annotations.tar.gz": good, "/mirror/oxford_pets.zip": mirror}
        assert run("oxford_pets")[0] == 0

    def test_archive_that_leaves_the_folder(self, run, pets, web, tmp_path):
        web.files["/pets/annotations.tar.gz"] = tgz({"annotations/1": b"1", "annotations/../../../evil": b"2"})
        del web.files["/mirror/oxford_pets.zip"]
        status, _, err = run("oxford_pets", table=pets)
        assert status == 1
        assert "would leave the folder" in err
        assert not list(tmp_path.rglob("evil"))
        assert not (run.root / "oxford_pets" / "annotations").exists()

    @pytest.mark.parametrize("folder", [".part", "unpack-"])
    def test_full_disk(self, run, pets, monkeypatch, folder):
        """While downloading, and while unpacking."""

        def full(path, mode="r", **options):
            if folder in str(path) and "w" in mode and "b" in mode:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")
            return open(path, mode, **options)  # noqa: SIM115  the caller closes it

        with monkeypatch.context() as patch:
            patch.setattr(download, "open", full, raising=False)
            status, _, err = run("oxford_pets", table=pets)
        assert status == 1
        assert "No space left on device: somewhere" in err
        assert not (run.root / "oxford_pets" / "images").exists()
        assert not list(run.root.rglob("unpack-*"))
        assert run("oxford_pets")[0] == 0

    def test_archives_can_be_kept(self, run, pets):
        assert run("oxford_pets", "--keep-archives", table=pets)[0] == 0
        kept = {p.name for p in (run.root / "oxford_pets" / ".downloads").rglob("*.gz")}
        assert kept == {"images.tar.gz", "annotations.tar.gz"}

    def test_archive_put_there_by_hand(self, run, pets, web, capsys):
        (run.root / "oxford_pets").mkdir(parents=True)
        by_hand = run.root / "oxford_pets" / "images.tar.gz"
        by_hand.write_bytes(web.files.pop("/pets/images.tar.gz"))
        assert run("oxford_pets", table=pets)[0] == 0
        assert by_hand.exists()
        assert not any("images" in path for path, _ in web.asked)

    def test_wrong_archive_put_there_by_hand(self, run, pets, web):
        (run.root / "oxford_pets").mkdir(parents=True)
        (run.root / "oxford_pets" / "images.tar.gz").write_bytes(b"something else")
        status, out, _ = run("oxford_pets", table=pets)
        assert status == 0
        assert "not the published file" in out

    def test_two_at_once(self, run, pets):
        folder = run.root / "oxford_pets"
        folder.mkdir(parents=True)
        with prepare.alone_in(str(folder)):
            status, _, err = run("oxford_pets", table=pets)
        assert status == 1
        assert "another datasets.prepare is at work" in err
        assert run("oxford_pets")[0] == 0

    def test_names(self, run, pets):
        status, _, err = run("oxford_pet", table=pets)
        assert status == 2
        assert "Did you mean oxford_pets" in err
        assert run(table=pets)[0] == 2

    def test_list(self, run, pets):
        status, out, _ = run("--list", table=pets)
        assert status == 0
        assert re.search(r"oxford_pets +0\.8 GB +missing +CC BY-SA 4\.0", out)
        assert re.search("shapes .*rendered at the first use", out)
        (run.root / "oxford_pets" / "images").mkdir(parents=True)
        (run.root / "oxford_pets" / "images" / "1.jpg").write_bytes(b"1")
        out = run("--list")[1]
        assert "lacks annotations, split_zhou_OxfordPets.json" in out
        run("oxford_pets")
        assert re.search("oxford_pets .* ready", run("--list")[1])

    def test_as_a_program(self, tmp_path):
        command = [sys.executable, "-m", "datasets.prepare", "--list", "--root", str(tmp_path)]
        done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
        listed = [line.split()[0] for line in done.stdout.splitlines()[1:]]
        assert listed == [*catalog.read_table(), *catalog.RENDERED]
        assert "Traceback" not in done.stderr

    def test_rendered_sets_are_rendered(self, run, pets, monkeypatch):
        asked = []
        monkeypatch.setattr(prepare, "render_dataset", lambda name, folder: asked.append((name, folder)))
        assert run("digits", table=pets)[0] == 0
        assert asked == [("Digits", str(run.root / "digits"))]


class TestShapesOfArchives:
    """One archive of each shape that the table knows."""

    def get(self, run, web, stem, parts):
        table = {stem: {"size_gb": 1, "parts": parts}}
        for part in parts:
            for source in part["sources"]:
                source["url"] = web.url + source["url"]
        status, _, err = run(stem, table=table)
        assert status == 0, err
        folder = run.root / catalog.reader_class(stem).dataset_dir
        return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())

    def test_archive_in_an_archive(self, run, web):
        inner = tgz({"101_ObjectCategories/bass/1.jpg": b"1"})
        web.files["/c.zip"] = zipped({"caltech-101/101_ObjectCategories.tar.gz": inner, "caltech-101/notes": b""})
        parts = [
            {"needs": ["101_ObjectCategories"], "sources": [{"url": "/c.zip", "inner": "101_ObjectCategories.tar.gz"}]}
        ]
        assert self.get(run, web, "caltech101", parts) == ["101_ObjectCategories/bass/1.jpg"]

    def test_other_names(self, run, web):
        web.files["/e.zip"] = zipped({"EuroSAT_RGB/River/1.jpg": b"1"})
        parts = [{"needs": ["2750"], "sources": [{"url": "/e.zip", "place": {"EuroSAT_RGB": "2750"}}]}]
        assert self.get(run, web, "eurosat", parts) == ["2750/River/1.jpg"]
        web.files["/k"] = zipped({f"cars_{p}/cars_{p}/00001.jpg": b"1" for p in ("train", "test")})
        place = {"cars_train/cars_train": "cars_train", "cars_test/cars_test": "cars_test"}
        parts = [{"needs": ["cars_train", "cars_test"], "sources": [{"url": "/k", "file": "k.zip", "place": place}]}]
        assert self.get(run, web, "stanford_cars", parts) == ["cars_test/00001.jpg", "cars_train/00001.jpg"]

    def test_many_needs_of_one_archive(self, run, web):
        needs = ["images", "variants.txt", "images_variant_train.txt"]
        top = "fgvc-aircraft-2013b/data/"
        contents = {"images/1.jpg": b"1", "variants.txt": b"v", "images_variant_train.txt": b"t", "README": b""}
        web.files["/a.tar.gz"] = tgz({top + name: content for name, content in contents.items()})
        found = self.get(run, web, "fgvc_aircraft", [{"needs": needs, "sources": [{"url": "/a.tar.gz"}]}])
        assert found == ["images/1.jpg", "images_variant_train.txt", "variants.txt"]

    def test_archive_without_what_is_needed(self, run, web):
        web.files["/x.tar"], web.files["/y.tar"] = tgz({"x/1": b"1"}, "w"), tgz({"imagenet-a/n01/1.jpg": b"1"}, "w")
        parts = [{"needs": ["imagenet-a"], "sources": [{"url": "/x.tar"}, {"url": "/y.tar"}]}]
        assert self.get(run, web, "imagenet_a", parts) == ["imagenet-a/n01/1.jpg"]

    def test_class_names_of_another_set(self, run, web):
        (run.root / "imagenet").mkdir(parents=True)
        (run.root / "imagenet" / "classnames.txt").write_text("n01 tench\n")
        parts = [{"needs": ["classnames.txt"], "copy": ["imagenetv2", "imagenet"], "sources": [{"url": "/none"}]}]
        assert self.get(run, web, "imagenet_r", parts) == ["classnames.txt"]
        assert web.asked == []

    def test_archives_of_repositories(self, run, web):
        """GitHub's archives hold one folder that is named after the repository and the commit."""
        web.files["/0123.zip"] = zipped(
            {"Homework3-PACS-0123/PACS/photo/dog/1.jpg": b"1", "Homework3-PACS-0123/a": b""}
        )
        web.files["/4567.zip"] = zipped(
            {"RSC-4567/data/correct_txt_lists/photo_train_kfold.txt": b"", "RSC-4567/b": b""}
        )
        parts = [
            {"needs": ["images"], "sources": [{"url": "/0123.zip", "place": {"PACS": "images"}}]},
            {"needs": ["splits"], "sources": [{"url": "/4567.zip", "place": {"correct_txt_lists": "splits"}}]},
        ]
        assert self.get(run, web, "pacs", parts) == ["images/photo/dog/1.jpg", "splits/photo_train_kfold.txt"]

    def test_one_download_for_two_parts(self, run, web):
        web.files["/p.zip"] = zipped({"pacs/images/photo/dog/1.jpg": b"1", "pacs/splits/photo_train_kfold.txt": b""})
        parts = [{"needs": [need], "sources": [{"url": "/p.zip"}]} for need in ("images", "splits")]
        assert self.get(run, web, "pacs", parts) == ["images/photo/dog/1.jpg", "splits/photo_train_kfold.txt"]
        assert len(web.asked) == 1

    def test_drive_and_mirror_addresses(self, run, web, monkeypatch):
        monkeypatch.setattr(prepare, "DRIVE", web.url + "/drive?id=")
        monkeypatch.setattr(prepare, "MIRROR", web.url + "/mirror/")
        web.files["/mirror/d.zip"] = zipped({"dtd/images/a/1.jpg": b"1"})
        web.files["/drive?id=ID"] = b'{"train": []}'
        table = {"dtd": {"size_gb": 1, "parts": [
            {"needs": ["images"], "sources": [{"url": "mirror:d.zip"}]},
            {"needs": ["split_zhou_DescribableTextures.json"], "sources": [{"url": "gdrive:ID"}]}]}}  # fmt: skip
        assert run("dtd", table=table)[0] == 0
        assert (run.root / "dtd" / "split_zhou_DescribableTextures.json").read_bytes() == b'{"train": []}'
        monkeypatch.setattr(prepare, "SPLITS", web.url + "/splits/")
        name = "split_zhou_EuroSAT.json"
        web.files[f"/splits/{name}"] = b'{"val": []}'
        part = {"needs": [name], "sources": [{"url": f"splits:{name}"}]}
        assert run("eurosat", table={"eurosat": {"size_gb": 1, "parts": [part]}})[0] == 0
        assert (run.root / "eurosat" / name).read_bytes() == b'{"val": []}'


class TestImageNet:
    @pytest.fixture
    def archives(self, run, monkeypatch):
        wnids = ("n01", "n02", "n03")
        train = {f"{w}.tar": tgz({f"{w}_{i}.JPEG": png(i) for i in range(3)}, "w") for w in wnids}
        val = {f"ILSVRC2012_val_{i:08d}.JPEG": png(i) for i in range(1, 5)}
        data = "ILSVRC2012_devkit_t12/data/"
        devkit = {f"{data}meta.mat": base64.b85decode(SAMPLES["IMAGENET_META"]),
                  f"{data}ILSVRC2012_validation_ground_truth.txt": b"2\n1\n3\n2\n"}  # fmt: skip
        contents = {"train": tgz(train, "w"), "val": tgz(val, "w"), "devkit": tgz(devkit)}
        names = {key: name for key, (name, _) in imagenet_archives.ARCHIVES.items()}
        known = {key: (names[key], md5(content)) for key, content in contents.items()}
        monkeypatch.setattr(imagenet_archives, "ARCHIVES", known)
        folder = run.root / "imagenet"
        folder.mkdir(parents=True)
        return {folder / names[key]: content for key, content in contents.items()}

    @pytest.fixture
    def table(self):
        return {"imagenet": catalog.read_table()["imagenet"]}

    def test_instructions(self, run, table, monkeypatch):
        table["imagenet"]["parts"][1]["sources"] = []
        status, _, err = run("imagenet", table=table)
        assert status == 1
        assert "Log in at https://image-net.org" in err
        for name, digest in imagenet_archives.ARCHIVES.values():
            assert name in err
            assert digest in err
        assert f"ln -s YOUR/train {run.root}/imagenet/images/train" in err
        assert re.search(r"imagenet +145 GB \(login\)", run("--list")[1])

    def test_archives_put_there_by_hand(self, run, table, archives, config):
        from datasets.imagenet import ImageNet

        (run.root / "imagenet" / "classnames.txt").write_text("n01 one\nn02 two\nn03 three\n")
        for path, content in archives.items():
            path.write_bytes(content)
        assert run("imagenet", table=table)[0] == 0
        dataset = ImageNet(config(run.root))
        assert len(dataset.train_x) == 9
        found = [(Path(d.impath).name[-6:-5], d.classname) for d in dataset.test]
        assert found == [("1", "one"), ("4", "one"), ("3", "two"), ("2", "three")]

    def test_wrong_archive(self, run, table, archives):
        (run.root / "imagenet" / "classnames.txt").write_text("n01 one\n")
        for path, content in archives.items():
            path.write_bytes(content + b"x" if "train" in path.name else content)
        status, _, err = run("imagenet", table=table)
        assert status == 1
        assert "ILSVRC2012_img_train.tar is not the published file" in err


class TestTable:
    @pytest.fixture
    def table(self):
        return catalog.read_table()

    def test_all_downloaded_sets_are_in_it(self, table):
        assert len(table) == 16
        for stem in table:
            assert (REPO / "configs" / "datasets" / f"{stem}.yaml").exists()
            assert catalog.reader_class(stem).dataset_dir

    def test_entries(self, table):
        for stem, entry in table.items():
            assert entry["size_gb"] > 0
            for part in entry["parts"]:
                assert len(part["sources"]) > 1 or part["needs"] == ["images/train", "images/val"], stem
                for source in part["sources"]:
                    assert set(source) <= {"url", "md5", "sha256", "file", "inner", "place"}
                    assert re.match("(https?://|gdrive:|mirror:|splits:)[^ ]+$", source["url"])
                    assert re.fullmatch("[0-9a-f]{32}", source.get("md5", "0" * 32))
                    assert re.fullmatch("[0-9a-f]{64}", source.get("sha256", "0" * 64))
                    assert set(source.get("place", {}).values()) <= set(part["needs"])
                    if not source["url"].startswith("gdrive:") and len(part["needs"]) > 1:
                        name = source.get("file", source["url"].split("/")[-1])
                        assert download.is_archive(name)

    def test_needs_are_in_the_readers_trees(self, table):
        for stem, entry in table.items():
            tree = files.expected_tree(catalog.reader_class(stem))
            for need in (need for part in entry["parts"] for need in part["needs"]):
                assert need in tree or "images_variant_" in need, (stem, need)

    def test_licences(self, table):
        for stem in table:
            assert catalog.licence_of(catalog.reader_class(stem)) != "as this repository"
        assert catalog.licence_of(catalog.reader_class("shapes")) == "as this repository"
