"""The outlines of the goods, in a box of 100 x 100 units with the ground at y = 94, one function a kind."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import skia

from .seeds import stream

Profile = list[tuple[float, float]]


@dataclass(frozen=True)
class Part:
    """One surface: its outline, what it is made of, how light falls on it, and whether the pattern goes on it.

    `stuff` is main, second, metal, wood, dark, light or rubber; `light` is round, ball or flat; `width` > 0
    makes the outline a rod of that thickness.
    """

    path: skia.Path
    stuff: str = "main"
    light: str = "flat"
    patterned: bool = False
    width: float = 0.0


class Mould:
    """Draws a style's measures: mostly those of the form that it shares with others, a little its own."""

    def __init__(self, kind: str, form: int, shape_seed: int) -> None:
        self._shared = stream("form", kind, form)
        self._own = stream("shape", shape_seed)

    def between(self, low: float, high: float) -> float:
        value = self._shared.uniform(low, high) + self._own.normal(0, 0.09) * (high - low)
        return float(np.clip(value, low, high))

    def chance(self, share: float) -> bool:
        return bool(self._shared.random() < share)

    def pick(self, *options: str) -> str:
        return str(self._shared.choice(options))


def outline(text: str) -> skia.Path:
    """A path from SVG path data with absolute M, L, C, Q and Z, split by blanks."""
    path = skia.Path()
    draw = {"M": (path.moveTo, 2), "L": (path.lineTo, 2), "Q": (path.quadTo, 4), "C": (path.cubicTo, 6)}
    words = text.split()
    while words:
        letter = words.pop(0)
        if letter == "Z":
            path.close()
            continue
        call, arity = draw[letter]
        call(*(float(words.pop(0)) for _ in range(arity)))
    return path


def oval(x: float, y: float, rx: float, ry: float) -> skia.Path:
    return skia.Path.Oval(skia.Rect.MakeLTRB(x - rx, y - ry, x + rx, y + ry))


def box(left: float, top: float, right: float, bottom: float, corner: float = 0.0) -> skia.Path:
    rounded = skia.RRect.MakeRectXY(skia.Rect.MakeLTRB(left, top, right, bottom), corner, corner)
    return skia.Path.RRect(rounded)


def turned(profile: Profile, x: float = 50.0, foot: float = 0.12) -> skia.Path:
    """A body turned on a lathe, from (y, radius) pairs top to bottom; its foot bulges as seen from above."""
    points = [(profile[0][0] - 1, profile[0][1]), *profile, (profile[-1][0] + 1, profile[-1][1])]
    path = skia.Path()
    path.moveTo(x + profile[0][1], profile[0][0])
    for sign, walk in ((1, points), (-1, points[::-1])):
        if sign < 0:
            bottom, radius = profile[-1]
            path.quadTo(x, bottom + 2 * foot * radius, x - radius, bottom)
        for (y0, r0), (y1, r1), (y2, r2), (y3, r3) in zip(walk, walk[1:], walk[2:], walk[3:], strict=False):
            path.cubicTo(
                x + sign * (r1 + (r2 - r0) / 6), y1 + (y2 - y0) / 6, x + sign * (r2 - (r3 - r1) / 6),
                y2 - (y3 - y1) / 6, x + sign * r2, y2,
            )  # fmt: skip
    path.close()
    return path


