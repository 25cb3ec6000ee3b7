"""What CoreML's builders ask of operators over pictures: convolutions, pools, pads, resizing."""

import numpy as np

from warmclip_export.coreml.conditions import axis_lengths
from warmclip_export.coreml.node import Complaint, Operation

MAX_CONV_AXIS = 16384


def conv(op: Operation) -> Complaint | None:
    """Convolutions are 1-D or 2-D, of bounded size."""
    if len(axis_lengths(op)) not in (3, 4):
        return Complaint(reason="its input is not 1-D or 2-D", remedy="convolve in 1-D or 2-D")
    values = (op.input(0), op.input(1), op.outputs[0])
    longest = max(axis or 0 for v in values if v is not None for axis in v.shape or ())
    if longest > MAX_CONV_AXIS:
        return Complaint(
            reason=f"an axis is {longest} long, at most {MAX_CONV_AXIS} is taken",
            remedy="split the convolution",
        )
    return None


def pool(op: Operation) -> Complaint | None:
    """Pools are 2-D."""
    if len(axis_lengths(op)) == 4:
        return None
    return Complaint(reason="it does not pool in 2-D", remedy="pool (batch, channels, h, w)")


def plain_windows(op: Operation) -> Complaint | None:
    """Pools have no dilation, and give no indices."""
    if len(op.outputs) == 1 and set(op.attributes.get("dilations", (1,))) == {1}:
        return None
    return Complaint(reason="indices or dilations", remedy="pool without them")


def pad(op: Operation) -> Complaint | None:
    """Constants around it, or a reflection of the last two axes; nothing is cut off."""
    mode = _text(op, "mode", "constant")
    if mode not in ("constant", "reflect"):
        return Complaint(reason=f"mode={mode}", remedy="pad with a constant")
    pads, axes = op.input(1), op.input(3)
    if pads is None or pads.array is None:
        return None
    before, after = np.split(pads.array, 2)
    if min(before.min(initial=0), after.min(initial=0)) < 0:
        return Complaint(reason="it cuts off, with a negative pad", remedy="use Slice")
    if mode == "constant":
        return None
    lengths = axis_lengths(op)
    named = range(len(lengths)) if axes is None or axes.array is None else axes.array.tolist()
    for axis, most in zip(named, np.maximum(before, after).tolist(), strict=True):
        if most and axis % len(lengths) < len(lengths) - 2:
            return Complaint(
                reason="it reflects another axis than the last two", remedy="transpose it before"
            )
        if most >= lengths[axis]:
            return Complaint(reason="it reflects more than there is", remedy="pad twice")
    return None


def resize(op: Operation) -> Complaint | None:
    """The last two axes, by whole factors or to fixed sizes, in the ways that CoreML has."""
    return _resize_mode(op) or _resize_lengths(op)


def _resize_mode(op: Operation) -> Complaint | None:
    mode = _text(op, "mode", "nearest")
    place = _text(op, "coordinate_transformation_mode", "half_pixel")
    has_sizes = op.input(3) is not None
    told = f"{mode}, {place}"
    if mode == "nearest":
        rounding = _text(op, "nearest_mode", "round_prefer_floor")
        is_known = place == "asymmetric" and rounding == "floor"
        told = f"{told}, {rounding}"
    elif mode == "linear":
        shape = op.outputs[0].shape or ()
        is_known = place in ("half_pixel", "align_corners") or (
            (place == "asymmetric" and has_sizes)
            or (place == "pytorch_half_pixel" and all((axis or 0) > 1 for axis in shape[-2:]))
        )
    else:
        is_known = False
    for name in ("antialias", "exclude_outside"):
        if op.attributes.get(name, 0):
            is_known, told = False, name
    if _text(op, "keep_aspect_ratio_policy", "stretch") != "stretch":
        is_known, told = False, "keep_aspect_ratio_policy"
    if is_known:
        return None
    return Complaint(
        reason=f"CoreML has no such resizing: {told}", remedy="resize linearly, half_pixel"
    )


def _resize_lengths(op: Operation) -> Complaint | None:
    before, after = axis_lengths(op), op.outputs[0].shape or ()
    if before[:-2] != after[:-2]:
        return Complaint(
            reason="it resizes another axis than the last two", remedy="transpose it before"
        )
    scales = op.input(2)
    if op.input(3) is not None or scales is None or scales.array is None:
        return None
    factors = scales.array[-2:].tolist()
    if all(factor >= 1 and factor == round(factor) for factor in factors):
        return None
    if all(0 < factor < 1 for factor in factors) and all(
        abs(1 / factor - round(1 / factor)) < 1e-4 and length % round(1 / factor) == 0
        for length, factor in zip(before[-2:], factors, strict=True)
    ):
        return None
    return Complaint(
        reason="it resizes both axes by other than whole factors", remedy="give it sizes"
    )


def _text(op: Operation, name: str, default: str) -> str:
    found = op.attributes.get(name, default)
    return found.decode() if isinstance(found, bytes) else str(found)
