"""Product photos: goods in their colours and pattern, lit, on a supplier's background, with its trimmings."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import skia
from matplotlib import get_data_path

from .offers import Style, Supplier
from .patterns import DRAWERS, Cloth, argb, fill, line, luminance, mix
from .seeds import digest, stream
from .shapes import LYING, Part, parts
from .words import COLOURS

# Part of every file name: raise it when the drawings change, so that old files are not taken for new ones.
DRAWING = 5
SUFFIX = {"gif": "gif", "rgba_png": "png", "huge": "png"}
WOODS = (0xB98450, 0x8E5F3A, 0xD3A873, 0x6E4A33)
# Pixels a unit of the small picture in which shadows are blurred.
SHADOW_SCALE = 1.5
WHITE, INK = 0xFFFFFF, 0x24242A


@dataclass(frozen=True)
class Photo:
    """All that a photo file depends on. `kind` is `jpeg` or a key of BROKEN, `host` whoever keeps a copy."""

    style: Style
    colour: str
    supplier: Supplier
    take: str
    kind: str = "jpeg"
    host: str = ""

    @property
    def uri(self) -> str:
        """Where the file lies below the image root."""
        name = digest(DRAWING, self)[:20]
        return f"images/{name[:2]}/{name}.{SUFFIX.get(self.kind, 'jpg')}"


def draw(photo: Photo) -> np.ndarray:
    """The picture as uint8 RGB of shape (height, width, 3), sides between 300 and 800."""
    by = photo.supplier
    width, height = min(800, round(by.size * max(1.0, by.aspect))), min(800, round(by.size / min(1.0, by.aspect)))
    rng = stream(DRAWING, replace(photo, kind="jpeg", host=""))
    surface = skia.Surface(width, height)
    canvas = surface.getCanvas()
    scale = min(width, height) / 100
    canvas.scale(scale, scale)
    scene = _Scene(canvas, width / scale, height / scale, photo, rng)
    scene.background()
    scene.goods()
    scene.trimmings()
    return np.ascontiguousarray(surface.toarray(colorType=skia.kRGBA_8888_ColorType)[:, :, :3])


@cache
def typeface() -> skia.Typeface:
    """The font that comes with matplotlib: machines without any font draw the same letters."""
    font = Path(get_data_path(), "fonts", "ttf", "DejaVuSans-Bold.ttf")
    return skia.FontMgr.New_Custom_Empty().makeFromFile(str(font), 0)


def _gradient(start: tuple[float, float], end: tuple[float, float], *stops: int) -> skia.Paint:
    shader = skia.GradientShader.MakeLinear([skia.Point(*start), skia.Point(*end)], list(stops))
    return skia.Paint(AntiAlias=True, Shader=shader)


def _glow(x: float, y: float, radius: float, *stops: int) -> skia.Paint:
    return skia.Paint(AntiAlias=True, Shader=skia.GradientShader.MakeRadial(skia.Point(x, y), radius, list(stops)))


def _blurred(rgb: int, alpha: float, sigma: float) -> skia.Paint:
    paint = fill(rgb, alpha)
    paint.setMaskFilter(skia.MaskFilter.MakeBlur(skia.kNormal_BlurStyle, sigma))
    return paint


def _readable(ink: int, ground: int) -> int:
    """`ink`, or white or dark where it would hardly be seen on `ground`."""
    distance = sum(abs((ink >> shift & 255) - (ground >> shift & 255)) for shift in (16, 8, 0))
    return ink if distance > 130 else (WHITE if luminance(ground) < 0.62 else mix(INK, ground, 0.25))


def _light(part: Part) -> list[skia.Paint]:
    """The shading that makes a flat outline look like a body, for its bounding box."""
    b = part.path.computeTightBounds()
    left, right, top, bottom = b.left(), b.right(), b.top(), b.bottom()
    x, y, size = (left + right) / 2, (top + bottom) / 2, max(right - left, bottom - top, 1.0)
    dark, none, white = (lambda a: argb(0x10101C, a)), argb(WHITE, 0), (lambda a: argb(WHITE, a))
    across = ((left, y), (right, y))
    match part.light:
        case "round":
            return [_gradient(*across, dark(0.34), dark(0.05), white(0.3), none, dark(0.1), dark(0.4))]
        case "ball":
            return [_glow(x - size * 0.16, y - size * 0.2, size * 0.75, white(0.34), none, dark(0.16), dark(0.42))]
        case "bowl":
            return [_glow(x, y, size * 0.55, white(0.18), white(0.08), dark(0.02), dark(0.2))]
        case "glow":
            return [_glow(x, y + size * 0.2, size * 0.7, argb(0xFFF0C0, 0.75), argb(0xFFE0A0, 0.25), dark(0.18))]
        case "fold":
            folds = [dark(0.2), none, dark(0.06), white(0.12), none, dark(0.1), white(0.06), dark(0.22)]
            return [_gradient(*across, *folds), _gradient((x, top), (x, bottom), white(0.08), dark(0.12))]
    return [_gradient((left, top), (right, bottom), white(0.2), none, dark(0.22))]


class _Scene:
    """One photo while it is drawn; units are hundredths of the picture's short side."""

    def __init__(
        self, canvas: skia.Canvas, width: float, height: float, photo: Photo, rng: np.random.Generator
    ) -> None:
        self.canvas, self.width, self.height, self.photo, self.rng = canvas, width, height, photo, rng
        self.lying = photo.style.kind in LYING
        main = COLOURS[photo.colour]
        second = _readable(COLOURS[photo.style.second], main)
        wood = WOODS[photo.style.shape_seed % len(WOODS)]
        self.stuffs = {
            "main": main,
            "second": second,
            "metal": 0xBCC1C9,
            "gold": 0xCBA550,
            "wood": wood,
            "dark": 0x303036,
            "light": 0xF6F2EA,
            "rubber": 0xB78B5E,
            "inside": mix(main, INK, 0.45),
            "rim": second,
            "seam": mix(main, INK if luminance(main) > 0.25 else WHITE, 0.3),
            "on_main": _readable(main, main),
            "on_second": _readable(second, second),
            "alarm": 0xD2402F,
            "twig": 0x8C7B57,
            "bloom": mix(second, 0xE8C9A0, 0.35),
        }

    # Background

    def background(self) -> None:
        by = self.photo.supplier
        tint = mix(by.tint, WHITE, 0.72)
        self.canvas.clear(argb(WHITE))
        {
            "white": lambda: None,
            "grey": lambda: self._wall(0xF2F2F3, 0xC9CBCF),
            "gradient": lambda: self._wall(mix(tint, WHITE, 0.6), mix(by.tint, 0xD0D0D0, 0.55)),
            "tint": lambda: self._sweep(tint),
            "table": self._table,
            "room": lambda: self._room(tint),
            "marble": self._marble,
        }[by.background]()

    def _all(self, paint: skia.Paint, top: float = 0.0) -> None:
        self.canvas.drawRect(skia.Rect.MakeLTRB(0, top, self.width, self.height), paint)

    def _wall(self, centre: int, edge: int) -> None:
        self._all(_glow(self.width / 2, self.height * 0.45, self.width * 0.75, argb(centre), argb(edge)))

    def _sweep(self, tint: int) -> None:
        """A paper roll: the wall turns into the table without an edge."""
        stops = (mix(tint, WHITE, 0.1), tint, mix(tint, INK, 0.1), mix(tint, WHITE, 0.25), tint)
        self._all(_gradient((0, 0), (0, self.height), *map(argb, stops)))

    def _planks(self, top: float, wood: int, count: int) -> None:
        step = (self.height - top) / count
        for number in range(count):
            y = top + number * step
            tone = mix(wood, WHITE if number % 2 else INK, self.rng.uniform(0, 0.13))
            self.canvas.drawRect(skia.Rect.MakeXYWH(0, y, self.width, step), fill(tone))
            for grain in self.rng.uniform(0.1, 0.9, 5):
                path = skia.Path()
                path.moveTo(0, y + grain * step)
                bends = self.rng.uniform(-0.12, 0.12, 2) * step
                path.cubicTo(
                    self.width * 0.3, y + grain * step + bends[0], self.width * 0.7,
                    y + grain * step + bends[1], self.width, y + grain * step,
                )  # fmt: skip
                self.canvas.drawPath(path, line(mix(tone, INK, 0.35), 0.35, 0.5))
            self.canvas.drawLine(0, y, self.width, y, line(mix(wood, INK, 0.6), 0.5, 0.7))

    def _table(self) -> None:
        wood = WOODS[self.photo.supplier.tint % len(WOODS)]
        top = 0.0 if self.lying else self.height * 0.64
        if top:
            wall = mix(self.photo.supplier.tint, 0xE9E4DC, 0.8)
            self._all(_gradient((0, 0), (0, top), argb(mix(wall, WHITE, 0.4)), argb(mix(wall, INK, 0.08))))
        self._planks(top, wood, 6 if self.lying else 3)
        self._all(_gradient((0, top), (0, self.height), argb(INK, 0.18), argb(WHITE, 0.06), argb(INK, 0.1)), top)

    def _room(self, tint: int) -> None:
        floor = self.height * 0.74
        self._all(_gradient((0, 0), (self.width, floor), argb(mix(tint, WHITE, 0.35)), argb(mix(tint, INK, 0.12))))
        side = 1 if self.photo.supplier.tint % 2 else 0
        x = self.width * (0.72 if side else 0.06)
        pane = skia.Rect.MakeXYWH(x, 6, 22, 26)
        self.canvas.drawRect(pane, _blurred(INK, 0.25, 1.2))
        self.canvas.drawRect(pane, fill(0xFBFAF6))
        art = skia.Rect.MakeXYWH(x + 3, 9, 16, 20)
        self.canvas.drawRect(art, _gradient((x, 9), (x, 29), argb(mix(tint, 0x5080A0, 0.5)), argb(0xF2D8B0)))
        self.canvas.drawCircle(x + 11, 22, 4.2, fill(mix(self.photo.supplier.tint, WHITE, 0.2)))
        self._planks(floor, WOODS[(self.photo.supplier.tint >> 3) % len(WOODS)], 3)
        self.canvas.drawRect(skia.Rect.MakeXYWH(0, floor - 3, self.width, 3), fill(0xFAF8F4))
        self._all(_glow(self.width * (0.2 if side else 0.8), 10, 110, argb(0xFFF6DD, 0.4), argb(INK, 0.12)))

    def _marble(self) -> None:
        self._all(_gradient((0, 0), (self.width, self.height), argb(0xF7F6F4), argb(0xE6E4E2)))
        for _ in range(7):
            start, bend, end = (self.rng.uniform((-10, -10), (self.width + 10, self.height + 10)) for _ in range(3))
            path = skia.Path()
            path.moveTo(*start)
            path.quadTo(*bend, *end)
            vein = line(0xA8A9B0, self.rng.uniform(0.2, 0.9), 0.3)
            vein.setMaskFilter(skia.MaskFilter.MakeBlur(skia.kNormal_BlurStyle, 0.5))
            self.canvas.drawPath(path, vein)

    # Goods

    def goods(self) -> None:
        by, rng = self.photo.supplier, self.rng
        size = rng.uniform(0.8, 0.98) * (1.28 if rng.random() < 0.06 else 1.0)
        tilt = rng.normal(0, by.tilt) if self.lying else rng.normal(0, by.tilt / 5)
        if self.photo.style.kind == "knife":
            tilt, size = tilt - 35, size * 1.12
        x = self.width / 2 + rng.normal(0, 2.0)
        y = self.height / 2 if self.lying else max(self.height * 0.5, self.height * 0.9 - size * 44)
        mirrored = rng.random() < 0.35 and self.photo.style.kind not in ("clock", "watch")
        pose = skia.Matrix()
        pose.preTranslate(x, y)
        pose.preRotate(tilt)
        pose.preScale(-size if mirrored else size, size)
        pose.preTranslate(-50, -50)
        self._lit_goods(pose)

    def _lit_goods(self, pose: skia.Matrix) -> None:
        style = self.photo.style
        surfaces = parts(style.kind, style.form, style.shape_seed)
        self._cast_shadow(surfaces, pose)
        self.canvas.save()
        self.canvas.concat(pose)
        if not self.lying:
            self._ground_shadow(surfaces)
        for part in surfaces:
            self._part(part)
        self.canvas.restore()

    def _cast_shadow(self, surfaces: list[Part], pose: skia.Matrix) -> None:
        """The silhouette, blurred at a quarter of the resolution: a tenth of the time and nobody sees it."""
        surface = skia.Surface(round(self.width * SHADOW_SCALE), round(self.height * SHADOW_SCALE))
        small = surface.getCanvas()
        x, y, sigma, alpha = (1.6, 2.2, 2.0, 0.42) if self.lying else (2.5, 0.8, 2.8, 0.26)
        small.scale(SHADOW_SCALE, SHADOW_SCALE)
        small.translate(x, y)
        small.concat(pose)
        for part in surfaces:
            small.drawPath(part.path, line(0x101020, part.width) if part.width else fill(0x101020))
        blur = skia.ImageFilters.Blur(sigma * SHADOW_SCALE, sigma * SHADOW_SCALE)
        soft = skia.Surface(surface.width(), surface.height())
        soft.getCanvas().drawImage(
            surface.makeImageSnapshot(), 0, 0, skia.SamplingOptions(), skia.Paint(ImageFilter=blur)
        )
        self.canvas.drawImageRect(
            soft.makeImageSnapshot(),
            skia.Rect.MakeWH(self.width, self.height),
            skia.SamplingOptions(skia.FilterMode.kLinear),
            skia.Paint(Alphaf=alpha),
        )

    def _ground_shadow(self, surfaces: list[Part]) -> None:
        bounds = [part.path.computeTightBounds() for part in surfaces]
        low = max(b.bottom() for b in bounds)
        near = [b for b in bounds if b.bottom() > low - 12]
        left, right = min(b.left() for b in near), max(b.right() for b in near)
        wide = skia.Rect.MakeLTRB(left - 3, low - 4, right + 8, low + 3.5)
        self.canvas.drawOval(wide, _blurred(0x101020, 0.34, 3.2))
        self.canvas.drawOval(skia.Rect.MakeLTRB(left + 1, low - 2.2, right, low + 1.2), _blurred(0x101020, 0.5, 1.1))

    def _part(self, part: Part) -> None:
        colour = self.stuffs[part.stuff]
        if part.width:
            self._rod(part, colour)
            return
        self.canvas.save()
        self.canvas.clipPath(part.path, doAntiAlias=True)
        self.canvas.drawPaint(fill(colour))
        if part.patterned:
            self._pattern()
        if part.stuff in ("metal", "gold"):
            self._sheen(part)
        for light in _light(part):
            self.canvas.drawPaint(light)
        edge = line(0x101020, 2.2, 0.28)
        edge.setMaskFilter(skia.MaskFilter.MakeBlur(skia.kNormal_BlurStyle, 1.0))
        self.canvas.drawPath(part.path, edge)
        self.canvas.restore()

    def _rod(self, part: Part, colour: int) -> None:
        self.canvas.drawPath(part.path, line(mix(colour, INK, 0.3), part.width))
        self.canvas.drawPath(part.path, line(colour, part.width * 0.72))
        if part.width > 2:
            self.canvas.save()
            self.canvas.translate(-part.width * 0.13, -part.width * 0.13)
            self.canvas.drawPath(part.path, line(WHITE, part.width * 0.2, 0.28))
            self.canvas.restore()

    def _pattern(self) -> None:
        style = self.photo.style
        rng = stream("pattern", style.shape_seed)
        pitch = (7.0, 10.0, 14.0)[style.shape_seed % 3]
        ink, ground = self.stuffs["second"], self.stuffs["main"]
        DRAWERS[style.pattern](Cloth(self.canvas, ink, mix(ink, ground, 0.5), pitch, rng))

    def _sheen(self, part: Part) -> None:
        b = part.path.computeTightBounds()
        stops = [argb(WHITE, 0.55), argb(INK, 0.25), argb(WHITE, 0.45), argb(INK, 0.1), argb(WHITE, 0.4)]
        self.canvas.drawPaint(_gradient((b.left(), b.top()), (b.right(), b.bottom()), *stops))

    # Trimmings

    def trimmings(self) -> None:
        by, rng = self.photo.supplier, self.rng
        if by.warmth:
            self._all(fill(0xFF9A3C if by.warmth > 0 else 0x3C7DFF, min(0.12, abs(by.warmth) * 0.07)))
        if by.watermark:
            self._watermark(by.watermark)
        if rng.random() < by.badge:
            self._badge(str(rng.choice(["SALE", "-20%", "NEW", "-35%", "TOP"])))
        if by.border:
            frame = line(mix(by.tint, INK, 0.1), 3.0)
            self.canvas.drawRect(skia.Rect.MakeLTRB(1.2, 1.2, self.width - 1.2, self.height - 1.2), frame)

    def _watermark(self, text: str) -> None:
        font = skia.Font(typeface(), 8.5)
        self.canvas.save()
        self.canvas.translate(self.width / 2, self.height / 2)
        self.canvas.rotate(-28)
        half = font.measureText(text) / 2
        self.canvas.drawString(text, -half + 0.3, 3.3, font, fill(INK, 0.10))
        self.canvas.drawString(text, -half, 3.0, font, fill(WHITE, 0.38))
        self.canvas.restore()

    def _badge(self, text: str) -> None:
        left = self.photo.supplier.tint % 2 == 0
        x, y = (15.0 if left else self.width - 15.0), 15.0
        self.canvas.drawCircle(x + 0.5, y + 0.8, 11, _blurred(INK, 0.35, 1.0))
        self.canvas.drawCircle(x, y, 11, _gradient((x, 4), (x, 26), argb(0xE8433A), argb(0xB81F24)))
        font = skia.Font(typeface(), 6.2)
        self.canvas.drawString(text, x - font.measureText(text) / 2, y + 2.2, font, fill(WHITE))
