"""The defaults that every config starts from; each key is documented here, once."""

from ml_collections import ConfigDict

from configs.data import audio_data as audio_data
from configs.data import image_data as image_data
from configs.data import text_data as text_data
from configs.distilled import dmae as dmae
from configs.distilled import lighthubert as lighthubert
from configs.distilled import mimco as mimco
from configs.distilled import mvd as mvd
from configs.encoders import beats_encoder as beats_encoder
from configs.encoders import beit_encoder as beit_encoder
from configs.encoders import keyword_encoder as keyword_encoder
from configs.encoders import light_encoder as light_encoder
from configs.encoders import moco_encoder as moco_encoder
from configs.encoders import small_keyword_encoder as small_keyword_encoder
from configs.pairs import mavil as mavil
from configs.tokens import beats as beats
from configs.tokens import beats_tokenizer as beats_tokenizer

# config.optim.decay_rules: no decay of biases, norms, layer scales and the class token
DECAY_MATRICES = ((r"(bias|scale\d?|cls)$", 0.0), (".*", 1.0))


def base() -> ConfigDict:
    """Returns the sections of a run; a config sets values and may not add top-level keys."""
    return ConfigDict(
        {
            "seed": 0,
            # float32 | bfloat16 | auto (bfloat16 on an accelerator, float32 on CPU)
            "precision": "auto",
            # -1: all devices that the other axes leave over
            "mesh": {"slice": 1, "data": -1, "fsdp": 1, "model": 1},
            # name: a module in ssl_jax/methods, or one of your own that Python can import; the
            # other keys are its options
            "method": ConfigDict({"name": ""}),
            # a run folder whose parameters initialize those of equal path ('' = none)
            "init_from": "",
            # initialize teachers from the teachers of that run (False: from its student)
            "init_extra": False,
            "data": audio_data(),
            "optim": optim(),
            "train": {
                # durations: a number of steps, or text: "100k steps", "200 epochs",
                # "5M examples", "960 hours" of audio; "10%" of the run for parts of it
                "duration": "0 steps",
                "accumulate": 1,
            },
            "checkpoint": {
                "every": "1k steps",
                "keep_last": 2,
                # validation metric whose best checkpoint is kept ('' = none); mode: max | min
                "best_metric": "",
                "best_mode": "max",
            },
            "eval": {
                "every": "1k steps",
                # average the method's own metrics over the validation split
                "valid": True,
                # the same over the test split, once, after the last step
                "test": False,
                # scores of a fine-tuned head over these splits: mcc and f1 for classes, roc_auc,
                # average_precision and d_prime for tags, pearson, spearman and r2 for numbers, wer
                # and cer for transcripts, per for phones
                "scores": (),
                # monitors of frozen features during training: ridge, knn, collapse
                "monitors": (),
                # how probes pool features over time or space: mean_std (mean and deviation) | mean,
                # of encoders and of raw frames alike; raw_mean_std: see ssl_jax/evals/pool.py
                "pool": "mean_std",
            },
            "guard": {
                # stop if a named metric, such as target_std, is below its floor after this many
                # updates
                "after": 5000,
                "floors": ConfigDict({}),
                "nan": True,
                # exit with an error if no step, evaluation or save finishes for this long (0 =
                # never)
                "stall_seconds": 1800.0,
            },
            "log": {"every": "50 steps", "tensorboard": False, "wandb": "", "profile": ""},
        }
    )


