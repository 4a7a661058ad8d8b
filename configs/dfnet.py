"""DFNet: ResNet-101, 473 x 473, three random frames of a video at once, saliency images in between.

Zhen et al., ECCV 2020. Reported on DAVIS-2016 val: mean J 83.4, mean F 81.8, T 15.9; whether a CRF
comes after the network's own is not said.

    jaxvos prepare davis/2016 --from DAVIS
    jaxvos prepare msra10k --from MSRA10K && jaxvos prepare dut_omron --from DUT-OMRON
    jaxvos train configs/dfnet.py --workdir runs/dfnet --set init=resnet101.pth

No code was released and the paper's numbers are not known to us. The data, the alternation of video
and image steps, the optimiser and its rates are those of its siblings (COSNet, AGNN); ours are the
number of frames a clip, the batch, the epochs and K. `init` is a torchvision ResNet-101. One copy
of an image is enough: more would add nothing, since scores are shares of all places together.

Watch "score_places" in metrics.jsonl: on how many places a group's scores rest. Near 1 the scoring
weights have collapsed; a momentum nearer to 1 or a lower rate helps.
"""

from ml_collections import ConfigDict


def get_config(mode: str = "") -> ConfigDict:
    """The recipe; mode "smoke" is two steps of a tiny network on made-up video."""
    config = ConfigDict()
    config.system = "dfnet"
    config.seed = 1234
    config.init = ""
    config.batch = 8
    config.epochs = 30
    config.steps = 0
    config.batch_norm = "global"

    config.model = ConfigDict()
    config.model.depths = (3, 4, 23, 3)
    config.model.width = 64
    config.model.branch = 256
    config.model.rates = (12, 24, 36)
    config.model.features = 256
    config.model.groups = 16
    config.model.momentum = 0.9
    config.model.colour_weight = 1.5
    config.model.near_weight = 0.8
    config.model.reach = 4.0
    config.model.colours = 0.8
    config.model.near = 1.5
    config.model.iterations = 3
    config.model.head_relu = False
    config.model.remat = False
    config.model.dtype = "float32"

    config.segmenter = ConfigDict()
    config.segmenter.size = (473, 473)
    config.segmenter.frames = 5

    config.data = ConfigDict()
    config.data.videos = "davis/2016"
    config.data.images = "msra10k+dut_omron"
    config.data.image_every = 2
    config.data.steps_per_epoch = 0
    config.data.size = (473, 473)
    config.data.sample = "clip"
    config.data.frames = 3
    config.data.order = "random"
    config.data.gap = 1
    config.data.copies = 1
    config.data.flow = ""
    config.data.augment = "cosnet"
    config.data.stretch = False
    config.data.workers = 4
    config.data.threads = 2

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"
    config.optimizer.rate = 2.5e-4
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    config.optimizer.schedule = "poly"
    config.optimizer.power = 0.9
    config.optimizer.drop_after_epochs = 0
    config.optimizer.drop = 1.0
    config.optimizer.warmup = 0
    config.optimizer.groups = (
        (r"encoder/.*", (1.0,)),
        (r".*", (10.0,)),
    )

    config.checkpoint_every = 260
    config.log_every = 10
    config.evaluation = ConfigDict()
    config.evaluation.videos = "davis/2016:split=val"
    config.evaluation.every = 1300

    if mode == "smoke":
        config.batch = 8
        config.steps = 2
        config.model.depths = (1, 1, 1, 1)
        config.model.width = 4
        config.model.branch = 8
        config.model.features = 8
        config.model.groups = 3
        config.segmenter.size = (33, 49)
        config.segmenter.frames = 3
        config.data.videos = "procedural:clips=2,frames=4,height=48,width=64"
        config.data.images = "procedural-salient:clips=2,frames=4,height=48,width=64"
        config.data.size = (33, 49)
        config.data.steps_per_epoch = 2  # one image step, one video step
        config.data.workers = 0
        config.checkpoint_every = 2
        config.evaluation.videos = "procedural:clips=1,frames=4,height=48,width=64,seed=9"
        config.evaluation.every = 2
    elif mode:
        raise ValueError(f"configs/dfnet.py has no mode {mode!r}; there is 'smoke'.")
    return config
