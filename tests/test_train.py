"""The command line: every flag reaches its key, in CoOp's order of precedence."""

import pytest

import train


def config(*argv):
    return train.build_config(train.parse_args(list(argv)))


@pytest.mark.parametrize(
    ("argv", "key", "value"),
    [
        (["--root", "images"], "DATASET.ROOT", "images"),
        (["--output-dir", "out"], "OUTPUT_DIR", "out"),
        (["--seed", "0"], "SEED", 0),
        (["--trainer", "GOPro"], "TRAINER.NAME", "GOPro"),
        (["--backbone", "ViT-B/32"], "MODEL.BACKBONE.NAME", "ViT-B/32"),
        (["--head", "mlp"], "MODEL.HEAD.NAME", "mlp"),
        (["--transforms", "random_flip", "normalize"], "INPUT.TRANSFORMS", ("random_flip", "normalize")),
        (["--source-domains", "photo", "sketch"], "DATASET.SOURCE_DOMAINS", ("photo", "sketch")),
        (["--target-domains", "cartoon"], "DATASET.TARGET_DOMAINS", ("cartoon",)),
        (["OPTIM.LR", "1e-4"], "OPTIM.LR", 1e-4),
        (["TRAINER.GOPRO.CTX_INIT", ""], "TRAINER.GOPRO.CTX_INIT", ""),
    ],
)
def test_a_flag_reaches_its_key(argv, key, value):
    node = config(*argv)
    for part in key.split("."):
        node = node[part]
    assert node == value


def test_resume_reaches_its_key_when_there_is_a_checkpoint(tmp_path):
    for folder in (tmp_path / "gone", tmp_path):
        with pytest.raises(ValueError, match=f"RESUME must be empty or the folder of a run .*{folder}'"):
            config("--resume", str(folder))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.pth.tar-3").touch()
    assert str(tmp_path) == config("--resume", str(tmp_path)).RESUME


def test_overrides_win_over_flags_and_flags_over_files():
    files = [
        "--config-file",
        "configs/trainers/GOPro/tiny.yaml",
        "--dataset-config-file",
        "configs/datasets/shapes.yaml",
    ]
    cfg = config(*files)
    assert (cfg.MODEL.BACKBONE.NAME, cfg.DATASET.NAME, cfg.SEED) == ("tiny", "Shapes", -1)
    assert config(*files, "--backbone", "ViT-B/16").MODEL.BACKBONE.NAME == "ViT-B/16"
    both = config(*files, "--backbone", "ViT-B/16", "MODEL.BACKBONE.NAME", "ViT-B/32")
    assert both.MODEL.BACKBONE.NAME == "ViT-B/32"


def test_pairs_may_follow_a_flag_of_several_words():
    cfg = config("--source-domains", "photo", "OPTIM.LR", "0.5", "DATASET.NUM_SHOTS", "4")
    assert cfg.DATASET.SOURCE_DOMAINS == ("photo",) and (cfg.OPTIM.LR, cfg.DATASET.NUM_SHOTS) == (0.5, 4)


@pytest.mark.parametrize(
    "line",
    [
        "OPTIM.GAMMA 1e-5 SEED 3 --root images --no-train",
        "OPTIM.GAMMA 1e-5 --root images SEED 3 --no-train",
        "--no-train SEED 3 --root=images OPTIM.GAMMA 1e-5",
        "--root images --no-train OPTIM.GAMMA 1e-5 SEED 3",
    ],
)
def test_flags_and_pairs_may_stand_in_any_order(line):
    args = train.parse_args(line.split())
    cfg = train.build_config(args)
    assert (cfg.DATASET.ROOT, cfg.OPTIM.GAMMA, cfg.SEED, args.no_train) == ("images", 1e-5, 3, True)


def test_a_value_may_start_with_a_minus_and_the_last_pair_wins():
    cfg = config("OPTIM.WARMUP_EPOCH", "-1", "INPUT.GN_MEAN", "-1e-3", "--seed", "-1", "INPUT.GN_MEAN", "-.5")
    assert (cfg.OPTIM.WARMUP_EPOCH, cfg.INPUT.GN_MEAN, cfg.SEED) == (-1, -0.5, -1)


