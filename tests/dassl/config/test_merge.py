"""Merging: what is accepted, and that each mistake is one error naming key, value and what is allowed."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from yacs.config import CfgNode

from dassl.config import composed_tree, flatten, get_cfg_default, merge_file, merge_opts

WriteYaml = Callable[[str], str]


@pytest.fixture
def cfg() -> CfgNode:
    return get_cfg_default()


@pytest.fixture
def write_yaml(tmp_path: Path) -> WriteYaml:
    def write(text: str) -> str:
        path = tmp_path / "own.yaml"
        path.write_text(text)
        return str(path)

    return write


def leaf(cfg: CfgNode, key: str) -> Any:
    return flatten(cfg)[key]


# Accepted -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("OPTIM.LR", "0.002", 0.002),
        ("OPTIM.LR", "1e-5", 1e-5),
        ("OPTIM.LR", "1", 1.0),
        ("OPTIM.LR", 1, 1.0),
        ("OPTIM.MAX_EPOCH", "50", 50),
        ("OPTIM.MAX_EPOCH", "-1", -1),
        ("USE_CUDA", "False", False),
        ("USE_CUDA", "false", False),
        ("VERBOSE", "TRUE", True),
        ("INPUT.SIZE", "(32, 32)", (32, 32)),
        ("INPUT.SIZE", "[32, 32]", (32, 32)),
        ("INPUT.SIZE", [32, 32], (32, 32)),
        ("INPUT.SIZE", "32,32", (32, 32)),
        ("INPUT.PIXEL_MEAN", "(0, 0, 0)", [0, 0, 0]),
        ("INPUT.TRANSFORMS", "['random_flip']", ("random_flip",)),
        ("DATASET.SOURCE_DOMAINS", "()", ()),
        ("DATASET.NAME", "123", "123"),
        ("DATASET.NAME", "1e-5", "1e-5"),
        ("DATASET.NAME", "None", "None"),
        ("DATASET.NAME", "True", "True"),
        ("DATASET.NAME", "'quoted'", "quoted"),
        ("DATASET.NAME", "", ""),
        ("DATASET.ROOT", "{[]: 1}", "{[]: 1}"),
        ("MODEL.BACKBONE.NAME", "ViT-B/16", "ViT-B/16"),
        ("MODEL.BACKBONE.NAME", "~/clip.pt", str(Path.home() / "clip.pt")),
        ("DATASET.SOURCE_DOMAINS", "(2019,)", ("2019",)),
        ("DATASET.SOURCE_DOMAINS", [2019, "sketch"], ("2019", "sketch")),
        ("OPTIM.LR", "1" + "0" * 400, math.inf),  # refused by the rules, with the key
    ],
)
def test_override_takes_the_type_of_the_default(key: str, given: Any, expected: Any, cfg: CfgNode) -> None:
    merge_opts(cfg, [key, given])
    assert leaf(cfg, key) == expected
    assert type(leaf(cfg, key)) is type(expected)


def test_later_override_wins(cfg: CfgNode) -> None:
    merge_opts(cfg, ["SEED", "1", "SEED", "2"])
    assert cfg.SEED == 2


def test_key_whose_default_is_none_takes_anything(cfg: CfgNode) -> None:
    cfg.ANY = None
    merge_opts(cfg, ["ANY", "(1, 'a')"])
    assert cfg.ANY == (1, "a")


def test_yaml_file_changes_the_named_keys_only(cfg: CfgNode, write_yaml: WriteYaml) -> None:
    before = flatten(cfg)
    text = (
        "OPTIM:\n  LR: 1e-5\n  MAX_EPOCH: 7\nINPUT:\n  SIZE: [32, 32]\nUSE_CUDA: no\nMODEL:\n  BACKBONE: {NAME: tiny}\n"
    )
    merge_file(cfg, write_yaml(text))
    changed = {key: value for key, value in flatten(cfg).items() if value != before[key]}
    assert changed == {
        "OPTIM.LR": 1e-5,
        "OPTIM.MAX_EPOCH": 7,
        "INPUT.SIZE": (32, 32),
        "USE_CUDA": False,
        "MODEL.BACKBONE.NAME": "tiny",
    }


def test_base_is_merged_first_relative_to_the_file_that_names_it(cfg: CfgNode, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "root.yaml").write_text("OPTIM: {LR: 0.5, MAX_EPOCH: 7}\nSEED: 3\n")
    (tmp_path / "deep" / "middle.yaml").write_text("OPTIM: {MAX_EPOCH: 8}\n_BASE_: ../root.yaml\n")
    (tmp_path / "deep" / "top.yaml").write_text("_BASE_: middle.yaml\nSEED: 4\n")
    merge_file(cfg, f"{tmp_path}/deep/top.yaml")
    assert (cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH, cfg.SEED) == (0.5, 8, 4)
    assert composed_tree(f"{tmp_path}/deep/top.yaml") == {"OPTIM": {"LR": 0.5, "MAX_EPOCH": 8}, "SEED": 4}


WHEN = """
OPTIM: {MAX_EPOCH: 200}
_WHEN_:
  - {DATASET.NUM_SHOTS: 1, SET: {OPTIM: {MAX_EPOCH: 50}}}
  - DATASET.NUM_SHOTS: [2, 4]
    SET: {OPTIM: {MAX_EPOCH: 100, WARMUP_EPOCH: 2}}
  - {DATASET.NAME: ImageNet, SET: {OPTIM.MAX_EPOCH: 51}}
  - {DATASET.NAME: [DTD, Food101], DATASET.NUM_SHOTS: 4, SET: {INPUT: {SIZE: [32, 32]}}}
