"""What the header of a JPEG 2000 says of its parts, each of which the decoder keeps a record of."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

# Measured with OpenJPEG 2.5 and rounded up.
_COEFFICIENT_BYTES, _COEFFICIENT_S = 6, 20e-9
_BLOCK_BYTES, _BLOCK_S = 600, 0.5e-6
_PRECINCT_BYTES, _PRECINCT_S = 800, 3.5e-6  # of one band
_PACKET_BYTES, _PACKET_S = 2, 0.3e-6
_TILE_BYTES, _TILE_COMPONENT_BYTES, _TILE_S = 6_500, 1_800, 40e-6

_SOC, _SIZ = b"\xff\x4f", 0x51
_COD, _COC, _SOT, _SOD, _EOC = 0x52, 0x53, 0x90, 0x93, 0xD9
_MOST_RESOLUTIONS = 33
_WHOLE = 15  # the exponent of a precinct that is as large as can be


@dataclass(frozen=True, slots=True, kw_only=True)
class _Style:
    """How components are cut up: the sides are exponents of 2, the precincts' by resolution."""

    layers: int = 1
    block: tuple[int, int] = (6, 6)
    precincts: tuple[tuple[int, int], ...] = ((_WHOLE, _WHOLE),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How many parts a picture has; where parts of it are cut up differently, the most.

    Attributes:
        coefficients: one for each pixel of each component.
        blocks: code blocks.
        precincts: for each band.
        packets: for each layer of each precinct.
        tiles: of the whole.
        components: of the whole.
    """

    coefficients: int = 0
    blocks: int = 0
    precincts: int = 0
    packets: int = 0
    tiles: int = 0
    components: int = 0

    @property
    def seconds(self) -> float:
        """How long it takes to decode, at most."""
        return (
            self.coefficients * _COEFFICIENT_S
            + self.blocks * _BLOCK_S
            + self.precincts * _PRECINCT_S
            + self.packets * _PACKET_S
            + self.tiles * self.components * _TILE_S
        )

    @property
    def bytes(self) -> int:
        """How much memory it takes to decode, at most."""
        return (
            self.coefficients * _COEFFICIENT_BYTES
            + self.blocks * _BLOCK_BYTES
            + self.precincts * _PRECINCT_BYTES
            + self.packets * _PACKET_BYTES
            + self.tiles * (_TILE_BYTES + self.components * _TILE_COMPONENT_BYTES)
        )

    def __str__(self) -> str:
        return (
            f"{self.components:,} components in {self.tiles:,} tiles, {self.blocks:,} code blocks, "
            f"{self.precincts:,} precincts and {self.packets:,} packets"
        )


def read_shape(data: bytes) -> Shape:
    """Count the parts of a picture, by the headers of the whole and of its tiles.

    A file whose headers are cut short or contradict each other has the parts that were found.
    """
    found = Shape()
    size: tuple[int, ...] | None = None
    layers = 1
    try:
        for marker, content in _segments(data, _codestream(data)):
            if marker == _SIZ:
                size = struct.unpack_from(">2x8IH", content)
            elif marker == _COD and size is not None:
                layers = int.from_bytes(content[2:4])
                style = _read_style(content[5:], content[0], layers)
                found = _larger(found, _count(size, style))
            elif marker == _COC and size is not None:  # as COD, of one component
                at = 1 if size[8] <= 256 else 2
                style = _read_style(content[at + 1 :], content[at], layers)
                found = _larger(found, _count(size, style))
    except (struct.error, IndexError):
        pass
    return found


def _count(size: tuple[int, ...], style: _Style) -> Shape:
    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top, components = size
    width, height = max(right - left, 0), max(bottom - top, 0)
    across = -(-(right - tile_left) // max(tile_width, 1))
    down = -(-(bottom - tile_top) // max(tile_height, 1))
    blocks = precincts = 0
    resolutions = len(style.precincts)
    for level, (wide, high) in enumerate(style.precincts):
        # The lowest level is one band as large as itself, others are three of half its sides.
        bands, halved = (1, 0) if level == 0 else (3, 1)
        shift = resolutions - 1 - level + halved
        sides = [-(-width >> shift) + across, -(-height >> shift) + down]
        cells = [max(wide - halved, 0), max(high - halved, 0)]
        precincts += bands * _cells(sides, cells, (across, down))
        smaller = [min(pair) for pair in zip(cells, style.block, strict=True)]
        blocks += bands * _cells(sides, smaller, (across, down))
    return Shape(
        coefficients=width * height * components,
        blocks=blocks * components,
        precincts=precincts * components,
        packets=precincts * components * style.layers,
        tiles=across * down,
        components=components,
    )


def _cells(sides: list[int], exponents: list[int], tiles: tuple[int, int]) -> int:
    """How many cells of a grid cover an area; each tile cuts one more in two, either way."""
    wide, high = (
        (side >> exponent) + cut
        for side, exponent, cut in zip(sides, exponents, tiles, strict=True)
    )
    return wide * high


def _larger(one: Shape, other: Shape) -> Shape:
    return one if one.seconds + one.bytes / 1e8 > other.seconds + other.bytes / 1e8 else other


def _read_style(content: bytes, flags: int, layers: int) -> _Style:
    resolutions = min(content[0] + 1, _MOST_RESOLUTIONS)
    listed = content[5 : 5 + resolutions] if flags & 1 else b""
    precincts = [(each & 15, each >> 4) for each in listed]
    precincts += [(_WHOLE, _WHOLE)] * (resolutions - len(precincts))
    return _Style(layers=layers, block=(content[1] + 2, content[2] + 2), precincts=tuple(precincts))


def _codestream(data: bytes) -> int:
    """Where the codestream begins: at once, or in a box of a JP2 file."""
    if data.startswith(_SOC):
        return 0
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1:
            length, head = struct.unpack_from(">Q", data, at + 8)[0], 16
        if kind == b"jp2c":
            return at + head
        if length < head:
            break
        at += length
    return len(data)


def _segments(data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """Marker and content of each segment, in the main header and in those of the tile parts."""
    at += len(_SOC)
    part, part_length = at, 0
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker == _EOC:
            return
        if marker == _SOD:
            if part_length < 14:  # up to the end
                return
            at = part + part_length
            continue
        if length < 2:
            return
        content = data[at + 4 : at + 2 + length]
        if marker == _SOT:
            part, part_length = at, int.from_bytes(content[2:6])
        yield marker, content
        at += 2 + length
