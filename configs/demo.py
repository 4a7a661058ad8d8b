"""`jaxvos demo`: a small COSNet from scratch, on made-up video whose objects stand out by looks.

The network answers at 1/4 of the size, is trained on small frames and run on larger ones, which its
cue (colour) survives.

    jaxvos demo --out DIR
"""

from ml_collections import ConfigDict


def get_config(mode: str = "") -> ConfigDict:
    """The recipe; mode "smoke" is two steps."""
    config = ConfigDict()
    config.system = "cosnet"
    config.seed = 0
    config.init = ""
    config.batch = 8
    config.epochs = 0
    config.steps = 120
    config.batch_norm = "global"

    config.model = ConfigDict()
    config.model.depths = (1, 1, 1, 1)
    config.model.width = 8
    config.model.strides = (1, 1, 1, 1)
    config.model.branch = 24
    config.model.features = 24
    config.model.group = False
    config.model.coattention = True
    config.model.head_std = 0.1
    config.model.block = 0
    config.model.remat = False
    config.model.scan = False
    config.model.dtype = "float32"

    config.segmenter = ConfigDict()
    config.segmenter.size = (161, 289)
    config.segmenter.references = 2
    config.segmenter.seed = 0

    config.data = ConfigDict()
    config.data.videos = "procedural-salient:clips=150,frames=4,height=128,width=224"
    config.data.images = "procedural-salient:clips=150,frames=1,height=128,width=224,seed=7"
    config.data.image_every = 3
    config.data.steps_per_epoch = 0
    config.data.size = (97, 161)
    config.data.augment = "flip_crop"
    config.data.stretch = False
    config.data.workers = 0
    config.data.threads = 1

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"
    config.optimizer.rate = 4e-3
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-4
    config.optimizer.schedule = "cosine"
    config.optimizer.power = 0.9
    config.optimizer.drop_after_epochs = 0
    config.optimizer.drop = 1.0
    config.optimizer.warmup = 10
    config.optimizer.groups = ((r".*", (1.0,)),)

    config.checkpoint_every = 60
    config.log_every = 10
    config.evaluation = ConfigDict()
    config.evaluation.videos = "procedural-salient:seed=1,clips=2,frames=4,height=192,width=336"
    config.evaluation.every = 0

    if mode == "smoke":
        config.batch = 8
        config.steps = 2
        config.data.videos = "procedural-salient:clips=2,frames=4,height=48,width=64"
        config.data.images = "procedural-salient:clips=2,frames=4,height=48,width=64,seed=7"
        config.data.size = (33, 49)
        config.segmenter.size = (33, 49)
    elif mode:
        raise ValueError(f"configs/demo.py has no mode {mode!r}; there is 'smoke'.")
    return config
