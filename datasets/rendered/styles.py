"""The four styles of the rendered data sets, told apart as the domains of PACS are.

- photo: shaded and lit fill with grain, a soft shadow, an out-of-focus scene behind, sensor noise;
- sketch: wobbly, broken pencil lines on paper (patterns are hatched as well);
- painting: brush strokes of muted colours on canvas;
- cartoon: flat bright fill with a thick dark outline on a flat or two-tone ground.

A style is a function of the placed parts (in a frame of twice the size), the colours of the roles, the two
generators, the size in pixels and the name of the data set: `Patterns` fill the frame and have no background.
"""

import colorsys
import functools
import math
from random import Random

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageChops, ImageDraw, ImageFilter
from PIL.ImageDraw import ImageDraw as Draw

from .outlines import DARK, MAIN, Part, Points

Parts = list[Part]
Colour = tuple[int, int, int]
Palette = list[Colour]  # of the roles MAIN, SECOND, DARK and LIGHT
Ink = int | Colour
Path = list[tuple[float, float]]
_CLAY: Colour = (128, 112, 92)  # painters mute their colours with it


def hsv(h: float, s: float, v: float) -> Colour:
    """The RGB colour (0-255) of a hue (of which only the fraction counts), saturation and value (0-1)."""
    red, green, blue = colorsys.hsv_to_rgb(h % 1, s, v)
    return int(red * 255), int(green * 255), int(blue * 255)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`a` with `share` (0-1) of its way to `b`."""
    return tuple(int(x + (y - x) * share) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def luminance(colour: Colour) -> float:
    """Brightness as the eye weighs it, 0-255."""
    return 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]


def _backdrop(avoid: Colour, rng: Random, saturation: tuple[float, float], value: tuple[float, float]) -> Colour:
    """A colour that stands off from `avoid`, in grey too."""
    best, gap = avoid, -1.0
    own_hue = colorsys.rgb_to_hsv(*(channel / 255 for channel in avoid))[0]
    for _ in range(10):
        hue = own_hue + rng.uniform(0.18, 0.82)
        colour = hsv(hue, rng.uniform(*saturation), rng.uniform(*value))
        distance: float = sum(abs(x - y) for x, y in zip(colour, avoid, strict=True))
        distance += 2 * min(90, abs(luminance(colour) - luminance(avoid)))
        if distance > 300:
            return colour
        if distance > gap:
            best, gap = colour, distance
    return best


@functools.lru_cache(maxsize=8)
def _noise(scale: int) -> np.ndarray:
    """A fixed 512 x 512 tile of smooth noise with unit spread; `scale` is the grain in pixels."""
    tile = np.random.default_rng(scale).normal(size=(512 // scale, 512 // scale)).astype(np.float32)
    tile = np.asarray(Image.fromarray(tile).resize((512, 512), Image.Resampling.BICUBIC))
    return tile / tile.std()


def _crop_noise(scale: int, rng: Random, size: int) -> np.ndarray:
    tile = np.tile(_noise(scale), (1 + size // 512, 1 + size // 512)) if size > 384 else _noise(scale)
    x, y = rng.randrange(tile.shape[1] - size), rng.randrange(tile.shape[0] - size)
    return tile[y : y + size, x : x + size]


def _tuples(path: Points) -> Path:
    return [tuple(point) for point in path.tolist()]


def _line(draw: Draw, path: Path, fill: Ink, width: float, closed: bool = False) -> None:
    """A line with round ends and corners; Pillow's own joints are slow and leave gaps."""
    width = max(1, round(width))
    points = [*path, path[0]] if closed else path
    draw.line(points, fill=fill, width=width)
    if width < 3:
        return
    d = width / 2 - 0.5
    for i, (x, y) in enumerate(points):
        if 0 < i < len(points) - 1:
            (ax, ay), (bx, by) = points[i - 1], points[i + 1]
            ux, uy, vx, vy = x - ax, y - ay, bx - x, by - y
            if ux * vx + uy * vy > 0.94 * math.hypot(ux, uy) * math.hypot(vx, vy) and width < 12:
                continue
        draw.ellipse((x - d, y - d, x + d, y + d), fill=fill)


