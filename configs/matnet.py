"""MATNet: two ResNet-101s, 473 x 473, a frame and its flow to the next one at a time, 25 epochs.

Zhou et al., AAAI 2020. Reported, with CRF: DAVIS-2016 val mean J 82.4, mean F 80.7; FBMS mean J
76.1; YouTube-Objects mean J 69.0.

    jaxvos prepare davis/2016 --from DAVIS
    jaxvos train configs/matnet.py --workdir runs/matnet --set init=resnet101.pth

The released training adds every tenth frame of YouTube-VOS 2018; --set
data.videos=davis/2016+youtube_vos adds all of its annotated ones.

Flow is by DIS between the frames as they are trained on; the released one is PWC-Net's, which
files can bring: --set data.videos=DAVIS:flow=FLOWS --set data.flow=video. A clip is two frames, the
first of which is segmented; a video's last frame has no flow and is never trained on.

Where this is not the released training:
- Masks stay sharp where pictures are turned and scaled; there they get soft edges.
- Hard edges are not HED's (see `jaxvos.systems.matnet`).
- Batches are as small, 2 of one device; several need `batch` to be a multiple of their number.
The rates are constant ("poly" of power 0), 1e-4 for the encoder and ten times that for the decoder.
`draw_at_size` says that flow is drawn as in this training.
"""

from ml_collections import ConfigDict


def get_config(mode: str = "") -> ConfigDict:
    """The recipe; mode "smoke" is two steps of a tiny network on made-up video."""
    config = ConfigDict()
    config.system = "matnet"
    config.seed = 123
    config.init = ""
    config.batch = 2
    config.epochs = 25
    config.steps = 0
    config.batch_norm = "global"

    config.model = ConfigDict()
    config.model.depths = (3, 4, 23, 3)
    config.model.width = 64
    config.model.cascades = 5
    config.model.boundary = 64
    config.model.features = 256
    config.model.remat = False
    config.model.dtype = "float32"

    config.segmenter = ConfigDict()
    config.segmenter.size = (473, 473)
    config.segmenter.flip = True
    config.segmenter.draw_at_size = True

    config.data = ConfigDict()
    config.data.videos = "davis/2016"
    config.data.images = ""
    config.data.image_every = 0
    config.data.steps_per_epoch = 0
    config.data.size = (473, 473)
    config.data.sample = "clip"
    config.data.frames = 2
    config.data.order = "consecutive"
    config.data.gap = 1
    config.data.copies = 1
    config.data.flow = "dis"
    config.data.augment = "matnet"
    config.data.stretch = False
    config.data.workers = 4
    config.data.threads = 2

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"
    config.optimizer.rate = 1e-4
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    config.optimizer.schedule = "poly"
    config.optimizer.power = 0.0
    config.optimizer.drop_after_epochs = 0
    config.optimizer.drop = 1.0
    config.optimizer.warmup = 0
    config.optimizer.groups = (
        (r"decoder/.*", (10.0,)),
        (r".*", (1.0,)),
    )

    config.checkpoint_every = 1000
    config.log_every = 10
    config.evaluation = ConfigDict()
    config.evaluation.videos = "davis/2016:split=val"
    config.evaluation.every = 5000

    if mode == "smoke":
        config.batch = 8
        config.steps = 2
        config.model.depths = (1, 1, 1, 1)
        config.model.width = 4
        config.model.cascades = 2
        config.model.boundary = 4
        config.model.features = 8
        config.segmenter.size = (33, 49)
        config.data.videos = "procedural:clips=2,frames=4,height=48,width=64"
        config.data.size = (33, 49)
        config.data.steps_per_epoch = 2
        config.data.workers = 0
        config.checkpoint_every = 2
        config.evaluation.videos = "procedural:clips=1,frames=4,height=48,width=64,seed=9"
        config.evaluation.every = 2
    elif mode:
        raise ValueError(f"configs/matnet.py has no mode {mode!r}; there is 'smoke'.")
    return config
