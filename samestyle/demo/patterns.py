"""Surface patterns, drawn over a box of 100 x 100 units that the caller has clipped to the goods."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import skia


def argb(rgb: int, alpha: float = 1.0) -> int:
    """A skia colour from 0xRRGGBB and an opacity in [0, 1]."""
    return skia.Color(rgb >> 16, rgb >> 8 & 255, rgb & 255, round(255 * alpha))


def mix(one: int, other: int, share: float) -> int:
    """`one` moved towards `other` by `share`, channel by channel."""
    parts = ((one >> shift & 255, other >> shift & 255) for shift in (16, 8, 0))
    red, green, blue = (round(a + (b - a) * share) for a, b in parts)
    return red << 16 | green << 8 | blue


def luminance(rgb: int) -> float:
    """Brightness as seen, 0 black to 1 white."""
    return (0.3 * (rgb >> 16) + 0.59 * (rgb >> 8 & 255) + 0.11 * (rgb & 255)) / 255


def fill(rgb: int, alpha: float = 1.0) -> skia.Paint:
    return skia.Paint(AntiAlias=True, Color=argb(rgb, alpha))


def line(rgb: int, width: float, alpha: float = 1.0) -> skia.Paint:
    return skia.Paint(
        AntiAlias=True,
        Color=argb(rgb, alpha),
        Style=skia.Paint.kStroke_Style,
        StrokeWidth=width,
        StrokeCap=skia.Paint.kRound_Cap,
        StrokeJoin=skia.Paint.kRound_Join,
    )


@dataclass(frozen=True)
class Cloth:
    """What a pattern is printed with: a canvas, two inks, a pitch in units and the style's own random numbers."""

    canvas: skia.Canvas
    ink: int
    second: int
    pitch: float
    rng: np.random.Generator


def _plain(cloth: Cloth) -> None:
    pass


def _two_tone(cloth: Cloth) -> None:
    level = cloth.rng.uniform(48, 66)
    path = skia.Path()
    path.moveTo(-10, level)
    path.quadTo(50, level + cloth.rng.uniform(-10, 10), 110, level)
    path.lineTo(110, 110)
    path.lineTo(-10, 110)
    cloth.canvas.drawPath(path, fill(cloth.ink))


def _stripes(cloth: Cloth) -> None:
    share = cloth.rng.uniform(0.25, 0.6)
    for y in np.arange(-10, 110, cloth.pitch):
        cloth.canvas.drawRect(skia.Rect.MakeXYWH(-10, y, 120, cloth.pitch * share), fill(cloth.ink))


def _bars(cloth: Cloth) -> None:
    share = cloth.rng.uniform(0.2, 0.55)
    for x in np.arange(-10, 110, cloth.pitch):
        cloth.canvas.drawRect(skia.Rect.MakeXYWH(x, -10, cloth.pitch * share, 120), fill(cloth.ink))


def _grid(pitch: float) -> list[tuple[float, float]]:
    rows = enumerate(np.arange(-10, 112, pitch * 0.86))
    return [(x + (row % 2) * pitch / 2, y) for row, y in rows for x in np.arange(-10, 112, pitch)]


def _dots(cloth: Cloth) -> None:
    radius = cloth.pitch * cloth.rng.uniform(0.2, 0.34)
    for x, y in _grid(cloth.pitch):
        cloth.canvas.drawCircle(x, y, radius, fill(cloth.ink))


def _checks(cloth: Cloth) -> None:
    width = cloth.pitch * 0.5
    for at in np.arange(-10, 110, cloth.pitch):
        cloth.canvas.drawRect(skia.Rect.MakeXYWH(-10, at, 120, width), fill(cloth.ink, 0.55))
        cloth.canvas.drawRect(skia.Rect.MakeXYWH(at, -10, width, 120), fill(cloth.ink, 0.55))
        cloth.canvas.drawLine(-10, at + width * 1.5, 110, at + width * 1.5, line(cloth.second, 0.8, 0.8))


def _flower(cloth: Cloth, x: float, y: float, size: float) -> None:
    petals = int(cloth.rng.integers(5, 8))
    turn = cloth.rng.uniform(0, 6.3)
    for angle in turn + np.arange(petals) * 2 * np.pi / petals:
        cloth.canvas.drawCircle(x + np.cos(angle) * size, y + np.sin(angle) * size, size * 0.72, fill(cloth.ink))
    cloth.canvas.drawCircle(x, y, size * 0.6, fill(cloth.second))


def _floral(cloth: Cloth) -> None:
    for x, y in _grid(cloth.pitch * 1.5):
        shift = cloth.rng.uniform(-0.25, 0.25, 2) * cloth.pitch
        _leaf(
            cloth, x + cloth.pitch * 0.6, y + cloth.pitch * 0.4, cloth.pitch * 0.5, cloth.rng.uniform(0, 360), 0x5E8C61
        )
        _flower(cloth, x + shift[0], y + shift[1], cloth.pitch * cloth.rng.uniform(0.2, 0.34))