def _mug(m: Mould) -> list[Part]:
    top, width, taper = m.between(20, 46), m.between(21, 31), m.between(0.68, 1.04)
    foot, x, lip = width * taper, 44, m.between(4, 6)
    bow, low = m.between(14, 24), m.between(66, 82)
    edge = x + width - 3
    round_handle = f"M {edge} {top + 12} C {edge + bow + 8} {top + 6} {edge + bow + 6} {low + 6} {edge - 3} {low}"
    square_handle = f"M {edge} {top + 12} L {edge + bow} {top + 12} L {edge + bow} {low - 6} L {edge - 3} {low - 2}"
    handle = m.pick(round_handle, round_handle, square_handle)
    belly = m.between(-3, 7)
    body = (
        f"M {x - width} {top} C {x - width - belly} {top + 25} {x - foot - belly} 78 {x - foot} 88"
        f" Q {x} {88 + lip * 2.2} {x + foot} 88"
        f" C {x + foot + belly} 78 {x + width + belly} {top + 25} {x + width} {top} Z"
    )
    return [
        Part(outline(handle), width=m.between(5, 8), light="round"),
        Part(outline(body), light="round", patterned=True),
        Part(oval(x, top, width, lip), "main"),
        Part(oval(x, top + 0.5, width - 2, lip - 1.3), "inside"),
    ]


def _plate(m: Mould) -> list[Part]:
    radius, well, squash = m.between(40, 46), m.between(0.52, 0.72), m.pick("1", "1", "0.62")
    ry = radius * float(squash)
    y = 50 if squash == "1" else 62
    return [
        Part(oval(50, y, radius, ry), "main", patterned=True),
        Part(oval(50, y, radius * 0.965, ry * 0.965), "rim", width=0.8),
        Part(oval(50, y, radius * well, ry * well), "main", light="bowl", patterned=m.chance(0.4)),
        Part(oval(50, y, radius * well, ry * well), "rim", width=1.0),
    ]


def _teapot(m: Mould) -> list[Part]:
    top, belly, foot = m.between(38, 50), m.between(24, 30), m.between(14, 20)
    reach, tip = m.between(14, 20), m.between(34, 48)
    neck = belly * m.between(0.45, 0.65)
    knob = m.between(2.5, 4.5)
    left, right = 50 - belly, 50 + belly
    spout = (
        f"M {right - 6} 78 C {right + 8} 76 {right + 4} {tip + 14} {right + reach} {tip}"
        f" L {right + reach - 6} {tip - 2} C {right - 2} {tip + 8} {right + 2} 56 {right - 8} 58 Z"
    )
    handle = f"M {left + 5} 56 C {left - 22} {top - 4} {left - 20} 88 {left + 6} 80"
    over = f"M {left + 6} 54 C {left + 2} {top - 34} {right - 2} {top - 34} {right - 6} 54"
    return [
        Part(outline(m.pick(handle, handle, over)), m.pick("main", "wood"), width=m.between(4, 6), light="round"),
        Part(outline(spout), light="round"),
        Part(turned([(top, neck), (62, belly), (76, belly * 0.96), (90, foot)]), light="ball", patterned=True),
        Part(
            outline(
                f"M {50 - neck} {top + 1} Q 50 {top - 16} {50 + neck} {top + 1} Q 50 {top + 6} {50 - neck} {top + 1} Z"
            )
        ),
        Part(oval(50, top - 9, knob, knob), m.pick("main", "second", "wood"), light="ball"),
    ]


def _bottle(m: Mould) -> list[Part]:
    width, shoulder, neck = m.between(11, 18), m.between(30, 46), m.between(5, 9)
    waist = m.between(0.9, 1.0)
    cap = m.between(8, 14)
    body = turned([(18, neck), (24, neck), (shoulder, width), (66, width * waist), (91, width * 0.97)])
    cap_path = box(50 - neck - 1.5, 18 - cap, 50 + neck + 1.5, 21, m.between(0.5, 4))
    parts = [
        Part(body, light="round", patterned=True),
        Part(cap_path, m.pick("metal", "dark", "wood", "second"), light="round"),
        Part(box(50 - neck - 0.5, 21, 50 + neck + 0.5, 22.5), "dark", light="round"),
    ]
    loop = outline(f"M {50 - neck} {12} C {50 - neck} {-2} {50 + neck} {-2} {50 + neck} 12")
    return [Part(loop, "dark", width=2.5), *parts] if m.chance(0.35) else parts


