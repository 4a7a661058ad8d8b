"""DPA: 512 x 512; pictures of DUTS, then frames with flow and four references; 200 epochs each.

Cho et al., CVPR 2024. Reported, from memory of the paper: DAVIS-2016 val J 86.8, F 88.4 (87.6
together), FBMS J 83.4; no CRF.

    jaxvos prepare duts --from DUTS && jaxvos prepare davis/2016 --from DAVIS
    jaxvos train configs/dpa.py:pretrain --workdir runs/dpa-pretrain --set init=vgg16.pth
    jaxvos train configs/dpa.py:video --workdir runs/dpa \\
        --set init=runs/dpa-pretrain/weights.safetensors

Two stages: "pretrain" trains the network that looks at pictures alone, from ImageNet's VGG-16;
"video" (or no mode) goes on from its weights (`init`), with which both streams start. The released
code has as many frames of YouTube-VOS as of DAVIS in each epoch: --set
data.videos=davis/2016+YOUTUBE, a folder that is laid out like DAVIS.

From the released code: data, size, batch, rate, loss. Where this is not it:
- There each step has a size of its own out of 384, 416, 448, 480 and 512, to which all that is of
  512 is resized, masks too, by cubic convolution. Here it is always 512: each size is a
  compilation, and a program to keep.
- References are four random frames there. Here they follow the frame, one to five apart, since
  flow is computed between the frames of a clip. The frame's flow leads as far.
- The flow is DIS between the augmented frames, there RAFT between the whole ones. With --set
  data.flow=video data.gap=1 it is the source's own.
- "flip_crop" takes other windows and colours, the same ones for all frames of a clip; there each
  frame has its own, and one of five is turned by up to 15 degrees.
- The cosine ends at 0, there at a tenth of the rate. "adamw" without decay is Adam with a bound on
  the gradient.
"""

from ml_collections import ConfigDict


def get_config(mode: str = "") -> ConfigDict:
    """The recipe; "pretrain" is the first stage, "smoke" two steps of a tiny network."""
    config = ConfigDict()
    config.system = "dpa"
    config.seed = 1234
    config.init = ""
    config.batch = 12
    config.epochs = 200
    config.steps = 0
    config.batch_norm = "global"

    config.model = ConfigDict()
    config.model.stage = "video"
    config.model.width = 64
    config.model.convolutions = (2, 2, 3, 3, 3)
    config.model.squeezed = 128
    config.model.features = 32
    config.model.neighbours = 10
    config.model.inter_modality = False
    config.model.remat = False
    config.model.dtype = "float32"

    config.segmenter = ConfigDict()
    config.segmenter.size = (512, 512)
    config.segmenter.references = 4
    config.segmenter.stretch = True

    config.data = ConfigDict()
    config.data.videos = "davis/2016"
    config.data.images = ""
    config.data.image_every = 0
    config.data.steps_per_epoch = 0
    config.data.size = (512, 512)
    config.data.sample = "clip"
    config.data.frames = 5
    config.data.order = "consecutive"
    config.data.gap = 5
    config.data.copies = 1
    config.data.flow = "dis"
    config.data.augment = "flip_crop"
    config.data.stretch = False
    config.data.workers = 4
    config.data.threads = 2

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"
    config.optimizer.rate = 1e-4
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 0.0
    config.optimizer.schedule = "cosine"
    config.optimizer.power = 0.0
    config.optimizer.drop_after_epochs = 0
    config.optimizer.drop = 1.0
    config.optimizer.warmup = 0
    config.optimizer.groups = ((r".*", (1.0,)),)

    config.checkpoint_every = 1000
    config.log_every = 10
    config.evaluation = ConfigDict()
    config.evaluation.videos = "davis/2016:split=val"
    config.evaluation.every = 5000

    if mode == "pretrain":
        config.model.stage = "pretrain"
        config.data.images = "duts"
        config.data.image_every = 1
        config.data.steps_per_epoch = 879  # the 10,553 pictures of DUTS
    elif mode == "smoke":
        config.batch = 8
        config.steps = 2
        config.model.width = 4
        config.model.convolutions = (1, 1, 1, 1, 1)
        config.model.squeezed = 8
        config.model.features = 4
        config.model.neighbours = 3
        config.segmenter.size = (33, 49)
        config.segmenter.references = 2
        config.data.videos = "procedural:clips=2,frames=4,height=48,width=64"
        config.data.images = "procedural-salient:clips=2,frames=4,height=48,width=64"
        config.data.image_every = 2
        config.data.size = (33, 49)
        config.data.frames = 3
        config.data.gap = 1
        config.data.steps_per_epoch = 2  # one image step, one video step
        config.data.workers = 0
        config.checkpoint_every = 2
        config.evaluation.videos = "procedural:clips=1,frames=4,height=48,width=64,seed=9"
        config.evaluation.every = 2
    elif mode not in ("", "video"):
        raise ValueError(
            f"configs/dpa.py has no mode {mode!r}; there is 'smoke', 'pretrain' and 'video'."
        )
    return config
