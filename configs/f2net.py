"""F2Net as released: ResNet-101, 473 x 473, batch 16, 60 epochs of DAVIS-2016, saliency images.

Liu et al., AAAI 2021. Reported on DAVIS-2016 val: mean J 83.1, mean F 84.4; the released test reads
the annotations (see the system's file).

    jaxvos prepare davis/2016 --from DAVIS && jaxvos prepare msra10k --from MSRA10K
    jaxvos train configs/f2net.py --workdir runs/f2net --set init=deeplab.pth

The two phases, and where the released code and this recipe part:
- Every third step of an epoch is an image step: a tenth of the encoder's own loss, and the centre
  branch learns the heat map that it is given. The others are video steps on clips of three frames:
  the video's first, the one before (whose heat map is given), the current one.
- The encoder's rate is full on every third *global* step, else 1/100, so that in two epochs of
  three (of 130 steps) it is out of phase with the steps' kinds; here as there. The rest learns at
  10 always. Rates are halved after 6 epochs.
- The code lists most of the encoder's parameters several times in its optimiser, as COSNet's does;
  the effect, so many times the rate, is what the groups state.
- The released code augments the three frames of a clip by draws of their own, so that the previous
  heat map is of another window than the current frame. Here a clip is augmented by one draw, and
  saliency images, which are only squashed there, are augmented too.
- BatchNorm statistics are those of the global batch ("global"); the released code needs at least
  two GPUs and takes each one's own: "device" does that, and the losses are each device's own.
- The starting weights, the DeepLab v3 that COSNet starts from (`deeplab_davis_12_0.pth`), go into
  the encoder by `init`; a torchvision ResNet-101 can stand in for them.
- `model.prior=True` trains and tests with the paper's Gauss map, which the release leaves unused.
"""

from ml_collections import ConfigDict


def get_config(mode: str = "") -> ConfigDict:
    """The recipe; mode "smoke" is two steps of a tiny network on made-up video."""
    config = ConfigDict()
    config.system = "f2net"
    config.seed = 1234
    config.init = ""
    config.batch = 16
    config.epochs = 60
    config.steps = 0
    config.batch_norm = "global"

    config.model = ConfigDict()
    config.model.depths = (3, 4, 23, 3)
    config.model.width = 64
    config.model.branch = 512
    config.model.features = 256
    config.model.cross = 64
    config.model.squeezed = 16
    config.model.prior = False
    config.model.fusion = "channel"
    config.model.head_std = 0.01
    config.model.remat = False
    config.model.scan = False
    config.model.dtype = "float32"

    config.segmenter = ConfigDict()
    config.segmenter.size = (473, 473)
    config.segmenter.motion = True

    config.data = ConfigDict()
    config.data.videos = "davis/2016"
    config.data.images = "msra10k"
    config.data.image_every = 3
    config.data.sample = "clip"
    config.data.frames = 3
    config.data.order = "anchored"
    config.data.gap = 1
    config.data.copies = 1
    config.data.flow = ""
    config.data.steps_per_epoch = 0
    config.data.size = (473, 473)
    config.data.augment = "cosnet"
    config.data.stretch = True
    config.data.workers = 4
    config.data.threads = 2

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"
    config.optimizer.rate = 2.5e-4
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    config.optimizer.schedule = "poly"
    config.optimizer.power = 0.9
    config.optimizer.drop_after_epochs = 6
    config.optimizer.drop = 0.5
    config.optimizer.warmup = 0
    # (parameters whose path matches, factors of the rate by global step modulo their number)
    config.optimizer.groups = (
        (r"encoder/resnet/(conv1|bn1)/.*", (1.0, 0.01, 0.01)),
        (r"encoder/resnet/.*/project_bn/.*", (0.0,)),
        (r"encoder/resnet/.*/project_conv/.*", (4.0, 0.04, 0.04)),
        (r"encoder/resnet/.*", (3.0, 0.03, 0.03)),
        (r"encoder/layer5/.*", (2.0, 0.02, 0.02)),
        (r"encoder/main_classifier/.*", (1.0, 0.01, 0.01)),
        (r".*", (10.0,)),
    )

    config.checkpoint_every = 130
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
        config.model.cross = 4
        config.model.squeezed = 4
        config.segmenter.size = (33, 49)
        config.data.videos = "procedural:clips=2,frames=4,height=48,width=64"
        config.data.images = "procedural-salient:clips=2,frames=4,height=48,width=64"
        config.data.size = (33, 49)
        config.data.steps_per_epoch = 2  # one image step, one video step
        config.data.workers = 0
        config.checkpoint_every = 2
        config.evaluation.videos = "procedural:clips=1,frames=4,height=48,width=64,seed=9"
        config.evaluation.every = 2
    elif mode:
        raise ValueError(f"configs/f2net.py has no mode {mode!r}; there is 'smoke'.")
    return config