def _knife(m: Mould) -> list[Part]:
    length, depth, belly = m.between(44, 58), m.between(8, 15), m.between(0.2, 0.75)
    grip, joint = m.between(6, 9), 40
    tip = 40 + length
    blade = (
        f"M {joint} 44 L {tip - 14 * belly} 44 Q {tip - 4} {45} {tip} {45 + depth * belly}"
        f" C {tip - 12} {44 + depth} {joint + 20} {44 + depth} {joint + 2} {44 + depth} Z"
    )
    edge = f"M {joint + 3} {43 + depth * 0.75} L {tip - 14} {43 + depth * 0.75}"
    curve = m.between(-3, 4)
    handle = (
        f"M {joint + 1} 43 L 8 {42 - curve} Q 2 {43 + grip / 2} 7 {44 + grip + curve}"
        f" Q 22 {44 + grip - curve} {joint + 1} {44 + grip} Z"
    )
    rivets = [Part(oval(at, 43.5 + grip / 2, 1.3, 1.3), "metal") for at in (14, 23, 32)]
    return [
        Part(outline(blade), "metal", light="flat"),
        Part(outline(edge), "light", width=0.5),
        Part(box(joint - 2, 42.5, joint + 3, 45 + grip, 1), "metal"),
        Part(outline(handle), m.pick("main", "main", "wood"), patterned=True),
        *(rivets if m.chance(0.7) else []),
    ]


def _stems(m: Mould, top: float) -> list[Part]:
    parts = []
    for lean in (-16, -7, 2, 11, 20):
        reach = m.between(18, 30)
        x, y = 50 + lean, max(4, top - reach)
        parts += [
            Part(outline(f"M 50 {top + 2} Q {50 + lean / 3} {y + 12} {x} {y}"), "twig", width=0.9),
            Part(oval(x, y, 2.6, 3.8), "bloom", light="ball"),
            Part(oval(x - 3, y + 6, 1.5, 2.4), "bloom", light="ball"),
        ]
    return parts


def _vase(m: Mould) -> list[Part]:
    full = m.chance(0.4)
    top = 38.0 if full else m.between(12, 30)
    neck, belly, foot = m.between(5, 14), m.between(17, 28), m.between(9, 17)
    height = 92 - top
    lip, at = neck + m.between(0, 4), m.between(0.4, 0.72)
    profile = [(top, lip), (top + height * 0.16, neck), (top + height * at, belly), (92, foot)]
    vase = [
        Part(turned(profile), light="round", patterned=True),
        Part(oval(50, top, lip, lip * 0.2), "main"),
        Part(oval(50, top + 0.3, lip * 0.85, lip * 0.14), "inside"),
    ]
    return [*vase[1:], *_stems(m, top), vase[0]] if full else vase


def _clock(m: Mould) -> list[Part]:
    radius, ring = m.between(38, 44), m.between(2.5, 7)
    square = m.chance(0.3)
    corner = m.between(3, 16)

    def plate(r: float) -> skia.Path:
        return box(50 - r, 50 - r, 50 + r, 50 + r, corner) if square else oval(50, 50, r, r)

    inner = radius - ring
    few, face = m.chance(0.4), m.pick("main", "light")
    hand = "on_main" if face == "main" else "dark"
    ticks = []
    for number in range(0, 12, 3 if few else 1):
        angle = number * np.pi / 6
        start, end = inner * (0.82 if number % 3 else 0.76), inner * 0.9
        x, y = np.sin(angle), -np.cos(angle)
        tick = f"M {50 + x * start} {50 + y * start} L {50 + x * end} {50 + y * end}"
        ticks.append(Part(outline(tick), hand, width=1.0 if number % 3 else 2.0))
    return [
        Part(plate(radius), m.pick("main", "wood", "metal", "dark"), light="flat"),
        Part(plate(inner), face, light="bowl", patterned=face == "main"),
        *ticks,
        Part(outline("M 50 50 L 36 40"), hand, width=m.between(2, 3.5)),
        Part(outline("M 50 50 L 70 34"), hand, width=m.between(1.4, 2.6)),
        Part(outline("M 50 54 L 50 24"), "alarm", width=0.8),
        Part(oval(50, 50, 2.2, 2.2), hand),
    ]