def _draw(draw: Draw, part: Part, fill: Ink, rim: Ink | None = None, rim_width: float = 0.0) -> None:
    """Fill a part; with `rim`, first draw its border, which lies outside the union of its paths."""
    paths = [_tuples(path) for path in part.paths]
    if rim is not None:
        for path in paths:
            _line(draw, path, rim, part.width + 2 * rim_width, closed=not part.width)
    for path in paths:
        if part.width:
            _line(draw, path, fill, part.width)
        else:
            draw.polygon(path, fill=fill)


def _mask(parts: Parts, size: int, rim: int | None = None) -> Image.Image:
    """Coverage of the object, with dents along the borders of its parts where `rim` is given."""
    image = Image.new("L", (2 * size, 2 * size))
    for part in parts:
        _draw(ImageDraw.Draw(image), part, 255, rim, size / 50)
    return image.reduce(2)


def _albedo(parts: Parts, palette: Palette, size: int) -> Image.Image:
    image = Image.new("RGB", (2 * size, 2 * size), palette[parts[0].role])
    for part in parts:
        _draw(ImageDraw.Draw(image), part, palette[part.role], palette[part.role], size / 100)
    return image.reduce(2)


def _clutter(avoid: Colour, rng: Random, size: int, blobs: bool) -> np.ndarray:
    """An out-of-focus scene: a gradient or a horizon, with blurred things in it."""
    small = 24
    tones = [_backdrop(avoid, rng, (0.05, 0.5), (0.15, 0.95)) for _ in range(3)]
    image = Image.new("RGB", (small, small), tones[0])
    draw = ImageDraw.Draw(image)
    kind = rng.random()
    if kind < 0.5:  # ground and far side
        y = rng.uniform(0.4, 0.75) * small
        draw.polygon([(0, y), (small, y + rng.uniform(-2, 2)), (small, small), (0, small)], fill=tones[1])
    for _ in range(rng.randint(2, 7) if blobs and kind < 0.85 else 0):
        x, y, w, h = (rng.random() * small, rng.random() * small, rng.uniform(1, 5), rng.uniform(1, 6))
        shape = draw.ellipse if rng.random() < 0.6 else draw.rectangle
        shape((x - w, y - h, x + w, y + h), fill=mix(tones[0], rng.choice(tones[1:]), rng.uniform(0.3, 0.9)))
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.6, 1.6))).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float32)


def _photo(parts: Parts, palette: Palette, rng: Random, nrng: Generator, size: int, dataset: str) -> Image.Image:
    scale = size / 64
    mask_image, dented = _mask(parts, size), _mask(parts, size, rim=110)
    mask = np.asarray(mask_image, dtype=np.float32)[..., None] / 255
    albedo = np.asarray(_albedo(parts, palette, size), dtype=np.float32)
    bumps = dented.filter(ImageFilter.GaussianBlur((1.2 if dataset == "Patterns" else rng.uniform(1.5, 3.2)) * scale))
    height = np.asarray(bumps, dtype=np.float32) / 255
    dy, dx = np.gradient(height)
    light = rng.uniform(math.pi * 1.1, math.pi * 1.9)  # from above
    slope = (dx * math.cos(light) + dy * math.sin(light)) * scale * 3.5
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    glow = ramp[None, :] * math.cos(light) + ramp[:, None] * math.sin(light)
    shade = 0.82 - 0.62 * slope + 0.14 * glow + 0.05 * _crop_noise(rng.choice([2, 4, 8]), rng, size)
    gloss = np.asarray(np.clip(-slope * 1.2 - 0.25, 0, 1) ** 2 * rng.uniform(0, 300))
    body = albedo * np.clip(shade, 0.18, 1.35)[..., None] + gloss[..., None]
    scene = _clutter(palette[MAIN], rng, size, dataset != "Counts")
    haze = 0.92 + 0.1 * glow + 0.03 * _crop_noise(4, rng, size) + 0.05 * _crop_noise(16, rng, size)
    scene = scene * haze[..., None]
    reach = round(rng.uniform(2, 5) * scale)
    offset = ImageChops.offset(mask_image, round(-math.cos(light) * reach), round(-math.sin(light) * reach))
    shadow = np.asarray(offset.filter(ImageFilter.GaussianBlur(2.0 * scale)), dtype=np.float32)[..., None] / 255
    picture = scene * (1 - rng.uniform(0.35, 0.65) * shadow) * (1 - mask) + body * mask
    picture *= 1 - rng.uniform(0, 0.25) * (ramp[None, :] ** 2 * ramp[:, None] ** 2)[..., None]
    picture = picture * np.array([rng.uniform(0.93, 1.07), 1, rng.uniform(0.93, 1.07)], dtype=np.float32)
    soft = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    soft = soft.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.7) * scale))
    grain = nrng.normal(0, rng.uniform(2, 6), (size, size, 3))
    return Image.fromarray(np.clip(np.asarray(soft) + grain, 0, 255).astype(np.uint8))


