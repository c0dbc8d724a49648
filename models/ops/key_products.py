"""Products of queries and keys of a surround, and their norms, from sums over all pixels.

A key is a linear function of the patch u(p) of a pixel p: of the 9 * C values at p + d, where the tap d runs in raster
order over the 3x3 grid of spacing `shift`. So its products with queries and its norm follow from the Gram matrix of the
patches, the sum of u(p) u(p)^T over all pixels, and neither queries nor keys have to be computed. Its block (d, d') is

    the sum over pixels q = p + d of x(q) x(q + d' - d)^T,

where q runs over the image moved by d. Over the pixels that belong to it for every d, which are all but a frame as wide
as the shift, this sum depends on the lag d' - d alone: 25 matrices, which are the weight gradient of a 5x5 convolution
of the image with itself, stand for all 81 blocks. The strips around these pixels are multiplied as patches. Likewise
the gradient of the image is a 5x5 convolution, but for the strips.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from istd.utils.items import batched

TAPS = range(3)  # of an axis: -shift, 0, shift
BAND_VALUES = 1 << 17  # over which one call adds up products: larger bands leave the cache, and float32 loses digits
BLOCK_CHANNELS = 16  # of a band, for which a thread computes the weight gradient


class KeyProducts(torch.autograd.Function):
    """Products of queries and keys, and squared norms of both, summed over all pixels.

    query [Q, C]: weights of a pixel; keys [S, K, 9 * C]: weights of its patch for S shifts, tap outer and channel
    inner, which add up to zero over the taps; padded [B, C, H + 2m, W + 2m]: the image, padded by the largest shift m,
    with H and W above 2m; mean [B, C, 1] of its pixels before it was padded. Returns query_energy [B, Q], and stacked
    over shifts products [S, B, Q, K] and key_energy [S, B, K].

    With the Gram matrices G_s of the patches, of which P_s are the rows of the centre and R is the centre's block,

        query_energy = diag(query R query^T)
        products_s = query P_s keys_s^T
        key_energy_s = diag(keys_s G_s keys_s^T)

    The mean does not change keys, and where contrast is low, G without it is far more exact in float32. With the
    gradients of the three results written e, M_s and n_s, those of their matrices are query^T diag(e) query for R,
    query^T M_s keys_s for P_s, and keys_s^T diag(n_s) keys_s for G_s.
    """

    @staticmethod
    def forward(ctx, query: Tensor, padded: Tensor, mean: Tensor, keys: Tensor, shifts: tuple[int, ...]):
        centre, margin = _centre(padded), max(shifts)
        products, key_energy, kept = [], [], []
        for shift, key in zip(shifts, keys, strict=True):
            gram, sums = patch_gram(crop_border(padded, margin - shift) - mean[..., None], shift)
            weighted = gram @ key.T  # [B, 9 * C, K]
            rows = gram[:, centre] + mean * sums[:, None]  # [B, C, 9 * C], the centre with its mean
            products.append(query @ (rows @ key.T))
            key_energy.append((weighted * key.T).sum(dim=1))
            kept += [rows, weighted]
        height, width = _unpadded_size(padded, margin)
        pixel_gram = rows[..., centre] + height * width * mean * mean.mT
        query_energy = ((query @ pixel_gram) * query).sum(dim=2)
        ctx.save_for_backward(query, padded, keys, pixel_gram, *kept)
        ctx.shifts = shifts
        return query_energy, torch.stack(products), torch.stack(key_energy)

    @staticmethod
    def backward(ctx, grad_query_energy: Tensor, grad_products: Tensor, grad_key_energy: Tensor):
        query, padded, keys, pixel_gram, *kept = ctx.saved_tensors
        centre, margin = _centre(padded), max(ctx.shifts)
        grad_padded, grad_keys = torch.zeros_like(padded), torch.empty_like(keys)
        twice_query = 2 * grad_query_energy[..., None] * query  # [B, Q, C]
        grad_query = (twice_query @ pixel_gram).sum(dim=0)
        for index, (shift, key) in enumerate(zip(ctx.shifts, keys, strict=True)):
            rows, weighted = kept[2 * index : 2 * index + 2]
            grad, twice = grad_products[index], 2 * grad_key_energy[index]
            grad_query += (grad @ (rows @ key.T).mT).sum(dim=0)
            grad_centre = query.T @ grad  # [B, C, K]
            grad_keys[index] = (twice[:, None] * weighted + rows.mT @ grad_centre).sum(dim=0).T
            grad_rows = grad_centre @ key
            # with its transpose, as each product of two values counts for both
            grad_gram = (twice[..., None] * key).mT @ key
            grad_gram[:, centre] += grad_rows
            grad_gram[..., centre] += grad_rows.mT
            if index == 0:
                grad_gram[:, centre, centre] += query.T @ twice_query
            border = margin - shift  # the keys cancel the mean of the image, which queries need
            add_gradient(crop_border(grad_padded, border), crop_border(padded, border), grad_gram, shift)
        return grad_query, grad_padded, None, grad_keys, None


def _centre(image: Tensor) -> slice:
    """The values of a patch that are those of its centre."""
    return slice(4 * image.shape[1], 5 * image.shape[1])


def _unpadded_size(image: Tensor, border: int) -> tuple[int, int]:
    """Height and width of an image [..., H, W] before it was padded."""
    return image.shape[-2] - 2 * border, image.shape[-1] - 2 * border


def crop_border(maps: Tensor, border: int) -> Tensor:
    """Maps [..., H, W] without a border of so many pixels."""
    return maps[..., border : maps.shape[-2] - border, border : maps.shape[-1] - border]


def patch_gram(image: Tensor, shift: int) -> tuple[Tensor, Tensor]:
    """Sums over the patches of an image [B, C, H + 2 * shift, W + 2 * shift], padded by the shift.

    Returns the Gram matrices [B, 9 * C, 9 * C], and the sums of the values of each tap minus those of the centre
    [B, 9 * C].
    """
    image = image.contiguous(memory_format=torch.channels_last)
    batch, channels = image.shape[:2]
    height, width = _unpadded_size(image, shift)
    lags = torch.stack([_lag_products(sample, shift) for sample in image.split(1)])
    # [B, dx, C, lag of rows, ex, C] of taps in columns dx and ex, over the rows that belong to the image for every dy
    lags = rearrange(lags.unfold(-1, 3, 1).flip(-2), "b c k dy dx ex -> b dx c dy ex k").contiguous()
    sums = image.new_zeros(batch, 3, 3, channels)
    inside = range(2 * shift, height)
    for dx in TAPS:
        patches = _patches(image, inside, _outside(dx, width, shift), shift, TAPS)
        tap = patches[..., dx * channels : (dx + 1) * channels]
        lags[:, dx] += (tap.mT @ patches).view_as(lags[:, dx])
        sums[:, :, dx] += tap.sum(dim=1)[:, None]
    gram = image.new_empty(batch, 3, 3, channels, 3, 3, channels)
    for dy in TAPS:
        patches = _patches(image, _outside(dy, height, shift), range(width), shift, TAPS[dy:])
        row = patches[..., : 3 * channels]
        upper = (row.mT @ patches).view(batch, 3, channels, 3 - dy, 3, channels) + lags[..., : 3 - dy, :, :]
        gram[:, dy, :, :, dy:] = upper
        for ey in TAPS[dy + 1 :]:
            gram[:, ey, :, :, dy] = upper[:, :, :, ey - dy].permute(0, 3, 4, 1, 2)
        sums[:, dy] += row.sum(dim=1).view(batch, 3, channels)
    return gram.flatten(4).flatten(1, 3), (sums - sums[:, 1:2, 1:2]).flatten(1)


def add_gradient(total: Tensor, image: Tensor, grad: Tensor, shift: int) -> None:
    """Add to `total` the gradient of the image of `patch_gram`; `grad`: of the Gram matrices, plus its transpose."""
    image = image.contiguous(memory_format=torch.channels_last)
    batch, channels = image.shape[:2]
    height, width = _unpadded_size(image, shift)
    grad = rearrange(grad, "b (dy dx c) (ey ex k) -> b dy dx c ey ex k", dy=3, dx=3, ey=3, ex=3)
    kernels = image.new_zeros(batch, 3, channels, 5, 5, channels)  # of the taps in column dx: a matrix for every lag
    for dy in TAPS:
        for dx in TAPS:
            kernels[:, dx, :, 2 - dy : 5 - dy, 2 - dx : 5 - dx] += grad[:, dy, dx]
    whole = kernels.sum(dim=1).permute(0, 1, 4, 2, 3)
    for sample, kernel, out in zip(image.split(1), whole, total.split(1), strict=True):
        out[..., 2 * shift : height, 2 * shift : width] += F.conv2d(sample, kernel, dilation=shift)
    pixels = total.permute(0, 2, 3, 1)
    for dx in TAPS:
        patches = _patches(image, range(2 * shift, height), _outside(dx, width, shift), shift, range(-2, 3))
        out = patches @ kernels[:, dx, :, :, 2 - dx : 5 - dx].flatten(2).mT
        pixels[:, 2 * shift : height, _moved(dx, width, shift)] += out.unflatten(1, (-1, 2 * shift))
    for dy in TAPS:
        patches = _patches(image, _outside(dy, height, shift), range(width), shift, TAPS)
        out = (patches @ grad[:, dy].flatten(3).flatten(1, 2).mT).view(batch, 2 * shift, width, 3, channels)
        for dx in TAPS:
            pixels[:, _moved(dy, height, shift), dx * shift : dx * shift + width] += out[..., dx, :]


def _lag_products(image: Tensor, shift: int) -> Tensor:
    """Sums of x(q) x(q + lag)^T over the pixels q which all taps reach, [C, C, 3, 5], for lags down and to both sides.

    image: a sample [1, C, H + 2 * shift, W + 2 * shift].
    """
    channels, (height, width) = image.shape[1], _unpadded_size(image, shift)
    at_once = max(1, BLOCK_CHANNELS * torch.get_num_threads() // channels)
    kernel = image.new_empty(channels, channels, 3, 5)  # only its shape is looked at
    settings = [1, 1], [0, 0], [shift, shift], False, [0, 0], 1, [False, True, False]
    total = torch.zeros_like(kernel)
    rows = max(1, BAND_VALUES // (channels * width))
    for tops in batched(range(2 * shift, height, rows), at_once):
        inside = _bands(image[..., :height, 2 * shift : width], tops, rows)
        around = _bands(image, tops, rows + 2 * shift)
        total += torch.ops.aten.convolution_backward(inside, around, kernel, None, *settings)[1]
    return total


def _bands(image: Tensor, tops: list[int], rows: int) -> Tensor:
    """Bands of rows of a sample, as samples; several of them are filled up with zeros to the same number of rows."""
    bands = [image[:, :, top : top + rows] for top in tops]
    if len(bands) == 1:
        return bands[0]
    missing = rows - bands[-1].shape[2]
    return torch.cat([*bands[:-1], F.pad(bands[-1], (0, 0, 0, missing)) if missing else bands[-1]])


def _outside(tap: int, length: int, shift: int) -> tuple[int, ...]:
    """The 2 * shift positions on an axis of so many pixels from which the tap leaves the pixels that all taps reach."""
    return *range((2 - tap) * shift), *range(length - tap * shift, length)


def _moved(tap: int, length: int, shift: int) -> list[int]:
    """Where the tap is for the positions of `_outside`, on an axis padded by the shift."""
    return [position + tap * shift for position in _outside(tap, length, shift)]


def _patches(image: Tensor, rows: Sequence[int], columns: Sequence[int], shift: int, downs: range) -> Tensor:
    """The values at the taps of pixels, three taps in each row of `downs`: [B, rows * columns, taps * C]."""
    pixels = image.permute(0, 2, 3, 1).flatten(1, 2)
    positions = _positions(image.shape[-1], rows, columns, shift, downs)
    return pixels.index_select(1, positions).unflatten(1, (-1, 3 * len(downs))).flatten(2)


@lru_cache(maxsize=64)
def _positions(width: int, rows: Sequence[int], columns: Sequence[int], shift: int, downs: range) -> Tensor:
    """Where the values of `_patches` stand in an image of so many columns."""
    down = torch.tensor(rows)[:, None, None, None] + shift * torch.tensor(downs)[:, None]
    right = torch.tensor(columns)[:, None, None] + shift * torch.arange(3)
    return (down * width + right).flatten()
