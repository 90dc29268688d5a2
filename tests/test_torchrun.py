"""train.py under torchrun, as users start it: a process that is killed ends the run, and the same command goes on."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPO = Path(__file__).resolve().parents[1]
MINUTE = 60
# What the victim does beside train.py: it dies as by the kernel's out-of-memory killer.
PROGRAM = """
import os, runpy, signal, sys

sys.path.insert(0, os.getcwd())
victim, moment = sys.argv[1:3]
del sys.argv[1:3]


def die(*args, **kwargs):
    print("dies", moment, file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


if os.environ["RANK"] == victim:
    if moment == "start":
        die()
    from dassl.engine import TrainerX
    from trainers.base import CLIPTrainer

    step, infer, seen = CLIPTrainer.forward_backward, CLIPTrainer.model_inference, []

    def forward_backward(self, batch):
        return die() if (self.epoch, self.batch_idx) == (1, 1) else step(self, batch)

    def model_inference(self, input):
        seen.append(1)
        return die() if len(seen) == 2 else infer(self, input)

    if moment == "build":
        TrainerX.build_data_loader = die
    if moment == "epoch":
        CLIPTrainer.forward_backward = forward_backward
    if moment == "test":
        CLIPTrainer.model_inference = model_inference
runpy.run_path("train.py", run_name="__main__")
"""
SETTINGS = (
    *("DATASET.NUM_SHOTS", "2", "DATALOADER.NUM_WORKERS", "1", "DATALOADER.TRAIN_X.BATCH_SIZE", "1"),
    *("DATALOADER.TEST.BATCH_SIZE", "2", "OPTIM.MAX_EPOCH", "2", "USE_CUDA", "False"),
)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    from PIL import Image

    root = tmp_path_factory.mktemp("images")
    generator = torch.Generator().manual_seed(0)
    for name in ("star", "house", "fish"):
        (root / name).mkdir()
        for i in range(9):
            pixels = torch.randint(0, 256, (64, 64, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def torchrun(images, tmp_path_factory):
    """torchrun(folder, victim, moment): exit code and messages, at most a minute after the victim died."""
    program = tmp_path_factory.mktemp("program") / "program.py"
    program.write_text(PROGRAM)

    def start(folder, victim=-1, moment="never"):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        command += [str(program), str(victim), moment, "--root", str(images), "--output-dir", str(folder)]
        command += ["--seed", "1", "--dataset-config-file", "configs/datasets/image_folder.yaml"]
        command += ["--config-file", "configs/trainers/GOPro/tiny.yaml", *SETTINGS]
        environ = {**os.environ, "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(command, cwd=REPO, env=environ, text=True, stderr=subprocess.PIPE, stdout=-3) as process:
            told = []
            try:
                if victim >= 0:
                    for line in process.stderr:  # however long it takes to come so far
                        told.append(line)
                        if line.startswith("dies"):
                            break
                told.append(process.communicate(timeout=MINUTE if victim >= 0 else 5 * MINUTE)[1])
            finally:
                process.terminate()  # torchrun ends its processes
        return process.returncode, "".join(told)

    return start


@pytest.fixture(scope="module")
def whole(torchrun, tmp_path_factory):
    """Folder of a run that nobody killed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    code, told = torchrun(folder)
    assert code == 0, told
    return folder


def checkpoint(folder):
    return torch.load(folder / "gopro" / "model.pth.tar-2")["state_dict"]


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "victim"), [("start", 1), ("build", 0), ("epoch", 0), ("epoch", 1), ("test", 1)])
def test_a_killed_process_ends_the_run_within_a_minute_and_the_same_command_goes_on(
    moment, victim, torchrun, whole, tmp_path
):
    run = tmp_path / "run"
    code, told = torchrun(run, victim, moment)
    assert code > 0
    assert re.search(r"Signal 9 \(SIGKILL\) received", told) and re.search(rf"rank +: {victim} ", told), told
    assert not (run / "done").exists()
    found = [path.name for path in run.glob("gopro/*-*")]
    assert found == {"epoch": ["model.pth.tar-1"], "test": ["model.pth.tar-2"]}.get(moment, [])
    if not found:
        return  # nothing to go on from: the same command starts
    code, told = torchrun(run)
    assert code == 0, told
    for key, value in checkpoint(whole).items():
        assert torch.equal(checkpoint(run)[key], value), key
    results = [json.loads((folder / "results.json").read_text()) for folder in (run, whole)]
    assert results[0]["results"] == results[1]["results"] and results[0]["num_images"] == results[1]["num_images"]
