"""Configs, README and defaults hold together."""

import ast
import itertools
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
from dassl.config import flatten, get_cfg_default, merge_file
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY
from protocols import definitions
from reporting import readme

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
METHOD_CONFIGS = [p for p in CONFIGS if p.parent.parent.name == "trainers" and p.parent.name != "_base"]
BASES = [path for path in CONFIGS if path.parent.name == "_base"]  # what methods' files start from
DATASET_CONFIGS = [path for path in CONFIGS if path.parent.name == "datasets"]
RUN_CONFIGS = [*METHOD_CONFIGS, *BASES, *DATASET_CONFIGS]
README = (ROOT / "README.md").read_text()


def ids(path):
    return str(path.relative_to(ROOT / "configs"))


def own_tree(path):
    """What a file says itself: its values, the file it starts from or None, and its recipes."""
    tree = yaml.safe_load(path.read_text())
    base, recipes = tree.pop("_BASE_", None), tree.pop("_WHEN_", [])
    return tree, base and path.parent / base, recipes


def all_recipes(path):
    """The entries of _WHEN_ of a file and of those it starts from, in the order in which they are merged."""
    _, base, recipes = own_tree(path)
    return [*(all_recipes(base) if base else []), *recipes]


def conditions(entry, key):
    value = entry.get(key, [None])
    return value if isinstance(value, list) else [value]


def compose(path, *pairs, kind="config-file"):
    return train.compose(train.parse_args([f"--{kind}", str(path), *map(str, pairs)]))


def test_every_yaml_is_a_config_that_these_tests_read():
    assert METHOD_CONFIGS and BASES and DATASET_CONFIGS
    others = {path.relative_to(ROOT / "configs").parts[0] for path in {*CONFIGS} - {*RUN_CONFIGS}}
    assert others == {"paper_results.yaml", "ablations"}  # whose tests are in tests/protocols
    started_from = {base.resolve() for path in RUN_CONFIGS if (base := own_tree(path)[1])}
    assert {*BASES} <= started_from, "a file of _base that no file starts from"


def test_every_method_has_a_config_and_keys_and_is_told_in_the_documents():
    methods = sorted({path.parent.name for path in METHOD_CONFIGS})
    registered = TRAINER_REGISTRY.registered_names()  # other tests' toys among them
    assert methods == [n for n in registered if TRAINER_REGISTRY.get(n).__module__.startswith("trainers.")]
    assert methods == definitions.trainers()
    told = (ROOT / "docs" / "methods.md").read_text()
    assert [name for name in methods if f"## {name} " not in told] == []
    assert [name for name in methods if f"`{name}`" not in README] == []


@pytest.mark.parametrize("path", RUN_CONFIGS, ids=ids)
def test_every_config_binds_and_names_something_registered(path):
    if path in DATASET_CONFIGS:
        cfg, _ = compose(path, kind="dataset-config-file")
        assert cfg.DATASET.NAME in DATASET_REGISTRY.registered_names()
        return
    cfg, _ = compose(path)
    assert cfg.MODEL.BACKBONE.NAME
    if path in METHOD_CONFIGS:
        assert path.parent.name == cfg.TRAINER.NAME and cfg.TRAINER.NAME in TRAINER_REGISTRY.registered_names()
    else:
        assert not cfg.TRAINER.NAME, "what methods share names none of them"


@pytest.mark.parametrize("path", [path for path in RUN_CONFIGS if all_recipes(path)], ids=ids)
def test_recipes_bind_where_their_conditions_hold(path):
    for number, entry in enumerate(all_recipes(path)):
        names, shots = conditions(entry, "DATASET.NAME"), conditions(entry, "DATASET.NUM_SHOTS")
        assert {*names} - {None} <= {*DATASET_REGISTRY.registered_names()}
        for name, count in itertools.product(names, shots):
            facts = [("DATASET.NAME", name), ("DATASET.NUM_SHOTS", count)]
            pairs = [word for key, value in facts if value is not None for word in (key, value)]
            _, recipes = compose(path, *pairs)  # checks the values, too
            assert recipes[number].applied


@pytest.mark.parametrize("path", RUN_CONFIGS, ids=ids)
def test_configs_hold_only_what_differs_from_the_defaults_or_from_what_they_start_from(path):
    assert path.read_text().startswith("#"), "a config starts with a comment that says what it is"
    cfg = get_cfg_default()
    trainers.add_config(cfg)
    tree, base, recipes = own_tree(path)
    if base:
        merge_file(cfg, str(base))
    before = flatten(cfg)
    merge_file(cfg, str(path))
    after = flatten(cfg)
    # The published recipe is kept whole, also where it equals a default.
    kept = {"N_CTX", "CTX_INIT", "PREC", "MAX_EPOCH", "WARMUP_CONS_LR"}
    for key in flatten(tree):
        assert key.rpartition(".")[2] in kept or after[key] != before[key], (
            f"{key} is {before[key]!r} without this file"
        )
    for entry in recipes:
        for key, value in flatten(entry["SET"]).items():
            differs = (tuple(value) if isinstance(value, list) else value) != after[key]
            assert differs, f"{key} is {value!r} without the recipe"


