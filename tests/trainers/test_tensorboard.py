"""What TensorBoard's pages show of runs, in a real browser; and every method's features for its projector."""

import json

import numpy as np
import pytest
import torch

from dassl.config import flatten
from dassl.engine import TRAINER_REGISTRY
from protocols.definitions import trainers

from .browser import CHROMIUM, browser, tensorboard

METHODS = trainers()
# Widths of the page's pictures, shadow roots among them.
WIDTHS = """
(function all(node) {
  const own = node.nodeName == 'IMG' && node.naturalWidth > 300 ? [node.naturalWidth] : [];
  return [...own, ...(node.shadowRoot ? all(node.shadowRoot) : []), ...[...node.childNodes].flatMap(all)];
})(document)
"""


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_features_for_the_projector(run, backbones, method):
    own = ("TEST.PROJECTOR", "10", "OPTIM.MAX_EPOCH", "1")
    _, folder = run("run", *own, trainer=method)
    (matrix,) = folder.glob("tensorboard/*/test/tensors.tsv")
    features = np.loadtxt(matrix, delimiter="\t")
    assert len(features) == 10
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-4)
    lines = matrix.with_name("metadata.tsv").read_text().splitlines()
    assert len({line.partition("\t")[0] for line in lines[1:]}) == 5  # of every class


def test_pictures_are_shown_where_features_are_shared_too(run, backbones, tmp_path):
    cache = ("TEST.FEATURE_CACHE", str(tmp_path / "cache"))
    run("fills", *cache, trainer="ZeroshotCLIP")
    tables = []
    for name, more in (("images", ("TEST.FEATURE_CACHE", "")), ("shared", cache)):
        _, folder = run(name, "TEST.PROJECTOR", "8", *more, trainer="ZeroshotCLIP")
        (matrix,) = folder.glob("tensorboard/*/test/tensors.tsv")
        assert matrix.with_name("sprite.png").exists()
        tables.append(np.loadtxt(matrix, delimiter="\t"))
    np.testing.assert_array_equal(*tables)


def test_features_are_what_the_logits_are_made_of(run, backbones, built):
    for method in ("CoOp", "GOPro"):
        run(method, trainer=method)
        trainer = built[-1]
        trainer.set_model_mode("eval")
        images = trainer.parse_batch_test(next(iter(trainer.test_loader)))[0]
        with torch.no_grad():
            output, features = trainer.model(images), trainer.test_features(images)
        text = output.text if output.text.ndim == 3 else output.text[None]
        logits = trainer.clip.logit_scale * (features[:, None] * text).sum(-1)
        torch.testing.assert_close(logits, output.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_the_pages_of_tensorboard_show_the_runs(run, backbones, tmp_path):
    runs = {}
    for method in ("CoOp", "GOPro"):
        own = ("TEST.PROJECTOR", "20", "TRAIN.PRINT_FREQ", "1")
        runs[method] = run(f"runs/{method}", *own, trainer=method)
    root = tmp_path / "runs"
    names = [f"{method}/tensorboard" for method in runs]
    with tensorboard(root) as address, browser(tmp_path / "profile") as page:

        def open_page(name, *words):
            page.open(f"{address}/?darkMode=false#{name}")
            text = page.wait_for(*names, *words)
            page.screenshot(tmp_path / f"{name}.png")
            assert (tmp_path / f"{name}.png").stat().st_size > 20_000
            return " ".join(text.split())

        open_page("timeseries", "train_speed", "/accuracy_per_class", "/confusion_matrix", "/ece")
        tags = ["test/accuracy", "test/ece", "test/error_rate", "test/macro_f1", "train/lr", "train_speed"]
        open_page("scalars", *tags)
        open_page("images", "test/accuracy_per_class", "test/confusion_matrix", "step")
        assert len(page.evaluate(WIDTHS)) >= 4  # two pictures of each run, decoded by the browser
        text = open_page("text", "run/config", "run/command", "run/versions")
        for method, (_, folder) in runs.items():
            assert json.loads((folder / "env.json").read_text())["command"] in text
            assert f"NAME: {method}" in text
        charts = open_page("custom_scalars", "loss and its parts", "accuracy (%)", "train/loss_sem (GOPro/tensorboard)")
        assert "train/loss (CoOp/tensorboard)" in charts and "train/lr" not in charts
        table = open_page("hparams", "TRAINER.NAME", "test/accuracy", "test/macro_f1", "test/ece", "Trial ID")
        for method, (results, _) in runs.items():
            # TensorBoard shows five digits.
            assert f"{results['accuracy']:.5g}" in table and f"{results['ece']:.5g}" in table, method
            node = TRAINER_REGISTRY.get(method).config_key
            keys = flatten({"TRAINER": {node: run.config("x", trainer=method).TRAINER[node]}})
            assert all(key in table for key in keys)  # the columns of all methods, whichever comes first
        open_page("projector", "20x128", "class", "predicted")
    assert page.process.poll() is not None  # both have ended
