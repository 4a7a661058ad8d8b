"""Mover's refiner: parts of 160 x 160 pixels of made-up pictures, batch 16.

Ours; docs/motion.md has the scores. It learns from what the library's own Mover makes of clips that
Mover was not trained on; what the cache lacks of that is computed before the first step, or sooner
and on all cores by `python -m data_pipelines.refinement VIDEOS --cache runs/pool`.
"""

from ml_collections import ConfigDict


def get_config(mode: str = "") -> ConfigDict:
    """The recipe; mode "smoke": two tiny steps."""
    config = ConfigDict()
    config.system = "mover_refiner"
    config.seed = 1
    config.init = ""
    config.batch = 16
    config.epochs = 0
    config.steps = 1000
    config.batch_norm = "global"

    config.model = ConfigDict()
    config.model.widths = (32, 48, 64, 64)
    config.model.dtype = "float32"

    config.segmenter = ConfigDict()

    config.data = ConfigDict()
    config.data.videos = (
        "procedural-wild:clips=220,frames=8,height=320,width=576,seed=21"
        "+procedural-outdoors:clips=180,frames=8,height=320,width=576,seed=22"
        "+procedural-waters:clips=50,frames=8,height=320,width=576,seed=23"
    )
    config.data.images = ""
    config.data.image_every = 0
    config.data.steps_per_epoch = 0
    config.data.size = (160, 160)
    config.data.sample = "refinement"
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
    config.optimizer.warmup = 0
    config.optimizer.groups = ((r".*", (1.0,)),)

    config.checkpoint_every = 100
    config.log_every = 10
    config.evaluation = ConfigDict()
    config.evaluation.videos = "procedural-wild:clips=4,frames=10,height=320,width=576,seed=9"
    config.evaluation.every = 500

    if mode == "smoke":
        config.batch = 8
        config.steps = 2
        config.model.widths = (4, 4)
        config.data.videos = "procedural-wild:clips=1,frames=2,height=64,width=64"
        config.data.size = (32, 32)
        config.data.workers = 0
        config.checkpoint_every = 2
        config.evaluation.videos = "procedural-wild:clips=1,frames=2,height=64,width=64,seed=9"
        config.evaluation.every = 2
    elif mode:
        raise ValueError(f"configs/mover_refiner.py has no mode {mode!r}; there is 'smoke'.")
    return config