def _leaf(cloth: Cloth, x: float, y: float, size: float, turn: float, ink: int) -> None:
    path = skia.Path()
    path.moveTo(0, -size)
    path.quadTo(size * 0.7, -size * 0.1, 0, size)
    path.quadTo(-size * 0.7, -size * 0.1, 0, -size)
    cloth.canvas.save()
    cloth.canvas.translate(x, y)
    cloth.canvas.rotate(turn)
    cloth.canvas.drawPath(path, fill(ink))
    cloth.canvas.drawLine(0, -size * 0.8, 0, size, line(cloth.second, 0.5, 0.6))
    cloth.canvas.restore()


def _leaves(cloth: Cloth) -> None:
    for x, y in _grid(cloth.pitch * 1.2):
        _leaf(cloth, x, y, cloth.pitch * 0.62, cloth.rng.uniform(-60, 60), cloth.ink)


def _curve(cloth: Cloth, height: float, sharp: bool) -> None:
    step = cloth.pitch * 0.6
    for y in np.arange(-10, 120, cloth.pitch):
        path = skia.Path()
        path.moveTo(-10, y)
        for number, x in enumerate(np.arange(-10, 112, step)):
            peak = y + (height if number % 2 else -height)
            if sharp:
                path.lineTo(x + step, peak)
            else:
                path.quadTo(x + step / 2, peak, x + step, y)
        cloth.canvas.drawPath(path, line(cloth.ink, cloth.pitch * 0.3))


def _waves(cloth: Cloth) -> None:
    _curve(cloth, cloth.pitch * cloth.rng.uniform(0.4, 0.8), sharp=False)


def _zigzag(cloth: Cloth) -> None:
    _curve(cloth, cloth.pitch * cloth.rng.uniform(0.2, 0.35), sharp=True)


def _speckle(cloth: Cloth) -> None:
    inks = (cloth.ink, cloth.second, mix(cloth.ink, 0x806040, 0.5))
    for x, y, size in cloth.rng.uniform((-5, -5, 0.5), (105, 105, cloth.pitch * 0.22), (170, 3)):
        ink = inks[int(cloth.rng.integers(3))]
        cloth.canvas.drawOval(skia.Rect.MakeXYWH(x, y, size * cloth.rng.uniform(0.8, 2), size), fill(ink))


def _ombre(cloth: Cloth) -> None:
    shader = skia.GradientShader.MakeLinear(
        [skia.Point(0, 15), skia.Point(0, 90)], [argb(cloth.ink, 0.0), argb(cloth.ink, 1.0)]
    )
    cloth.canvas.drawRect(skia.Rect.MakeXYWH(-10, -10, 120, 120), skia.Paint(Shader=shader))


def _centred(cloth: Cloth, path: skia.Path, rings: bool = False) -> None:
    size = cloth.rng.uniform(0.75, 1.15)
    cloth.canvas.save()
    cloth.canvas.translate(50, 54)
    cloth.canvas.scale(size, size)
    if rings:
        cloth.canvas.drawCircle(0, 0, 21, line(cloth.second, 1.5))
    cloth.canvas.drawPath(path, fill(cloth.ink))
    cloth.canvas.restore()


def _star(cloth: Cloth) -> None:
    path = skia.Path()
    points = int(cloth.rng.integers(5, 9))
    inner = cloth.rng.uniform(0.4, 0.6)
    for number in range(points * 2):
        radius = 17 * (inner if number % 2 else 1)
        angle = np.pi * number / points - np.pi / 2
        (path.lineTo if number else path.moveTo)(radius * np.cos(angle), radius * np.sin(angle))
    path.close()
    _centred(cloth, path, rings=bool(cloth.rng.random() < 0.5))


def _heart(cloth: Cloth) -> None:
    path = skia.Path()
    path.moveTo(0, 16)
    path.cubicTo(-30, -4, -14, -24, 0, -9)
    path.cubicTo(14, -24, 30, -4, 0, 16)
    _centred(cloth, path)


def _mountain(cloth: Cloth) -> None:
    for layer, ink in enumerate((mix(cloth.ink, 0xFFFFFF, 0.4), cloth.ink)):
        path = skia.Path()
        path.moveTo(-10, 110)
        for x in range(-10, 125, 15):
            path.lineTo(x, 52 + 13 * layer + cloth.rng.uniform(-13, 13))
        path.lineTo(125, 110)
        cloth.canvas.drawPath(path, fill(ink))


def _sun(cloth: Cloth) -> None:
    radius = cloth.rng.uniform(11, 17)
    for angle in np.arange(0, 2 * np.pi, np.pi / 8):
        towards = np.array([np.cos(angle), np.sin(angle)])
        start, end = 50 + towards * radius * 1.25, 50 + towards * radius * 1.7
        cloth.canvas.drawLine(start[0], start[1] + 4, end[0], end[1] + 4, line(cloth.ink, 2.4))
    cloth.canvas.drawCircle(50, 54, radius, fill(cloth.ink))


DRAWERS: dict[str, Callable[[Cloth], None]] = {
    "plain": _plain,
    "two-tone": _two_tone,
    "stripes": _stripes,
    "bars": _bars,
    "dots": _dots,
    "checks": _checks,
    "floral": _floral,
    "waves": _waves,
    "zigzag": _zigzag,
    "speckle": _speckle,
    "ombre": _ombre,
    "leaves": _leaves,
    "star": _star,
    "heart": _heart,
    "mountain": _mountain,
    "sun": _sun,
}