# The recipes as their authors published them, in the paper or in the released code; written from these, not from the
# files. What CoOp's family has in common, and by row: method, task, training sets, shots: rate, epochs, batch, the rest
# (keys of the method, of OPTIM, or whole names). MAX_EPOCH None: another key ends the training.
PHOTO = "a photo of a"
FAMILY = {
    **{"OPTIM.NAME": "sgd", "OPTIM.MOMENTUM": 0.9, "OPTIM.WEIGHT_DECAY": 5e-4, "OPTIM.SGD_DAMPNING": 0.0},
    **{"OPTIM.SGD_NESTEROV": False, "OPTIM.LR_SCHEDULER": "cosine", "OPTIM.LR_STEP": "epoch", "OPTIM.MAX_ITER": 0},
    **{"OPTIM.COSINE_MIN_LR": 0.0, "OPTIM.WARMUP_EPOCH": 1, "OPTIM.WARMUP_TYPE": "constant"},
    **{"OPTIM.WARMUP_CONS_LR": 1e-5, "OPTIM.WARMUP_RECOUNT": True, "OPTIM.AVERAGE": ""},
    **{"INPUT.TRANSFORMS": ("random_resized_crop", "random_flip", "normalize"), "INPUT.RRCROP_SCALE": (0.08, 1.0)},
    **{"INPUT.INTERPOLATION": "bicubic", "DATALOADER.TRAIN_X.SAMPLER": "RandomSampler"},
    **{"MODEL.BACKBONE.NAME": "ViT-B/16", "TEST.FINAL_MODEL": "last_step", "PREC": "fp16"},
}
IMAGENET, SHOTS = ("imagenet",), (1, 2, 4, 8, 16)
OTHERS = ("caltech101", "sun397", "eurosat")  # enough where no recipe but one for ImageNet names a data set
ALL = (*IMAGENET, *OTHERS)


def but(*names):
    return tuple(name for name in definitions.REAL if name not in names)


TRANSFER = ("cross-dataset", "domain-generalization")
TASKS = [("base2new", ALL, 16), ("few-shot", ALL, 4), *((task, IMAGENET, 16) for task in TRANSFER)]
BY_SHOTS = {1: 50, 2: 100, 4: 100, 8: 200, 16: 200}  # CoOp's epochs
TIP = {  # alpha while F trains; largest beta and alpha of the search
    **{"imagenet": (1.17, None), "oxford_pets": (1.17, (7, 3)), "ucf101": (3, (7, 3)), "caltech101": (3, (12, 5))},
    **{"dtd": (2, (13, 13)), "eurosat": (2, (12, 10)), "sun397": (1.17, (12, 10)), "fgvc_aircraft": (5, (30, 30))},
    **{"food101": (1.17, (10, 10)), "oxford_flowers": (10, (50, 50)), "stanford_cars": (3, (20, 10))},
}
LAMBDA_08 = ("oxford_flowers", "dtd", "eurosat")
LATE = ("stanford_cars", "oxford_flowers", "fgvc_aircraft", "dtd", "eurosat")
GOPRO = {"CTX_INIT": PHOTO, "N_CTX": 4, "VARIANT": "paper", "W_SEM": 1.0, "W_CON": 0.1, "TEMPERATURE": 0.1}
KGCOOP = {"CTX_INIT": PHOTO, "W": 8.0}
IVLP = {"N_CTX_TEXT": 2, "N_CTX_VISION": 2, "PROMPT_DEPTH_TEXT": 12, "PROMPT_DEPTH_VISION": 12}
VPT = {"N_CTX_VISION": 8, "PROMPT_DEPTH_VISION": 12}
TCP = {"OPTIM.NAME": "adam", "ADAM_EPS": 1e-3, "ADAM_BETA1": 0.9, "ADAM_BETA2": 0.999}
TCP |= {"N_CTX": 4, "CTX_INIT": "", "W": 8.0, "BLOCK": 8}
PROGRAD = {"N_CTX": 16, "CTX_INIT": "auto", "T": 1.0}
ADAMW = {"OPTIM.NAME": "adamw", "WEIGHT_DECAY": 0.01, "LR_STEP": "batch", "WARMUP_EPOCH": -1}
ADAMW |= {"WARMUP_TYPE": None, "WARMUP_CONS_LR": None}  # without effect
LORA = {**ADAMW, "ADAM_EPS": 1e-8, "COSINE_MIN_LR": 1e-6, "R": 2, "ALPHA": 1.0, "DROPOUT": 0.25}
LORA |= {"PARAMS": ("q", "k", "v"), "ENCODER": "both", "LOGIT_SCALE": 100.0}


