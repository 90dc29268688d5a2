"""Figures worked out by hand."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from dassl.evaluation import EVALUATOR_REGISTRY, Classification, EvaluatorBase, build_evaluator
from dassl.evaluation.pictures import confusion_map

MakeCfg = Callable[..., Any]
NAMES = {0: "ant", 1: "bee", 2: "cat", 3: "dog"}
TRUE = [0, 0, 0, 1, 1, 2]
PREDICTED = [0, 0, 1, 1, 3, 1]  # nothing is a dog, but one is taken for it


def scores(labels: list[int], classes: int = 4) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(labels), classes).float()


def evaluate(cfg: Any, batch_size: int = 6) -> tuple[dict[str, float], Classification]:
    evaluator = build_evaluator(cfg, lab2cname=NAMES)
    assert isinstance(evaluator, Classification)
    for i in range(0, len(TRUE), batch_size):
        evaluator.process(scores(PREDICTED[i : i + batch_size]), torch.tensor(TRUE[i : i + batch_size]))
    return dict(evaluator.evaluate()), evaluator


@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_accuracy_error_and_macro_f1_whatever_the_batches(batch_size: int, make_cfg: MakeCfg) -> None:
    results, evaluator = evaluate(make_cfg(), batch_size)
    assert list(results) == ["accuracy", "error_rate", "macro_f1", "ece"]
    assert results["accuracy"] == pytest.approx(100 * 3 / 6)
    assert results["error_rate"] == pytest.approx(100 * 3 / 6)
    # F1 = 2 TP / (2 TP + FP + FN): ant 4/5, bee 2/(2+2+1), cat 0; the mean is over classes that occur, so not dog.
    assert results["macro_f1"] == pytest.approx(100 * (0.8 + 0.4 + 0) / 3)
    # One-hot scores of four classes: every confidence is e / (e + 3), and half of the images are right.
    assert results["ece"] == pytest.approx(100 * abs(0.5 - math.e / (math.e + 3)), abs=1e-5)
    assert evaluator.num_images == 6


def test_macro_f1_is_not_the_accuracy_of_unequal_classes(make_cfg: MakeCfg) -> None:
    evaluator = build_evaluator(make_cfg())
    evaluator.process(scores([0] * 10, 2), torch.tensor([0] * 9 + [1]))
    results = evaluator.evaluate()
    assert results["accuracy"] == pytest.approx(90)
    assert results["macro_f1"] == pytest.approx(100 * (18 / 19 + 0) / 2)


def test_per_class_accuracy_of_the_classes_that_occur(make_cfg: MakeCfg) -> None:
    results, evaluator = evaluate(make_cfg())
    assert evaluator.per_class == {"ant": pytest.approx(200 / 3), "bee": 50, "cat": 0}
    assert "perclass_accuracy" not in results


def test_per_class_result_is_printed_and_averaged_when_asked_for(
    make_cfg: MakeCfg, capsys: pytest.CaptureFixture[str]
) -> None:
    results, _ = evaluate(make_cfg("TEST.PER_CLASS_RESULT", "True"))
    assert results["perclass_accuracy"] == pytest.approx((200 / 3 + 50 + 0) / 3)
    lines = capsys.readouterr().out.splitlines()
    assert "* class: 0 (ant)\ttotal: 3\tcorrect: 2\tacc: 66.7%" in lines
    assert "* class: 2 (cat)\ttotal: 1\tcorrect: 0\tacc: 0.0%" in lines
    assert "* average: 38.9%" in lines
    assert not any("dog" in line for line in lines)


def test_result_is_printed(make_cfg: MakeCfg, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(make_cfg())
    expected = ["* total: 6", "* correct: 3", "* accuracy: 50.0%", "* error: 50.0%", "* macro_f1: 40.0%", "* ece: 2.5%"]
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("*")] == expected


def test_confusion_matrix_has_rows_of_truth_as_shares(make_cfg: MakeCfg, tmp_path: Any) -> None:
    evaluate(make_cfg("TEST.COMPUTE_CMAT", "True"))
    expected = [[2 / 3, 1 / 3, 0, 0], [0, 0.5, 0, 0.5], [0, 1, 0, 0], [0, 0, 0, 0]]
    cmat = torch.load(tmp_path / "run" / "cmat.pt")
    torch.testing.assert_close(cmat, torch.tensor(expected, dtype=torch.float64))


def test_all_right_and_all_wrong(make_cfg: MakeCfg) -> None:
    evaluator = build_evaluator(make_cfg(), lab2cname=NAMES)
    evaluator.process(scores([0, 1, 2]), torch.tensor([0, 1, 2]))
    sure = pytest.approx(100 * math.e / (math.e + 3), abs=1e-5)  # one-hot scores of four classes
    right = {"accuracy": 100, "error_rate": 0, "macro_f1": 100, "ece": pytest.approx(100 - sure.expected, abs=1e-5)}
    assert dict(evaluator.evaluate()) == right
    evaluator.reset()
    evaluator.process(scores([1, 2, 0]), torch.tensor([0, 1, 2]))
    assert dict(evaluator.evaluate()) == {"accuracy": 0, "error_rate": 100, "macro_f1": 0, "ece": sure}


def test_reset_forgets_everything(make_cfg: MakeCfg) -> None:
    _, evaluator = evaluate(make_cfg())
    evaluator.reset()
    assert (evaluator.per_class, evaluator.num_images) == ({}, 0)
    evaluator.process(scores([2]), torch.tensor([2]))
    assert evaluator.evaluate()["accuracy"] == 100
    assert evaluator.per_class == {"cat": 100}


def test_half_precision_scores_are_counted_like_others(make_cfg: MakeCfg) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        evaluator = build_evaluator(make_cfg())
        evaluator.process(scores([0, 1]).to(dtype), torch.tensor([0, 0]))
        assert evaluator.evaluate()["accuracy"] == 50


def plain_ece(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Guo et al., eq. 3, image by image in numpy; bins ((m - 1) / 15, m / 15]."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(logits.double().numpy(), labels.tolist(), strict=True):
        shares = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        bins.setdefault(math.ceil(shares.max() * 15), []).append((shares.max(), row.argmax() == label))
    gaps = [len(b) * abs(np.mean([right for _, right in b]) - np.mean([sure for sure, _ in b])) for b in bins.values()]
    return 100 * float(sum(gaps)) / len(labels)


def ece_of(cfg: Any, logits: torch.Tensor, labels: torch.Tensor, batch_size: int = 7) -> float:
    evaluator = build_evaluator(cfg)
    for part, label in zip(logits.split(batch_size), labels.split(batch_size), strict=True):
        evaluator.process(part, label)
    return evaluator.evaluate()["ece"]


@pytest.mark.parametrize("scale", [0.3, 1, 3, 100])
@pytest.mark.parametrize("classes", [1, 2, 5, 30])
def test_calibration_error_is_that_of_a_plain_computation(classes: int, scale: float, make_cfg: MakeCfg) -> None:
    generator = torch.Generator().manual_seed(classes)
    labels = torch.randint(0, classes, (300,), generator=generator)
    noise = torch.randn(300, classes, generator=generator)
    logits = scale * (noise + torch.nn.functional.one_hot(labels, classes))
    expected = plain_ece(logits, labels)
    for size in (1, 64, 300):
        assert ece_of(make_cfg(), logits, labels, size) == pytest.approx(expected, abs=1e-4)
    if classes > 1:
        assert expected > 0.1  # so that zeros would not do


def test_calibration_error_of_known_cases(make_cfg: MakeCfg) -> None:
    def logits(confidence: float, count: int) -> torch.Tensor:  # of two classes, the first is predicted
        return torch.tensor([[math.log(confidence / (1 - confidence)), 0.0]]).repeat(count, 1)

    calibrated = torch.cat([logits(0.7, 10), logits(0.9, 10)]), torch.tensor([0] * 7 + [1] * 3 + [0] * 9 + [1])
    assert ece_of(make_cfg(), *calibrated) == pytest.approx(0, abs=1e-4)
    assert ece_of(make_cfg(), 1000 * scores([1, 2]), torch.tensor([0, 0])) == 100  # wrong and sure
    assert ece_of(make_cfg(), 1000 * scores([1, 2]), torch.tensor([1, 2])) == 0  # right and sure
    # Too sure in one bin and too little in another do not cancel: 0.6 all wrong, 0.9 all right.
    mixed = torch.cat([logits(0.6, 3), logits(0.9, 1)]), torch.tensor([1, 1, 1, 0])
    assert ece_of(make_cfg(), *mixed) == pytest.approx(100 * (3 * 0.6 + 0.1) / 4, abs=1e-4)
    # In one bin they do: 0.81 right, 0.85 wrong.
    shared = torch.cat([logits(0.81, 1), logits(0.85, 1)]), torch.tensor([0, 1])
    assert ece_of(make_cfg(), *shared) == pytest.approx(100 * abs(0.83 - 0.5), abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_confidence_of_half_precision_logits_is_computed_in_single_precision(
    dtype: torch.dtype, make_cfg: MakeCfg
) -> None:
    logits, labels = torch.tensor([[1.3, 0.0]]).repeat(20, 1).to(dtype), torch.zeros(20, dtype=torch.long)
    expected = plain_ece(logits.float(), labels)
    assert ece_of(make_cfg(), logits, labels) == pytest.approx(expected, abs=1e-5)
    coarse = logits.softmax(1).float().log()  # what it would be otherwise
    assert abs(plain_ece(coarse, labels) - expected) > 1e-3


def test_calibration_error_keeps_sums_and_no_scores(make_cfg: MakeCfg) -> None:
    evaluator = build_evaluator(make_cfg())
    for _ in range(3):
        evaluator.process(torch.randn(50, 200), torch.zeros(50, dtype=torch.long))
    kept = [value for value in vars(evaluator).values() if isinstance(value, torch.Tensor)]
    assert kept and all(value.numel() <= 45 for value in kept)


@pytest.mark.parametrize("classes", [1, 3, 45, 260])
def test_pictures_show_every_number_of_classes(classes: int, make_cfg: MakeCfg) -> None:
    evaluator = build_evaluator(make_cfg(), lab2cname={0: "a $x_1$ 中", 1: "b" * 90})
    labels = torch.arange(classes)
    evaluator.process(scores((labels // 2).tolist(), classes), labels)
    evaluator.evaluate()
    pictures = evaluator.pictures()
    assert set(pictures) == {"accuracy_per_class", "confusion_matrix"}
    for picture in pictures.values():
        assert picture.dtype == torch.uint8 and picture.shape[0] == 3
        assert 100 < picture.shape[1] < 1300 and 100 < picture.shape[2] < 1300
        assert picture.float().std() > 1  # something is drawn
    lengths = [
        int((row == torch.tensor([31, 78, 140])).all(1).sum())
        for row in pictures["accuracy_per_class"].permute(1, 2, 0)
    ]
    assert max(lengths) > 100  # class 0 is right: a whole bar


def test_dark_cells_of_the_confusion_picture_lie_where_the_images_are() -> None:
    counts = torch.zeros(300, 300, dtype=torch.long)
    counts[torch.arange(300), 299 - torch.arange(300)] = 5  # the other diagonal
    for matrix, sign in ((counts, -1), (counts.flip(1), 1)):
        picture = confusion_map(matrix, [str(i) for i in range(300)]).float()
        rows, columns = (picture[2] - picture[0] > 60).nonzero().T.double()  # blue
        assert sign * np.corrcoef(rows, columns)[0, 1] > 0.95


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_score_that_is_not_finite_is_an_error_not_a_prediction(bad: float, make_cfg: MakeCfg) -> None:
    output = scores([0, 1])
    output[1, 2] = bad
    evaluator = build_evaluator(make_cfg())
    with pytest.raises(FloatingPointError, match="outputs hold NaN or infinite values"):
        evaluator.process(output, torch.tensor([0, 1]))


def test_nothing_to_evaluate_is_an_error(make_cfg: MakeCfg) -> None:
    with pytest.raises(ValueError, match="nothing to evaluate"):
        build_evaluator(make_cfg()).evaluate()


def test_class_without_a_name_goes_by_its_label(make_cfg: MakeCfg) -> None:
    evaluator = build_evaluator(make_cfg())
    evaluator.process(scores([1]), torch.tensor([1]))
    evaluator.evaluate()
    assert evaluator.per_class == {"1": 100}


def test_two_classes_of_one_name_are_kept_apart(make_cfg: MakeCfg) -> None:
    evaluator = build_evaluator(make_cfg(), lab2cname={0: "crane", 1: "crane"})
    evaluator.process(scores([0, 0], 2), torch.tensor([0, 1]))
    evaluator.evaluate()
    assert evaluator.per_class == {"crane": 100, "crane (1)": 0}


def test_own_evaluator_is_used_by_name(make_cfg: MakeCfg) -> None:
    class Own(EvaluatorBase):
        pass

    EVALUATOR_REGISTRY.register(Own, force=True)
    evaluator = build_evaluator(make_cfg("TEST.EVALUATOR", "Own"))
    assert type(evaluator) is Own
    with pytest.raises(NotImplementedError):
        evaluator.reset()


def test_unknown_evaluator_is_refused(make_cfg: MakeCfg) -> None:
    with pytest.raises(ValueError, match="unknown EVALUATOR: 'Clasification'[.] Did you mean Classification"):
        build_evaluator(make_cfg("TEST.EVALUATOR", "Clasification"))
