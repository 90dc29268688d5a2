"""A trainer written for Dassl, as CoOp's are, runs as it is: its own model, loss, scaler, schedule step and loading."""

import json
import os.path as osp
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dassl_toy as toy
import pytest
import torch
import torch.nn as nn
from torch.cuda.amp import GradScaler, autocast
from torch.nn import functional as F

from dassl.data import DataManager  # noqa: F401  such files import more than they use
from dassl.data.transforms import INTERPOLATION_MODES, build_transform  # noqa: F401
from dassl.engine import TRAINER_REGISTRY, TrainerX, build_trainer
from dassl.evaluation import build_evaluator  # noqa: F401
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import (  # noqa: F401
    AverageMeter,
    MetricMeter,
    count_num_param,
    load_checkpoint,
    load_pretrained_weights,
    mkdir_if_missing,
    resume_from_checkpoint,
    save_checkpoint,
    set_random_seed,
    tolist_if_not,
)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
WIDTH = 8


def name_embedding(name):
    """Stands for the frozen token embedding: the same name gives the same vector."""
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    return torch.randn(1, 1, WIDTH, generator=generator)


class PromptLearner(nn.Module):
    def __init__(self, classnames):
        super().__init__()
        ctx_vectors = torch.empty(2, WIDTH)
        nn.init.normal_(ctx_vectors, std=0.02)
        self.ctx = nn.Parameter(ctx_vectors)
        self.n_cls = len(classnames)
        # Saved with the model, but useless for other classes
        self.register_buffer("token_prefix", torch.ones(self.n_cls, 1, WIDTH))
        self.register_buffer("token_suffix", torch.cat([name_embedding(name) for name in classnames]))

    def forward(self):
        ctx = self.ctx.unsqueeze(0).expand(self.n_cls, -1, -1)
        return torch.cat([self.token_prefix, ctx, self.token_suffix], dim=1)


class PromptedModel(nn.Module):
    def __init__(self, classnames):
        super().__init__()
        self.prompt_learner = PromptLearner(classnames)
        generator = torch.Generator().manual_seed(0)
        self.image_encoder = nn.Linear(192, WIDTH)
        self.text_encoder = nn.Linear(WIDTH, WIDTH)
        for layer in (self.image_encoder, self.text_encoder):
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator) / 8

    def forward(self, image):
        image_features = self.image_encoder(image.flatten(1))
        text_features = self.text_encoder(self.prompt_learner()).mean(1)
        image_features = image_features / image_features.norm(dim=-1, keepdim=True)
        text_features = text_features / text_features.norm(dim=-1, keepdim=True)
        return 10 * image_features @ text_features.t()


@TRAINER_REGISTRY.register()
class PromptTuner(TrainerX):
    def check_cfg(self, cfg):
        assert cfg.TRAINER.TOY.PREC in ["fp16", "fp32", "amp"]

    def build_model(self):
        cfg = self.cfg
        classnames = self.dm.dataset.classnames

        self.model = PromptedModel(classnames)
        for name, param in self.model.named_parameters():
            if "prompt_learner" not in name:
                param.requires_grad_(False)
        if cfg.MODEL.INIT_WEIGHTS:
            load_pretrained_weights(self.model.prompt_learner, cfg.MODEL.INIT_WEIGHTS)
        self.model.to(self.device)

        self.optim = build_optimizer(self.model.prompt_learner, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model("prompt_learner", self.model.prompt_learner, self.optim, self.sched)
        self.scaler = GradScaler() if cfg.TRAINER.TOY.PREC == "amp" else None

    def forward_backward(self, batch):
        image, label = self.parse_batch_train(batch)

        if self.cfg.TRAINER.TOY.PREC == "amp":
            with autocast():
                output = self.model(image)
                loss = F.cross_entropy(output, label)
            self.optim.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optim)
            self.scaler.update()
        else:
            output = self.model(image)
            loss = F.cross_entropy(output, label)
            self.model_backward_and_update(loss)

        loss_summary = {
            "loss": loss.item(),
            "acc": compute_accuracy(output, label)[0].item(),
        }

        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()

        return loss_summary

    def parse_batch_train(self, batch):
        input = batch["img"]
        label = batch["label"]
        input = input.to(self.device)
        label = label.to(self.device)
        return input, label

    def load_model(self, directory, epoch=None):
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            return

        names = self.get_model_names()
        model_file = "model-best.pth.tar"
        if epoch is not None:
            model_file = "model.pth.tar-" + str(epoch)

        for name in names:
            model_path = osp.join(directory, name, model_file)
            if not osp.exists(model_path):
                raise FileNotFoundError(f'Model not found at "{model_path}"')

            checkpoint = load_checkpoint(model_path)
            state_dict = checkpoint["state_dict"]
            epoch = checkpoint["epoch"]
            if "token_prefix" in state_dict:
                del state_dict["token_prefix"]
            if "token_suffix" in state_dict:
                del state_dict["token_suffix"]
            print(f'Loading weights to {name} from "{model_path}" (epoch = {epoch})')
            self._models[name].load_state_dict(state_dict, strict=False)


