import pytest

from protocols import definitions
from protocols.definitions import ROOT, Split


def test_base2new_trains_on_base_and_tests_both_halves():
    (experiment,) = definitions.experiments("base2new", "dtd")
    assert experiment.train == Split("dtd", "base")
    assert experiment.tests == (Split("dtd", "base"), Split("dtd", "new"))


def test_cross_dataset_tests_the_ten_others():
    (experiment,) = definitions.experiments("cross-dataset", "imagenet")
    assert experiment.train == Split("imagenet", "all")
    assert [test.dataset for test in experiment.tests] == list(definitions.REAL)
    assert len(definitions.REAL) == 11


def test_domain_generalization_shares_the_training_on_imagenet():
    (experiment,) = definitions.experiments("domain-generalization", "imagenet")
    assert experiment.home == "cross-dataset"
    assert [test.dataset for test in experiment.tests][1:] == [
        *("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")
    ]


def test_pacs_leaves_each_domain_out_once():
    found = definitions.experiments("domain-generalization", "pacs")
    domains = {"art_painting", "cartoon", "photo", "sketch"}
    assert {experiment.train.targets[0] for experiment in found} == domains
    for experiment in found:
        assert {*experiment.train.sources, *experiment.train.targets} == domains
        assert len(experiment.train.sources) == 3
        assert experiment.tests == (experiment.train,)


def test_rendered_shapes_go_to_their_other_domains():
    (experiment,) = definitions.experiments("domain-generalization", "shapes")
    assert experiment.train.name("train") == "shapes-photo"
    assert [test.name("test") for test in experiment.tests] == [
        *("shapes-photo", "shapes-sketch", "shapes-painting", "shapes-cartoon")
    ]


@pytest.mark.parametrize(
    ("task", "dataset", "source"),
    [
        ("cross-dataset", "dtd", "imagenet"),
        ("cross-dataset", "digits", "shapes"),
        ("domain-generalization", "imagenet_r", "imagenet"),
        ("domain-generalization", "pacs", "pacs"),
        ("base2new", "dtd", "dtd"),
    ],
)
def test_source_of(task, dataset, source):
    assert definitions.source_of(task, dataset) == source


def test_unknown_names_are_errors_that_list_the_allowed_ones():
    with pytest.raises(ValueError, match="'digit'.*Did you mean digits.*imagenet"):
        definitions.source_of("cross-dataset", "digit")
    with pytest.raises(ValueError, match="base2new, cross-dataset, domain-generalization"):
        definitions.find_task("base")
    with pytest.raises(ValueError, match="Did you mean shapes"):
        definitions.benchmark_sources("base2new", "shape dtd")


def test_aliases_and_groups():
    assert definitions.find_task("basenew") == "base2new"
    assert definitions.benchmark_sources("cross-dataset", "embedded") == ("shapes",)
    assert definitions.benchmark_sources("base2new", "dtd eurosat") == ("dtd", "eurosat")


def test_every_data_set_has_a_config_and_every_default_config_exists():
    names = {*definitions.REAL, *definitions.RENDERED, *definitions.DOMAINS}
    names.update(name for groups in definitions.TARGETS.values() for targets in groups.values() for name in targets)
    for name in names:
        assert (ROOT / "configs" / "datasets" / f"{name}.yaml").exists(), name
        for trainer in ("GOPro", "ZeroshotCLIP"):
            config = ROOT / "configs" / "trainers" / trainer / f"{definitions.default_config(name)}.yaml"
            assert config.exists(), config


def test_whether_a_method_learns_is_read_from_its_configs(tmp_path, monkeypatch):
    assert {"GOPro", "ZeroshotCLIP"} <= set(definitions.trainers())
    assert (definitions.learns("GOPro"), definitions.learns("ZeroshotCLIP")) == (True, False)
    for name, text in {
        "Learner/a": "_BASE_: b.yaml",
        "Learner/b": "OPTIM: {LR: 1}",
        "Fixed/a": "",
        "_base/a": "",
    }.items():
        path = tmp_path / "configs" / "trainers" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(definitions, "ROOT", tmp_path)
    assert definitions.trainers() == ["Fixed", "Learner"]
    assert (definitions.learns("Learner"), definitions.learns("Fixed")) == (True, False)
