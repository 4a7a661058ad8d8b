"""The encoder of one modality, pictures or flow: VGG, what its maps are squeezed to, prototypes."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from jaxvos.layers.gated_decoder import ASPP, Halve, aspp_names, conv, layer_names
from jaxvos.layers.prototype_attention import InterFrame
from jaxvos.layers.vgg import VGG
from jaxvos.typing import DType


class Stream(nn.Module):
    """What pictures and flow have each of its own; `recalls` is whether it has references."""

    width: int
    convolutions: Sequence[int]
    squeezed: int
    recalls: bool
    remat: bool
    dtype: DType | None

    def setup(self) -> None:
        vgg = nn.remat(VGG, static_argnums=(2,)) if self.remat else VGG
        self.encoder = vgg(self.width, tuple(self.convolutions), self.dtype)
        self.squeeze4, self.squeeze5, self.compress4, self.compress5 = (
            conv(self.squeezed, 1, self.dtype) for _ in range(4)
        )
        self.compress6 = Halve(self.squeezed, self.dtype)
        self.aspp = ASPP(self.dtype)
        if self.recalls:
            self.recall = InterFrame(self.squeezed, 8 * self.width, self.dtype)

    def early(self, x: jax.Array) -> list[jax.Array]:
        """f1 ... f4 of pictures [B, H, W, 3]."""
        return self.encoder(x, (1, 2, 3, 4))

    def last(self, f4: jax.Array) -> jax.Array:
        """f5 of f4."""
        return self.encoder(f4, (5,))[0]

    def remember(self, references: jax.Array) -> jax.Array:
        """Prototypes [B, N * C, C] of pictures [B, N, H, W, 3]; VGG learns nothing from them."""
        f5 = self.encoder(references.reshape(-1, *references.shape[2:]), (1, 2, 3, 4, 5))[-1]
        f5 = jax.lax.stop_gradient(f5)
        return self.recall.remember(f5.reshape(*references.shape[:2], *f5.shape[1:]))

    def scales(self, f4: jax.Array, f5: jax.Array, train: bool) -> list[jax.Array]:
        """Maps [B, h, w, C] at 1/8, 1/16 and 1/32."""
        halved = self.compress6(f5, train)
        self.sow("intermediates", "halved", halved)
        return [self.compress4(f4), self.compress5(f5), self.aspp(halved, train)]


_OF = "(rgb|flow)"
STREAM_NAMES = (
    (rf"{_OF}_sq([45])\.0", r"\1/squeeze\2"),
    (rf"{_OF}_COMP([45])\.0", r"\1/compress\2"),
    (rf"{_OF}_COMP6\.1", r"\1/compress6/narrow"),
    *layer_names(rf"{_OF}_COMP6", r"\1/compress6/layer1", first=2),
    *layer_names(rf"{_OF}_COMP6", r"\1/compress6/layer2", first=5),
    *aspp_names(rf"{_OF}_aspp", r"\1/aspp"),
    (rf"{_OF}_TAM\.K", r"\1/recall/key"),
    *layer_names(rf"{_OF}_TAM\.fusion", r"\1/recall/fuse"),
)
"""The published names of two that are the network's `rgb` and `flow`, but for VGG's own."""
