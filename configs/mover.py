"""Mover, the default of `jaxvos segment`: made-up video alone, clips of 5 frames, batch 4.

Ours; docs/motion.md has the scores and all that was tried. Two stages make the weights: mode
"outdoors" goes on from the first one's, on clips half of which have feet that stand, shadows,
wakes and smoke:

    jaxvos train configs/mover.py --workdir runs/mover
    jaxvos train configs/mover.py:outdoors --workdir runs/mover-outdoors

Motion that the cache lacks is computed when training comes to it; sooner and on all cores by
`python -m data_pipelines.motion_clips VIDEOS --cache runs/pool`, VIDEOS being the recipe's.
"""

from ml_collections import ConfigDict


def get_config(mode: str = "") -> ConfigDict:
    """The recipe; modes: "outdoors", the second stage; "smoke", two tiny steps."""
    config = ConfigDict()
    config.system = "mover"
    config.seed = 1234
    config.init = ""
    config.batch = 4
    config.epochs = 0
    config.steps = 800
    config.batch_norm = "global"

    config.model = ConfigDict()
    config.model.widths = (24, 48, 96, 144, 144)
    config.model.heads = (0, 0, 4, 4, 4)
    config.model.fine = 8
    config.model.dtype = "float32"

    config.segmenter = ConfigDict()

    config.data = ConfigDict()
    config.data.videos = "procedural-wild:clips=960,frames=7,height=320,width=576"
    config.data.images = ""
    config.data.image_every = 0
    config.data.steps_per_epoch = 0
    config.data.size = (320, 576)
    config.data.sample = "motion"
    config.data.frames = 5
    config.data.gap = 1
    config.data.cache = "runs/pool"
    config.data.augment = "none"
    config.data.stretch = False
    config.data.workers = 1
    config.data.threads = 2

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"
    config.optimizer.rate = 2e-3
    config.optimizer.weight_decay = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.power = 0.0
    config.optimizer.drop_after_epochs = 0
    config.optimizer.drop = 1.0
    config.optimizer.warmup = 50
    config.optimizer.groups = ((r".*", (1.0,)),)

    config.checkpoint_every = 100
    config.log_every = 10
    config.evaluation = ConfigDict()
    config.evaluation.videos = "procedural-wild:clips=4,frames=10,height=320,width=576,seed=9"
    config.evaluation.every = 400

    if mode == "outdoors":
        config.seed = 2
        config.init = "runs/mover/weights.safetensors"
        config.steps = 900
        config.data.videos = (
            "procedural-wild:clips=480,frames=7,height=320,width=576"
            "+procedural-outdoors:clips=320,frames=7,height=320,width=576"
        )
        config.optimizer.warmup = 30
        config.evaluation.videos = (
            "procedural-outdoors:clips=4,frames=10,height=320,width=576,seed=9"
        )
        config.evaluation.every = 500
    elif mode == "smoke":
        config.batch = 8
        config.steps = 2
        config.model.widths = (4, 4, 4)
        config.model.heads = (0, 1, 0)
        config.model.fine = 2
        config.data.videos = "procedural-wild:clips=2,frames=3,height=64,width=64"
        config.data.size = (64, 64)
        config.data.frames = 2
        config.data.workers = 0
        config.checkpoint_every = 2
        config.evaluation.videos = "procedural-wild:clips=1,frames=3,height=64,width=64,seed=9"
        config.evaluation.every = 2
    elif mode:
        raise ValueError(f"configs/mover.py has no mode {mode!r}; there is 'smoke' and 'outdoors'.")
    return config
