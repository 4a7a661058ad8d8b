"""COSNet as released: ResNet-101, 473 x 473, batch 16, 60 epochs of DAVIS-2016, saliency images.

Lu et al., CVPR 2019, section 4.1. Reported on DAVIS-2016 val: mean J 80.5, mean F 79.5 with CRF
(78.3 J without, by the authors' word).

    jaxvos prepare davis/2016 --from DAVIS
    jaxvos prepare msra10k --from MSRA10K && jaxvos prepare dut_omron --from DUT-OMRON
    jaxvos train configs/cosnet.py --workdir runs/cosnet --set init=deeplab.pth

Where the paper and the released code differ, this is the code:
- Every third step of an epoch is an image step on saliency images and trains the encoder alone,
  at a tenth of the loss. The rates alternate by the *global* step, so that in two epochs of three
  (of 130 steps) the two are out of phase; here as there.
- The paper gives one rate; the code has one for the encoder (full on every third step, else 1/100)
  and one for the rest (0 on every third step, else 10), halved after 6 epochs.
- The code lists most of the encoder's parameters several times in its optimiser, which then updates
  each of them several times a step. That only costs; its effect, so many times the rate, is what
  the groups below state: residual blocks 3, projections 4, ASPP 2. The projections' BatchNorm
  scales and shifts are frozen; all statistics move.
- BatchNorm statistics are those of the global batch ("global"). The released code needs at least
  two GPUs and takes each one's own: "device" does that; the loss is then each device's own mean.
- The starting weights, the authors' DeepLab v3 trained on DAVIS frames (`deeplab_davis_12_0.pth`),
  go into the encoder by `init`; a torchvision ResNet-101 can stand in for them.
"""

from ml_collections import ConfigDict


def get_config(mode: str = "") -> ConfigDict:
    """The recipe; mode "smoke" is two steps of a tiny network on made-up video."""
    config = ConfigDict()
    config.system = "cosnet"
    config.seed = 1234
    config.init = ""
    config.batch = 16
    config.epochs = 60
    config.steps = 0
    config.batch_norm = "global"

    config.model = ConfigDict()
    config.model.depths = (3, 4, 23, 3)
    config.model.width = 64
    config.model.strides = (1, 2, 1, 1)
    config.model.branch = 512
    config.model.features = 256
    config.model.group = False
    config.model.coattention = True
    config.model.head_std = 0.01
    config.model.block = 0
    config.model.remat = False
    config.model.scan = False
    config.model.dtype = "float32"

    config.segmenter = ConfigDict()
    config.segmenter.size = (473, 473)
    config.segmenter.references = 5
    config.segmenter.seed = 0

    config.data = ConfigDict()
    config.data.videos = "davis/2016"
    config.data.images = "msra10k+dut_omron"
    config.data.image_every = 3
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
        (r".*", (0.0, 10.0, 10.0)),
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
        config.segmenter.size = (33, 49)
        config.segmenter.references = 2
        config.data.videos = "procedural:clips=2,frames=4,height=48,width=64"
        config.data.images = "procedural-salient:clips=2,frames=4,height=48,width=64"
        config.data.size = (33, 49)
        config.data.steps_per_epoch = 2  # one image step, one video step
        config.data.workers = 0
        config.checkpoint_every = 2
        config.evaluation.videos = "procedural:clips=1,frames=4,height=48,width=64,seed=9"
        config.evaluation.every = 2
    elif mode:
        raise ValueError(f"configs/cosnet.py has no mode {mode!r}; there is 'smoke'.")
    return config
