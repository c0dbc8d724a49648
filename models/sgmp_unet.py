"""SGMP-UNet, the multi-frame network (techrxiv 10.36227/techrxiv.174909854.43812513).

A Video Swin branch over the clip, guided by a residual network over the target frame, and a Swin V2 decoder.
"""

import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformerBlockV2

from models.blocks import FIRST_LOGIT, check_clip
from models.published import SGMP_UNET, rename
from models.sgmp_decoder import Decoder, Head, Skip
from models.sgmp_encoder import Encoder
from utils.errors import InputError

# The options of `sgmp_unet_small`: the same architecture in 9.9 M parameters instead of 66.5 M.
SMALL = {
    "width": 48,
    "depths": (2, 2, 2, 2),
    "spatial_width": 16,
    "spatial_depths": (2, 2, 2, 2),
    "decoder_depths": (2, 2, 2),
    "head_heads": (3, 1),
}


class SGMPUNet(nn.Module):
    """Logits of small targets in the target frame (number T // 2) of a clip.

    Args:
        num_frames: T, even.
        width: channels of the first temporal stage.
        depths, heads: of the four temporal stages.
        spatial_width: channels of the spatial stem and the first spatial stage.
        spatial_depths: residual blocks of the four spatial stages.
        fusion_heads: attention heads where the branches meet, a stage each.
        decoder_depths, decoder_heads: of the decoder's stages at strides 16, 8 and 4.
        head_depths, head_heads: of the head's stages at strides 2 and 1.
    """

    name = "sgmp_unet"
    in_channels = 3
    size_multiple = 32

    def __init__(
        self,
        num_frames: int = 6,
        width: int = 96,
        depths: tuple[int, ...] = (2, 2, 6, 2),
        heads: tuple[int, ...] = (3, 6, 12, 24),
        spatial_width: int = 64,
        spatial_depths: tuple[int, ...] = (3, 4, 6, 3),
        fusion_heads: tuple[int, ...] = (3, 6, 2, 2),
        decoder_depths: tuple[int, ...] = (2, 6, 2),
        decoder_heads: tuple[int, ...] = (12, 6, 3),
        head_depths: tuple[int, ...] = (2, 2),
        head_heads: tuple[int, ...] = (6, 3),
    ):
        super().__init__()
        if num_frames < 2 or num_frames % 2:
            raise InputError(f"sgmp_unet takes an even number of frames from 2; got num_frames={num_frames}")
        self.options = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        self.num_frames = num_frames
        tokens = num_frames // 2
        self.encoder = Encoder(tokens, width, depths, heads, spatial_width, spatial_depths, fusion_heads)
        channels = [width, 2 * width, 4 * width, 8 * width]
        self.skips = nn.ModuleList(Skip(c, c // 2 if c < channels[-1] else c, tokens) for c in channels)
        self.decoder = Decoder(width, decoder_depths, decoder_heads)
        self.head = Head(width, head_depths, head_heads)

    def backbone_parameters(self) -> list[nn.Parameter]:
        """The encoder's parameters outside the fusions, which the published recipe trains at a tenth of the rate."""
        return [weight for name, weight in self.encoder.named_parameters() if ".fusion." not in name]

    @torch.no_grad()
    def start_quietly(self) -> None:
        """Set weights from which a network without pretraining learns sooner than from the published random ones.

        Decoder blocks begin as the identity: Swin V2 scales its residual branches by layer norms, whose gains are 0 at
        first in its authors' code (Liu et al. 2022) and 1 in torchvision's, where they blow up branches that are almost
        zero. Every map begins near FIRST_LOGIT.
        """
        for block in [module for module in self.modules() if isinstance(module, SwinTransformerBlockV2)]:
            nn.init.zeros_(block.norm1.weight)
            nn.init.zeros_(block.norm2.weight)
        for side in self.head.side:
            nn.init.constant_(side.bias, FIRST_LOGIT)
        nn.init.constant_(self.head.main.weight, 1 / len(self.head.side))

    @staticmethod
    def from_published(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """A published checkpoint's weights under the names, and in the shapes, of this module."""
        linear_here = ("fusion.key.weight", ".shortcut.weight")  # published as convolutions with a kernel of 1
        return {
            name: weight.flatten(1) if name.endswith(linear_here) else weight
            for name, weight in rename(weights, SGMP_UNET).items()
        }

    def forward(self, clip: Tensor, with_aux: bool = False) -> Tensor | list[Tensor]:
        """clip [B, T, 3, H, W], ImageNet-normalised, to logits [B, 1, H, W].

        `with_aux`: a list of the main logits and the auxiliary ones of strides 1, 2 and 4, all at full size.
        """
        check_clip(self, clip)
        features = self.encoder(clip)
        skips = [skip(feature) for skip, feature in zip(self.skips, features, strict=True)]
        logits = self.head(self.decoder(skips))
        return logits if with_aux else logits[0]
