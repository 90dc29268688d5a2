"""Default values of the engine's keys, with Dassl's names. Methods declare their own keys beside their code."""

from __future__ import annotations

from yacs.config import CfgNode


def get_cfg_default() -> CfgNode:
    """A fresh config with the engine's defaults; keys of other Dassl engines (domain adaptation) are left out."""
    cfg = CfgNode()
    cfg.VERSION = 1
    cfg.OUTPUT_DIR = "./output"
    cfg.RECIPE = ()  # keys whose values the config files choose by data set or shots (_WHEN_); train.py writes it
    cfg.RESUME = ""  # run folder to resume from; empty: OUTPUT_DIR
    cfg.SEED = -1  # negative: draw one
    cfg.USE_CUDA = True
    cfg.VERBOSE = True

    cfg.INPUT = CfgNode()
    cfg.INPUT.SIZE = (224, 224)  # pixels
    cfg.INPUT.INTERPOLATION = "bilinear"
    cfg.INPUT.TRANSFORMS = ()
    cfg.INPUT.NO_TRANSFORM = False
    cfg.INPUT.PIXEL_MEAN = [0.485, 0.456, 0.406]
    cfg.INPUT.PIXEL_STD = [0.229, 0.224, 0.225]
    cfg.INPUT.CROP_PADDING = 4  # pixels
    cfg.INPUT.RRCROP_SCALE = (0.08, 1.0)
    cfg.INPUT.CUTOUT_N = 1
    cfg.INPUT.CUTOUT_LEN = 16  # pixels
    cfg.INPUT.GN_MEAN = 0.0
    cfg.INPUT.GN_STD = 0.15
    cfg.INPUT.RANDAUGMENT_N = 2
    cfg.INPUT.RANDAUGMENT_M = 10
    cfg.INPUT.COLORJITTER_B = 0.4
    cfg.INPUT.COLORJITTER_C = 0.4
    cfg.INPUT.COLORJITTER_S = 0.4
    cfg.INPUT.COLORJITTER_H = 0.1
    cfg.INPUT.RGS_P = 0.2  # probability of grayscale
    cfg.INPUT.GB_P = 0.5  # probability of blur
    cfg.INPUT.GB_K = 21  # blur kernel, odd, pixels

    cfg.DATASET = CfgNode()
    cfg.DATASET.ROOT = ""
    cfg.DATASET.NAME = ""
    cfg.DATASET.SOURCE_DOMAINS = ()
    cfg.DATASET.TARGET_DOMAINS = ()
    cfg.DATASET.NUM_LABELED = -1
    cfg.DATASET.NUM_SHOTS = -1  # images per class; -1: all
    cfg.DATASET.SUBSAMPLE_CLASSES = "all"  # all, base (first half of the labels) or new (the rest)
    cfg.DATASET.SPLIT_FILE = ""  # a split file to read; empty: the one at the data set's own place
    cfg.DATASET.VAL_PERCENT = 0.1
    cfg.DATASET.ALL_AS_UNLABELED = False

    cfg.DATALOADER = CfgNode()
    cfg.DATALOADER.NUM_WORKERS = 4
    cfg.DATALOADER.K_TRANSFORMS = 1  # augmented copies per training image
    cfg.DATALOADER.RETURN_IMG0 = False
    for name in ("TRAIN_X", "TRAIN_U"):
        node = cfg.DATALOADER[name] = CfgNode()
        node.SAMPLER = "RandomSampler"
        node.BATCH_SIZE = 32
        node.N_DOMAIN = 0
        node.N_INS = 16
    cfg.DATALOADER.TRAIN_U.SAME_AS_X = True
    cfg.DATALOADER.TEST = CfgNode()
    cfg.DATALOADER.TEST.SAMPLER = "SequentialSampler"
    cfg.DATALOADER.TEST.BATCH_SIZE = 32

    cfg.MODEL = CfgNode()
    cfg.MODEL.INIT_WEIGHTS = ""
    cfg.MODEL.BACKBONE = CfgNode()
    cfg.MODEL.BACKBONE.NAME = ""
    cfg.MODEL.BACKBONE.PRETRAINED = True
    cfg.MODEL.BACKBONE.ACTIVATIONS_GB = 0.0  # what a pass through a tower may keep; 0: a share of the free memory
    cfg.MODEL.HEAD = CfgNode()
    cfg.MODEL.HEAD.NAME = ""
    cfg.MODEL.HEAD.HIDDEN_LAYERS = ()
    cfg.MODEL.HEAD.ACTIVATION = "relu"
    cfg.MODEL.HEAD.BN = True
    cfg.MODEL.HEAD.DROPOUT = 0.0

    cfg.OPTIM = CfgNode()
    cfg.OPTIM.NAME = "adam"
    cfg.OPTIM.LR = 0.0003
    cfg.OPTIM.WEIGHT_DECAY = 5e-4
    cfg.OPTIM.MOMENTUM = 0.9
    cfg.OPTIM.SGD_DAMPNING = 0.0
    cfg.OPTIM.SGD_NESTEROV = False
    cfg.OPTIM.RMSPROP_ALPHA = 0.99
    cfg.OPTIM.ADAM_BETA1 = 0.9
    cfg.OPTIM.ADAM_BETA2 = 0.999
    cfg.OPTIM.ADAM_EPS = 1e-8  # added to the root of the second moment; adam, amsgrad, adamw and radam
    cfg.OPTIM.STAGED_LR = False
    cfg.OPTIM.NEW_LAYERS = ()
    cfg.OPTIM.BASE_LR_MULT = 0.1
    cfg.OPTIM.LR_SCHEDULER = "single_step"
    cfg.OPTIM.LR_STEP = "epoch"  # when the schedule is stepped: after every epoch, or after every batch
    cfg.OPTIM.STEPSIZE = (-1,)  # epochs, whatever LR_STEP
    cfg.OPTIM.GAMMA = 0.1
    cfg.OPTIM.COSINE_MIN_LR = 0.0  # rate at the end of cosine
    cfg.OPTIM.MAX_EPOCH = 10
    cfg.OPTIM.MAX_ITER = 0  # batches after which training ends, in the middle of an epoch too; 0: MAX_EPOCH decides
    cfg.OPTIM.WARMUP_EPOCH = -1  # epochs, whatever LR_STEP
    cfg.OPTIM.WARMUP_TYPE = "linear"  # linear or constant
    cfg.OPTIM.WARMUP_CONS_LR = 1e-5
    cfg.OPTIM.WARMUP_MIN_LR = 1e-5
    cfg.OPTIM.WARMUP_RECOUNT = True  # the schedule starts after the warm-up instead of running below it
    cfg.OPTIM.AVERAGE = ""  # the final weights: of the last epoch, or their gaussian or uniform mean over all epochs
    cfg.OPTIM.AVERAGE_MEAN = 15.0  # of gaussian: the epoch, counted from 1, that counts most
    cfg.OPTIM.AVERAGE_STD = 1.0  # of gaussian: epochs

    cfg.TRAIN = CfgNode()
    cfg.TRAIN.CHECKPOINT_FREQ = 0  # epochs; 0 keeps the last checkpoint only
    cfg.TRAIN.PRINT_FREQ = 10  # batches
    cfg.TRAIN.COUNT_ITER = "train_x"

    cfg.TEST = CfgNode()
    cfg.TEST.EVALUATOR = "Classification"
    cfg.TEST.PER_CLASS_RESULT = False
    cfg.TEST.COMPUTE_CMAT = False
    cfg.TEST.PROJECTOR = 0  # test images at most whose features TensorBoard's projector shows; 0: none
    cfg.TEST.NO_TEST = False
    cfg.TEST.SPLIT = "test"
    cfg.TEST.FINAL_MODEL = "last_step"  # last_step or best_val

    cfg.TRAINER = CfgNode()
    cfg.TRAINER.NAME = ""
    return cfg
