"""The shipped base models, one module each; whatever else needs to know one asks here.

To add one: a module with its `Base`, its place in `BASES`, then ``python -m si_hub.architectures.generate``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from si_hub.architectures.bases import (
    anima,
    auraflow,
    cascade,
    chroma,
    cogvideox,
    cogview4,
    cosmos,
    ernie_image,
    fibo,
    flux,
    flux2,
    flux3,
    hidream,
    hunyuan_dit,
    hunyuan_image,
    hunyuan_video,
    hunyuan_video15,
    ideogram4,
    kandinsky5,
    krea2,
    ltx,
    lumina2,
    minimax_h3,
    mochi,
    pixart,
    qwen_image,
    qwen_image21,
    sana,
    sd3,
    sd15,
    sd21,
    sd35,
    sdxl,
    sdxl_refiner,
    segmind,
    wan,
    z_image,
)
from si_hub.architectures.bases.contract import Base, Blueprint

__all__ = ["BASES", "BY_NAME", "Base", "Blueprint", "find_base", "find_begun", "find_named", "find_released"]

#: In the order in which they are tried and listed.
BASES: tuple[Base, ...] = (
    sd15.BASE, sd21.BASE, sdxl.BASE, sdxl_refiner.BASE, segmind.SSD_1B, segmind.VEGA,
    sd3.BASE, sd35.MEDIUM, sd35.LARGE, auraflow.BASE,
    flux.BASE, chroma.BASE, flux2.DEV, flux2.KLEIN_4B, flux2.KLEIN_9B, flux3.BASE,
    qwen_image.BASE, qwen_image21.BASE, hunyuan_video.BASE, hunyuan_video15.BASE, hunyuan_image.BASE,
    z_image.BASE, krea2.BASE, lumina2.BASE, hidream.BASE, ernie_image.BASE, ideogram4.BASE, hunyuan_dit.BASE, fibo.BASE,
    sana.LARGE, sana.SMALL, sana.LARGE_1_5, sana.LARGEST_1_5, sana.SPRINT_LARGE, sana.SPRINT_SMALL,
    pixart.ALPHA, pixart.SIGMA,
    wan.T2V_1_3B, wan.T2V_14B, wan.I2V_14B, wan.T2V_A14B, wan.I2V_A14B, wan.TI2V_5B, wan.VACE_1_3B, wan.VACE_14B,
    anima.BASE, cosmos.PREDICT2_2B, cosmos.PREDICT2_14B, cosmos.PREDICT25_2B, cosmos.PREDICT25_14B,
    cascade.BASE, cascade.LITE, ltx.VIDEO_2B, ltx.VIDEO_13B, ltx.LTX_2, ltx.LTX_2_3, ltx.LTX_2_5, mochi.BASE,
    cogview4.BASE, cogvideox.TWO, cogvideox.FIVE, cogvideox.FIVE_1_5,
    kandinsky5.IMAGE_LITE, kandinsky5.VIDEO_LITE, kandinsky5.VIDEO_PRO, minimax_h3.BASE,
)  # fmt: skip

#: Names that a hint shows; there are too many for all of them.
USUAL = ("sd15", "sdxl", "flux", "sd3")

BY_NAME: Mapping[str, Base] = MappingProxyType({base.name: base for base in BASES})


def find_base(name: str) -> Base | None:
    """A base model by its name or an alias, in any case, ``_`` or a space for ``-``."""
    name = _as_named(name)
    return next((base for base in BASES if name == base.name or name in base.aliases), None)


def find_released(repo_id: str) -> tuple[Base, ...]:
    """The base models whose releases a repository of the Hub, in any case, is one of."""
    return tuple(base for base in BASES if repo_id.lower() in map(str.lower, base.repositories))


def find_begun(text: str) -> tuple[Base, ...]:
    """The base models of which a name begins like that, marks left out: ``wan2.1`` is how five of them do."""
    plain = _plain(text)
    return tuple(
        base for base in BASES if plain and any(_plain(name).startswith(plain) for name in (base.name, *base.aliases))
    )


def find_named(text: str) -> tuple[Base, ...]:
    """The base models that a metadata text names: those whose hint is the longest beginning of it.

    Capitals and marks do not count. Of a text with a slash it is the first part (``flux-1-dev/lora``) or, where that
    names none, the second (``runwayml/stable-diffusion-v1-5``); a repository of a base names that one. Several where
    the text leaves open which: OneTrainer's ``Flux.2`` may be any of three.
    """
    if held := tuple(base for base in BASES if text.lower() in map(str.lower, base.repositories)):
        return held
    first, _, second = text.partition("/")
    return _find_hinted(first) or _find_hinted(second)


def _find_hinted(text: str) -> tuple[Base, ...]:
    plain = _plain(text)
    lengths = {base: max((_length_within(hint, plain) for hint in base.hints), default=0) for base in BASES}
    longest = max(lengths.values())
    return tuple(base for base, length in lengths.items() if longest and length == longest)


def _length_within(hint: str, text: str) -> int:
    """How much of a text a hint is; 0 where it does not begin so, or is not all of it and has to be."""
    plain = _plain(hint)
    fits = text == plain if hint.endswith("$") else text.startswith(plain)
    return len(plain) if fits else 0


def _as_named(text: str) -> str:
    return text.strip().lower().replace("_", "-").replace(" ", "-")


def _plain(text: str) -> str:
    return "".join(character for character in text.lower() if character.isalnum())
