"""Figures worked out by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dassl.evaluation import EVALUATOR_REGISTRY, Classification, EvaluatorBase, build_evaluator

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
    assert list(results) == ["accuracy", "error_rate", "macro_f1"]
    assert results["accuracy"] == pytest.approx(100 * 3 / 6)
    assert results["error_rate"] == pytest.approx(100 * 3 / 6)
    # F1 = 2 TP / (2 TP + FP + FN): ant 4/5, bee 2/(2+2+1), cat 0; the mean is over classes that occur, so not dog.
    assert results["macro_f1"] == pytest.approx(100 * (0.8 + 0.4 + 0) / 3)
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
    expected = ["* total: 6", "* correct: 3", "* accuracy: 50.0%", "* error: 50.0%", "* macro_f1: 40.0%"]
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("*")] == expected


def test_confusion_matrix_has_rows_of_truth_as_shares(make_cfg: MakeCfg, tmp_path: Any) -> None:
    evaluate(make_cfg("TEST.COMPUTE_CMAT", "True"))
    expected = [[2 / 3, 1 / 3, 0, 0], [0, 0.5, 0, 0.5], [0, 1, 0, 0], [0, 0, 0, 0]]
    cmat = torch.load(tmp_path / "run" / "cmat.pt")
    torch.testing.assert_close(cmat, torch.tensor(expected, dtype=torch.float64))


def test_all_right_and_all_wrong(make_cfg: MakeCfg) -> None:
    evaluator = build_evaluator(make_cfg(), lab2cname=NAMES)
    evaluator.process(scores([0, 1, 2]), torch.tensor([0, 1, 2]))
    assert dict(evaluator.evaluate()) == {"accuracy": 100, "error_rate": 0, "macro_f1": 100}
    evaluator.reset()
    evaluator.process(scores([1, 2, 0]), torch.tensor([0, 1, 2]))
    assert dict(evaluator.evaluate()) == {"accuracy": 0, "error_rate": 100, "macro_f1": 0}


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
