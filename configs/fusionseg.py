"""FusionSeg: the appearance on stills, the motion on labels made of boxes, the joint on DAVIS.

Jain, Xiong, Grauman, CVPR 2017. Reported on DAVIS-2016, all 50 videos, each by a joint stream that
has not seen it: J 70.7 (recall 83.5, decay 1.5), F 65.3 (73.8, 1.8), T 32.8; on FBMS J 68.4.

    jaxvos train configs/fusionseg.py:appearance --workdir runs/fusionseg1 --set init=resnet101.pth
    jaxvos segment VIDEO --weights runs/fusionseg1 --out FOUND    (of every video with boxes)
    python -m data_pipelines.box_labels VIDEO BOXES FOUND/masks LABELS
    jaxvos train configs/fusionseg.py:motion --workdir runs/fusionseg2 \\
        --set init=runs/fusionseg1/weights.safetensors --set data.videos=LABELS
    jaxvos prepare davis/2016 --from DAVIS
    jaxvos train configs/fusionseg.py:joint --workdir runs/fusionseg \\
        --set init=runs/fusionseg2/weights.safetensors

Three stages, each of which goes on with the weights of the one before; ImageNet's come into both
streams in the first. "joint" (or no mode) keeps the streams and trains what joins them, on DAVIS's
30 training videos; for scores of these 30 train it on the other 20: --set
data.videos=davis/2016:split=val.

From the paper: the stages and their data, softmax loss, SGD with momentum. The appearance there
learned from PASCAL VOC 2012 with SBD, 10,582 images, all classes together; a folder of theirs,
JPEGImages and SegmentationClass, is --set data.images=FOLDER (void pixels count as objects, so
remove them first). The motion learned from 84,929 frames of ImageNet-VID. Not certain: batch 10,
rate 1e-3, ten times that in the head, decay 5e-4. From the released joint stream: ten times the
rate, twenty times for biases. Ours: steps, "poly", windows of 321, and flow by DIS.

`model.fixed_norm` keeps BatchNorm's statistics, so that the streams cannot learn from nothing:
without `init` set it to False.
"""

from ml_collections import ConfigDict


def get_config(mode: str = "") -> ConfigDict:
    """The recipe of the last stage; "appearance", "motion", and "smoke": two tiny steps."""
    config = ConfigDict()
    config.system = "fusionseg"
    config.seed = 1234
    config.init = ""
    config.batch = 10
    config.epochs = 0
    config.steps = 10_000
    config.batch_norm = "global"

    config.model = ConfigDict()
    config.model.stream = "joint"
    config.model.alone = False
    config.model.paper_joint = False
    config.model.depths = (3, 4, 23, 3)
    config.model.width = 64
    config.model.rates = (6, 12, 18, 24)
    config.model.fixed_norm = True
    config.model.remat = False
    config.model.dtype = "float32"

    config.segmenter = ConfigDict()
    config.segmenter.canvas = (289, 513)
    config.segmenter.short = False
    config.segmenter.back = True

    config.data = ConfigDict()
    config.data.videos = "davis/2016"
    config.data.images = ""
    config.data.image_every = 0
    config.data.steps_per_epoch = 0
    config.data.size = (321, 321)
    config.data.sample = "clip"
    config.data.frames = 2
    config.data.order = "consecutive"
    config.data.gap = 1
    config.data.copies = 1
    config.data.flow = "dis"
    config.data.augment = "flip_crop"
    config.data.stretch = False
    config.data.workers = 4
    config.data.threads = 2

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"
    config.optimizer.rate = 1e-3
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    config.optimizer.schedule = "poly"
    config.optimizer.power = 0.9
    config.optimizer.drop_after_epochs = 0
    config.optimizer.drop = 1.0
    config.optimizer.warmup = 0
    config.optimizer.groups = (
        (r"joint/.*/bias", (20.0,)),
        (r"joint/.*", (10.0,)),
        (r".*", (0.0,)),
    )

    config.checkpoint_every = 1000
    config.log_every = 10
    config.evaluation = ConfigDict()
    config.evaluation.videos = "davis/2016:split=val"
    config.evaluation.every = 5000

    if mode in ("appearance", "motion"):
        config.model.stream = mode
        config.steps = 20_000
        config.optimizer.groups = (
            (rf"{mode}/resnet/.*", (1.0,)),
            (rf"{mode}/.*", (10.0,)),
            (r".*", (0.0,)),
        )
    if mode == "appearance":
        config.data.images = "msra10k+dut_omron"
        config.data.image_every = 1
        config.data.frames = 1
    elif mode == "smoke":
        config.batch = 8
        config.steps = 2
        config.model.depths = (1, 1, 1, 1)
        config.model.width = 4
        config.model.rates = (1, 2)
        config.segmenter.canvas = (33, 49)
        config.data.videos = "procedural:clips=2,frames=4,height=48,width=64"
        config.data.size = (33, 49)
        config.data.steps_per_epoch = 2
        config.data.workers = 0
        config.checkpoint_every = 2
        config.evaluation.videos = "procedural:clips=1,frames=4,height=48,width=64,seed=9"
        config.evaluation.every = 2
    elif mode not in ("", "joint", "motion"):
        raise ValueError(
            f"configs/fusionseg.py has no mode {mode!r}; there is 'smoke', 'appearance', 'motion' "
            "and 'joint'."
        )
    return config
