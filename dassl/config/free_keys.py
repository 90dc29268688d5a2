"""Config keys that change no result: a run may go on, and counts as the same one, whatever their values."""

FREE_KEYS = {
    "OUTPUT_DIR",
    "RECIPE",
    "RESUME",
    "VERBOSE",
    "USE_CUDA",
    "MODEL.BACKBONE.ACTIVATIONS_GB",
    "DATASET.ROOT",
    "DATASET.SPLIT_FILE",
    "DATALOADER.CACHE_MB",
    "DATALOADER.NUM_WORKERS",
    "DATALOADER.TEST.BATCH_SIZE",
    "TRAIN.PRINT_FREQ",
    "TRAIN.CHECKPOINT_FREQ",
    "TEST.FEATURE_CACHE",
    "TEST.FEATURE_CACHE_MB",
    "TEST.PER_CLASS_RESULT",
    "TEST.COMPUTE_CMAT",
    "TEST.PROJECTOR",
    "TEST.NO_TEST",
}
