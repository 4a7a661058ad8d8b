"""MP-Net: fields of 360 x 200 with exact flow, batch 13, three rates one after the other.

Tokmakov, Alahari, Schmid, CVPR 2017. Reported on DAVIS-2016 val, with objectness and CRF: J 70.0
(recall 85.0, decay 1.3), F 65.9 (79.2, 2.5), T 57.2; on FBMS J 35.7. No J is known to us without.

    jaxvos train configs/mpnet.py --workdir runs/mpnet1
    jaxvos train configs/mpnet.py:second --workdir runs/mpnet2 \\
        --set init=runs/mpnet1/weights.safetensors
    jaxvos train configs/mpnet.py:third --workdir runs/mpnet \\
        --set init=runs/mpnet2/weights.safetensors
    jaxvos evaluate --data DAVIS --weights runs/mpnet --flow raft:WEIGHTS --set objectness=MAPS

The rate drops to a tenth after 9 and after 18 of 27 epochs, and the weight decay with it: hence
three modes, of which each goes on from the one before. An epoch has 3,221 steps, of 41,870 samples.

The original was trained on FlyingThings3D with the authors' labels of what moves in the world. The
made-up video here has both, flow and labels, exactly. FlyingThings3D, laid out like DAVIS with flow
files beside it, is --set data.videos=FOLDER:flow=FLOWS. The original cut windows of 360 x 200 of
480 x 270 and mirrored half of them: "flip_crop", whose windows have 0.6 to 1 of the area (there
0.56), comes near to it.
"""

from ml_collections import ConfigDict


def get_config(mode: str = "") -> ConfigDict:
    """The recipe of the first rate; modes "second", "third", and "smoke": two tiny steps."""
    config = ConfigDict()
    config.system = "mpnet"
    config.seed = 1234
    config.init = ""
    config.batch = 13
    config.epochs = 9
    config.steps = 0
    config.batch_norm = "global"

    config.model = ConfigDict()
    config.model.width = 64
    config.model.dtype = "float32"

    config.segmenter = ConfigDict()
    config.segmenter.size = (232, 424)
    config.segmenter.still = 1.0

    config.data = ConfigDict()
    config.data.videos = "procedural:clips=2250,frames=10,height=270,width=480"
    config.data.images = ""
    config.data.image_every = 0
    config.data.steps_per_epoch = 3221
    config.data.size = (200, 360)
    config.data.sample = "clip"
    config.data.frames = 2
    config.data.order = "consecutive"
    config.data.gap = 1
    config.data.copies = 1
    config.data.flow = "video"
    config.data.augment = "flip_crop"
    config.data.stretch = False
    config.data.workers = 4
    config.data.threads = 2

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"
    config.optimizer.rate = 3e-3
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-3
    config.optimizer.schedule = "poly"
    config.optimizer.power = 0.0
    config.optimizer.drop_after_epochs = 0
    config.optimizer.drop = 1.0
    config.optimizer.warmup = 0
    config.optimizer.groups = ((r".*", (1.0,)),)

    config.checkpoint_every = 3221
    config.log_every = 10
    config.evaluation = ConfigDict()
    config.evaluation.videos = "davis/2016:split=val"
    config.evaluation.every = 9663

    if mode == "second":
        config.optimizer.rate = 3e-4
        config.optimizer.weight_decay = 5e-4
    elif mode == "third":
        config.optimizer.rate = 3e-5
        config.optimizer.weight_decay = 5e-5
    elif mode == "smoke":
        config.batch = 8
        config.epochs = 0
        config.steps = 2
        config.model.width = 4
        config.segmenter.size = (33, 49)
        config.data.videos = "procedural:clips=2,frames=4,height=48,width=64"
        config.data.steps_per_epoch = 2
        config.data.size = (33, 49)
        config.data.workers = 0
        config.checkpoint_every = 2
        config.evaluation.videos = "procedural:clips=1,frames=4,height=48,width=64,seed=9"
        config.evaluation.every = 2
    elif mode:
        raise ValueError(
            f"configs/mpnet.py has no mode {mode!r}; there is 'smoke', 'second' and 'third'."
        )
    return config
