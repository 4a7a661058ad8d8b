"""FlowNet2-C: optical flow at one go, from made-up video or FlyingChairs-like folders.

Ilg et al., CVPR 2017. Reported end point errors of FlowNetC on Sintel (train), after FlyingChairs
alone (Dosovitskiy et al., ICCV 2015): 4.31 clean, 5.87 final.

    jaxvos train configs/flownet2_c.py --workdir runs/flownet2_c
    jaxvos flow clip.mp4 --out flow --method flownet2_c:runs/flownet2_c

FlowNet's long training is 1,200,000 steps of 8 pairs of FlyingChairs at 320 x 448 by Adam, at
1e-4, halved at 400,000, 600,000, 800,000 and 1,000,000; that on FlyingThings3D after it has 500,000
at a tenth of it. Here the rate falls by a cosine, over fewer steps, on made-up video with exact
flow, and "adamw" bounds the gradient. `data.videos` may be any source with flow:
"chairs:FlyingChairs_release", "things:FlyingThings3D", "stills:duts", or a folder with flow files,
"FOLDER:flow=FLOWS". Augmentation is RAFT's (`data_pipelines.augment.raft`): no turns, no noise, and
both frames of a pair alike. Sides of `data.size` are multiples of 64.
"""

from ml_collections import ConfigDict


def get_config(mode: str = "") -> ConfigDict:
    """The recipe; mode "smoke" is two steps of a tiny network."""
    config = ConfigDict()
    config.system = "flownet2_c"
    config.seed = 1234
    config.init = ""
    config.batch = 8
    config.epochs = 0
    config.steps = 300_000
    config.batch_norm = "global"

    config.model = ConfigDict()
    config.model.width = 64
    config.model.reach = 10
    config.model.dtype = "float32"

    config.segmenter = ConfigDict()

    config.data = ConfigDict()
    config.data.videos = "procedural:clips=4096,frames=8,height=384,width=512"
    config.data.images = ""
    config.data.image_every = 0
    config.data.steps_per_epoch = 0
    config.data.size = (320, 448)
    config.data.sample = "clip"
    config.data.frames = 2
    config.data.order = "consecutive"
    config.data.gap = 1
    config.data.copies = 1
    config.data.flow = "video"
    config.data.augment = "raft"
    config.data.stretch = False
    config.data.workers = 4
    config.data.threads = 2

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"
    config.optimizer.rate = 1e-4
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 4e-4
    config.optimizer.schedule = "cosine"
    config.optimizer.power = 0.9
    config.optimizer.drop_after_epochs = 0
    config.optimizer.drop = 1.0
    config.optimizer.warmup = 0
    # (parameters whose path matches, factors of the rate by global step modulo their number)
    config.optimizer.groups = ((r".*", (1.0,)),)

    config.checkpoint_every = 1000
    config.log_every = 10
    config.evaluation = ConfigDict()
    config.evaluation.videos = ""
    config.evaluation.every = 0  # J says nothing of flow; the end point error is in the log

    if mode == "smoke":
        config.batch = 2
        config.steps = 2
        config.model.width = 4
        config.model.reach = 2
        config.data.videos = "procedural:clips=2,frames=3,height=72,width=136"
        config.data.size = (64, 128)
        config.data.workers = 0
        config.checkpoint_every = 2
    elif mode:
        raise ValueError(f"configs/flownet2_c.py has no mode {mode!r}; there is 'smoke'.")
    return config
