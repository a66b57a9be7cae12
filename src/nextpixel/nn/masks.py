"""Masks of channel groups.

References:
    van den Oord, Kalchbrenner, Kavukcuoglu: Pixel Recurrent Neural Networks, 2016, section 3.4
    (https://arxiv.org/abs/1601.06759).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["MaskType", "channel_mask", "channel_slice"]

MaskType = Literal["A", "B"]


def channel_slice(channels: int, group: int, groups: int) -> slice:
    """Returns the slice of the feature maps in a channel group; groups may differ in size.

    Group g of the feature maps depends on the pixel's channels up to g.
    """
    begin, end = (-(-g * channels // groups) for g in (group, group + 1))
    return slice(begin, end)


def channel_mask(
    mask_type: MaskType, in_channels: int, out_channels: int, groups: int, parts: int = 1
) -> Tensor:
    """Creates the mask at the centre of a kernel: R, then G given R, then B given R and G.

    Args:
        mask_type: "A" shows a group the earlier groups, "B" also the group itself.
        in_channels: Channels of the input, in `groups` groups.
        out_channels: Channels of the output.
        groups: Number of channel groups: the channels of the picture.
        parts: Number of equal parts of the output, such as the halves of a gate, that are each
            divided into groups.

    Returns:
        Booleans `(out_channels, in_channels)`.
    """

    def group_of_each(channels: int) -> Tensor:
        return torch.arange(channels) * groups // channels

    inputs = group_of_each(in_channels)[None]
    outputs = group_of_each(out_channels // parts).repeat(parts)[:, None]
    return inputs < outputs if mask_type == "A" else inputs <= outputs
