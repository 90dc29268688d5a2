"""Ablations: which runs they need, and the table of differences."""

import multiprocessing
import shutil
import types
from pathlib import Path

import pytest
import yaml

import train
from dassl.config import check_values, flatten
from dassl.config.rules import RULES
from protocols import ablate, runner
from protocols.plan import DEFAULTS

from .conftest import make_record, write_run


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    for name in (*DEFAULTS, "DRY_RUN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OUTPUT", str(tmp_path))


@pytest.mark.parametrize("file", sorted(ablate.FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_factor_changes_the_config_that_it_is_about(file):
    """Keys that exist, values that are allowed, and not those that the config has."""
    import trainers

    def config(keys):
        opts = types.SimpleNamespace(output=Path("x"), trainers=(file.stem,), pairs=())
        pairs = replaced(opts, keys)
        argv = ["--config-file", f"configs/trainers/{file.stem}/tiny.yaml", "--output-dir", "x", *pairs]
        cfg = train.build_config(train.parse_args(argv))
        check_values(cfg, {**RULES, **trainers.RULES})
        return flatten(yaml.safe_load(cfg.dump()))

    plain = config({})
    seen = [plain]
    for factor, keys in ablate.read_factors(file.stem).items():
        found = config(keys)
        assert {key for key in plain if found[key] != plain[key]} == set(keys), factor
        assert found not in seen, factor
        seen.append(found)


def replaced(opts, keys):
    """The words that a factor adds to the command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablate, "replace", lambda opts, **changes: changes["pairs"])
        return ablate.settings_of(opts, "factor", keys)


def test_all_factors_run_all_seeds_and_end_in_a_table(monkeypatch, tmp_path, capsys):
    gain = {"as configured": 0, "without style": -2, "without content": 3}
    factors = {"without style": {"TRAINER.GOPRO.PRIMITIVES": "content"}, "without content": {"OPTIM.LR": 0.5}}
    monkeypatch.setattr(ablate, "read_factors", lambda trainer: factors)
    calls = []

    def launch(argv, quiet, share):
        folder = Path(argv[argv.index("--output-dir") + 1])
        args = train.parse_args(list(argv))
        calls.append(args.opts)
        cfg = train.build_config(args)
        factor = {ablate.folder_name(name): value for name, value in gain.items()}[
            folder.parts[len(tmp_path.parts) + 2]
        ]
        new = cfg.DATASET.SUBSAMPLE_CLASSES == "new"
        accuracy = (40 if new else 60) + 10 * cfg.SEED + factor * (1 if new else 2) + 0.5 * (factor and cfg.SEED)
        record = make_record("shapes", "GOPro", cfg.SEED, accuracy, subsample_classes=cfg.DATASET.SUBSAMPLE_CLASSES)
        record["eval_only"] = new
        record["train"]["subsample_classes"] = "base"
        shutil.rmtree(folder)
        write_run(folder, record)
        (folder / "gopro").mkdir()
        (folder / "gopro" / "checkpoint").touch()
        ended, writer = multiprocessing.Pipe(duplex=False)
        writer.close()
        return types.SimpleNamespace(exitcode=0, sentinel=ended)

    monkeypatch.setattr(runner, "launch", launch)
    words = ["shapes", "base2new", "--seeds", "1", "2", "3", "OPTIM.MAX_EPOCH", "4"]
    assert ablate.main(words) == 0
    assert len(calls) == 3 * 3 * 2
    assert all(opts[opts.index("OPTIM.MAX_EPOCH") + 1] == "4" for opts in calls)
    assert sum("TRAINER.GOPRO.PRIMITIVES" in opts for opts in calls) == 6
    text = (tmp_path / "ablation" / "GOPro" / "base2new-shapes.md").read_text()
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    }
    assert list(rows)[2:] == list(gain)
    assert rows["as configured"][:2] == ["80.00 ± 24.84", ""]
    # Differences at seeds 1 2 3: -3.5 -3 -2.5 of the base classes, -1.5 -1 -0.5 of the new ones.
    assert rows["without style"][:4] == ["77.00 ± 26.08", "-3.00 ± 1.24", "59.00 ± 26.08", "-1.00 ± 1.24"]
    assert rows["without content"][1] == "+7.00 ± 1.24"
    assert rows["without content"][5].startswith("+")
    capsys.readouterr()
    assert ablate.main(words) == 0  # nothing is run twice
    assert len(calls) == 3 * 3 * 2
    assert "without style" in capsys.readouterr().out
    assert ablate.main([*words, "--factor=without content"]) == 0
    shown = capsys.readouterr().out
    assert "without content" in shown and "without style" not in shown


def test_seeds_that_lack_a_part_are_named_and_not_averaged(tmp_path):
    for seed in (1, 2):
        for classes in ("base", "new") if seed == 1 else ("base",):
            record = make_record("shapes", "GOPro", seed, 50.0 + seed, subsample_classes=classes)
            record["train"]["subsample_classes"] = "base"
            record["eval_only"] = classes == "new"
            kind = "test" if classes == "new" else "train"
            write_run(tmp_path / "base2new" / f"{kind}_{classes}" / "shapes" / f"seed{seed}", record)
    columns = ablate.columns_of("base2new", "shapes")
    found = ablate.read_columns(tmp_path, columns)
    assert found == {"Base": {1: 51.0, 2: 52.0}, "New": {1: 51.0}, "HM": {1: 51.0}}
    full = {"Base": {1: 50.0, 2: 50.0}, "New": {1: 50.0, 2: 50.0}, "HM": {1: 50.0, 2: 50.0}}
    table = ablate.ablation_table("t", {"as configured": full, "other": found}, list(columns))
    assert "missing: other, New: seed 2" in table.notes
    assert table.rows[1][4].text() == "+1.00"  # one seed has no interval


def test_columns_of_the_other_tasks():
    assert ablate.columns_of("few-shot", "dtd") == {"dtd": [[("dtd", "all")]]}
    found = ablate.columns_of("domain-generalization", "shapes")
    assert list(found) == ["shapes-photo (source)", "average of 3"]
    assert len(found["average of 3"][0]) == 3
    assert list(ablate.columns_of("domain-generalization", "pacs")) == ["average of 4"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shapes"], "ablate.sh needs DATASET TASK first"),
        (["shapes", "base2old"], "base2old"),
        (["shapes", "base2new", "--trainer", "GOPro", "CoOp"], "TRAINER must be one method"),
        (["shapes", "base2new", "--trainer", "Nobody"], "TRAINER must be one method"),
        (["shapes", "base2new", "--trainer", "ZeroshotCLIP"], "no factors for ZeroshotCLIP"),
        (["shapes", "few-shot", "--shots", "1", "2"], "SHOTS must be one whole number for an ablation"),
        (["shapes", "base2new", "OUTPUT_DIR", "x"], "OUTPUT_DIR is set by OUTPUT"),
        (["shapes", "base2new", "--factor", "without stile"], "Did you mean without style"),
        (["shapes", "base2new", "--factor"], "--factor needs the name of a factor"),
    ],
)
def test_wrong_usage(words, message, capsys):
    assert ablate.main(words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", ["", "[1]", "a: 3", "a: {}", "'a b': {X: 1}\na_b: {X: 2}", "as configured: {OPTIM.LR: 1}"]
)
def test_odd_files_of_factors_are_named(content, tmp_path, monkeypatch):
    (tmp_path / "GOPro.yaml").write_text(content)
    monkeypatch.setattr(ablate, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"GOPro\.yaml"):
        ablate.read_factors("GOPro")


def test_a_folder_without_runs_has_no_values(tmp_path):
    assert ablate.read_columns(tmp_path / "nothing", {"A": [[("shapes", "all")]]}) == {"A": {}}