"""


@pytest.mark.parametrize(
    ("name", "shots", "expected", "applied"),
    [
        ("DTD", 16, {"OPTIM.MAX_EPOCH": 200}, []),
        ("DTD", 1, {"OPTIM.MAX_EPOCH": 50}, [0]),
        ("DTD", 2, {"OPTIM.MAX_EPOCH": 100, "OPTIM.WARMUP_EPOCH": 2}, [1]),
        ("DTD", 4, {"OPTIM.MAX_EPOCH": 100, "OPTIM.WARMUP_EPOCH": 2, "INPUT.SIZE": (32, 32)}, [1, 3]),
        ("ImageNet", 4, {"OPTIM.MAX_EPOCH": 51, "OPTIM.WARMUP_EPOCH": 2}, [1, 2]),
        ("ImageNet", 16, {"OPTIM.MAX_EPOCH": 51}, [2]),
    ],
)
def test_recipes_whose_conditions_all_hold_are_applied_and_the_later_wins(
    name: str, shots: int, expected: dict[str, Any], applied: list[int], cfg: CfgNode, write_yaml: WriteYaml
) -> None:
    before = flatten(cfg)
    recipes = merge_file(cfg, write_yaml(WHEN), {"DATASET.NAME": name, "DATASET.NUM_SHOTS": shots})
    assert {key: value for key, value in flatten(cfg).items() if value != before[key]} == expected
    assert [i for i, recipe in enumerate(recipes) if recipe.applied] == applied
    assert len(recipes) == 4


def test_recipes_are_about_the_config_itself_where_no_facts_are_given(cfg: CfgNode, write_yaml: WriteYaml) -> None:
    merge_file(cfg, write_yaml(WHEN + "DATASET: {NUM_SHOTS: 1}\n"))
    assert cfg.OPTIM.MAX_EPOCH == 50


def test_line_of_a_recipe_says_values_conditions_file_and_what_won(cfg: CfgNode, write_yaml: WriteYaml) -> None:
    path = write_yaml(WHEN)
    facts = {"DATASET.NAME": "ImageNet", "DATASET.NUM_SHOTS": 4}
    lines = [recipe.told(cfg) for recipe in merge_file(cfg, path, facts) if recipe.applied]
    assert lines == [
        f"recipe: OPTIM.MAX_EPOCH 100 (overridden by 51), OPTIM.WARMUP_EPOCH 2 (DATASET.NUM_SHOTS 4, {path})",
        f"recipe: OPTIM.MAX_EPOCH 51 (DATASET.NAME ImageNet, {path})",
    ]


def test_recipes_of_a_base_change_its_values_only(cfg: CfgNode, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(WHEN + "SEED: 3\n")
    own = "_BASE_: base.yaml\nOPTIM: {WARMUP_EPOCH: 7}\n_WHEN_: [{DATASET.NUM_SHOTS: 4, SET: {SEED: 5}}]\n"
    (tmp_path / "own.yaml").write_text(own)
    recipes = merge_file(cfg, f"{tmp_path}/own.yaml", {"DATASET.NAME": "DTD", "DATASET.NUM_SHOTS": 4})
    assert (cfg.OPTIM.MAX_EPOCH, cfg.OPTIM.WARMUP_EPOCH, cfg.SEED) == (100, 7, 5)
    names = [Path(recipe.path).name for recipe in recipes if recipe.applied]
    assert names == ["base.yaml", "base.yaml", "own.yaml"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le with mark", "utf-16-be with mark"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_files_of_other_systems_read_alike(encoding: str, newline: str, cfg: CfgNode, tmp_path: Path) -> None:
    codec, _, mark = encoding.partition(" with ")
    text = newline.join(["# Größe", "OPTIM:", "  LR: 0.5", "MODEL:", "  BACKBONE:", "    NAME: Zoë", ""])
    (tmp_path / "own.yaml").write_bytes((("\ufeff" if mark else "") + text).encode(codec))
    merge_file(cfg, f"{tmp_path}/own.yaml")
    assert (cfg.OPTIM.LR, cfg.MODEL.BACKBONE.NAME) == (0.5, "Zoë")


@pytest.mark.parametrize("text", ["", "# nothing but a remark\n", "{}"])
def test_empty_file_changes_nothing(text: str, cfg: CfgNode, write_yaml: WriteYaml) -> None:
    merge_file(cfg, write_yaml(text))
    assert cfg == get_cfg_default()


def test_every_default_survives_a_round_trip_through_yaml(cfg: CfgNode, write_yaml: WriteYaml) -> None:
    merge_file(cfg, write_yaml(cfg.dump()))
    assert cfg == get_cfg_default()


def test_defaults_are_fresh_each_time() -> None:
    get_cfg_default().INPUT.PIXEL_MEAN.append(1)
    assert len(get_cfg_default().INPUT.PIXEL_MEAN) == 3


def test_flatten_names_leaves_by_path(cfg: CfgNode) -> None:
    leaves = flatten(cfg)
    assert leaves["DATALOADER.TRAIN_X.BATCH_SIZE"] == 32
    assert not any(isinstance(value, CfgNode) for value in leaves.values())


# Refused ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "suggested"),
    [
        ("OPTIM.LRR", "OPTIM.LR"),
        ("OPTIM.MAX_EPOCHS", "OPTIM.MAX_EPOCH"),
        ("DATASET.NUM_SHOT", "DATASET.NUM_SHOTS"),
        ("optim.lr", "OPTIM.LR"),
        ("NUM_SHOTS", "DATASET.NUM_SHOTS"),
        ("TRAIN.BATCH_SIZE", "DATALOADER.TRAIN_X.BATCH_SIZE"),
        ("TRAINR.NAME", "TRAINER.NAME"),
    ],
)
def test_unknown_key_names_close_matches(key: str, suggested: str, cfg: CfgNode) -> None:
    with pytest.raises(ValueError, match=f"unknown config key {key} in the command line. Did you mean ") as caught:
        merge_opts(cfg, [key, "1"])
    assert suggested in str(caught.value).partition("Did you mean ")[2].rstrip("?").split(", ")


def test_unknown_key_without_a_close_match_lists_the_groups(cfg: CfgNode) -> None:
    with pytest.raises(ValueError, match="unknown config key QQQQ .*It may be of .*OPTIM"):
        merge_opts(cfg, ["QQQQ", "1"])


def test_unknown_key_in_a_file_names_the_file(cfg: CfgNode, write_yaml: WriteYaml) -> None:
    path = write_yaml("OPTIM:\n  LRR: 1\n")
    with pytest.raises(ValueError, match=f"unknown config key OPTIM.LRR in {path}. Did you mean .*OPTIM.LR"):
        merge_file(cfg, path)


@pytest.mark.parametrize(
    ("key", "value", "wanted", "got"),
    [
        ("OPTIM.LR", "fast", "float", "'fast' of type str"),
        ("OPTIM.LR", "True", "float", "'True' of type bool"),
        ("OPTIM.MAX_EPOCH", "5.5", "int", "'5.5' of type float"),
        ("OPTIM.MAX_EPOCH", "True", "int", "'True' of type bool"),
        ("OPTIM.MAX_EPOCH", "", "int", "'' of type str"),
        ("USE_CUDA", "1", "bool", "'1' of type int"),
        ("USE_CUDA", "maybe", "bool", "'maybe' of type str"),
        ("INPUT.SIZE", "32", "tuple or list", "'32' of type int"),
        ("INPUT.TRANSFORMS", "random_flip", "tuple or list", "'random_flip' of type str"),
        ("DATASET.NAME", 5, "str", "5 of type int"),
        ("DATASET.NAME", ["a"], "str", "['a'] of type list"),
    ],
)
def test_wrong_type_names_key_value_and_type(key: str, value: Any, wanted: str, got: str, cfg: CfgNode) -> None:
    default = leaf(cfg, key)
    with pytest.raises(ValueError, match="must be of type") as caught:
        merge_opts(cfg, [key, value])
    message = f"{key} in the command line must be of type {wanted} (default {default!r}), got {got}"
    assert str(caught.value) == message
    assert leaf(cfg, key) == default


def test_wrong_type_in_a_file_names_the_file(cfg: CfgNode, write_yaml: WriteYaml) -> None:
    path = write_yaml("OPTIM:\n  MAX_EPOCH: many\n")
    with pytest.raises(ValueError, match=f"OPTIM.MAX_EPOCH in {path} must be of type int"):
        merge_file(cfg, path)


@pytest.mark.parametrize("opts", [["SEED"], ["SEED", "1", "OPTIM.LR"]])
def test_key_without_a_value_shows_the_words(opts: list[str], cfg: CfgNode) -> None:
    with pytest.raises(ValueError, match=f"KEY VALUE pairs, got {len(opts)} words: {' '.join(opts)}"):
        merge_opts(cfg, opts)
    assert cfg == get_cfg_default()


def test_value_for_a_group_lists_its_keys(cfg: CfgNode) -> None:
    with pytest.raises(ValueError, match="MODEL.BACKBONE .*is a group of keys.*MODEL.BACKBONE.NAME"):
        merge_opts(cfg, ["MODEL.BACKBONE", "tiny"])


def test_group_where_a_value_belongs_is_refused(cfg: CfgNode, write_yaml: WriteYaml) -> None:
    with pytest.raises(ValueError, match="unknown config key SEED.A"):
        merge_file(cfg, write_yaml("SEED:\n  A: 1\n"))


def test_missing_file_is_named(cfg: CfgNode, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"config file {tmp_path}/none.yaml does not exist"):
        merge_file(cfg, f"{tmp_path}/none.yaml")


@pytest.mark.parametrize("text", ["OPTIM: [1, 2", "OPTIM:\n\tLR: 1", "a: b: c", "!!python/object/apply:os.getcwd []"])
def test_broken_yaml_names_the_file_and_runs_nothing(text: str, cfg: CfgNode, write_yaml: WriteYaml) -> None:
    path = write_yaml(text)
    with pytest.raises(ValueError, match=f"{path} is not valid YAML") as caught:
        merge_file(cfg, path)
    assert isinstance(caught.value.__cause__, yaml.YAMLError)


@pytest.mark.parametrize(
    "text", ["SEED: 1\nSEED: 2", "OPTIM:\n  LR: 1\nSEED: 1\nOPTIM:\n  MAX_EPOCH: 2", "OPTIM: {LR: 1, LR: 2}"]
)
def test_key_given_twice_in_a_file_is_refused(text: str, cfg: CfgNode, write_yaml: WriteYaml) -> None:
    with pytest.raises(ValueError, match="(SEED|OPTIM|LR) stands here twice"):
        merge_file(cfg, write_yaml(text))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("SEED: 1\nDATASET:\n  NAME: Zoë\n".encode("cp1252"), 3),
        ("DATASET: {NAME: Größe}\n".encode("cp850"), 1),
        ("SEED: 1\nVERBOSE: no\n".encode("utf-16-le"), 1),  # without a mark
        (b"SEED: 1\r\nOUTPUT_DIR: a\0b\r\n", 2),
    ],
)
def test_text_that_is_not_unicode_names_file_and_line(content: bytes, line: int, cfg: CfgNode, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path}/own.yaml, line {line}: not UTF-8 text"):
        merge_file(cfg, f"{tmp_path}/own.yaml")


@pytest.mark.parametrize("text", ["SEED: 2019-13-45", "SEED: " + "[" * 1000, "SEED: 1" + "0" * 5000])
def test_values_that_yaml_stumbles_over_name_the_file(text: str, cfg: CfgNode, write_yaml: WriteYaml) -> None:
    path = write_yaml(text)
    with pytest.raises(ValueError, match=path):
        merge_file(cfg, path)


def test_bases_that_are_missing_circular_or_no_path_are_named(cfg: CfgNode, tmp_path: Path) -> None:
    def merge(**bases: str) -> None:
        for name, base in bases.items():
            (tmp_path / f"{name}.yaml").write_text(f"_BASE_: {base}\n")
        merge_file(cfg, f"{tmp_path}/a.yaml")

    with pytest.raises(FileNotFoundError, match=f"_BASE_ {tmp_path}/none.yaml of {tmp_path}/a.yaml does not exist"):
        merge(a="none.yaml")
    with pytest.raises(ValueError, match="_BASE_ goes in a circle: .*a.yaml -> .*a.yaml"):
        merge(a="./a.yaml")
    with pytest.raises(ValueError, match="_BASE_ goes in a circle: .*a.yaml -> .*b.yaml -> .*a.yaml"):
        merge(a="b.yaml", b="../" + tmp_path.name + "/a.yaml")
    with pytest.raises(ValueError, match=r"_BASE_ in .*a.yaml must be the path of a file, got \['b.yaml'\]"):
        merge(a="[b.yaml]")


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ("", "_WHEN_ in {path} must be a list of entries, each conditions and SET, got None"),
        ("{DATASET.NUM_SHOTS: 1, SET: {SEED: 1}}", "_WHEN_ in {path} must be a list of entries"),
        ("[5]", "entry 1 of _WHEN_ in {path} must hold conditions and SET, got 5"),
        ("[{DATASET.NUM_SHOTS: 1}]", "{first} must hold conditions and SET, got {{'DATASET.NUM_SHOTS': 1}}"),
        ("[{SET: {SEED: 1}}]", "{first} has no condition (DATASET.NAME, DATASET.NUM_SHOTS)"),
        ("[{SEED: 1, SET: {SEED: 1}}]", "SEED in {first} is no condition; allowed: DATASET.NAME, DATASET.NUM_SHOTS"),
        ("[{DATASET: {NUM_SHOTS: 1}, SET: {SEED: 1}}]", "DATASET in {first} is no condition"),
        ("[{5: 1, SET: {SEED: 1}}]", "5 in {first} is no condition"),
        ("[{DATASET.NUM_SHOT: 1, SET: {SEED: 1}}]", "Did you mean DATASET.NUM_SHOTS"),
        ("[{DATASET.NUM_SHOTS: 1, SET: 5}]", "SET in {first} must hold KEY: VALUE pairs, got 5"),
        ("[{DATASET.NUM_SHOTS: 1, SET: }]", "SET in {first} must hold KEY: VALUE pairs, got None"),
        ("[{DATASET.NUM_SHOTS: 1, SET: {}}]", "SET in {first} sets nothing"),
        ("[{DATASET.NUM_SHOTS: 1, SET: {OPTIM: {}}}]", "SET in {first} sets nothing"),
        ("[{DATASET.NUM_SHOTS: 1, SET: {OPTIM: {LRR: 1}}}]", "unknown config key OPTIM.LRR in {first}. Did you mean"),
        ("[{DATASET.NUM_SHOTS: 1, SET: {5: 1}}]", "unknown config key 5 in {first}"),
        ("[{DATASET.NUM_SHOTS: 1, SET: {_BASE_: a.yaml}}]", "unknown config key _BASE_ in {first}"),
        ("[{DATASET.NUM_SHOTS: 1, SET: {SEED: many}}]", "SEED in {first} must be of type int"),
        ("[{DATASET.NUM_SHOTS: many, SET: {SEED: 1}}]", "DATASET.NUM_SHOTS in {first} must be of type int"),
        ("[{DATASET.NUM_SHOTS: [1, 2.5], SET: {SEED: 1}}]", "DATASET.NUM_SHOTS in {first} must be of type int"),
        ("[{DATASET.NUM_SHOTS: , SET: {SEED: 1}}]", "DATASET.NUM_SHOTS in {first} must be of type int"),
        ("[{DATASET.NAME: 5, SET: {SEED: 1}}]", "DATASET.NAME in {first} must be of type str"),
        ("[{DATASET.NAME: [], SET: {SEED: 1}}]", "DATASET.NAME in {first} must be a value or a list of some, got []"),
        ("[{DATASET.NAME: a, SET: {DATASET: {NUM_SHOTS: 1}}}]", "SET in {first} must not set DATASET.NUM_SHOTS"),
        ("[{DATASET.NAME: a, SET: {DATASET.NAME: b}}]", "SET in {first} must not set DATASET.NAME"),
        (
            "[{DATASET.NAME: a, SET: {SEED: 1}}, {DATASET.NAME: b, SET: {SED: 1}}]",
            "unknown config key SED in entry 2 of _WHEN_ in {path}",
        ),
    ],
)
def test_mistakes_in_recipes_name_file_and_entry(when: str, message: str, cfg: CfgNode, write_yaml: WriteYaml) -> None:
    path = write_yaml(f"_WHEN_: {when}\n")
    with pytest.raises(ValueError) as caught:  # no condition holds here
        merge_file(cfg, path, {"DATASET.NAME": "Other", "DATASET.NUM_SHOTS": 16})
    assert message.format(path=path, first=f"entry 1 of _WHEN_ in {path}") in str(caught.value)
    assert path in str(caught.value)


@pytest.mark.parametrize(("text", "kind"), [("- OPTIM\n", "list"), ("just words\n", "str"), ("5\n", "int")])
def test_yaml_that_is_no_mapping_is_refused(text: str, kind: str, cfg: CfgNode, write_yaml: WriteYaml) -> None:
    path = write_yaml(text)
    with pytest.raises(ValueError, match=f"{path} must hold KEY: VALUE pairs, got a {kind}"):
        merge_file(cfg, path)


def test_file_that_is_no_text_is_named(cfg: CfgNode, tmp_path: Path) -> None:
    path = tmp_path / "image.yaml"
    path.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ValueError, match=str(path)):
        merge_file(cfg, str(path))


def test_frozen_config_is_not_changed(cfg: CfgNode) -> None:
    cfg.freeze()
    with pytest.raises(AttributeError, match="OPTIM.LR"):
        merge_opts(cfg, ["OPTIM.LR", "1"])
    assert cfg == get_cfg_default()