def deep(tokens, depth, mean, std):
    blocks = {"PROMPT_DEPTH_TEXT": depth, "PROMPT_DEPTH_VISION": depth, "CTX_INIT": PHOTO}
    losses = {"TEXT_LOSS_WEIGHT": 25.0, "IMAGE_LOSS_WEIGHT": 10.0, "TEMPLATES": "promptsrc"}
    average = {"AVERAGE": "gaussian", "AVERAGE_MEAN": mean, "AVERAGE_STD": std}
    return {"N_CTX_TEXT": tokens, "N_CTX_VISION": tokens, **blocks, **losses, **average}


def tip(name):
    alpha, scale = TIP[name]
    own = {"INIT_ALPHA": alpha, "INIT_BETA": 1.0, "SEARCH_SCALE": scale, "SEARCH_STEP": (200, 20), "LOGIT_SCALE": 100.0}
    own |= {"AUGMENT_EPOCH": 10, "INPUT.RRCROP_SCALE": (0.5, 1.0)}
    # Published too: the search for ImageNet, but on its test images, which choose nothing here.
    return own | ({"TEMPLATES": "clip7", "SEARCH_SCALE": ()} if name == "imagenet" else {"TEMPLATES": "auto"})


PUBLISHED = [
    *(("GOPro", *task, 2e-3, 50, 4, GOPRO) for task in TASKS),
    ("CoOp", "base2new", OTHERS, 16, 2e-3, 200, 32, {"CTX_INIT": PHOTO}),
    ("CoOp", "base2new", IMAGENET, 16, 2e-3, 50, 32, {"CTX_INIT": PHOTO}),
    *(("CoOp", task, IMAGENET, 16, 2e-3, 50, 32, {"CTX_INIT": PHOTO}) for task in TRANSFER),
    *(("CoOp", "few-shot", OTHERS, k, 2e-3, BY_SHOTS[k], 32, {"N_CTX": 16, "CTX_INIT": ""}) for k in SHOTS),
    *(("CoOp", "few-shot", IMAGENET, k, 2e-3, 50, 32, {"N_CTX": 16, "CTX_INIT": ""}) for k in SHOTS),
    *(("CoCoOp", *task, 2e-3, 10, 1, {"CTX_INIT": PHOTO}) for task in TASKS),
    *(("KgCoOp", *task, 2e-3, 100, 128, KGCOOP) for task in TASKS),
    ("ProGrad", "base2new", OTHERS, 4, 2e-3, 100, 32, {**PROGRAD, "LAMBDA": 1.0}),
    ("ProGrad", "base2new", IMAGENET, 4, 2e-3, 50, 32, {**PROGRAD, "LAMBDA": 1.0}),
    ("ProGrad", "domain-generalization", IMAGENET, 4, 2e-3, 50, 32, {**PROGRAD, "LAMBDA": 1.0}),
    *(
        ("ProGrad", "few-shot", but("imagenet", *LAMBDA_08), k, 2e-3, BY_SHOTS[k], 32, {**PROGRAD, "LAMBDA": 1.0})
        for k in SHOTS
    ),
    *(
        ("ProGrad", "few-shot", LAMBDA_08, k, 2e-3, BY_SHOTS[k], 32, {**PROGRAD, "LAMBDA": 0.8 if k >= 8 else 1.0})
        for k in SHOTS
    ),
    *(("ProGrad", "few-shot", IMAGENET, k, 2e-3, 50, 32, {**PROGRAD, "LAMBDA": 1.0}) for k in SHOTS),
    # The numbers of prompts are the paper's; no code of its authors was found.
    *(("ProDA", *task, None, None, None, {"N_CTX": 16, "N_PROMPT": 32, "PROMPT_BATCH": 4}) for task in TASKS),
    ("PRE", "base2new", ALL, 16, 2e-3, 50, 32, {"CTX_INIT": PHOTO, "LAYERS": 1}),
    ("MaPLe", "base2new", ALL, 16, 3.5e-3, 5, 4, {"N_CTX": 2, "CTX_INIT": PHOTO, "PROMPT_DEPTH": 9}),
    *(("MaPLe", t, IMAGENET, 16, 2.6e-3, 2, 4, {"N_CTX": 2, "CTX_INIT": PHOTO, "PROMPT_DEPTH": 3}) for t in TRANSFER),
    *(("IVLP", *task, 3.5e-3, 5, 4, {**IVLP, "CTX_INIT": PHOTO}) for task in TASKS),
    *(("VPT", *task, 2.5e-3, 5, 4, VPT) for task in TASKS),
    ("PromptSRC", "base2new", ALL, 16, 2.5e-3, 20, 4, deep(4, 9, 15, 1)),
    *(("PromptSRC", task, IMAGENET, 16, 2.5e-3, 20, 4, deep(4, 3, 6, 10)) for task in TRANSFER),
    *(("PromptSRC", "few-shot", but(*LATE), k, 2.5e-3, 50, 4, deep(4, 9, 30, 30)) for k in SHOTS),
    *(("PromptSRC", "few-shot", LATE, k, 2.5e-3, 50, 4, deep(4, 9, 45, 5)) for k in SHOTS),
    *(("TCP", task, but("imagenet", "sun397"), 16, 2e-3, 50, 32, TCP) for task in ("base2new", "few-shot")),
    *(("TCP", task, ("imagenet", "sun397"), 16, 2e-3, 25, 32, TCP) for task in ("base2new", "few-shot")),
    *(("TCP", task, IMAGENET, 16, 2e-3, 25, 32, TCP) for task in TRANSFER),
    # The paper's rate and batch; its code refers to CoOp's command, so CoOp's epochs.
    *(("CLIPAdapter", "few-shot", OTHERS, k, 1e-5, BY_SHOTS[k], 32, {"RATIO": 0.2, "REDUCTION": 4}) for k in SHOTS),
    *(("CLIPAdapter", "few-shot", IMAGENET, k, 1e-5, 50, 32, {"RATIO": 0.2, "REDUCTION": 4}) for k in SHOTS),
    *(("TipAdapter", "few-shot", (name,), 16, None, 1, None, tip(name)) for name in definitions.REAL),
    *(
        ("TipAdapterF", "few-shot", (name,), 16, 1e-3, 100 if name == "eurosat" else 20, 256, more)
        for name in definitions.REAL
        for more in [{**ADAMW, "ADAM_EPS": 1e-4, **tip(name)}]
    ),
    *(("CLIPLoRA", "few-shot", ALL, k, 2e-4, None, 32, {**LORA, "MAX_ITER": 500 * k}) for k in SHOTS),
]


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row[0]}-{row[1]}-{row[2][0]}-{row[3]}")
def test_published_recipes(row):
    method, task, names, shots, rate, epochs, batch, more = row
    wanted = {"OPTIM.LR": rate, "OPTIM.MAX_EPOCH": epochs, "DATALOADER.TRAIN_X.BATCH_SIZE": batch}
    for name in names:
        file = ROOT / "configs/trainers" / method / f"{definitions.default_config(method, task, name)}.yaml"
        data = ("--dataset-config-file", ROOT / f"configs/datasets/{name}.yaml")
        cfg, _ = compose(file, *data, "DATASET.NUM_SHOTS", shots)
        found, own = flatten(cfg), f"TRAINER.{TRAINER_REGISTRY.get(method).config_key}."
        expected = {**FAMILY, **wanted}
        if method == "TipAdapter":  # learns nothing
            expected = {key: value for key, value in expected.items() if not key.startswith("OPTIM.") or key in wanted}
        for key, value in more.items():
            expected[next(k for k in (key, own + key, f"OPTIM.{key}") if k in found)] = value
        expected[own + "PREC"] = expected.pop("PREC")
        differing = {k: (found[k], value) for k, value in expected.items() if value is not None and found[k] != value}
        assert not differing, f"{file.name} of {method}, {name}: (the file's, published) {differing}"


def test_every_recipe_for_real_weights_is_compared_with_the_published_one():
    compared = {(row[0], definitions.default_config(row[0], row[1], name)) for row in PUBLISHED for name in row[2]}
    files = {(path.parent.name, path.stem) for path in METHOD_CONFIGS if path.stem != "tiny"}
    own_tests = {("CoOp", "rn50_few_shot"), ("GOPro", "vit_b16_released")}
    assert files - compared == own_tests | {("ZeroshotCLIP", "vit_b16")}


@pytest.mark.parametrize(
    ("file", "start", "differing"),
    [
        ("GOPro/vit_b16_released", "GOPro/vit_b16", {"TRAINER.GOPRO.VARIANT": "released"}),
        ("CoOp/rn50_few_shot", "CoOp/vit_b16_few_shot", {"MODEL.BACKBONE.NAME": "RN50"}),
    ],
)
def test_files_that_differ_from_another_in_one_value(file, start, differing):
    found, other = (flatten(compose(ROOT / f"configs/trainers/{name}.yaml")[0]) for name in (file, start))
    assert {key: value for key, value in found.items() if value != other[key]} == differing


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
