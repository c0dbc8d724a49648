"""SGMP-UNet, the multi-frame network (techrxiv 10.36227/techrxiv.174909854.43812513).

A Video Swin branch over the clip, guided by a residual network over the target frame, and a Swin V2 decoder.
"""

from itertools import chain

import torch
from torch import Tensor, nn

from istd.models.network import PRIOR_LOGIT, Network
from istd.models.weights import rename_weights, to_zero_based
from istd.utils.errors import InputError

# The options of `sgmp_unet_small`: the same architecture in 9.9 M parameters instead of 66.5 M.
SMALL = {
    "width": 48,
    "depths": (2, 2, 2, 2),
    "spatial_width": 16,
    "spatial_depths": (2, 2, 2, 2),
    "decoder_depths": (2, 2, 2),
    "head_heads": (3, 1),
}


class SGMPUNet(Network):
    """Logits of small targets in the target frame of a clip: number T // 2, or the last if it is `causal`.

    Args:
        num_frames: T, even.
        frame_stride: a clip consists of every `frame_stride`-th frame, so that slow targets move further.
        causal: the target frame is the last of the clip, so that a live prediction need not wait for later frames.
        width: channels of the first temporal stage.
        depths, heads: of the four temporal stages.
        spatial_width: channels of the spatial stem and the first spatial stage.
        spatial_depths: residual blocks of the four spatial stages.
        fusion_heads: attention heads of the four fusions of the branches.
        decoder_depths, decoder_heads: of the decoder's stages at strides 16, 8 and 4.
        head_depths, head_heads: of the head's stages at strides 2 and 1.
    """

    name = "sgmp_unet"
    in_channels = 3
    size_multiple = 32
    any_size_onnx = False  # windows, their padding and their masks are laid out for a fixed size
    pretrained = "Swin3D_T_Weights.KINETICS400_V1"
    pretrained_part = r"encoder\.(patch_embed|norm|stages\.\d\.(merge|temporal))\."  # the temporal branch

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
        frame_stride: int = 1,
        causal: bool = False,
    ):
        super().__init__()
        # imported here, since they import torchvision, which takes as long as PyTorch, and no other network needs it
        from istd.models.ops.swin import SwinBlock3d, SwinBlockV2
        from istd.models.sgmp_decoder import Decoder, Head, Skip
        from istd.models.sgmp_encoder import Encoder

        if num_frames < 2 or num_frames % 2:
            raise InputError(f"sgmp_unet takes an even number of frames from 2; got num_frames={num_frames}")
        if frame_stride < 1:
            raise InputError(f"sgmp_unet takes a frame_stride of at least 1; got {frame_stride}")
        if width % 16:
            raise InputError(f"sgmp_unet takes a width that is a multiple of 16; got {width}")
        if spatial_width < 1:
            raise InputError(f"sgmp_unet takes a spatial_width of at least 1; got {spatial_width}")
        channels = [width, 2 * width, 4 * width, 8 * width]
        _check_stages("temporal", channels, depths, heads)
        _check_stages("fusion", channels, spatial_depths, fusion_heads)
        _check_stages("decoder", channels[2::-1], decoder_depths, decoder_heads)
        _check_stages("head", [width // 4, width // 16], head_depths, head_heads)
        self.num_frames, self.frame_stride, self.causal = num_frames, frame_stride, causal
        self.recomputable = (SwinBlock3d, SwinBlockV2)
        tokens = num_frames // 2
        self.encoder = Encoder(tokens, width, depths, heads, spatial_width, spatial_depths, fusion_heads)
        self.skips = nn.ModuleList(Skip(c, c // 2 if c < channels[-1] else c, tokens) for c in channels)
        self.decoder = Decoder(width, decoder_depths, decoder_heads)
        self.head = Head(width, head_depths, head_heads)

    def backbone_parameters(self) -> list[nn.Parameter]:
        """The encoder's parameters outside the fusions, which the published recipe trains at a tenth of the rate."""
        return [weight for name, weight in self.encoder.named_parameters() if ".fusion." not in name]

    @torch.no_grad()
    def init_low_prior(self) -> None:
        """Initialise for training without pretraining, which then converges sooner than with the published init.

        Decoder blocks begin as the identity: Swin V2 scales its residual branches by layer norms, whose gains are
        initially 0 in its authors' code (Liu et al. 2022), but 1 in torchvision's, where they amplify branches that are
        almost zero. The biases of all outputs are set to PRIOR_LOGIT; the main output begins as their mean.
        """
        for block in chain(*self.decoder.blocks, *self.head.blocks):
            nn.init.zeros_(block.norm1.weight)
            nn.init.zeros_(block.norm2.weight)
        for side in self.head.side:
            nn.init.constant_(side.bias, PRIOR_LOGIT)
        nn.init.constant_(self.head.main.weight, 1 / len(self.head.side))

    @staticmethod
    def published_options(weights: dict[str, Tensor]) -> dict | None:
        """The number of frames, if the weights come from a published checkpoint."""
        key = weights.get("encoder.model.1.fusionst.proj_k.weight")  # [1, T / 2, 1, 1]
        return None if key is None or key.dim() < 2 else {"num_frames": 2 * key.shape[1]}

    @staticmethod
    def from_backbone(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """torchvision's weights of Video Swin-T under the names of the temporal branch, without the class head."""
        return rename_weights(weights, PRETRAINED_NAMES, unused=("head.",))

    @staticmethod
    def from_published(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """A published checkpoint's weights under the names, and in the shapes, of this module."""
        linear_here = ("fusion.key.weight", ".shortcut.weight")  # published as convolutions with a kernel of 1
        return {
            name: weight.flatten(1) if name.endswith(linear_here) else weight
            for name, weight in rename_weights(weights, PUBLISHED_NAMES).items()
        }

    def forward(self, clip: Tensor, with_aux: bool = False) -> Tensor | list[Tensor]:
        """clip [B, T, 3, H, W], ImageNet-normalised, to logits [B, 1, H, W].

        `with_aux`: a list of the main logits and the auxiliary logits of strides 1, 2 and 4, all at full size.
        """
        self.check_clip(clip)
        features = self.encoder(clip, clip[:, self.target_index])
        skips = [skip(feature) for skip, feature in zip(self.skips, features, strict=True)]
        logits = self.head(self.decoder(skips))
        return logits if with_aux else logits[0]


def _check_stages(part: str, channels: list[int], depths: tuple[int, ...], heads: tuple[int, ...]) -> None:
    """Raise InputError unless each stage has a depth and a number of heads that divides its channels."""
    fits = len(depths) == len(heads) == len(channels) and min(*depths, *heads) >= 1
    if not fits or any(c < 1 or c % h for c, h in zip(channels, heads, strict=True)):
        raise InputError(
            f"sgmp_unet has {len(channels)} {part} stages of {channels} channels with this width; got depths {depths} "
            f"and heads {heads}, expected a depth and a divisor of the channels for each stage"
        )


# Names of the weights of torchvision's `swin3d_t`, whose `features` alternate blocks and mergings -> names here.
PRETRAINED_NAMES = (
    (r"^features\.(\d*[02468])\.", lambda match: f"stages.{int(match[1]) // 2}.temporal."),
    (r"^features\.(\d*[13579])\.", lambda match: f"stages.{int(match[1]) // 2 + 1}.merge."),
    (r"^", "encoder."),
)

# Parameter names of the published checkpoints -> names here, for `rename_weights`.
PUBLISHED_NAMES = (
    (r"^encoder\.model\.0\.spatial_layer\.", "encoder.spatial_stem."),
    (r"^encoder\.model\.0\.temporal_layer\.0\.", "encoder.patch_embed."),
    (r"^encoder\.model\.([1-4])\.", to_zero_based("encoder.stages.", ".")),
    # spatial branch
    (r"\.spatial_layer\.", ".spatial."),
    (r"\.bn([12])\.", r".norm\1."),
    (r"\.downsample\.([01])\.", r".shortcut.\1."),
    (r"\.ca\.fc1\.", ".channel_attention.reduce."),
    (r"\.ca\.fc2\.", ".channel_attention.expand."),
    (r"\.sa\.conv1\.", ".spatial_attention.conv."),
    # temporal branch: later stages hold the patch merging and then the blocks, the first stage only the blocks
    (r"\.temporal_layer\.0\.(reduction|norm)\.", r".merge.\1."),
    (r"\.temporal_layer\.1\.(\d)\.", r".temporal.\1."),
    (r"\.temporal_layer\.", ".temporal."),
    # fusion
    (r"\.fusionst\.proj_q\.", ".fusion.query."),
    (r"\.fusionst\.downsample\.", ".fusion.merge."),
    (r"\.fusionst\.proj_k\.", ".fusion.key."),
    (r"\.fusionst\.k_layer_norm\.", ".fusion.key_norm."),
    (r"\.fusionst\.multihead_attn\.", ".fusion.attention."),
    (r"\.fusionst\.layer_norm\.", ".fusion.norm."),
    # skips
    (r"^skip_layers\.(\d)\.glu\.fc1\.", r"skips.\1.expand."),
    (r"^skip_layers\.(\d)\.glu\.dwconv\.dwconv\.", r"skips.\1.depthwise."),
    (r"^skip_layers\.(\d)\.glu\.fc2\.", r"skips.\1.project."),
    (r"^skip_layers\.(\d)\.skip\.", r"skips.\1.shortcut."),
    # decoder: a stage's patch expansion is published at the end of the stage before
    (r"^decoder\.features\.(\d)(?:\.\d)?\.projection\.", r"decoder.expands.\1.projection."),
    (r"^decoder\.features\.([123])\.", to_zero_based("decoder.blocks.", ".")),
    # head
    (r"^former\.features\.([01])\.0\.projection\.", r"head.expands.\1.projection."),
    (r"^former\.features\.([01])\.([12])\.", lambda match: f"head.blocks.{match[1]}.{int(match[2]) - 1}."),
    (r"^former\.fc_s\.(\d)\.1\.", r"head.side.\1."),
    (r"^former\.fc\.", "head.main."),
    (r"\.projection\.0\.", ".project."),
    (r"\.projection\.1\.", ".norm."),
)
