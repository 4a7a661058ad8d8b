"""FGRNE: 473 x 473, clips of six consecutive frames, the last of which is segmented.

Li et al., CVPR 2018. As measured anew by the DAVSOD benchmark (saliency; no J or F is reported):
DAVIS maximal F .783, S .838, MAE .043; FBMS .767, .809, .088.

    jaxvos prepare davis/2016 --from DAVIS
    jaxvos prepare msra10k --from MSRA10K && jaxvos prepare dut_omron --from DUT-OMRON
    jaxvos train configs/fgrne.py:static --workdir runs/fgrne-static --set init=resnet50.pth
    jaxvos train configs/fgrne.py:video --workdir runs/fgrne \\
        --set init=runs/fgrne-static/weights.safetensors

Two stages: "static" trains the host on saliency images, with one step of the second ConvLSTM and no
flow; "video" (or no mode) goes on from its weights (`init`), everything end to end. The paper also
trains on FBMS and SegTrack v2: --set data.videos=davis/2016+FBMS+SEGTRACK, with folders that are
laid out like DAVIS.

No code was released. The data and the order of the stages are the paper's; window, rates, batch and
the number of steps are ours. "adamw" without decay is Adam with a bound on the gradient.
"""

from ml_collections import ConfigDict


def get_config(mode: str = "") -> ConfigDict:
    """The recipe; mode "smoke" is two steps of a tiny network on made-up video."""
    config = ConfigDict()
    config.system = "fgrne"
    config.seed = 1234
    config.init = ""
    config.batch = 8
    config.epochs = 0
    config.steps = 10_000
    config.batch_norm = "global"

    config.model = ConfigDict()
    config.model.depths = (3, 4, 6, 3)
    config.model.width = 64
    config.model.branch = 256
    config.model.rates = (12, 24, 36)
    config.model.flow_hidden = 16
    config.model.hidden = 256
    config.model.peephole = ()
    config.model.remat = False
    config.model.dtype = "float32"

    config.segmenter = ConfigDict()
    config.segmenter.size = (473, 473)
    config.segmenter.former = 5

    config.data = ConfigDict()
    config.data.videos = "davis/2016"
    config.data.images = ""
    config.data.image_every = 0
    config.data.steps_per_epoch = 0
    config.data.size = (473, 473)
    config.data.sample = "clip"
    config.data.frames = 6
    config.data.order = "consecutive"
    config.data.gap = 1
    config.data.copies = 1
    config.data.flow = "dis"
    config.data.augment = "cosnet"
    config.data.stretch = False
    config.data.workers = 4
    config.data.threads = 2

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"
    config.optimizer.rate = 1e-4
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 0.0
    config.optimizer.schedule = "poly"
    config.optimizer.power = 0.9
    config.optimizer.drop_after_epochs = 0
    config.optimizer.drop = 1.0
    config.optimizer.warmup = 0
    config.optimizer.groups = ((r".*", (1.0,)),)

    config.checkpoint_every = 500
    config.log_every = 10
    config.evaluation = ConfigDict()
    config.evaluation.videos = "davis/2016:split=val"
    config.evaluation.every = 2500

    if mode == "static":
        config.batch = 16
        config.steps = 20_000
        config.data.images = "msra10k+dut_omron"
        config.data.image_every = 1
        config.segmenter.former = 0
    elif mode == "smoke":
        config.batch = 8
        config.steps = 2
        config.model.depths = (1, 1, 1, 1)
        config.model.width = 4
        config.model.branch = 8
        config.model.flow_hidden = 4
        config.model.hidden = 8
        config.segmenter.size = (33, 49)
        config.segmenter.former = 2
        config.data.videos = "procedural:clips=2,frames=4,height=48,width=64"
        config.data.images = "procedural-salient:clips=2,frames=4,height=48,width=64"
        config.data.image_every = 2
        config.data.size = (33, 49)
        config.data.frames = 3
        config.data.steps_per_epoch = 2  # one image step, one video step
        config.data.workers = 0
        config.checkpoint_every = 2
        config.evaluation.videos = "procedural:clips=1,frames=4,height=48,width=64,seed=9"
        config.evaluation.every = 2
    elif mode not in ("", "video"):
        raise ValueError(
            f"configs/fgrne.py has no mode {mode!r}; there is 'smoke', 'static' and 'video'."
        )
    return config
