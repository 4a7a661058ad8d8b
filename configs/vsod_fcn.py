"""VSOD-FCN: 224 x 224, a static network on pictures, then a dynamic one on pairs, real and made.

Wang, Shen, Shao, TIP 2018. Reported: MAE .06 on DAVIS and .07 on FBMS; the released networks .0587
and .0619. No J or F is reported.

    jaxvos prepare davis/2016 --from DAVIS
    jaxvos prepare msra10k --from MSRA10K && jaxvos prepare dut_omron --from DUT-OMRON
    jaxvos train configs/vsod_fcn.py:static --workdir runs/vsod-static
    jaxvos train configs/vsod_fcn.py:video --workdir runs/vsod \\
        --set init=runs/vsod-static/weights.safetensors

Two stages: "static" trains the static network on saliency images; "video" (or no mode) keeps it and
trains the dynamic one on pairs of frames with the static maps of the first ones, `init` says which.

From the paper: the images; pairs made of them beside the real ones; the loss; the optimiser. From
the released test program: batch 5 and 12 epochs. Nothing else of the training was released: the
rates, their schedule and "none" for augmentation are ours, and the loss sums over places, hence the
small rates. The real pairs of the paper are those of FBMS and SegTrack v2; with folders that are
laid out like DAVIS, --set data.videos=FBMS+SEGTRACK+stills:msra10k+stills:dut_omron. Its 150,000
made pairs are about ten of each image; here it is one, always the same, and stills:msra10k:seed=1
beside it is another one. Both networks begin with ImageNet's VGG-16 in the original.
"""

from ml_collections import ConfigDict


def get_config(mode: str = "") -> ConfigDict:
    """The recipe of the second stage; "static" is the first one, "smoke" two tiny steps."""
    config = ConfigDict()
    config.system = "vsod_fcn"
    config.seed = 1234
    config.init = ""
    config.batch = 5
    config.epochs = 12
    config.steps = 0
    config.batch_norm = "global"

    config.model = ConfigDict()
    config.model.width = 64
    config.model.convolutions = (2, 2, 3, 3, 3)
    config.model.side = 64
    config.model.side_std = 0.01
    config.model.remat = False
    config.model.dtype = "float32"

    config.segmenter = ConfigDict()
    config.segmenter.size = (224, 224)
    config.segmenter.pairs = True

    config.data = ConfigDict()
    config.data.videos = "davis/2016+stills:msra10k+stills:dut_omron"
    config.data.images = ""
    config.data.image_every = 0
    config.data.steps_per_epoch = 0
    config.data.size = (224, 224)
    config.data.sample = "clip"
    config.data.frames = 2
    config.data.order = "consecutive"
    config.data.gap = 1
    config.data.copies = 1
    config.data.flow = ""
    config.data.augment = "none"
    config.data.stretch = False
    config.data.workers = 4
    config.data.threads = 2

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"
    config.optimizer.rate = 1e-6
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    config.optimizer.schedule = "poly"
    config.optimizer.power = 0.9
    config.optimizer.drop_after_epochs = 0
    config.optimizer.drop = 1.0
    config.optimizer.warmup = 0
    config.optimizer.groups = (
        (r"static/.*", (0.0,)),
        (r"dynamic/.*", (1.0,)),
    )

    config.checkpoint_every = 1000
    config.log_every = 10
    config.evaluation = ConfigDict()
    config.evaluation.videos = "davis/2016:split=val"
    config.evaluation.every = 5000

    if mode == "static":
        config.segmenter.pairs = False
        config.data.videos = "stills:msra10k:frames=1+stills:dut_omron:frames=1"
        config.data.frames = 1
        config.optimizer.groups = (
            (r"static/.*", (1.0,)),
            (r"dynamic/.*", (0.0,)),
        )
    elif mode == "smoke":
        config.batch = 8
        config.steps = 2
        config.model.width = 4
        config.model.convolutions = (1, 1, 1, 1, 1)
        config.model.side = 4
        config.segmenter.size = (32, 48)
        config.data.videos = "stills:procedural-salient:clips=8,height=48,width=64"
        config.data.images = "procedural-salient:clips=2,frames=4,height=48,width=64"
        config.data.image_every = 2
        config.data.size = (32, 48)
        config.data.steps_per_epoch = 2  # one image step, one video step
        config.data.workers = 0
        config.optimizer.groups = ((r".*", (1.0,)),)
        config.checkpoint_every = 2
        config.evaluation.videos = "procedural:clips=1,frames=4,height=48,width=64,seed=9"
        config.evaluation.every = 2
    elif mode not in ("", "video"):
        raise ValueError(
            f"configs/vsod_fcn.py has no mode {mode!r}; there is 'smoke', 'static' and 'video'."
        )
    return config