@pytest.mark.parametrize("next_words", [["SEED", "3"], ["USE_CUDA", "False"], ["OPTIM.LR", "1"], ["--seed", "3"], []])
@pytest.mark.parametrize("domains", [["CALTECH", "VOC2007"], ["2019", "2020"], ["A", "B_2"], ["PACS"]])
def test_domains_in_capitals_and_digits_are_no_keys(domains, next_words):
    for flag, key in (("--source-domains", "SOURCE_DOMAINS"), ("--target-domains", "TARGET_DOMAINS")):
        assert config(flag, *domains, *next_words).DATASET[key] == tuple(domains)


def test_the_value_of_a_flag_is_no_key():
    assert config("--backbone", "RN50.PT", "--root", "SEED").DATASET.ROOT == "SEED"


def test_mistyped_and_lower_case_keys_are_named():
    for key in ("OPTIM.LRR", "optim.lr", "LEARNING_RATE"):
        with pytest.raises(ValueError, match=f"unknown config key {key} in the command line"):
            config(key, "1", "--root", "images")


def test_home_is_expanded_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "model.pth.tar-1").touch()
    (tmp_path / "own.yaml").write_text("DATASET: {SPLIT_FILE: ~/split.json}\n")
    (tmp_path / "data.yaml").write_text("_BASE_: ~/base.yaml\n")
    (tmp_path / "base.yaml").write_text("SEED: 3\n")
    cfg = config(
        *("--root=~/data", "--output-dir=~/out", "--resume", "~/run", "MODEL.BACKBONE.NAME", "~/clip.pt"),
        *("--config-file=~/own.yaml", "--dataset-config-file", "~/data.yaml"),
    )
    paths = (cfg.DATASET.ROOT, cfg.OUTPUT_DIR, cfg.RESUME, cfg.MODEL.BACKBONE.NAME, cfg.DATASET.SPLIT_FILE)
    assert paths == tuple(f"{tmp_path}/{name}" for name in ("data", "out", "run", "clip.pt", "split.json"))
    assert cfg.SEED == 3
    assert train.parse_args(["--eval-only", "--model-dir=~/run"]).model_dir == f"{tmp_path}/run"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--eval-only --no-train", "--no-train and --resume have no effect with it"),
        ("--eval-only --resume .", "--no-train and --resume have no effect with it"),
        ("--model-dir .", "no effect without --eval-only"),
        ("--load-epoch 0", "no effect without --eval-only"),
        ("--no-train --model-dir .", "no effect without --eval-only"),
    ],
)
def test_flags_without_effect_are_refused(line, message):
    with pytest.raises(ValueError, match=message):
        train.main(line.split())


def test_a_model_dir_that_does_not_exist_is_named():
    with pytest.raises(FileNotFoundError, match="--model-dir /does/not/exist is not a folder"):
        train.main(["--eval-only", "--model-dir", "/does/not/exist"])


def test_init_weights_must_exist(tmp_path):
    with pytest.raises(ValueError, match="MODEL.INIT_WEIGHTS must be empty or a file that exists, got '/does/not"):
        config("MODEL.INIT_WEIGHTS", "/does/not/exist")
    (tmp_path / "weights.pth").touch()
    assert config("MODEL.INIT_WEIGHTS", str(tmp_path / "weights.pth")).MODEL.INIT_WEIGHTS.endswith("weights.pth")


def test_a_missing_config_file_and_a_key_without_value():
    with pytest.raises(FileNotFoundError, match="config file nowhere.yaml does not exist"):
        config("--config-file", "nowhere.yaml")
    with pytest.raises(ValueError, match="KEY VALUE pairs, got 1 words: OPTIM.LR"):
        config("OPTIM.LR")


