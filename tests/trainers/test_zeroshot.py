import json

import pytest

from trainers.templates import DEFAULT_TEMPLATE, TEMPLATES


def test_tests_without_training_and_writes_a_record(run):
    results, folder = run("out", trainer="ZeroshotCLIP")
    record = json.loads((folder / "results.json").read_text())
    assert record["results"] == results and record["train"] is None and record["epoch"] == 0
    assert not list(folder.glob("*/model.pth.tar-*")) and (folder / "done").exists()


def test_eval_only_needs_no_model_dir(run):
    assert run("a", trainer="ZeroshotCLIP")[0] == run("b", "--eval-only", trainer="ZeroshotCLIP")[0]


def test_the_template_is_used(run, capsys):
    run("a", "TRAINER.ZSCLIP.TEMPLATE", "a sketch of a {}.", trainer="ZeroshotCLIP")
    assert 'Prompt: "a sketch of a {}."' in capsys.readouterr().out
    run("b", trainer="ZeroshotCLIP")
    assert f'Prompt: "{DEFAULT_TEMPLATE}"' in capsys.readouterr().out


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "a {} of {x}", "{0}"])
def test_a_template_without_one_place_for_the_name(run, template):
    with pytest.raises(ValueError, match="TEMPLATE must be one of auto, .* or a sentence with {} once"):
        run("out", "TRAINER.ZSCLIP.TEMPLATE", template, trainer="ZeroshotCLIP")


def test_every_template_has_one_place():
    assert all(template.count("{}") == 1 for template in TEMPLATES.values())
