"""PDB-ConvLSTM: ResNet-50, 473 x 473, clips of five frames; three steps of training.

Song et al., ECCV 2018, section 3.3. Reported on DAVIS-2016 val: J 74.3, F 72.8 with the maps cut at
0.42, J 77.2, F 74.5 with CRF; on FBMS test J 72.3 and 74.0.

    jaxvos prepare davis/2016 --from DAVIS
    jaxvos prepare msra10k --from MSRA10K && jaxvos prepare dut_omron --from DUT-OMRON
    jaxvos train configs/pdb_convlstm.py:static --workdir runs/pdb1
    jaxvos train configs/pdb_convlstm.py:joint --workdir runs/pdb2 \\
        --set init=runs/pdb1/weights.safetensors
    jaxvos train configs/pdb_convlstm.py --workdir runs/pdb3 \\
        --set init=runs/pdb2/weights.safetensors

1. `:static` trains ResNet and PDC on images and single frames; the features stand for the states of
   the ConvLSTMs (`recurrent`), how the original did this is not published. It begins with PSPNet-50
   in the original.
2. `:joint` trains everything, on clips and on images as five copies.
3. Without a mode: the ConvLSTMs and the classifier alone, on DAVIS's training videos.

The training network is not published. From the paper: data, momentum, weight decay, and the rates
1e-8 (ResNet, PDC) and 1e-6 (ConvLSTMs). These are so small because, most likely, Caffe adds up
a picture's pixels, where our losses are means: the rates here are theirs times 473 x 473 pixels.
The batch, the number of epochs and constant rates are ours; the original took about 40 hours on one
GPU.
How wide the strips are that its augmentation cuts off the borders is ours. BatchNorm is frozen with
its scales and shifts. Without PSPNet's weights to start from set model.frozen=false.
"""

from ml_collections import ConfigDict

RATE = 1e-8 * 473 * 473
LSTM = 100.0  # times that
FROZEN = ((r".*bn\d?/(scale|bias)", (0.0,)),)
HEAD = (
    (r"(forward|backward)\d/.*", (LSTM,)),
    (r"conv7/kernel", (LSTM,)),
    (r"conv7/bias", (2 * LSTM,)),
)


def get_config(mode: str = "") -> ConfigDict:
    """The recipe of the last step; modes "static", "joint", and "smoke": two tiny steps."""
    config = ConfigDict()
    config.system = "pdb_convlstm"
    config.seed = 1234
    config.init = ""
    config.batch = 8
    config.epochs = 10
    config.steps = 0
    config.batch_norm = "global"

    config.model = ConfigDict()
    config.model.depths = (3, 4, 6, 3)
    config.model.width = 64
    config.model.branch = 512
    config.model.features = 32
    config.model.dilations = (2, 4, 8, 16)
    config.model.size = (473, 473)
    config.model.recurrent = True
    config.model.frozen = True
    config.model.remat = False
    config.model.dtype = "float32"

    config.segmenter = ConfigDict()
    config.segmenter.size = (473, 473)
    config.segmenter.stretch = True

    config.data = ConfigDict()
    config.data.videos = "davis/2016"
    config.data.images = ""
    config.data.image_every = 0
    config.data.steps_per_epoch = 0
    config.data.size = (473, 473)
    config.data.sample = "clip"
    config.data.frames = 5
    config.data.order = "consecutive"
    config.data.gap = 6
    config.data.copies = 5
    config.data.flow = ""
    config.data.augment = "pdb"
    config.data.stretch = False
    config.data.workers = 4
    config.data.threads = 2

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"
    config.optimizer.rate = RATE
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    config.optimizer.schedule = "poly"
    config.optimizer.power = 0.0
    config.optimizer.drop_after_epochs = 0
    config.optimizer.drop = 1.0
    config.optimizer.warmup = 0
    config.optimizer.groups = (*FROZEN, *HEAD, (r"(resnet|pdc)/.*", (0.0,)))

    config.checkpoint_every = 260
    config.log_every = 10
    config.evaluation = ConfigDict()
    config.evaluation.videos = "davis/2016:split=val"
    config.evaluation.every = 1300

    if mode == "static":
        config.epochs = 20
        config.model.recurrent = False
        config.data.images = "msra10k+dut_omron"
        config.data.image_every = 2
        config.data.frames = 1
        config.data.copies = 1
        config.optimizer.groups = (
            *FROZEN,
            (r"(forward|backward)\d/.*", (0.0,)),
            (r"conv7/bias", (2.0,)),
            (r".*", (1.0,)),
        )
    elif mode == "joint":
        config.epochs = 20
        config.model.remat = True
        config.data.images = "msra10k+dut_omron"
        config.data.image_every = 2
        config.optimizer.groups = (*FROZEN, *HEAD, (r"(resnet|pdc)/.*", (1.0,)))
    elif mode == "smoke":
        config.batch = 8
        config.steps = 2
        config.model.depths = (1, 1, 1, 1)
        config.model.width = 4
        config.model.branch = 4
        config.model.features = 4
        config.model.size = (33, 49)
        config.segmenter.size = (33, 49)
        config.data.videos = "procedural:clips=2,frames=4,height=48,width=64"
        config.data.images = "procedural-salient:clips=2,frames=4,height=48,width=64"
        config.data.image_every = 2
        config.data.size = (33, 49)
        config.data.frames = 3
        config.data.gap = 2
        config.data.copies = 3
        config.data.steps_per_epoch = 2  # one image step, one video step
        config.data.workers = 0
        config.optimizer.groups = (*FROZEN, *HEAD, (r"(resnet|pdc)/.*", (1.0,)))
        config.checkpoint_every = 2
        config.evaluation.videos = "procedural:clips=1,frames=4,height=48,width=64,seed=9"
        config.evaluation.every = 2
    elif mode:
        raise ValueError(
            f"configs/pdb_convlstm.py has no mode {mode!r}; there is 'smoke', 'static', 'joint'."
        )
    return config
