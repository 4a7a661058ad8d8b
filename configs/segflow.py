"""SegFlow: ResNet-101 and FlowNetS, whole frames 480 x 854, one at a time with the next one.

Cheng et al., ICCV 2017. Reported on DAVIS-2016 val: mean J 67.4, mean F 66.7 without the first mask
(the released network); J 74.8 to 76.1 with it.

    jaxvos prepare davis/2016 --from DAVIS
    jaxvos train configs/segflow.py:flow --workdir runs/segflow-flow --set init=resnet101.pth
    jaxvos train configs/segflow.py --workdir runs/segflow-seg \\
        --set init=runs/segflow-flow/weights.safetensors
    jaxvos train configs/segflow.py:alternate --workdir runs/segflow \\
        --set init=runs/segflow-seg/weights.safetensors

"segmentation" (or no mode) is what was released: FlowNet is fixed, the segmentation learns by a
sum over pixels, which is why the rate is 1e-9; in the original FlowNetS comes from its published
weights, here from "flow", where the ResNet and its head are fixed. There, the flow is that of
made-up video; "chairs:FlyingChairs_release" or "things:FlyingThings3D" are better, and sets without
masks count nothing for the segmentation. "alternate" is the paper's schedule, each branch in its
turn, from the other stages' weights: a step of the segmentation, with FlowNet and its head fixed,
then one of the flow. With flow in the data the loss is the paper's.

The paper goes back and forth between data with masks and data with flow; "alternate" has both at
once, on DAVIS with flow by DIS. The first mask is the segmenter's: `segmenter.tuning` steps on each
video's own.

Not the released training: its rate is halved every 50,000 steps ("poly" of power 2 is near to it);
pictures are scaled, turned and moved by up to 5 % or 5 degrees ("flip_crop" takes windows and
mirrors, and changes colours); a video's last frame is trained on, paired with itself. The rates,
steps and sizes of "flow" and "alternate" are ours.
"""

from ml_collections import ConfigDict


def get_config(mode: str = "") -> ConfigDict:
    """The recipe of the released stage; "flow" and "alternate" train the rest, "smoke" is tiny."""
    config = ConfigDict()
    config.system = "segflow"
    config.seed = 1234
    config.init = ""
    config.batch = 1
    config.epochs = 0
    config.steps = 200_000
    config.batch_norm = "global"

    config.model = ConfigDict()
    config.model.depths = (3, 4, 23, 3)
    config.model.width = 64
    config.model.flow_width = 64
    config.model.remat = False
    config.model.dtype = "float32"

    config.segmenter = ConfigDict()
    config.segmenter.size = (480, 854)
    config.segmenter.tuning = 0

    config.data = ConfigDict()
    config.data.videos = "davis/2016"
    config.data.images = ""
    config.data.image_every = 0
    config.data.steps_per_epoch = 0
    config.data.size = (480, 854)
    config.data.sample = "clip"
    config.data.frames = 2
    config.data.order = "consecutive"
    config.data.gap = 1
    config.data.copies = 1
    config.data.flow = ""
    config.data.augment = "flip_crop"
    config.data.stretch = False
    config.data.workers = 4
    config.data.threads = 2

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"
    config.optimizer.rate = 1e-9
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    config.optimizer.schedule = "poly"
    config.optimizer.power = 2.0
    config.optimizer.drop_after_epochs = 0
    config.optimizer.drop = 1.0
    config.optimizer.warmup = 0
    config.optimizer.groups = (
        (r"(resnet|segmentation)/.*", (1.0,)),
        (r".*", (0.0,)),
    )

    config.checkpoint_every = 2000
    config.log_every = 10
    config.evaluation = ConfigDict()
    config.evaluation.videos = "davis/2016:split=val"
    config.evaluation.every = 20_000

    if mode == "flow":
        config.batch = 8
        config.steps = 300_000
        config.data.videos = "procedural:clips=4096,frames=8,height=384,width=512"
        config.data.flow = "video"
        config.data.augment = "raft"
        config.data.size = (320, 448)
        config.optimizer.name = "adamw"
        config.optimizer.rate = 1e-4
        config.optimizer.weight_decay = 4e-4
        config.optimizer.schedule = "cosine"
        config.optimizer.groups = (
            (r"(flownet|motion)/.*", (1.0,)),
            (r".*", (0.0,)),
        )
        config.evaluation.videos = ""
        config.evaluation.every = 0  # J says nothing of flow; the end point error is in the log
    elif mode == "alternate":
        config.steps = 40_000
        config.data.flow = "dis"
        config.optimizer.name = "adamw"
        config.optimizer.rate = 1e-5
        config.optimizer.groups = (
            (r"(resnet|segmentation)/.*", (1.0, 0.0)),
            (r"(flownet|motion)/.*", (0.0, 1.0)),
            (r".*", (0.0,)),
        )
    elif mode == "smoke":
        config.batch = 2
        config.steps = 2
        config.model.depths = (1, 1, 1, 1)
        config.model.width = 4
        config.model.flow_width = 4
        config.segmenter.size = (32, 48)
        config.data.videos = "procedural:clips=2,frames=4,height=48,width=64"
        config.data.size = (32, 48)
        config.data.flow = "video"
        config.data.steps_per_epoch = 2
        config.data.workers = 0
        config.optimizer.rate = 1e-5
        config.optimizer.groups = (
            (r"(resnet|segmentation)/.*", (1.0, 0.0)),
            (r"(flownet|motion)/.*", (0.0, 1.0)),
            (r".*", (0.0,)),
        )
        config.checkpoint_every = 2
        config.evaluation.videos = "procedural:clips=1,frames=4,height=48,width=64,seed=9"
        config.evaluation.every = 2
    elif mode not in ("", "segmentation"):
        raise ValueError(
            f"configs/segflow.py has no mode {mode!r}; there is 'smoke', 'segmentation', 'flow' "
            "and 'alternate'."
        )
    return config
