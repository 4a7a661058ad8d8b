"""LVO: the memory on clips of 14 frames of DAVIS, its two streams trained before and kept.

Tokmakov, Alahari, Schmid, ICCV 2017. Reported on DAVIS-2016 val, with CRF: J 75.9 (recall 89.1,
decay 0.0), F 72.1 (83.4, 1.3), T 26.5; on FBMS test J 65.1. No J is known to us without.

    jaxvos prepare davis/2016 --from DAVIS
    jaxvos prepare msra10k --from MSRA10K && jaxvos prepare dut_omron --from DUT-OMRON
    jaxvos train configs/lvo.py:streams --workdir runs/lvo-streams
    jaxvos train configs/lvo.py --workdir runs/lvo \\
        --set init=runs/lvo-streams/weights.safetensors

Two stages. `:streams` trains what the memory is told, in turns: DeepLab's features by the objects
of saliency images, MP-Net by the exact flow of made-up video. In the original these were DeepLab v1
for VOC's 20 classes, and MP-Net as of its own paper (`configs/mpnet.py`); this stage, its data and
its rates are ours. Without a mode: the memory alone, on DAVIS's 30 training videos.

From the paper: a batch is one clip of 14 consecutive frames, 30,000 steps, rate 1e-4, decay 0.005;
in a fifth of them the object is made to stop. The bound on the gradient's values is not known; 50
is a guess. The rate dropped late, about step 25,000, in epochs of one clip a step: with 2,079
frames the twelfth.
How frames were sized and augmented is not known; here all are 481 x 857 and mirrored or not, with
windows ("flip_crop").
"""

from ml_collections import ConfigDict


def get_config(mode: str = "") -> ConfigDict:
    """The recipe of the memory; modes "streams", what comes before, and "smoke": two tiny steps."""
    config = ConfigDict()
    config.system = "lvo"
    config.seed = 1234
    config.init = ""
    config.batch = 1
    config.epochs = 0
    config.steps = 30_000
    config.batch_norm = "global"

    config.model = ConfigDict()
    config.model.width = 64
    config.model.convolutions = (2, 2, 3, 3, 3)
    config.model.fov = 1024
    config.model.appearance = 128
    config.model.motion_width = 64
    config.model.hidden = 64
    config.model.kernel = 7
    config.model.bidirectional = True
    config.model.memory = True
    config.model.stops = 0.2
    config.model.stop_frames = 5
    config.model.dtype = "float32"

    config.segmenter = ConfigDict()
    config.segmenter.size = (481, 857)

    config.data = ConfigDict()
    config.data.videos = "davis/2016"
    config.data.images = ""
    config.data.image_every = 0
    config.data.steps_per_epoch = 0
    config.data.size = (481, 857)
    config.data.sample = "clip"
    config.data.frames = 14
    config.data.order = "consecutive"
    config.data.gap = 1
    config.data.copies = 1
    config.data.flow = "dis"
    config.data.augment = "flip_crop"
    config.data.stretch = False
    config.data.workers = 4
    config.data.threads = 2

    config.optimizer = ConfigDict()
    config.optimizer.name = "rmsprop"
    config.optimizer.rate = 1e-4
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-3
    config.optimizer.schedule = "poly"
    config.optimizer.power = 0.0
    config.optimizer.drop_after_epochs = 12
    config.optimizer.drop = 0.1
    config.optimizer.warmup = 0
    config.optimizer.groups = (
        (r"(deeplab|objects|motion)/.*", (0.0,)),
        (r".*", (1.0,)),
    )

    config.checkpoint_every = 1000
    config.log_every = 10
    config.evaluation = ConfigDict()
    config.evaluation.videos = "davis/2016:split=val"
    config.evaluation.every = 5000

    if mode == "streams":
        config.batch = 12
        config.steps = 60_000
        config.model.memory = False
        config.data.videos = "procedural:clips=2250,frames=10,height=480,width=856"
        config.data.images = "msra10k+dut_omron"
        config.data.image_every = 2
        config.data.size = (321, 321)
        config.data.frames = 2
        config.data.flow = "video"
        config.optimizer.name = "sgd"
        config.optimizer.rate = 1e-3
        config.optimizer.weight_decay = 5e-4
        config.optimizer.power = 0.9
        config.optimizer.drop_after_epochs = 0
        config.optimizer.groups = (
            # In turns: stills have a gradient for the objects, video for the motion.
            (r"(deeplab|objects)/.*", (1.0,)),
            (r"motion/.*", (3.0,)),
            (r".*", (0.0,)),
        )
        config.evaluation.every = 0  # the memory, which decides, has not learned yet
    elif mode == "smoke":
        config.batch = 8
        config.steps = 2
        config.model.width = 4
        config.model.convolutions = (1, 1, 1, 1, 1)
        config.model.fov = 8
        config.model.appearance = 8
        config.model.motion_width = 4
        config.model.hidden = 8
        config.model.kernel = 3
        config.model.stop_frames = 1
        config.segmenter.size = (65, 97)
        config.data.videos = "procedural:clips=2,frames=4,height=72,width=100"
        config.data.size = (65, 97)
        config.data.frames = 3
        config.data.flow = "video"
        config.data.steps_per_epoch = 2
        config.data.workers = 0
        config.optimizer.drop_after_epochs = 0
        config.checkpoint_every = 2
        config.evaluation.videos = "procedural:clips=1,frames=4,height=72,width=100,seed=9"
        config.evaluation.every = 2
    elif mode:
        raise ValueError(f"configs/lvo.py has no mode {mode!r}; there is 'smoke' and 'streams'.")
    return config