def _cushion(m: Mould) -> list[Part]:
    wide, tall, bow = m.between(38, 45), m.between(28, 44), m.between(3, 9)
    left, right, top, bottom = 50 - wide, 50 + wide, 52 - tall, 52 + tall
    body = (
        f"M {left} {top} Q 50 {top + bow} {right} {top} Q {right - bow} 52 {right} {bottom}"
        f" Q 50 {bottom - bow} {left} {bottom} Q {left + bow} 52 {left} {top} Z"
    )
    trim = m.pick("piping", "tassels", "none", "button")
    parts = [Part(outline(body), light="ball", patterned=True)]
    if trim == "piping":
        parts.append(Part(outline(body), "second", width=1.8))
    if trim == "tassels":
        corners = [(left, top), (right, top), (left, bottom), (right, bottom)]
        tassels = [f"M {x} {y} L {x + (x - 50) * 0.11} {y + (y - 52) * 0.12}" for x, y in corners]
        parts = [*(Part(outline(tassel), "second", width=4.5) for tassel in tassels), *parts]
    if trim == "button":
        parts.append(Part(oval(50, 52, 2.6, 2.6), "second", light="ball"))
    return parts


def _lamp(m: Mould) -> list[Part]:
    top, low, narrow, wide = m.between(8, 16), m.between(42, 52), m.between(12, 24), m.between(25, 36)
    belly, foot = m.between(3, 17), m.between(13, 19)
    at = m.between(62, 78)
    base = turned(
        [(low - 2, 2.4), (low + 8, max(2.6, belly * 0.5)), (at, belly), (86, max(4, belly * 0.6)), (91, foot)]
    )
    shade = f"M {50 - narrow} {top} L {50 + narrow} {top} L {50 + wide} {low} Q 50 {low + 5} {50 - wide} {low} Z"
    on_shade = m.chance(0.5)
    return [
        Part(base, "second" if on_shade else "main", light="round", patterned=not on_shade),
        Part(outline(shade), "main" if on_shade else "light", light="glow", patterned=on_shade),
        Part(oval(50, top, narrow, 1.4), "light"),
    ]


def _chair(m: Mould) -> list[Part]:
    top, wide, seat = m.between(6, 20), m.between(18, 24), m.between(54, 60)
    splay, legs = m.between(0, 7), m.pick("wood", "wood", "metal", "dark")
    corner, thick = m.between(2, 14), m.between(2, 3.6)
    left, right, low = 50 - wide, 50 + wide, m.between(36, 48)
    rods = [
        f"M {left + 6} {seat} L {left + 4 - splay} 86", f"M {right - 6} {seat} L {right - 4 + splay} 86",
        f"M {left} {seat + 4} L {left - 3 - splay} 94", f"M {right} {seat + 4} L {right + 3 + splay} 94",
        f"M {left + 4} {seat} L {left + 3} {top + 8}", f"M {right - 4} {seat} L {right - 3} {top + 8}",
    ]  # fmt: skip
    slats = m.chance(0.35)
    bars = [Part(box(left + 2, y, right - 2, y + 6, 2), "main", patterned=True) for y in (top, top + 12, top + 24)]
    back = bars if slats else [Part(box(left + 1, top, right - 1, low, corner), patterned=True)]
    cushion = (
        f"M {left + 3} {seat - 3} L {right - 3} {seat - 3} L {right + 4} {seat + 6}"
        f" Q 50 {seat + 9} {left - 4} {seat + 6} Z"
    )
    edge = box(left - 4, seat + 5, right + 4, seat + 9, 2)
    return [
        *(Part(outline(rod), legs, width=thick) for rod in rods),
        *back,
        Part(edge, legs),
        Part(outline(cushion), patterned=True),
    ]