def optim() -> ConfigDict:
    """Returns the optimizer section: AdamW with warm-up and cosine decay."""
    return ConfigDict(
        {
            # adamw | adam_l2 (coupled L2) | sgd | lars | lamb | adafactor (factored moments)
            "name": "adamw",
            "lr": 0.0,
            # cosine | linear | tri_stage | inverse_sqrt | one_cycle | constant
            "schedule": "cosine",
            "warmup": "0 steps",
            "end_lr": 0.0,
            # tri_stage: fractions of warm-up, hold and decay; start and end as factors of lr
            "stages": (0.1, 0.4, 0.5),
            "start_factor": 0.01,
            "end_factor": 0.05,
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            # True: Adam adds eps before bias correction of the second moment, as in fairseq
            "eps_inside": False,
            "weight_decay": 0.0,
            # ordered (regex, factor of weight_decay); every parameter must match one
            "decay_rules": ((".*", 1.0),),
            # factor of lr per block from the top, 1.0 = none
            "layer_decay": 1.0,
            # True: layers before the blocks count as one more layer (BEiT, MAE); False: they have
            # the full learning rate (data2vec 2.0)
            "layer_decay_embedding": True,
            # ordered (regex, factor of lr), for groups of parameters with a rate of their own
            "lr_rules": (),
            # regexes of parameters that are never updated
            "frozen": (),
            # `frozen_first`: regexes of parameters that are frozen until `freeze_until`
            "freeze_until": "0 steps",
            "frozen_first": (),
            # global gradient norm, 0 = no clipping
            "clip": 0.0,
        }
    )


def data2vec() -> ConfigDict:
    """Returns config.method of data2vec; ssl_jax/methods/data2vec.py explains every key."""
    return ConfigDict(
        {
            "name": "data2vec",
            "encoder": ConfigDict({}),
            "mask": {
                "kind": "span",
                "prob": 0.65,
                "length": 10,
                "min_spans": 1,
                "same_count": True,
                "shared_u": False,
                "count": 120,
                "min_area": 16,
                "min_aspect": 0.3,
                "random": 0.0,
                "keep": 0.0,
                "first_id": 0,
                "vector_std": 0.0,
            },
            "targets": {
                "layers": 8,
                "source": "ffn",
                "layer_norm": "instance",
                "final_norm": "none",
                "include_prefix": True,
                "center": "none",
                "center_decay": 0.9,
            },
            "predictor": {"norm": False, "layers": 1, "ratio": 2, "init": "torch"},
            "loss": {"beta": 0.0, "scale": None, "reduction": "mean", "examples": 0},
            "ema": {
                "start": 0.999,
                "end": 0.9999,
                "anneal": 30_000,
                "rules": ((".*", "average"),),
            },
            "rescale_init": False,
            # augments only the student's audio, for example {"add_noise": {"snr_db": (5.0, 30.0)}}
            "augment": ConfigDict({}),
            "spectral": ConfigDict({}),
        }
    )


def data2vec2() -> ConfigDict:
    """Returns config.method of data2vec2; ssl_jax/methods/data2vec2.py explains every key."""
    return ConfigDict(
        {
            "name": "data2vec2",
            "encoder": ConfigDict({}),
            "clones": 8,
            "prenet_depth": 0,
            "mask": {
                "kind": "block",
                "ratio": 0.5,
                "adjust": 0.05,
                "block": 5,
                "inverse": False,
            },
            "decoder": {
                "layers": 4,
                "dim": 384,
                "groups": 16,
                "kernel": 7,
                "residual": True,
                "input_dropout": 0.1,
                "noise_std": 0.01,
                "projection_layers": 1,
                "ratio": 2.0,
                "init": "torch",
            },
            "targets": {
                "layers": 8,
                "source": "ffn",
                "layer_norm": "instance",
                "final_norm": "none",
                "include_prefix": False,
                "center": "none",
                "center_decay": 0.9,
            },
            "loss": {"beta": 0.0, "scale": None, "cls_weight": 0.0},
            "ema": {
                "start": 0.999,
                "end": 0.99999,
                "anneal": 75_000,
                "rules": ((".*", "average"),),
            },
        }
    )


def hubert() -> ConfigDict:
    """Returns config.method of HuBERT; ssl_jax/methods/hubert.py explains every key."""
    return ConfigDict(
        {
            "name": "hubert",
            "encoder": ConfigDict({}),
            "units": {"classes": (100,), "rate": 100.0, "tied": False},
            "mask": {"prob": 0.8, "length": 10, "min_spans": 2, "same_count": True},
            "head": {"width": 256, "temperature": 0.1},
            "loss": {"masked": 1.0, "unmasked": 0.0, "penalty": 10.0},
        }
    )


