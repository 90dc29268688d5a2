"""Names that code written for Dassl or CoOp imports, calls and overrides."""

import importlib

import pytest

from dassl.engine import TrainerX

NAMES = {
    "dassl.config": "get_cfg_default",
    "dassl.data": "DataManager DatasetWrapper",
    "dassl.data.data_manager": "DataManager DatasetWrapper build_data_loader",
    "dassl.data.datasets": "DATASET_REGISTRY Datum DatasetBase build_dataset",
    "dassl.data.datasets.base_dataset": "Datum DatasetBase",
    "dassl.data.transforms": "build_transform INTERPOLATION_MODES",
    "dassl.data.samplers": "build_sampler RandomDomainSampler SeqDomainSampler RandomClassSampler",
    "dassl.engine": "TRAINER_REGISTRY build_trainer TrainerBase SimpleTrainer TrainerX",
    "dassl.optim": "build_optimizer build_lr_scheduler",
    "dassl.evaluation": "EVALUATOR_REGISTRY build_evaluator Classification",
    "dassl.metrics": "compute_accuracy",
    "dassl.utils": """Registry setup_logger set_random_seed collect_env_info MetricMeter AverageMeter load_checkpoint
        save_checkpoint load_pretrained_weights resume_from_checkpoint read_json write_json mkdir_if_missing
        listdir_nohidden check_isfile count_num_param tolist_if_not read_image""",
}
METHODS = """check_cfg build_data_loader build_model register_model get_model_names set_model_mode before_train
    after_train before_epoch after_epoch run_epoch forward_backward parse_batch_train parse_batch_test model_inference
    model_zero_grad model_backward model_update model_backward_and_update update_lr get_current_lr detect_anomaly
    init_writer close_writer write_scalar save_model load_model resume_model_if_exist test train"""


@pytest.mark.parametrize("module", NAMES)
def test_module_has_upstreams_names(module: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in NAMES[module].split() if not hasattr(found, name)] == []


@pytest.mark.parametrize("name", METHODS.split())
def test_trainers_have_upstreams_method(name: str) -> None:
    assert callable(getattr(TrainerX, name, None))