MakeCfg = Callable[..., Any]
NAME = ("TRAINER.NAME", "PromptTuner")


@pytest.mark.parametrize("precision", ["fp32", "amp"])
@pytest.mark.parametrize("final", ["last_step", "best_val"])
def test_it_trains_and_its_schedule_is_stepped_once_an_epoch(
    final: str, precision: str, make_cfg: MakeCfg, tmp_path: Path
) -> None:
    trainer = toy.run_toy(make_cfg(*NAME, "TRAINER.TOY.PREC", precision, "TEST.FINAL_MODEL", final))
    train = [record for record in toy.read_metrics(tmp_path / "run") if record["split"] == "train"]
    assert [record["lr"] for record in train] == pytest.approx([0.01] * 3 + [0.1] * 3 + [0.075] * 3)
    assert sum(record["loss"] for record in train[-3:]) < sum(record["loss"] for record in train[:3])
    checkpoint = load_checkpoint(str(tmp_path / "run" / "prompt_learner" / "model.pth.tar-3"))
    assert set(checkpoint["state_dict"]) == {"ctx", "token_prefix", "token_suffix"}
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["eval_only"] is False
    assert results["results"]["accuracy"] == trainer.results["accuracy"]
    if final == "last_step":
        assert torch.equal(checkpoint["state_dict"]["ctx"], trainer.model.prompt_learner.ctx)


def test_it_resumes_with_its_class_dependent_buffers(make_cfg: MakeCfg, tmp_path: Path) -> None:
    toy.run_toy(make_cfg(*NAME, "TRAIN.CHECKPOINT_FREQ", "1"))
    folder = tmp_path / "run"
    whole = toy.read_metrics(folder), (folder / "prompt_learner" / "model.pth.tar-3").read_bytes()
    (folder / "prompt_learner" / "model.pth.tar-3").unlink()
    trainer = toy.run_toy(make_cfg(*NAME, "TRAIN.CHECKPOINT_FREQ", "1"))
    assert trainer.start_epoch == 2
    assert (toy.read_metrics(folder), (folder / "prompt_learner" / "model.pth.tar-3").read_bytes()) == whole


@pytest.mark.parametrize("loader", ["its own", "the engine's"])
def test_its_context_is_used_with_other_class_names(
    loader: str, make_cfg: MakeCfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = toy.run_toy(make_cfg(*NAME)).model.prompt_learner
    monkeypatch.setattr(toy, "CLASSES", ("blue", "green"))
    trainer = build_trainer(make_cfg(*NAME, "OUTPUT_DIR", str(tmp_path / "eval")))
    load = trainer.load_model if loader == "its own" else super(PromptTuner, trainer).load_model
    load(str(tmp_path / "run"), epoch=3)
    learner = trainer.model.prompt_learner
    assert torch.equal(learner.ctx, trained.ctx)
    assert learner.token_suffix.shape == (2, 1, WIDTH)
    assert torch.equal(learner.token_suffix, trained.token_suffix[:2])
    assert 0 <= trainer.test() <= 100


def test_evaluation_with_its_own_loading_does_not_claim_to_know_the_training(make_cfg: MakeCfg, tmp_path: Path) -> None:
    toy.run_toy(make_cfg(*NAME))
    toy.test_toy(make_cfg(*NAME, "OUTPUT_DIR", str(tmp_path / "eval")), tmp_path / "run", epoch=3)
    results = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert (results["eval_only"], results["train"]) == (True, None)


def test_its_initial_weights_are_loaded(make_cfg: MakeCfg, tmp_path: Path) -> None:
    trained = toy.run_toy(make_cfg(*NAME)).model.prompt_learner
    path = str(tmp_path / "run" / "prompt_learner" / "model.pth.tar-3")
    trainer = build_trainer(make_cfg(*NAME, "OUTPUT_DIR", str(tmp_path / "again"), "MODEL.INIT_WEIGHTS", path))
    assert torch.equal(trainer.model.prompt_learner.ctx, trained.ctx)


def test_nothing_of_it_is_deprecated_by_the_engine(make_cfg: MakeCfg) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        toy.run_toy(make_cfg(*NAME))