def _bag(m: Mould) -> list[Part]:
    top, upper, lower = m.between(34, 48), m.between(24, 34), m.between(28, 40)
    rise, corner = m.between(16, 30), m.between(2, 12)
    body = (
        f"M {50 - upper} {top} L {50 + upper} {top} L {50 + lower} {90 - corner}"
        f" Q {50 + lower} 91 {50 + lower - corner} 91 L {50 - lower + corner} 91"
        f" Q {50 - lower} 91 {50 - lower} {90 - corner} Z"
    )
    grip = upper * m.between(0.4, 0.7)
    handle = (
        f"M {50 - grip} {top + 6} C {50 - grip} {top - rise * 1.3} {50 + grip} {top - rise * 1.3} {50 + grip} {top + 6}"
    )
    flap = (
        f"M {50 - upper - 1} {top - 1} L {50 + upper + 1} {top - 1}"
        f" L {50 + upper} {top + 18} Q 50 {top + 34} {50 - upper} {top + 18} Z"
    )
    parts = [
        Part(outline(handle), m.pick("main", "wood", "dark"), width=m.between(2, 4.5), light="round"),
        Part(outline(body), patterned=True),
        Part(outline(f"M {50 - upper + 1} {top + 2} L {50 + upper - 1} {top + 2}"), "seam", width=0.6),
    ]
    if m.chance(0.5):
        parts += [Part(outline(flap), "second"), Part(box(46, top + 20, 54, top + 27, 1.5), "metal")]
    else:
        parts += [Part(oval(50 + side * grip, top + 7, 2, 2), "metal") for side in (-1, 1)]
    return parts


def _hat(m: Mould) -> list[Part]:
    wide, crown, top = m.between(38, 46), m.between(19, 25), m.between(28, 44)
    droop, dent = m.between(-5, 6), m.between(-6, 7)
    y = 70
    dome = (
        f"M {50 - crown} {y} C {50 - crown} {top + 10} {50 - crown + 4} {top} {50 - 8} {top - 1}"
        f" Q 50 {top + dent} 58 {top - 1} C {50 + crown - 4} {top} {50 + crown} {top + 10} {50 + crown} {y}"
        f" Q 50 {y + 9} {50 - crown} {y} Z"
    )
    brim = (
        f"M {50 - wide} {y + droop} Q {50 - wide / 2} {y - 7} 50 {y - 6}"
        f" Q {50 + wide / 2} {y - 7} {50 + wide} {y + droop}"
        f" Q {50 + wide / 2} {y + 15} 50 {y + 15} Q {50 - wide / 2} {y + 15} {50 - wide} {y + droop} Z"
    )
    band = m.between(5, 10)
    ribbon = (
        f"M {50 - crown} {y - band} Q 50 {y - band + 9} {50 + crown} {y - band} L {50 + crown} {y}"
        f" Q 50 {y + 9} {50 - crown} {y} Z"
    )
    return [
        Part(outline(brim), light="flat", patterned=m.chance(0.3)),
        Part(outline(dome), light="ball", patterned=True),
        Part(outline(ribbon), "second", light="round"),
    ]