def wav2vec2() -> ConfigDict:
    """Returns config.method of wav2vec 2.0; ssl_jax/methods/wav2vec2.py explains every key."""
    return ConfigDict(
        {
            "name": "wav2vec2",
            "encoder": ConfigDict({}),
            "targets": "codes",
            "mask": {"prob": 0.65, "length": 10, "min_spans": 2, "same_count": True},
            "quantizer": {
                "groups": 2,
                "codes": 320,
                "width": 256,
                "dropout": 0.1,
                "start": 2.0,
                "end": 0.5,
                "decay": 0.999995,
            },
            "negatives": {"count": 100, "source": "masked"},
            "loss": {
                "temperature": 0.1,
                "diversity": 0.1,
                "diversity_scale": "mean",
                "penalty": 10.0,
            },
        }
    )


def mae() -> ConfigDict:
    """Returns config.method of MAE; ssl_jax/methods/mae.py explains every key."""
    return ConfigDict(
        {
            "name": "mae",
            "encoder": ConfigDict({}),
            "mask_ratio": 0.75,
            "norm_pix": True,
            "masked_only": True,
            "decoder": {"width": 512, "depth": 8, "heads": 16, "mlp_width": 2048},
            "stripes": {"time": 0.0, "frequency": 0.0},
            "attention": "global",
            "local": {"window": (4, 4), "shift": (2, 0), "bias_width": 384, "bias_dropout": 0.0},
            "augment": ConfigDict({}),
        }
    )


def videomae() -> ConfigDict:
    """Returns config.method of VideoMAE; ssl_jax/methods/videomae.py explains every key."""
    return ConfigDict(
        {
            "name": "videomae",
            "encoder": ConfigDict({}),
            "mask": {"kind": "tube", "ratio": 0.9},
            "norm_pix": True,
            "decoder": {"width": 384, "depth": 4, "heads": 6, "mlp_width": 1536},
        }
    )


def moco_v3() -> ConfigDict:
    """Returns config.method of MoCo v3; ssl_jax/methods/moco_v3.py explains every key."""
    return ConfigDict(
        {
            "name": "moco_v3",
            "encoder": ConfigDict({}),
            "pool": "cls",
            "head": {
                "projector_layers": 3,
                "predictor_layers": 2,
                "hidden": 4096,
                "outputs": 256,
                "eps": 1e-5,
            },
            "temperature": 0.2,
            # the projection of patches is never trained, so both encoders have the same
            "ema": {
                "start": 0.99,
                "end": 1.0,
                "anneal": 93_900,
                "rules": (("frontend/projection", "absent"), (".*", "average")),
            },
            "queue": 0,
        }
    )


def supervised() -> ConfigDict:
    """Returns config.method of classification; ssl_jax/methods/supervised.py explains every key."""
    return ConfigDict(
        {
            "name": "supervised",
            "encoder": ConfigDict({}),
            "task": "classify",
            "outputs": 0,
            "pool": "tokens",
            "head": {
                "norm": True,
                "eps": 1e-5,
                "dropout": 0.0,
                "init_std": 0.0,
                "init_scale": 1.0,
            },
            "target_mean": 0.0,
            "target_std": 1.0,
            "label_smoothing": 0.0,
            "smoothing_spread": "others",
            "spec_augment": {
                "time_masks": 0,
                "time_width": 24,
                "freq_masks": 0,
                "freq_width": 6,
                "fill_mean": False,
            },
            "augment": ConfigDict({}),
            "spectral": ConfigDict({}),
            # for example mixup 0.8 and cutmix 1.0, which is not for sounds; see ssl_jax/ops/mix.py
            "mix": {"mixup": 0.0, "cutmix": 0.0, "prob": 1.0, "switch_prob": 0.5, "mode": "batch"},
            "mask_ratio": 0.0,
            "stripes": {"time": 0.0, "frequency": 0.0},
            "frozen": False,
        }
    )


def distill() -> ConfigDict:
    """Returns config.method of distillation; ssl_jax/methods/distill.py explains what it adds to
    `supervised`."""
    return distilled(supervised())


