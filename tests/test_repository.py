"""Configs, README and defaults hold together."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import datasets  # noqa: F401
import train
import trainers
from benchmarks import report
from dassl.config import flatten, get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY
from reporting import readme

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
RUN_CONFIGS = [path for path in CONFIGS if path.parent.parent.name == "trainers" or path.parent.name == "datasets"]
README = (ROOT / "README.md").read_text()


def test_every_yaml_is_a_config_that_these_tests_read():
    assert RUN_CONFIGS
    assert {path.name for path in CONFIGS} - {path.name for path in RUN_CONFIGS} == {"paper_results.yaml"}


def test_every_method_has_a_config_and_keys_and_is_told_in_the_documents():
    methods = sorted(path.name for path in (ROOT / "configs" / "trainers").iterdir())
    registered = TRAINER_REGISTRY.registered_names()  # other tests' toys among them
    assert methods == [n for n in registered if TRAINER_REGISTRY.get(n).__module__.startswith("trainers.")]
    told = (ROOT / "docs" / "methods.md").read_text()
    assert all(f"## {name} " in told for name in methods)


@pytest.mark.parametrize("path", RUN_CONFIGS, ids=lambda p: str(p.relative_to(ROOT / "configs")))
def test_every_config_binds_and_names_something_registered(path):
    kind = "config-file" if path.parent.parent.name == "trainers" else "dataset-config-file"
    cfg = train.build_config(train.parse_args([f"--{kind}", str(path)]))
    if kind == "config-file":
        assert path.parent.name == cfg.TRAINER.NAME and cfg.TRAINER.NAME in TRAINER_REGISTRY.registered_names()
    else:
        assert cfg.DATASET.NAME in DATASET_REGISTRY.registered_names()


@pytest.mark.parametrize("path", RUN_CONFIGS, ids=lambda p: str(p.relative_to(ROOT / "configs")))
def test_configs_hold_only_what_differs_from_the_defaults_of_the_engine(path):
    cfg = get_cfg_default()
    trainers.add_config(cfg)
    assert path.read_text().startswith("#"), "a config starts with a comment that says what it is"

    def leaves(tree, prefix=""):
        for key, value in tree.items():
            yield from leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]

    defaults = flatten(cfg)
    # The published recipe is kept whole, also where it equals a default.
    kept = {"N_CTX", "CTX_INIT", "PREC"}
    for key, value in leaves(yaml.safe_load(path.read_text())):
        assert key.rpartition(".")[2] in kept or value != defaults.get(key), f"{key} repeats its default {value!r}"


def test_published_recipe():
    cfg = train.build_config(train.parse_args(["--config-file", str(ROOT / "configs/trainers/GOPro/vit_b16.yaml")]))
    assert (cfg.MODEL.BACKBONE.NAME, cfg.OPTIM.NAME, cfg.OPTIM.LR) == ("ViT-B/16", "sgd", 0.002)
    assert (cfg.OPTIM.MAX_EPOCH, cfg.OPTIM.LR_SCHEDULER, cfg.DATALOADER.TRAIN_X.BATCH_SIZE) == (50, "cosine", 4)
    assert (cfg.OPTIM.WARMUP_EPOCH, cfg.OPTIM.WARMUP_TYPE, cfg.OPTIM.WARMUP_CONS_LR) == (1, "constant", 1e-5)
    node = cfg.TRAINER.GOPRO
    assert (node.VARIANT, node.W_SEM, node.W_CON, node.TEMPERATURE, node.PREC) == ("paper", 1.0, 0.1, 0.1, "fp16")


def test_released_variant_differs_in_the_variant_alone():
    folder = ROOT / "configs/trainers/GOPro"
    paper, released = (
        flatten(train.build_config(train.parse_args(["--config-file", str(folder / name)])))
        for name in ("vit_b16.yaml", "vit_b16_released.yaml")
    )
    differing = {key: value for key, value in released.items() if value != paper[key]}
    assert differing == {"TRAINER.GOPRO.VARIANT": "released"}


@pytest.mark.parametrize(
    ("file", "section"), [("README.md", "demo"), ("docs/results.md", "mini"), ("docs/performance.md", "performance")]
)
def test_sections_that_programs_write_stand_once_in_their_file(file, section):
    assert "new table" in readme.put((ROOT / file).read_text(), section, "new table")


def test_the_performance_section_is_that_of_the_records_and_its_links_exist():
    page = ROOT / "docs" / "performance.md"
    report.main(["--check", str(page)])
    links = re.findall(r"\]\((?!http|#)([^)]+)\)", page.read_text())
    assert links and all((page.parent / link).exists() for link in links)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"make ([a-z-]+)", README))))
def test_make_targets_of_the_readme_exist(name):
    assert re.search(rf"^{name}:", (ROOT / "Makefile").read_text(), re.M)


def readme_commands():
    blocks = re.findall(r"```bash\n(.*?)```", README, re.S)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def test_paths_in_the_readmes_commands_exist():
    words = [word for line in readme_commands() for word in shlex.split(line, comments=True)]
    paths = [
        word for word in words if re.fullmatch(r"(configs|scripts|datasets|benchmarks|trainers|clip)/[\w./]+", word)
    ]
    assert len(paths) >= 4
    for path in paths:
        assert (ROOT / path).exists(), path


def test_relative_links_of_the_readme_exist():
    links = re.findall(r"\]\((?!http|#)([^)]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_train_commands_of_the_readme_bind():
    lines = [line for line in readme_commands() if line.startswith("python train.py")]
    assert lines
    for line in lines:
        argv = shlex.split(line, comments=True)[2:]
        if argv != ["--help"]:
            train.build_config(train.parse_args(argv))


def test_help_imports_no_torch():
    code = "import sys, train\ntry:\n    train.main(['--help'])\nexcept SystemExit:\n    pass\n"
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0


@pytest.mark.parametrize("package", ["dassl", "datasets", "trainers", "scripts", "train.py"])
def test_only_clip_imports_open_clip(package):
    files = [ROOT / package] if package.endswith(".py") else (ROOT / package).rglob("*.py")
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "open_clip" for name in names), path


def test_dassl_knows_no_clip():
    for path in (ROOT / "dassl").rglob("*.py"):
        assert not re.search(r"^\s*(import|from) (clip|trainers)\b", path.read_text(), re.M), path
