"""RAFT: optical flow, 12 iterations, from made-up video, FlyingChairs-like folders or still images.

Teed, Deng, ECCV 2020, section 4.1. Reported end point errors on Sintel (train): 1.43 clean, 2.71
final after FlyingChairs and FlyingThings3D.

    jaxvos train configs/raft.py --workdir runs/raft
    jaxvos train configs/raft.py:small --workdir runs/raft_small
    jaxvos flow clip.mp4 --out flow --method raft:runs/raft

The released first stage ("chairs") has 100,000 steps of 10 pairs at 368 x 496; this is it, on
made-up video with exact flow. `data.videos` may be any source with flow:
"chairs:FlyingChairs_release", "things:FlyingThings3D", "stills:duts", or a folder with
flow files, "FOLDER:flow=FLOWS". The released second stage ("things") is

    --set init=runs/raft --set batch=6 --set optimizer.rate=1.25e-4 --set data.size="(400, 720)"
    --set model.freeze_norm=true

The rate rises for a twentieth of the steps and falls for the rest, linearly; gradients are clipped
at a norm of 1. Colours change for both frames alike and nothing is erased, unlike in the released
augmentation (`data_pipelines.augment.raft`).
"""

from ml_collections import ConfigDict


def get_config(mode: str = "") -> ConfigDict:
    """The recipe; mode "small" is the small network, "smoke" two steps of it."""
    config = ConfigDict()
    config.system = "raft"
    config.seed = 1234
    config.init = ""
    config.batch = 10
    config.epochs = 0
    config.steps = 100_000
    config.batch_norm = "global"

    config.model = ConfigDict()
    config.model.small = False
    config.model.iterations = 12
    config.model.on_demand = False
    config.model.freeze_norm = False
    config.model.dtype = "float32"

    config.segmenter = ConfigDict()

    config.data = ConfigDict()
    config.data.videos = "procedural:clips=4096,frames=8,height=432,width=576"
    config.data.images = ""
    config.data.image_every = 0
    config.data.steps_per_epoch = 0
    config.data.size = (368, 496)
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
    config.optimizer.rate = 4e-4
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-4
    config.optimizer.schedule = "one_cycle"
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

    if mode == "small":
        config.model.small = True
    elif mode == "smoke":
        config.batch = 2
        config.steps = 2
        config.model.small = True
        config.model.iterations = 1
        config.data.videos = "procedural:clips=2,frames=3,height=64,width=80"
        config.data.size = (64, 72)
        config.data.workers = 0
        config.checkpoint_every = 2
    elif mode:
        raise ValueError(f"configs/raft.py has no mode {mode!r}; there is 'smoke' and 'small'.")
    return config