def _watch(m: Mould) -> list[Part]:
    radius, strap = m.between(19, 25), m.between(9, 14)
    taper = m.between(0.7, 1.0)
    band = (
        f"M {50 - strap} 40 L {50 - strap * taper} 2 Q 50 -1 {50 + strap * taper} 2 L {50 + strap} 40"
        f" L {50 + strap} 60 L {50 + strap * taper} 98 Q 50 101 {50 - strap * taper} 98 L {50 - strap} 60 Z"
    )
    square, dial = m.chance(0.3), m.pick("light", "dark", "second")
    hand = {"light": "dark", "dark": "light", "second": "on_second"}[dial]
    links = [Part(outline(f"M {50 - strap} {y} L {50 + strap} {y}"), "seam", width=0.7) for y in range(5, 96, 5)]
    holes = [Part(oval(50, y, 0.9, 0.9), "dark") for y in (84, 89, 94)]

    def case(r: float) -> skia.Path:
        return box(50 - r, 50 - r, 50 + r, 50 + r, 6) if square else oval(50, 50, r, r)

    ticks = [
        f"M {50 + np.sin(a) * radius * 0.66} {50 - np.cos(a) * radius * 0.66}"
        f" L {50 + np.sin(a) * radius * 0.76} {50 - np.cos(a) * radius * 0.76}"
        for a in np.arange(12) * np.pi / 6
    ]
    return [
        Part(outline(band), "main", light="round", patterned=True),
        *(links if m.chance(0.4) else holes),
        Part(box(50 + radius - 1, 47, 50 + radius + 4, 53, 1), "metal"),
        Part(case(radius), m.pick("metal", "gold", "dark"), light="flat"),
        Part(case(radius * 0.85), dial, light="bowl"),
        *(Part(outline(tick), hand, width=1) for tick in ticks),
        Part(outline("M 50 50 L 42 43"), hand, width=1.8),
        Part(outline("M 50 50 L 60 40"), hand, width=1.2),
        Part(oval(50, 50, 1.5, 1.5), "metal"),
    ]


def _shoe(m: Mould) -> list[Part]:
    collar, heel, toe = m.between(30, 48), m.between(8, 13), m.between(62, 70)
    sole, tongue = m.between(5, 9), m.between(40, 48)
    upper = (
        f"M {heel} 84 Q {heel - 4} 66 {heel + 2} {collar + 4} Q {heel + 10} {collar + 9} {tongue - 8} {collar}"
        f" L {tongue} {collar - 4} Q 60 {toe - 7} 76 {toe - 1} Q 97 {toe + 3} 95 84 Z"
    )
    opening = (
        f"M {heel + 2} {collar + 5} Q {tongue / 2} {collar - 9} {tongue} {collar - 3} L {tongue - 8} {collar + 8} Z"
    )
    toe_cap = f"M 78 84 Q 76 {toe + 5} 82 {toe + 1} Q 96 {toe + 5} 95 84 Z"
    base = (
        f"M {heel - 2} 82 L 96 82 Q 98 {83 + sole} 92 {83 + sole}"
        f" L {heel + 2} {83 + sole} Q {heel - 4} {83 + sole} {heel - 2} 82 Z"
    )
    laces = [
        f"M {tongue + 1 + step * 6.5} {collar + 4 + step * 6} L {tongue - 6 + step * 6.5} {collar + 11 + step * 6}"
        for step in range(4)
    ]
    heel_tab = (
        f"M {heel} 84 Q {heel - 4} 66 {heel + 2} {collar + 4}"
        f" L {heel + 9} {collar + 8} Q {heel + 7} 70 {heel + 12} 84 Z"
    )
    swoosh = m.pick(
        f"M {heel + 14} 76 Q 50 76 66 {toe - 2}",
        f"M 40 82 L 52 {toe - 10} M 48 82 L 58 {toe - 6}",
        f"M {heel + 12} 72 L 74 78",
    )
    return [
        Part(outline(opening), "inside"),
        Part(outline(upper), light="flat", patterned=True),
        *([Part(outline(toe_cap), m.pick("light", "second"))] if m.chance(0.5) else []),
        *([Part(outline(heel_tab), "second")] if m.chance(0.6) else []),
        Part(outline(swoosh), "second", width=m.between(1.5, 4)),
        *(Part(outline(lace), "light", width=1.7) for lace in laces),
        Part(outline(base), m.pick("light", "light", "rubber", "dark")),
    ]


