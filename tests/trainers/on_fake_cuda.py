"""Forward passes of all methods on fake tensors of a CUDA device; prints one JSON object, errors by case and precision.

Fake tensors have a shape, a precision and a device but no values. Whatever stays on the CPU meets a tensor of the
device and is an error; so is whatever reads a value of the device, for which a real GPU would be waited. Backward
passes need a driver even so, and are left out. A process of its own, without garbage collection and with a hard end:
what fake tensors leave behind can crash the interpreter when it is cleaned up.

    python -m tests.trainers.on_fake_cuda FOLDER        FOLDER: images by class, and room for an output folder beside
"""

import copy
import gc
import json
import os
import sys
import traceback
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import clip
import clip.memory
import datasets  # noqa: F401  registers the data sets
import train
import trainers.base
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.optimisation import PRECISIONS
from protocols.definitions import learns
from protocols.definitions import trainers as methods
from trainers.base import CLIPTrainer

# Settings whose paths differ from those of the defaults.
VARIANTS = {
    "CoOp CSC": ("TRAINER.COOP.CTX_INIT", "''", "TRAINER.COOP.CSC", "True"),
    "CoOp middle": ("TRAINER.COOP.CLASS_TOKEN_POSITION", "middle"),
    "GOPro released": ("TRAINER.GOPRO.VARIANT", "released"),
    "ZeroshotCLIP ensemble": ("TRAINER.ZSCLIP.TEMPLATE", "auto+clip7"),
}
CASES = [f"{case} {precision}" for case in (*methods(), *VARIANTS) for precision in PRECISIONS]
DRAWS = {"ProDA": "which prompts take part is drawn on the CPU"}
asked = {"cuda": True}  # what torch is told of a GPU


def on_device(module, mode):
    """A copy of a module with fake tensors on the device in place of its own, plain attributes too."""
    module = copy.deepcopy(module)
    for part in module.modules():
        for held in (part._parameters, part._buffers, part.__dict__):
            for name, value in held.items():
                if isinstance(value, torch.Tensor):
                    with mode:
                        fake = mode.from_tensor(value).detach().to("cuda")
                    held[name] = torch.nn.Parameter(fake, False) if isinstance(value, torch.nn.Parameter) else fake
    return module


def move(self, device):
    """`nn.Module.to`, which cannot exchange fake parameters."""
    for part in self.modules():
        for name, value in part._parameters.items():
            if value is not None:
                part._parameters[name] = torch.nn.Parameter(value.detach().to(device), value.requires_grad)
        for name, value in part._buffers.items():
            part._buffers[name] = value if value is None else value.to(device)
    return self


class Clip:
    """The package with a `load` that gives fake weights on the device."""

    def __init__(self, mode):
        self.mode = mode

    def load(self, name, pretrained, dtype, device):
        assert device.type == "cuda", device
        asked["cuda"] = False  # from here on the mode itself would start CUDA
        return on_device(clip.load(name, pretrained, dtype, "cpu"), self.mode)

    def __getattr__(self, name):
        return getattr(clip, name)


def passes(case, root):
    """A training step but for its backward pass, and a test batch."""
    *words, precision = case.split()
    method, mode = words[0], FakeTensorMode()
    asked["cuda"], trainers.base.clip = True, Clip(mode)
    kind = TRAINER_REGISTRY.get(method)
    argv = ["--root", str(root), "--seed", "1", "--output-dir", str(root.parent / "out")]
    argv += ["--dataset-config-file", "configs/datasets/image_folder.yaml"]
    argv += ["--config-file", f"configs/trainers/{method}/tiny.yaml", "DATALOADER.TRAIN_X.BATCH_SIZE", "2"]
    argv += ["DATASET.NUM_SHOTS", "2", f"TRAINER.{kind.config_key}.PREC", precision]
    cfg = train.build_config(train.parse_args([*argv, *VARIANTS.get(" ".join(words), ())]))

    class Built(kind):
        def build_model(self):
            with mode:
                super().build_model()

        def model_backward(self, loss, parts=None):
            pass

        def model_update(self, names=None):
            pass

        def model_gradients(self, loss, retain_graph=False):
            return [None for model in self._models.values() for _ in model.parameters()]

        def write_views(self, views):
            pass

    trainer = Built(cfg)
    size, classes = trainer.clip.image_size, trainer.num_classes
    trainer.start_epoch = trainer.epoch = trainer.batch_idx = 0
    learnables = [p for name in trainer.get_model_names() for p in trainer._models[name].parameters()]
    assert {p.device.type for p in learnables} <= {"cuda"}, "a learnable on another device"
    assert {p.dtype for p in learnables} <= {torch.float32}, "a learnable in another precision than fp32"
    with mode:
        if learns(method) and trainer._optims[trainer.get_model_names()[0]] is not None:
            batch = {view: torch.randn(2, 3, size, size) for view in trainer.views}
            trainer.set_model_mode("train")
            step = CLIPTrainer.forward_backward if method in DRAWS else type(trainer).forward_backward
            figures = step(trainer, batch | {"label": torch.zeros(2, dtype=torch.long)})
            assert figures["loss"].device.type == "cuda", "the loss is on another device"
            assert figures["loss"].dtype is torch.float32, f"the loss is {figures['loss'].dtype}"
        trainer.set_model_mode("eval")
        with torch.no_grad(), trainer.autocast():
            logits = trainer.model_inference(torch.randn(2, 3, size, size, device="cuda"))
    assert logits.shape == (2, classes), logits.shape
    assert logits.device.type == "cuda", "the logits are on another device"
    assert logits.dtype is torch.float32, f"the logits are {logits.dtype}"


def main(root):
    gc.disable()
    FakeTensorMode.__deepcopy__ = lambda self, memo: self  # copies of a fake tensor stay in its mode
    torch.cuda.is_available = lambda: asked["cuda"]
    torch.cuda.is_bf16_supported = lambda *_: True
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.backends.cudnn.enabled = False  # its LSTM asks the driver
    torch.nn.Module.to = move
    clip.memory.free_memory = lambda device: 2**33
    trainers.base.weights_digest = lambda module: "none"
    errors, stdout = {}, sys.stdout
    sys.stdout = sys.stderr
    for case in CASES:
        try:
            passes(case, root)
            errors[case] = ""
        except Exception:
            errors[case] = traceback.format_exc()
    mode = FakeTensorMode()
    with mode:  # the check itself: what it would see, it sees
        try:
            torch.zeros(2, 3, device="cuda") @ torch.zeros(3, 2)
        except RuntimeError as error:
            errors["a tensor on the cpu"] = str(error)
    print(json.dumps(errors), file=stdout, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
