"""AGNN as released: ResNet-101, 3 frames of 378 x 378, batch 16, 60 epochs of DAVIS-2016, images.

Wang et al., ICCV 2019, section 4. Reported: DAVIS-2016 val mean J 80.7, mean F 79.1;
YouTube-Objects mean J 70.8; DAVIS-2017 val, unsupervised, with proposals, J&F 61.1.

    jaxvos prepare davis/2016 --from DAVIS
    jaxvos prepare msra10k --from MSRA10K && jaxvos prepare dut_omron --from DUT-OMRON
    jaxvos train configs/agnn.py --workdir runs/agnn --set init=deeplab.pth

The paper's graphs: --set model.rounds=3. Five nodes, for instance on accelerators with 16 GB:

    --set model.nodes=5 --set data.frames=5 --set model.remat=true --set model.dtype=bfloat16

Where the paper and the released code differ, this is the code; here it is as COSNet's:
- Every third step of an epoch is an image step on saliency images and trains the encoder alone, at
  a tenth of the loss. The rates alternate by the *global* step.
- The encoder's rate is full on every third step, else 1/100; the rest's is 0 on every third step,
  else 10. Neither drops after some epochs.
- Parameters of the encoder that the code lists several times in its optimiser: residual blocks and
  the attention within a frame 3, projections 4, ASPP 2. The projections' BatchNorm scales and
  shifts are frozen; all statistics move.

It differs from the code in that the frames of a graph are distinct and augmented alike (the code
draws two of the three anew, may draw one twice, and augments each by itself), that an image step
has one picture a sample, augmented (the code: two, only squashed), and in what BatchNorm sees at
once (see jaxvos/systems/agnn.py).
"""

from ml_collections import ConfigDict


def get_config(mode: str = "") -> ConfigDict:
    """The recipe; mode "smoke" is two steps of a tiny network on made-up video."""
    config = ConfigDict()
    config.system = "agnn"
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
    config.model.nodes = 3
    config.model.rounds = 5
    config.model.head_std = 0.01
    config.model.dropout = 0.1
    config.model.block = 512
    config.model.remat = False
    config.model.scan = False
    config.model.dtype = "float32"

    config.segmenter = ConfigDict()
    config.segmenter.size = (473, 473)
    config.segmenter.scales = (0.75, 1.0, 1.5)
    config.segmenter.shared = False
    config.segmenter.seed = 0

    config.data = ConfigDict()
    config.data.videos = "davis/2016"
    config.data.images = "msra10k+dut_omron"
    config.data.image_every = 3
    config.data.steps_per_epoch = 0
    config.data.sample = "clip"
    config.data.frames = 3
    config.data.order = "random"
    config.data.gap = 1
    config.data.copies = 1
    config.data.flow = ""
    config.data.size = (378, 378)
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
    config.optimizer.drop_after_epochs = 0
    config.optimizer.drop = 1.0
    config.optimizer.warmup = 0
    # (parameters whose path matches, factors of the rate by global step modulo their number)
    config.optimizer.groups = (
        (r"encoder/resnet/(conv1|bn1)/.*", (1.0, 0.01, 0.01)),
        (r"encoder/resnet/.*/project_bn/.*", (0.0,)),
        (r"encoder/resnet/.*/project_conv/.*", (4.0, 0.04, 0.04)),
        (r"encoder/resnet/.*", (3.0, 0.03, 0.03)),
        (r"encoder/layer5/.*", (2.0, 0.02, 0.02)),
        (r"intra/.*", (3.0, 0.03, 0.03)),
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
        config.model.rounds = 2
        config.segmenter.size = (33, 49)
        config.segmenter.scales = (1.0,)
        config.data.videos = "procedural:clips=2,frames=4,height=48,width=64"
        config.data.images = "procedural-salient:clips=2,frames=4,height=48,width=64"
        config.data.size = (33, 49)
        config.data.steps_per_epoch = 2  # one image step, one video step
        config.data.workers = 0
        config.checkpoint_every = 2
        config.evaluation.videos = "procedural:clips=1,frames=4,height=48,width=64,seed=9"
        config.evaluation.every = 2
    elif mode:
        raise ValueError(f"configs/agnn.py has no mode {mode!r}; there is 'smoke'.")
    return config