@pytest.fixture
def recipe_files(tmp_path):
    """A data set's file and a method's, both with recipes; returns the flags that name them."""
    (tmp_path / "base.yaml").write_text(
        "OPTIM: {MAX_EPOCH: 200, LR: 0.5}\n"
        "_WHEN_:\n"
        "  - {DATASET.NUM_SHOTS: 1, SET: {OPTIM: {MAX_EPOCH: 50}}}\n"
        "  - {DATASET.NAME: Shapes, DATASET.NUM_SHOTS: [2, 4], SET: {OPTIM: {MAX_EPOCH: 100, LR: 0.25}}}\n"
    )
    (tmp_path / "method.yaml").write_text("_BASE_: base.yaml\nOPTIM: {LR: 0.125}\n")
    (tmp_path / "data.yaml").write_text(
        "DATASET: {NAME: Shapes}\n_WHEN_: [{DATASET.NUM_SHOTS: 4, SET: {INPUT: {SIZE: [32, 32]}, SEED: 7}}]\n"
    )
    return ["--dataset-config-file", f"{tmp_path}/data.yaml", "--config-file", f"{tmp_path}/method.yaml"]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], (200, 0.125, (224, 224), -1)),
        (["DATASET.NUM_SHOTS", "1"], (50, 0.125, (224, 224), -1)),
        (["DATASET.NUM_SHOTS", "2"], (100, 0.125, (224, 224), -1)),  # the method's own LR changes its base's
        (["DATASET.NUM_SHOTS", "4"], (100, 0.125, (32, 32), 7)),
        (["DATASET.NUM_SHOTS", "4", "DATASET.NAME", "Digits"], (200, 0.125, (32, 32), 7)),
        (["DATASET.NUM_SHOTS", "4", "OPTIM.MAX_EPOCH", "3", "--seed", "5"], (3, 0.125, (32, 32), 5)),
    ],
)
def test_recipes_follow_the_final_config_and_flags_and_pairs_win(argv, expected, recipe_files):
    cfg = config(*recipe_files, *argv)
    found = (cfg.OPTIM.MAX_EPOCH, cfg.OPTIM.LR, cfg.INPUT.SIZE, cfg.SEED)
    assert found == expected
    assert cfg.is_frozen()


def test_a_data_sets_recipe_may_depend_on_what_the_methods_file_says(recipe_files, tmp_path):
    with open(tmp_path / "method.yaml", "a") as file:
        file.write("DATASET: {NUM_SHOTS: 4}\n")
    assert config(*recipe_files).SEED == 7
    assert config(*recipe_files, "DATASET.NUM_SHOTS", "2").SEED == -1


def test_a_value_that_a_recipe_sets_follows_the_rules(recipe_files, tmp_path):
    (tmp_path / "data.yaml").write_text("_WHEN_: [{DATASET.NUM_SHOTS: 4, SET: {OPTIM: {LR: -1}}}]\n")
    (tmp_path / "method.yaml").write_text("{}")
    with pytest.raises(ValueError, match="OPTIM.LR must be positive, got -1.0"):
        config(*recipe_files, "DATASET.NUM_SHOTS", "4")


def test_a_run_says_which_recipes_it_follows(recipe_files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("dassl.engine.build_trainer", lambda cfg: None)
    pairs = ["DATASET.NUM_SHOTS", "4", "OPTIM.MAX_EPOCH", "3"]
    train.main([*recipe_files, "--no-train", "--output-dir", f"{tmp_path}/run", *pairs])
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("recipe:")]
    assert said == [
        f"recipe: INPUT.SIZE (32, 32), SEED 7 (DATASET.NUM_SHOTS 4, {tmp_path}/data.yaml)",
        "recipe: OPTIM.MAX_EPOCH 100 (overridden by 3), OPTIM.LR 0.25 (overridden by 0.125) "
        f"(DATASET.NAME Shapes, DATASET.NUM_SHOTS 4, {tmp_path}/base.yaml)",
    ]


def test_recipes_are_known_from_what_was_set_by_hand():
    argv = ["--dataset-config-file", "configs/datasets/dtd.yaml", "--config-file"]
    argv += ["configs/trainers/CoOp/vit_b16_few_shot.yaml", "DATASET.NUM_SHOTS"]
    for shots, epochs in ((1, 50), (4, 100), (16, 200)):
        cfg = train.build_config(train.parse_args([*argv, str(shots)]))
        assert (epochs, ("OPTIM.MAX_EPOCH",)) == (cfg.OPTIM.MAX_EPOCH, cfg.RECIPE)
    assert train.build_config(train.parse_args([*argv, "1", "OPTIM.MAX_EPOCH", "7"])).RECIPE == ()
