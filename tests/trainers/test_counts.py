"""How many parameters each method learns on ViT-B/16, as reckoned from its formula; what a ResNet is refused for."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import clip
import train
import trainers  # noqa: F401  registers the methods
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import count_num_param

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "trainers"
NAMES = ["star", "fire_engine", "cat"]
TEXT, IMAGE, JOINT, BLOCKS = 512, 768, 512, 12  # widths of ViT-B/16's towers
IMAGES = 6  # of the training


@pytest.fixture(scope="module")
def backbone():
    return clip.load("ViT-B/16", pretrained=False)


def build(method, file, backbone, *pairs):
    """The trainer that a file asks for, on three class names instead of a data set, and on random weights."""
    registered = TRAINER_REGISTRY.get(method)

    class WithoutData(registered):
        def build_backbone(self):
            self.dataset = SimpleNamespace(classnames=NAMES, train_x=[None] * IMAGES)
            self.trained_classes, self.clip = self.classnames, backbone
            self.set_precision(self.options.PREC)

        def build_data_loader(self):
            self.train_loader_x = self.val_loader = self.test_loader = None
            self.num_classes, self.lab2cname = len(NAMES), dict(enumerate(NAMES))
            self.dm = SimpleNamespace(dataset=self.dataset)

        def sentence_features(self, *templates):  # takes long, and counts nothing
            return torch.randn(len(templates), len(NAMES), self.clip.embed_dim)

    WithoutData.__name__ = method
    pairs = [f"TRAINER.{registered.config_key}.PREC", "fp32", "USE_CUDA", "False", *map(str, pairs)]
    argv = ["--config-file", str(CONFIGS / method / f"{file}.yaml"), *pairs]
    return WithoutData(train.build_config(train.parse_args(argv)))


def linear(inner, outer):
    return inner * outer + outer


LSTM = 2 * 4 * (TEXT // 2) * (TEXT + TEXT // 2 + 2)  # both directions, four gates, two biases each
MAPLE = {depth: depth * (2 * TEXT + linear(TEXT, IMAGE)) for depth in (3, 9)}
GOPRO = 4 * TEXT + 2 * BLOCKS * linear(IMAGE, TEXT) + linear(JOINT, JOINT)  # and the text projectors
COUNTS = [  # method, file, further pairs, the count as a figure, and where it comes from
    ("CoOp", "vit_b16", (), 2_048, 4 * TEXT),
    ("CoOp", "vit_b16_transfer", (), 2_048, 4 * TEXT),
    ("CoOp", "vit_b16_few_shot", (), 8_192, 16 * TEXT),
    ("CoOp", "vit_b16_few_shot", ("TRAINER.COOP.CSC", True), 24_576, len(NAMES) * 16 * TEXT),
    ("CoCoOp", "vit_b16", (), 35_360, 4 * TEXT + linear(JOINT, JOINT // 16) + linear(JOINT // 16, TEXT)),
    ("KgCoOp", "vit_b16", (), 2_048, 4 * TEXT),
    ("ProGrad", "vit_b16", (), 8_192, 16 * TEXT),
    ("ProDA", "vit_b16", (), 262_144, 32 * 16 * TEXT),
    ("PRE", "vit_b16", (), 1_579_008, 4 * TEXT + LSTM),
    ("TCP", "vit_b16", (), 331_904, 4 * TEXT + linear(JOINT, JOINT // 4) + linear(JOINT // 4, 4 * TEXT)),
    ("IVLP", "vit_b16", (), 30_720, 2 * (TEXT + IMAGE) * BLOCKS),
    ("VPT", "vit_b16", (), 73_728, 8 * IMAGE * BLOCKS),
    ("MaPLe", "vit_b16", (), 3_555_072, MAPLE[9]),
    ("MaPLe", "vit_b16_transfer", (), 1_185_024, MAPLE[3]),
    ("PromptSRC", "vit_b16", (), 46_080, 4 * (TEXT + IMAGE) * 9),
    ("PromptSRC", "vit_b16_transfer", (), 15_360, 4 * (TEXT + IMAGE) * 3),
    ("PromptSRC", "vit_b16_few_shot", (), 46_080, 4 * (TEXT + IMAGE) * 9),
    ("CLIPAdapter", "vit_b16", (), 131_072, 2 * JOINT * JOINT // 4),
    ("TipAdapterF", "vit_b16", ("TRAINER.TIPADAPTER.SEARCH_SCALE", "()"), 3_072, IMAGES * JOINT),
    ("GOPro", "vit_b16", (), 9_714_215, GOPRO + 3 * linear(BLOCKS, 1)),
    ("GOPro", "vit_b16_released", (), 9_715_213, GOPRO + linear(BLOCKS, 1) + 2 * JOINT),
    ("CLIPLoRA", "vit_b16", (), 184_320, 3 * BLOCKS * 2 * 2 * (TEXT + IMAGE)),
]


@pytest.mark.parametrize(("method", "file", "pairs", "count", "reckoned"), COUNTS)
def test_learnable_parameters(backbone, capsys, method, file, pairs, count, reckoned):
    trainer = build(method, file, backbone, *pairs)
    (name,) = trainer.get_model_names()
    learner = trainer._models[name]
    assert sum(p.numel() for p in learner.parameters() if p.requires_grad) == count == reckoned
    assert count_num_param(learner) == count and f"Learnable parameters: {count:,}\n" in capsys.readouterr().out
    assert {id(p) for group in trainer.optim.param_groups for p in group["params"]} == {*map(id, learner.parameters())}
    assert not any(p.requires_grad for p in trainer.clip.parameters())


@pytest.mark.parametrize(("method", "models"), [("ZeroshotCLIP", 0), ("TipAdapter", 1)])
def test_methods_that_step_along_no_gradient_have_no_optimiser(backbone, method, models):
    pairs = ("TRAINER.TIPADAPTER.SEARCH_SCALE", "()") if models else ()
    trainer = build(method, "vit_b16", backbone, *pairs)
    assert list(trainer._optims.values()) == [None] * models


def test_all_methods_are_counted():
    counted = {row[0] for row in COUNTS} | {"ZeroshotCLIP", "TipAdapter"}
    assert counted == {path.name for path in CONFIGS.iterdir() if path.name != "_base"}


@pytest.fixture(scope="module")
def resnet():
    return clip.load("RN50", pretrained=False)


@pytest.mark.parametrize("method", ["GOPro", "IVLP", "VPT", "MaPLe", "PromptSRC", "CLIPLoRA"])
def test_methods_inside_the_image_tower_refuse_a_resnet_by_name(resnet, method):
    with pytest.raises(ValueError, match=f"{method} .* of the image tower; 'RN50' has an image tower .ModifiedResNet."):
        build(method, "vit_b16", resnet)


@pytest.mark.parametrize(
    ("method", "pairs", "count"),
    [
        ("IVLP", ("TRAINER.IVLP.PROMPT_DEPTH_VISION", 0), 2 * TEXT * BLOCKS),
        ("PromptSRC", ("TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION", 0), 4 * TEXT * 9),
        ("CLIPLoRA", ("TRAINER.CLIPLORA.ENCODER", "text"), 3 * BLOCKS * 2 * 2 * TEXT),
        ("CLIPAdapter", (), 2 * 1024 * 1024 // 4),
    ],
)
def test_what_they_can_do_on_a_resnet(resnet, method, pairs, count):
    (learner,) = build(method, "vit_b16", resnet, *pairs)._models.values()
    assert count_num_param(learner) == count
