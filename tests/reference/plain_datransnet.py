"""DATransNet in its plain, obvious form, written from the paper's description and named as in published checkpoints.

Slow on purpose: the 8C surround is built and concatenated, keys and values are computed as maps. The fast network in
`models/` must equal this one.
"""

import torch
import torch.nn.functional as F
from torch import nn


class PlainResidualBlock(nn.Module):
    def __init__(self, in_channels, out_channels, projected):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if projected:
            self.shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels))

    def forward(self, x):
        out = F.leaky_relu(self.bn1(self.conv1(x)), 0.01)
        return F.leaky_relu(self.bn2(self.conv2(out)) + self.shortcut(x), 0.01)


def surround(x, distance):
    """Eight neighbours minus the centre, direction outer and channel inner: [B, 8C, H, W]."""
    height, width = x.shape[-2:]
    padded = F.pad(x, (distance,) * 4, mode="reflect")
    offsets = [(dy * distance, dx * distance) for dy in range(3) for dx in range(3) if (dy, dx) != (1, 1)]
    return torch.cat([padded[..., dy : dy + height, dx : dx + width] - x for dy, dx in offsets], dim=1)


class PlainGradientTransformer(nn.Module):
    def __init__(self, channels, tra, shifts, side):
        super().__init__()
        self.shifts, self.side = shifts, side
        hidden = tra // len(shifts)
        self.query_convs = nn.ModuleList(nn.Conv2d(channels, hidden, 1, bias=False) for _ in shifts)
        self.key_convs = nn.ModuleList(nn.Conv2d(8 * channels, 8 * hidden, 1, bias=False) for _ in shifts)
        self.value_convs = nn.ModuleList(nn.Conv2d(8 * channels, 8 * hidden, 1, bias=False) for _ in shifts)
        self.norm = nn.InstanceNorm2d(len(shifts))
        self.out_conv = nn.Sequential(nn.Conv2d(tra, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())

    def forward(self, x):
        batch, _, height, width = x.shape
        heads = len(self.shifts)

        def heads_of(maps):
            stacked = torch.stack(maps, dim=2).flatten(1, 2)  # channel-major: channel 0 of each shift first
            return stacked.reshape(batch, heads, -1, height * width)

        surrounds = [surround(x, shift) for shift in self.shifts]
        query = heads_of([conv(x) for conv in self.query_convs])
        key = heads_of([conv(s) for conv, s in zip(self.key_convs, surrounds, strict=True)])
        value = heads_of([conv(s) for conv, s in zip(self.value_convs, surrounds, strict=True)])
        query, key = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
        scores = self.norm(query @ key.transpose(-1, -2) / self.side)
        out = scores.softmax(dim=-1) @ value
        return self.out_conv(out.reshape(batch, -1, height, width))


class PlainChannelGate(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels, 1, bias=False)


class PlainNonLocal(nn.Module):
    def __init__(self, channels, inner):
        super().__init__()
        self.g = nn.Sequential(nn.Conv2d(channels, inner, 1), nn.MaxPool2d(2))
        self.theta = nn.Conv2d(channels, inner, 1)
        self.phi = nn.Sequential(nn.Conv2d(channels, inner, 1), nn.MaxPool2d(2))
        self.W = nn.Sequential(nn.Conv2d(inner, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x):
        theta, phi, g = self.theta(x).flatten(2), self.phi(x).flatten(2), self.g(x).flatten(2)
        attention = (theta.transpose(1, 2) @ phi).softmax(dim=-1)
        return self.W((attention @ g.transpose(1, 2)).transpose(1, 2).reshape(len(x), -1, *x.shape[2:]))


class PlainGFEM(nn.Module):
    def __init__(self, channels, inner):
        super().__init__()
        self.ca = PlainChannelGate(channels)
        self.sp = PlainNonLocal(channels, inner)
        self.tra_conv_1 = nn.Conv2d(channels, channels, 1)
        self.tra_conv_2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.out_conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        spatial = self.sp(x)
        gate = self.ca.fc1(spatial.mean(dim=(2, 3), keepdim=True)).sigmoid()
        down = F.interpolate(F.max_pool2d(x, 2) * gate, scale_factor=2, mode="bilinear", align_corners=False)
        return self.out_conv(self.tra_conv_1(spatial) + self.tra_conv_2(down))


class PlainConvNorm(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x):
        return self.norm(self.conv(x)).relu()


class PlainDecoderLevel(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.nConvs = nn.Sequential(PlainConvNorm(in_channels, out_channels), PlainConvNorm(out_channels, out_channels))
        self.sattn = nn.Sequential(nn.Conv2d(in_channels // 2, in_channels // 2, 1), nn.Sigmoid())

    def forward(self, deep, encoded, transformed):
        up = F.interpolate(deep, scale_factor=2, mode="bilinear", align_corners=False)
        return self.nConvs(torch.cat([transformed, up * self.sattn(encoded)], dim=1))


class PlainInceptionConv(nn.Module):
    def __init__(self, channels):
        super().__init__()
        c = self.part = channels // 4
        self.dwconv_hw = nn.Conv2d(c, c, 3, padding=1, groups=c)
        self.dwconv_w = nn.Conv2d(c, c, (1, 11), padding=(0, 5), groups=c)
        self.dwconv_h = nn.Conv2d(c, c, (11, 1), padding=(5, 0), groups=c)

    def forward(self, x):
        same, square, wide, high = x.split(self.part, dim=1)
        return torch.cat([same, self.dwconv_hw(square), self.dwconv_w(wide), self.dwconv_h(high)], dim=1)


class PlainDATransNet(nn.Module):
    """The image [B, 1, H, W] in 0..1 to logits [B, 1, H, W]."""

    def __init__(self, image_size=256, c=16):
        super().__init__()
        self.inc = nn.Sequential(PlainResidualBlock(1, c, True))
        self.encoder1 = nn.Sequential(PlainResidualBlock(c, 2 * c, True))
        self.encoder2 = nn.Sequential(PlainResidualBlock(2 * c, 4 * c, True))
        self.encoder3 = nn.Sequential(PlainResidualBlock(4 * c, 8 * c, True))
        self.encoder4 = nn.Sequential(PlainResidualBlock(8 * c, 8 * c, False))
        self.contras1 = PlainGradientTransformer(c, c, (1, 3), image_size)
        self.contras2 = PlainGradientTransformer(2 * c, 2 * c, (1, 3), image_size // 2)
        self.contras3 = PlainGradientTransformer(4 * c, 2 * c, (1, 3), image_size // 4)
        self.contras4 = PlainGradientTransformer(8 * c, 2 * c, (1,), image_size // 8)
        self.GFEM = PlainGFEM(8 * c, c)
        self.decoder4 = PlainDecoderLevel(16 * c, 4 * c)
        self.decoder3 = PlainDecoderLevel(8 * c, 2 * c)
        self.decoder2 = PlainDecoderLevel(4 * c, c)
        self.decoder1 = PlainDecoderLevel(2 * c, c)
        self.outc = nn.Sequential(PlainInceptionConv(c), nn.Conv2d(c, 1, 1))
        nn.init.zeros_(self.GFEM.sp.W[1].weight)
        nn.init.zeros_(self.GFEM.sp.W[1].bias)

    def forward(self, image):
        x1 = self.inc(image)
        x2 = self.encoder1(F.max_pool2d(x1, 2))
        x3 = self.encoder2(F.max_pool2d(x2, 2))
        x4 = self.encoder3(F.max_pool2d(x3, 2))
        deep = self.GFEM(self.encoder4(F.max_pool2d(x4, 2)))
        deep = self.decoder4(deep, x4, self.contras4(x4))
        deep = self.decoder3(deep, x3, self.contras3(x3))
        deep = self.decoder2(deep, x2, self.contras2(x2))
        deep = self.decoder1(deep, x1, self.contras1(x1))
        return self.outc(deep)
