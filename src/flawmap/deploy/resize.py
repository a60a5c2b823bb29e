"""What data/pixels.py does before the network, in ONNX: OpenCV's resize of an image of any size, and the scale to 1.

Each row, then each column, of the result is a weighted sum of a few of the image; the places and the weights follow
from the sizes by whole-number arithmetic, in the graph. So an artefact sees the pixels that flawmap sees: ONNX's own
Resize has no area interpolation, and the code search would answer the difference with other codes.

Axes: B images, H, W an image's rows and columns, h, w the network's; per axis: S its size before, s after, i of the
result (s, 1), t one of k source pixels it is made of (1, k).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

IMAGE, PIXELS = "image", "pixels"


def resize_graph(height: int, width: int, area: bool, one_image: bool, opset: int) -> onnx.ModelProto:
    """IMAGE (B, H, W, 3) uint8 -> PIXELS (B, 3, height, width) float32 in [0, 1], as `resize_image` makes them.

    `area`: OpenCV's area interpolation where neither side grows, as the recipe's `shrink` says; bilinear otherwise.
    """
    import onnx.parser

    batch = "1" if one_image else "batch"
    count = "1" if one_image else "0"  # in a Reshape, 0 keeps the number of images
    text = f"""
    <ir_version: 10, opset_import: ["": {opset}]>
    resize (uint8[{batch}, height, width, 3] {IMAGE}) => (float[{batch}, 3, {height}, {width}] {PIXELS})
    {{
        r0 = Constant<value = int64[1] {{0}}>()
        r1 = Constant<value = int64[1] {{1}}>()
        r2 = Constant<value = int64[1] {{2}}>()
        rest = Constant<value = int64[1] {{-1}}>()
        scalar0 = Constant<value = int64 {{0}}>()
        scalar1 = Constant<value = int64 {{1}}>()
        float0 = Constant<value = float {{0}}>()
        float1 = Constant<value = float {{1}}>()
        full = Constant<value = float {{255}}>()
        H = Shape<start = 1, end = 2>({IMAGE})
        W = Shape<start = 2, end = 3>({IMAGE})
        h = Constant<value = int64[1] {{{height}}}>()
        w = Constant<value = int64[1] {{{width}}}>()
        no_higher = GreaterOrEqual(H, h)
        no_wider = GreaterOrEqual(W, w)
        shrinks = And(no_higher, no_wider)
        {_axis("y", "H", height, area)}
        {_axis("x", "W", width, area)}
        taken_y = Gather<axis = 1>({IMAGE}, place_y)
        rows = Cast<to = 1>(taken_y)
        keep_y = Constant<value = int64[2] {{{count}, {height}}}>()
        shape_y = Concat<axis = 0>(keep_y, taps_y, rest)
        flat_y = Reshape(rows, shape_y)
        line_y = Constant<value = int64[3] {{{height}, 1, -1}}>()
        beside_y = Reshape(weight_y, line_y)
        sum_y = MatMul(beside_y, flat_y)
        open_y = Constant<value = int64[4] {{{count}, {height}, -1, 3}}>()
        low = Reshape(sum_y, open_y)
        taken_x = Gather<axis = 2>(low, place_x)
        beside_x = Unsqueeze(weight_x, rest)
        product_x = Mul(taken_x, beside_x)
        taps_axis = Constant<value = int64[1] {{3}}>()
        small = ReduceSum<keepdims = 0>(product_x, taps_axis)
        scaled = Div(small, full)
        planes = Transpose<perm = [0, 3, 1, 2]>(scaled)
        shape = Constant<value = int64[4] {{{count}, 3, {height}, {width}}}>()
        {PIXELS} = Reshape(planes, shape)
    }}
    """
    model = onnx.parser.parse_model(text)
    _rename(model)
    return model


def _axis(a: str, size: str, out: int, area: bool) -> str:
    """Of one axis: `place` (s, k) of the source pixels and their `weight` (s, k), `taps` k.

    Bilinear: the middle of pixel i lies at n / 2s = ((2i + 1)S - s) / 2s. Area: the overlap of [iS, (i+1)S] with each
    [js, (j+1)s]; OpenCV leaves out what is under a thousandth of a pixel.
    """
    numbers = ", ".join(str(i) for i in range(out))
    doubled = ", ".join(str(2 * i + 1) for i in range(out))
    taps = f"taps_{a} = Identity(r2)"
    if area:
        taps = f"""
        before_{a} = Constant<value = int64[1] {{{out - 1}}}>()
        upper_{a} = Add({size}, before_{a})
        whole_{a} = Div(upper_{a}, s_{a})
        taps_{a} = Add(whole_{a}, r1)"""
    lines = f"""
        s_{a} = Constant<value = int64[1] {{{out}}}>()
        twice_{a} = Constant<value = int64[1] {{{2 * out}}}>()
        odd_{a} = Constant<value = int64[{out}, 1] {{{doubled}}}>()
        last_{a} = Sub({size}, r1)
        {taps}
        end_{a} = Squeeze(taps_{a}, r0)
        t_{a} = Range(scalar0, end_{a}, scalar1)
        far_{a} = Mul(odd_{a}, {size})
        free_{a} = Sub(far_{a}, s_{a})
        most_{a} = Mul(last_{a}, twice_{a})
        above_{a} = Max(free_{a}, r0)
        n_{a} = Min(above_{a}, most_{a})
        first_{a} = Div(n_{a}, twice_{a})
        whole2_{a} = Mul(first_{a}, twice_{a})
        over_{a} = Sub(n_{a}, whole2_{a})
        over_float_{a} = Cast<to = 1>(over_{a})
        twice_float_{a} = Cast<to = 1>(twice_{a})
        part_{a} = Div(over_float_{a}, twice_float_{a})
        t_float_{a} = Cast<to = 1>(t_{a})
        away_{a} = Sub(t_float_{a}, part_{a})
        apart_{a} = Abs(away_{a})
        near_{a} = Sub(float1, apart_{a})
        linear_{a} = Max(near_{a}, float0)
    """
    if area:
        lines += f"""
        i_{a} = Constant<value = int64[{out}, 1] {{{numbers}}}>()
        start_{a} = Mul(i_{a}, {size})
        stop_{a} = Add(start_{a}, {size})
        start_pixel_{a} = Div(start_{a}, s_{a})
        pixel_{a} = Add(start_pixel_{a}, t_{a})
        left_{a} = Mul(pixel_{a}, s_{a})
        right_{a} = Add(left_{a}, s_{a})
        inner_left_{a} = Max(left_{a}, start_{a})
        inner_right_{a} = Min(right_{a}, stop_{a})
        overlap_{a} = Sub(inner_right_{a}, inner_left_{a})
        thousand_{a} = Constant<value = int64[1] {{1000}}>()
        fine_{a} = Mul(overlap_{a}, thousand_{a})
        counts_{a} = Greater(fine_{a}, s_{a})
        overlap_float_{a} = Cast<to = 1>(overlap_{a})
        size_float_{a} = Cast<to = 1>({size})
        share_{a} = Div(overlap_float_{a}, size_float_{a})
        area_{a} = Where(counts_{a}, share_{a}, float0)
        weight_{a} = Where(shrinks, area_{a}, linear_{a})
        from_{a} = Where(shrinks, start_pixel_{a}, first_{a})
        """
    else:
        lines += f"""
        weight_{a} = Identity(linear_{a})
        from_{a} = Identity(first_{a})
        """
    return (
        lines
        + f"""
        beyond_{a} = Add(from_{a}, t_{a})
        place_{a} = Min(beyond_{a}, last_{a})
    """
    )


def _rename(model: onnx.ModelProto) -> None:
    """Put `resize/` before every name but the two at the ends, so that none meets one of the network's."""
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = name if name in (IMAGE, PIXELS) else f"resize/{name}"
