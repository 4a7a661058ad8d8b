"""AGS: ResNet-101, 473 x 473, clips of three frames; eye movements where there are any, and masks.

Wang et al., CVPR 2019. Reported on DAVIS-2016 val, with CRF: J 79.7, F 77.4, T 26.7.

    jaxvos prepare davis/2016 --from DAVIS
    jaxvos prepare dut_omron --from DUT-OMRON
    jaxvos train configs/ags.py --workdir runs/ags --set init=pspnet101.caffemodel

In the paper batches alternate between clips with fixation data and no masks, which train the
attention (DAVIS-2016, Youtube-Objects, SegTrack-v2), and still images with both (DUT-OMRON,
PASCAL-S), which train the segmentation. Without fixation data, as here, DAVIS's clips and
DUT-OMRON's images train everything by their masks, and the run says that the attention has nothing
of its own to learn from. With fixation data, in a folder as `data_pipelines.fixations` reads it:

    jaxvos prepare fixations --from FOLDER
    jaxvos train configs/ags.py --workdir runs/ags --set data.videos=fixations ...

The training network is not published; of the recipe, the weight of the fixation measures and the
doubled rates of biases are the authors', the rates, batch and epochs ours (those of PDB-ConvLSTM).
BatchNorm is frozen with its scales and shifts: without PSPNet's weights to start from set
model.frozen=false.
"""

from ml_collections import ConfigDict


def get_config(mode: str = "") -> ConfigDict:
    """The recipe; mode "smoke" is two steps of a tiny network on made-up video."""
    config = ConfigDict()
    config.system = "ags"
    config.seed = 1234
    config.init = ""
    config.batch = 8
    config.epochs = 20
    config.steps = 0
    config.batch_norm = "global"

    config.model = ConfigDict()
    config.model.depths = (3, 4, 23, 3)
    config.model.width = 64
    config.model.widths = (256, 64, 32)
    config.model.attention = (256, 128, 32)
    config.model.size = (473, 473)
    config.model.frozen = True
    config.model.remat = True
    config.model.dtype = "float32"

    config.segmenter = ConfigDict()
    config.segmenter.size = (473, 473)
    config.segmenter.stretch = True

    config.data = ConfigDict()
    config.data.videos = "davis/2016"
    config.data.images = "dut_omron"
    config.data.image_every = 2
    config.data.steps_per_epoch = 0
    config.data.size = (473, 473)
    config.data.sample = "clip"
    config.data.frames = 3
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
    config.optimizer.rate = 1e-8 * 473 * 473  # Caffe adds up pixels; see configs/pdb_convlstm.py
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    config.optimizer.schedule = "poly"
    config.optimizer.power = 0.9
    config.optimizer.drop_after_epochs = 0
    config.optimizer.drop = 1.0
    config.optimizer.warmup = 0
    config.optimizer.groups = (
        (r".*bn\d?/(scale|bias)", (0.0,)),
        (r".*/bias", (2.0,)),
        (r".*", (1.0,)),
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
        config.model.widths = (6, 5, 4)
        config.model.attention = (6, 5, 4)
        config.model.size = (33, 49)
        config.model.remat = False
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
        raise ValueError(f"configs/ags.py has no mode {mode!r}; there is 'smoke'.")
    return config
