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
    assert config("--resume", str(tmp_path)).RESUME == str(tmp_path)


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


def test_a_missing_config_file_and_a_key_without_value():
    with pytest.raises(FileNotFoundError, match="config file nowhere.yaml does not exist"):
        config("--config-file", "nowhere.yaml")
    with pytest.raises(ValueError, match="KEY VALUE pairs, got 1 words: OPTIM.LR"):
        config("OPTIM.LR")