def _shirt(m: Mould) -> list[Part]:
    wide, sleeve, hem = m.between(22, 27), m.between(30, 52), m.between(84, 93)
    reach, neck = m.between(40, 46), m.between(8, 12)
    cut, flare = m.between(4, 16), m.between(-2, 4)
    body = (
        f"M {50 - neck} 12 Q 50 {12 + cut} {50 + neck} 12 L {50 + wide} 18 L {50 + wide} 40"
        f" L {50 + wide + flare} {hem} Q 50 {hem + 3} {50 - wide - flare} {hem} L {50 - wide} 40 L {50 - wide} 18 Z"
    )
    arms = [
        f"M {50 + s * (wide - 7)} 15 Q {50 + s * (wide + 3)} 16 {50 + s * reach} {sleeve}"
        f" L {50 + s * (reach - 12)} {sleeve + 6}"
        f" L {50 + s * (wide - 1)} 38 Z"
        for s in (-1, 1)
    ]
    sleeves = m.pick("main", "main", "second")
    collar = f"M {50 - neck} 12 Q 50 {12 + cut} {50 + neck} 12"
    parts = [
        *(Part(outline(arm), sleeves, patterned=sleeves == "main") for arm in arms),
        Part(outline(f"M {50 - neck} 12 Q 50 8 {50 + neck} 12 Q 50 {12 + cut} {50 - neck} 12 Z"), "inside"),
        Part(outline(body), light="fold", patterned=True),
        Part(outline(collar), m.pick("main", "second"), width=2.2),
    ]
    if m.chance(0.3):
        parts.append(Part(box(54, 34, 65, 46, 1.5), "second"))
    if m.chance(0.3):
        parts.append(Part(outline(f"M 50 {12 + cut / 2} L 50 {hem}"), "seam", width=0.7))
        parts += [Part(oval(50, y, 1, 1), "light") for y in range(24, 84, 10)]
    return parts


def _dress(m: Mould) -> list[Part]:
    waist, hem, low = m.between(10, 14), m.between(24, 38), m.between(76, 95)
    at, neck = m.between(38, 46), m.between(7, 11)
    cut = m.between(6, 16)
    curve = m.between(-6, 6)
    body = (
        f"M {50 - neck - 4} 8 L {50 - neck} 8 Q 50 {8 + cut * 1.6} {50 + neck} 8 L {50 + neck + 4} 8"
        f" Q {50 + neck + 4} 20 {50 + 17} 24 Q {50 + waist} 34 {50 + waist} {at}"
        f" Q {50 + waist + 6 + curve} {at + 14} {50 + hem} {low} Q 50 {low + 6} {50 - hem} {low}"
        f" Q {50 - waist - 6 - curve} {at + 14} {50 - waist} {at}"
        f" Q {50 - waist} 34 {50 - 17} 24 Q {50 - neck - 4} 20 {50 - neck - 4} 8 Z"
    )
    belt = box(50 - waist - 0.6, at - 2, 50 + waist + 0.6, at + 2.5, 0.8)
    folds = [
        f"M {50 + x * waist / 12} {at + 5} Q {50 + x * 1.4} {at + 20} {50 + x * hem / 13} {low}" for x in (-7, 0, 7)
    ]
    return [
        Part(outline(body), light="fold", patterned=True),
        *(Part(outline(fold), "seam", width=0.7) for fold in folds),
        *([Part(belt, m.pick("second", "wood", "dark"))] if m.chance(0.6) else []),
    ]


# Kinds that are photographed from above or hang on a wall; the others stand on the ground.
LYING = frozenset({"plate", "knife", "clock", "cushion", "watch", "shirt", "dress"})
_SHAPES: dict[str, Callable[[Mould], list[Part]]] = {
    "mug": _mug,
    "plate": _plate,
    "teapot": _teapot,
    "bottle": _bottle,
    "knife": _knife,
    "vase": _vase,
    "clock": _clock,
    "cushion": _cushion,
    "lamp": _lamp,
    "chair": _chair,
    "bag": _bag,
    "hat": _hat,
    "watch": _watch,
    "shoe": _shoe,
    "shirt": _shirt,
    "dress": _dress,
}


def parts(kind: str, form: int, shape_seed: int) -> list[Part]:
    """The surfaces of a style, back to front."""
    return _SHAPES[kind](Mould(kind, form, shape_seed))