def _even(path: Points, step: float, closed: bool) -> Points:
    """Points at even distances along a path."""
    if closed:
        path = np.concatenate([path, path[:1]])
    travelled = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))])
    at = np.linspace(0, travelled[-1], max(4, int(travelled[-1] / step) + 1))
    return np.stack([np.interp(at, travelled, path[:, k]) for k in (0, 1)], axis=1)


def _pencil(
    draw: Draw, path: Points, closed: bool, rng: Random, nrng: Generator, side: int, width: int, tone: int
) -> None:
    """A wobbly line that overshoots or leaves gaps, as a hand draws it."""
    points = _even(path, side * 0.022, closed)
    wobble = nrng.normal(0, 1, (len(points) + 4, 2))
    wobble = (wobble[:-4] + wobble[1:-3] + wobble[2:-2] + wobble[3:-1] + wobble[4:]) / 2.2
    points = points + wobble * side * 0.0055 + nrng.normal(0, side * 0.003, 2)
    line = _tuples(points)
    start, jump = 0, max(14, len(line) // 2)
    while start < len(line) - 1:
        stop = min(len(line), start + rng.randint(8, jump))
        level = min(150, tone + rng.randint(0, 45))
        draw.line(line[start:stop], fill=level, width=width)
        start = stop if rng.random() < 0.3 else stop - 1


def _sketch(parts: Parts, palette: Palette, rng: Random, nrng: Generator, size: int, dataset: str) -> Image.Image:
    side = 2 * size
    paper = rng.randint(238, 255)
    image = Image.new("L", (side, side), paper)
    draw = ImageDraw.Draw(image)
    width, tone = max(2, round(side * rng.uniform(0.011, 0.02))), rng.randint(15, 70)
    hatch = Image.new("L", (side, side)) if dataset == "Patterns" else None
    passes = rng.choice([1, 2, 2])
    for part in parts:
        wide = part.width > side * 0.05
        if wide:  # both borders of a broad stroke
            shaken = part._replace(paths=[
                points + nrng.normal(0, side * 0.004, points.shape)
                for points in (_even(path, side * 0.03, False) for path in part.paths)
            ])  # fmt: skip
            _draw(draw, shaken, paper, tone + rng.randint(0, 30), width)
        elif not part.width:
            for path in part.paths:
                draw.polygon(_tuples(path), fill=paper)
        if hatch is not None:
            _draw(ImageDraw.Draw(hatch), part, 255 if part.role in (MAIN, DARK) else 0)
        if not wide:
            closed = not part.width
            outlines = part.paths
            if closed and 1 < len(part.paths) < 12:
                outlines, closed = _union_outlines(part.paths, side * 0.022), False
            for path in outlines:
                for _ in range(passes if len(part.paths) < 12 else 1):
                    _pencil(draw, path, closed, rng, nrng, side, width, tone)
    if hatch is not None:
        _scribble(image, hatch, rng, side, width, tone)
    small: np.ndarray = np.asarray(image.reduce(2), dtype=np.float32)
    small = small + 3.0 * _crop_noise(2, rng, size) * (small > 120)
    tint = np.array([1.0, rng.uniform(0.985, 1.0), rng.uniform(0.95, 1.0)], dtype=np.float32)
    return Image.fromarray(np.clip(small[..., None] * tint, 0, 255).astype(np.uint8))


def _inside(points: Points, polygon: Points) -> np.ndarray:
    """Which points [N, 2] lie in a polygon (crossings of a ray), as booleans [N]."""
    x, y = points[:, :1], points[:, 1:]
    (ax, ay), (bx, by) = polygon.T, np.roll(polygon, -1, axis=0).T
    rise = np.where(by == ay, 1e-9, by - ay)
    crossed = ((ay > y) != (by > y)) & (x < ax + (y - ay) * (bx - ax) / rise)
    return crossed.sum(axis=1) % 2 == 1


def _union_outlines(paths: list[Points], step: float) -> list[Points]:
    """The pieces of polygon outlines that lie outside all the other polygons."""
    pieces = []
    for i, path in enumerate(paths):
        points = _even(path, step, closed=True)
        hidden = np.zeros(len(points), dtype=bool)
        for other in paths[:i] + paths[i + 1 :]:
            hidden |= _inside(points, other)
        if hidden.any():  # begin behind another polygon, so that no visible piece is cut in two
            first = int(np.argmax(hidden))
            points, hidden = np.roll(points[:-1], -first, axis=0), np.roll(hidden[:-1], -first)
        cuts = np.flatnonzero(np.diff(hidden)) + 1
        spans = zip(np.split(points, cuts), np.split(hidden, cuts), strict=True)
        pieces += [span for span, covered in spans if not covered[0] and len(span) > 2]
    return pieces


def _scribble(image: Image.Image, mask: Image.Image, rng: Random, side: int, width: int, tone: int) -> None:
    """Hatch the masked area with slanted lines."""
    layer = Image.new("L", (side, side))
    draw, step, lean = ImageDraw.Draw(layer), side * rng.uniform(0.028, 0.04), rng.uniform(0.5, 1.2)
    for i in range(int(side * (1 + lean) / step) + 1):
        x = i * step + rng.uniform(-0.2, 0.2) * step
        draw.line([(x, 0), (x - lean * side, side)], fill=255, width=max(1, width // 2))
    image.paste(min(150, tone + 30), (0, 0), ImageChops.multiply(layer, mask))


def _painting(parts: Parts, palette: Palette, rng: Random, nrng: Generator, size: int, dataset: str) -> Image.Image:
    side = 2 * size
    muted = [mix(colour, _CLAY, rng.uniform(0.1, 0.35)) for colour in palette]
    mask = _mask(parts, size)
    base = np.asarray(_albedo(parts, muted, size), dtype=np.float32)
    tones = [mix(_backdrop(muted[MAIN], rng, (0.15, 0.6), (0.15, 0.95)), _CLAY, 0.12) for _ in range(2)]
    tones[1] = mix(tones[0], tones[1], 0.5)  # the middle of a wide gradient could hide the object
    ground = Image.new("RGB", (side, side), tones[0])
    angle, bend = rng.uniform(0, math.pi), rng.uniform(-1.5, 1.5)
    if dataset != "Patterns":
        rows = np.linspace(0, 1, 10)[:, None] * (np.array(tones[1]) - np.array(tones[0])) + np.array(tones[0])
        x, y = nrng.integers(0, side, (2, 90))
        scenery = rows[np.minimum(9, y * 10 // side)]
        _brush(ground, nrng, x, y, scenery, angle, bend, side * 0.1, side * 0.2, 10)
    object_layer = Image.fromarray(base.astype(np.uint8)).resize((side, side))
    x, y = nrng.integers(0, side, (2, 170))
    light_x, light_y = rng.uniform(-0.25, 0.25), rng.uniform(-0.35, -0.2)
    lit = base[y // 2, x // 2] * (1 + light_x * (x / side - 0.5) * 2 + light_y * (y / side - 0.5) * 2)[:, None]
    angle += rng.uniform(0.4, 1.2)
    _brush(object_layer, nrng, x, y, lit, angle, bend, side * 0.032, side * 0.085, 16)
    edge = mask.resize((side, side), Image.Resampling.BILINEAR).filter(ImageFilter.GaussianBlur(side / 120))
    halo = mask.filter(ImageFilter.GaussianBlur(size / 32)).point(lambda level: level * 2 // 5).resize((side, side))
    ground.paste((25, 20, 30) if luminance(muted[MAIN]) > luminance(tones[0]) - 20 else (250, 240, 220), (0, 0), halo)
    ground.paste(object_layer, (0, 0), edge)
    small = ground.reduce(2)
    picture = np.asarray(small, dtype=np.float32)
    grey = np.asarray(small.convert("L"), dtype=np.float32)
    relief = np.clip(grey - np.roll(grey, 1, (0, 1)), -30, 30)  # thick paint catches the light
    weave = 5 * _weave(size) + 5 * _crop_noise(2, rng, size)
    return Image.fromarray(np.clip(picture + (0.5 * relief + weave)[..., None], 0, 255).astype(np.uint8))


@functools.lru_cache(maxsize=8)
def _weave(size: int) -> np.ndarray:
    t = np.arange(size) * 2 * np.pi / 3.3
    return (np.sin(t)[:, None] * np.sin(t)[None, :]).astype(np.float32)


def _brush(
    image: Image.Image,
    nrng: Generator,
    x: np.ndarray,
    y: np.ndarray,
    tones: np.ndarray,
    angle: float,
    bend: float,
    width: float,
    length: float,
    jitter: float,
) -> None:
    """Short thick strokes along a bending flow, about the pixels `x`, `y` [N] in about the colours `tones` [N, 3]."""
    n, draw = len(x), ImageDraw.Draw(image)
    tones = tones + nrng.normal(0, jitter, (n, 1)) + nrng.normal(0, jitter / 3, (n, 3))
    flow = angle + bend * (x + y) / (2 * image.width) + nrng.normal(0, 0.25, n)
    half = length * nrng.uniform(0.35, 0.65, n)
    u, v = half * np.cos(flow), half * np.sin(flow)
    ends = np.stack([x - u, y - v, x + u, y + v], axis=1).tolist()
    widths = np.maximum(2, width * nrng.uniform(0.6, 1.3, n)).astype(int).tolist()
    for tone, end, w in zip(np.clip(tones, 0, 255).astype(int).tolist(), ends, widths, strict=True):
        draw.line(end, fill=tuple(tone), width=w)


def _cartoon(parts: Parts, palette: Palette, rng: Random, nrng: Generator, size: int, dataset: str) -> Image.Image:
    side = 2 * size
    bright = [_vivid(colour) for colour in palette[:2]] + [palette[DARK], (255, 255, 255)]
    back = _vivid(_backdrop(bright[MAIN], rng, (0.2, 0.8), (0.75, 1.0)), 0.45)
    image = Image.new("RGB", (side, side), back)
    draw = ImageDraw.Draw(image)
    tone, kind = mix(back, rng.choice([(255, 255, 255), (30, 30, 60)]), rng.uniform(0.2, 0.4)), rng.random()
    if kind < 0.25:
        y = rng.uniform(0.5, 0.8) * side
        draw.rectangle((0, y, side, side), fill=tone)
    elif kind < 0.45:
        x = rng.uniform(0.2, 0.8) * side
        draw.polygon([(x, 0), (side, 0), (side, side), (side - x, side)], fill=tone)
    elif kind < 0.6:
        d = side * rng.uniform(0.4, 0.48)
        draw.ellipse((side / 2 - d, side / 2 - d, side / 2 + d, side / 2 + d), fill=tone)
    rim = side * rng.uniform(0.014, 0.024)
    ink = hsv(rng.random(), 0.5, rng.uniform(0, 0.12))
    for part in parts:
        _draw(draw, part, bright[part.role], ink, rim if not 0 < part.width < side * 0.03 else rim / 2)
    return image.reduce(2)


def _vivid(colour: Colour, floor: float = 0.7) -> Colour:
    h, s, v = colorsys.rgb_to_hsv(*(channel / 255 for channel in colour))
    return hsv(h, max(floor, s), max(0.8, v))


STYLES = {"photo": _photo, "sketch": _sketch, "painting": _painting, "cartoon": _cartoon}
