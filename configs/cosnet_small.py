"""A small COSNet from scratch on real video: 1/4 of the size, under an hour on two CPU cores.

No published numbers: it shows that the whole road works on real frames, and what co-attention is
worth at this size. It learns the looks of the videos it is shown; docs/benchmarks.md says what it
reaches on them and on others. DIR is laid out like DAVIS.

    jaxvos train configs/cosnet_small.py --workdir runs/small \\
        --set data.videos=DIR:split=val,without=libby,without=camel
    jaxvos evaluate --data DIR --weights runs/small --out runs/small-scores

Without co-attention: --set model.coattention=False.
"""

from ml_collections import ConfigDict


def get_config(mode: str = "") -> ConfigDict:
    """The recipe; mode "smoke" is two steps of a tiny network on made-up video."""
    config = ConfigDict()
    config.system = "cosnet"
    config.seed = 0
    config.init = ""
    config.batch = 4
    config.epochs = 0
    config.steps = 1200
    config.batch_norm = "global"

    config.model = ConfigDict()
    config.model.depths = (1, 1, 1, 1)
    config.model.width = 12
    config.model.strides = (1, 1, 1, 1)
    config.model.branch = 32
    config.model.features = 32
    config.model.group = False
    config.model.coattention = True
    config.model.head_std = 0.1
    config.model.block = 0
    config.model.remat = False
    config.model.scan = False
    config.model.dtype = "float32"

    config.segmenter = ConfigDict()
    config.segmenter.size = (129, 225)
    config.segmenter.references = 5
    config.segmenter.seed = 0

    config.data = ConfigDict()
    config.data.videos = "davis/2016"
    config.data.images = ""
    config.data.image_every = 0
    config.data.steps_per_epoch = 0
    config.data.size = (129, 225)
    config.data.augment = "flip_crop"
    config.data.stretch = False
    config.data.workers = 0
    config.data.threads = 1

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"
    config.optimizer.rate = 3e-3
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-4
    config.optimizer.schedule = "cosine"
    config.optimizer.power = 0.9
    config.optimizer.drop_after_epochs = 0
    config.optimizer.drop = 1.0
    config.optimizer.warmup = 50
    config.optimizer.groups = ((r".*", (1.0,)),)

    config.checkpoint_every = 200
    config.log_every = 20
    config.evaluation = ConfigDict()
    config.evaluation.videos = ""
    config.evaluation.every = 0

    if mode == "smoke":
        config.batch = 8
        config.steps = 2
        config.model.width = 4
        config.data.videos = "procedural:clips=2,frames=4,height=48,width=64"
        config.data.size = (33, 49)
        config.segmenter.size = (33, 49)
    elif mode:
        raise ValueError(f"configs/cosnet_small.py has no mode {mode!r}; there is 'smoke'.")
    return config
