"""TMO: 384 x 384, two encoders, frames with their flow and images without, 4000 times 32 steps.

Cho et al., WACV 2023. Reported, from memory of the paper: DAVIS-2016 val J 85.6, F 86.6 (86.1
together), FBMS J 79.9, Youtube-Objects J 71.5; no CRF.

    jaxvos prepare davis/2016 --from DAVIS && jaxvos prepare duts --from DUTS
    jaxvos train configs/tmo.py --workdir runs/tmo --set init=resnet101.pth
    jaxvos train configs/tmo.py:mit --workdir runs/tmo-mit

"resnet" (or no mode) is the one with ResNet-101, "mit" the one with MiT-b1. In place of flow the
motion encoder sees the still images themselves.

From the released code: data, size, batch, rate, epochs of 32 steps, frozen BatchNorm with scales
and shifts that learn. Where this is not it:
- There a batch mixes three images with one frame on average; here every other step is one on
  images. A clip is two frames because the flow of the first leads to the second, which is not
  segmented.
- The flow is DIS between the augmented frames, there RAFT between the whole ones; with
  --set data.flow=video the source's own.
- A frame's flow is mirrored with it, its vectors too; there the pictures' colours stay.
- "adamw" without decay is Adam with a bound on the gradient. "poly" of power 0 is a constant rate.
"""

from ml_collections import ConfigDict


def get_config(mode: str = "") -> ConfigDict:
    """The recipe; "mit" is that of the transformer, "smoke" two steps of a tiny network."""
    config = ConfigDict()
    config.system = "tmo"
    config.seed = 1234
    config.init = ""
    config.batch = 16
    config.epochs = 4000
    config.steps = 0
    config.batch_norm = "global"

    config.model = ConfigDict()
    config.model.encoder = "resnet"
    config.model.depths = (3, 4, 23, 3)
    config.model.width = 64
    config.model.features = 256
    config.model.frozen = True
    config.model.drop = 0.1
    config.model.remat = False
    config.model.dtype = "float32"

    config.segmenter = ConfigDict()
    config.segmenter.size = (384, 384)
    config.segmenter.motion = "flow"
    config.segmenter.hard = False

    config.data = ConfigDict()
    config.data.videos = "davis/2016"
    config.data.images = "duts"
    config.data.image_every = 2
    config.data.steps_per_epoch = 32
    config.data.size = (384, 384)
    config.data.sample = "clip"
    config.data.frames = 2
    config.data.order = "consecutive"
    config.data.gap = 1
    config.data.copies = 1
    config.data.flow = "dis"
    config.data.augment = "tmo"
    config.data.stretch = False
    config.data.workers = 4
    config.data.threads = 2

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"
    config.optimizer.rate = 1e-5
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 0.0
    config.optimizer.schedule = "poly"
    config.optimizer.power = 0.0
    config.optimizer.drop_after_epochs = 0
    config.optimizer.drop = 1.0
    config.optimizer.warmup = 0
    config.optimizer.groups = ((r".*", (1.0,)),)

    config.checkpoint_every = 3200
    config.log_every = 32
    config.evaluation = ConfigDict()
    config.evaluation.videos = "davis/2016:split=val"
    config.evaluation.every = 3200

    if mode == "mit":
        config.model.encoder = "mit"
        config.model.depths = (2, 2, 2, 2)
    elif mode == "smoke":
        config.batch = 8
        config.steps = 2
        config.model.depths = (1, 1, 1, 1)
        config.model.width = 4
        config.model.features = 8
        config.segmenter.size = (33, 49)
        config.data.videos = "procedural:clips=2,frames=4,height=48,width=64"
        config.data.images = "procedural-salient:clips=2,frames=4,height=48,width=64"
        config.data.size = (33, 49)
        config.data.steps_per_epoch = 2  # one image step, one video step
        config.data.workers = 0
        config.checkpoint_every = 2
        config.evaluation.videos = "procedural:clips=1,frames=4,height=48,width=64,seed=9"
        config.evaluation.every = 2
    elif mode not in ("", "resnet"):
        raise ValueError(
            f"configs/tmo.py has no mode {mode!r}; there is 'smoke', 'resnet' and 'mit'."
        )
    return config