def distilled(student: ConfigDict) -> ConfigDict:
    """Returns config.method of distillation for the `student`, a section of `supervised`."""
    soft = {"temperature": 2.0, "weight": 1.0, "label_weight": 0.5}
    about = {"name": "distill", "teachers": {"teacher": ""}, "soft": soft}
    return ConfigDict({**student.to_dict(), **about})


def ctc() -> ConfigDict:
    """Returns config.method of CTC; ssl_jax/methods/ctc.py explains every key."""
    return ConfigDict(
        {
            "name": "ctc",
            "encoder": ConfigDict({}),
            "mask": {
                "prob": 0.65,
                "length": 10,
                "min_spans": 2,
                "channel_prob": 0.5,
                "channel_length": 64,
            },
            "head": {"dropout": 0.0, "mix": False, "projection": 0, "blank_bias": 0.0},
            "frozen": "convs",
        }
    )


def best_rq() -> ConfigDict:
    """Returns config.method of BEST-RQ; ssl_jax/methods/best_rq.py explains every key."""
    return ConfigDict(
        {
            "name": "best_rq",
            "encoder": ConfigDict({}),
            "mask": {"prob": 0.4, "length": 10, "min_spans": 1, "same_count": False},
            "labels": {"seed": 0, "num_mels": 80, "width": 16, "codes": 8192, "books": 1},
        }
    )


def transducer() -> ConfigDict:
    """Returns config.method of the transducer; ssl_jax/methods/transducer.py explains every key."""
    return ConfigDict(
        {
            "name": "transducer",
            "encoder": ConfigDict({}),
            "mask": {
                "prob": 0.0,
                "length": 10,
                "min_spans": 2,
                "channel_prob": 0.0,
                "channel_length": 64,
            },
            "spec_augment": {
                "time_masks": 10,
                "time_share": 0.05,
                "freq_masks": 2,
                "freq_width": 27,
            },
            "predictor": {"embed": 128, "width": 640, "layers": 1, "dropout": 0.0},
            "joint": {"width": 640, "norm": True, "block": 8},
            "per_frame": 4,
            "frozen": "none",
        }
    )


def speaker() -> ConfigDict:
    """Returns config.method of speaker; ssl_jax/methods/speaker.py explains every key."""
    return ConfigDict(
        {
            "name": "speaker",
            "encoder": ConfigDict({}),
            "head": {"width": 512, "pooled": 1500},
            "scale": 30.0,
            "margin": 0.4,
        }
    )


def decode() -> ConfigDict:
    """Returns config.eval.decode, CTC decoding in ssl_jax.evaluate; see ssl_jax/evals/decode.py."""
    return ConfigDict(
        {
            "beam": 0,
            "threshold": 25.0,
            "unit_threshold": 10.0,
            "lm": "",
            "lm_weight": 2.0,
            "word_score": -1.0,
            "worst": 5,
        }
    )


def start_from(config: ConfigDict, runs: dict[str, str]) -> None:
    """Starts the parameters under each prefix, such as encoder/audio, from those of another run."""
    with config.ignore_type():
        config.init_from = ConfigDict(runs)


def shard(config: ConfigDict) -> None:
    """Fits a large model on chips of 16 GB: parameters sharded over 8 chips, full remat.

    For fewer chips set config.mesh.fsdp.
    """
    config.mesh.fsdp = 8
    config.method.encoder.remat = "full"


def toy(config: ConfigDict) -> ConfigDict:
    """Shrinks a run in place to four steps of four clips of half a second; returns it."""
    config.precision = "float32"
    config.data.batch_size = 4
    if config.data.modality in ("audio", "pair"):
        config.data.update({"buckets": (0.5,), "min_seconds": 0.0})
    config.optim.update({"lr": 1e-3, "schedule": "constant", "warmup": "0 steps", "end_lr": 0.0})
    config.train.duration = config.checkpoint.every = config.eval.every = "4 steps"
    config.log.every = "1 steps"
    return config


def check(arg: str, known: tuple[str, ...]) -> None:
    """Raises ValueError unless the argument of a config is one of `known`."""
    if arg not in known:
        raise ValueError(f"the argument is {arg!r}: use one of {', '.join(known)}")
