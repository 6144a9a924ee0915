"""What files of pictures are called, and how those begin that Pillow alone cannot read.

Leaves out: decoding (`npsiglip.images.files`).
"""

from __future__ import annotations

import re

# Endings that nobody means otherwise, whether a program here reads them or not; those of cameras last.
_PICTURES = """
apng avif avifs bmp dib exr gif heic heif hif ico j2k jfif jp2 jpe jpeg jpg jxl jxr mpo pbm pgm png pnm ppm psd qoi svg
tga tif tiff webp xcf
3fr arw cr2 cr3 crw dcr dng erf fff iiq kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw x3f
"""
# Pillow's other endings, some of which end sentences and abbreviations, too.
_RARE = """
blp bufr bw cur dcx dds emf eps fit fits flc fli ftc ftu gbr grib h5 hdf icb icns iim im j2c jpc jpf jpx mpeg mpg msp
palm pcd pcx pdf pfm ps pxr ras rgb rgba sgi vda vst wmf xbm xpm
"""
COMMON_SUFFIXES = frozenset(_PICTURES.split())
SUFFIXES = COMMON_SUFFIXES | frozenset(_RARE.split())

_HEIF = re.compile(rb"....ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)", re.DOTALL)
_OTHERS: tuple[tuple[re.Pattern[bytes], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), hint)
    for pattern, hint in (
        (rb"....ftypavi[fs]", "an AVIF, which Pillow reads from 11.3 on: update Pillow, or save the picture as PNG"),
        (
            rb"....ftypcrx|FUJIFILMCCD-RAW|II(U\0|R[OS])|MMOR|\0MRM|FOVb",
            "a camera's raw file: develop it to TIFF or JPEG first",
        ),
        (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL, which Pillow does not read: save the picture as PNG or JPEG"),
        (rb"%PDF", "a PDF: render its page to PNG first"),
        (rb"\s*(<\?xml.*)?<svg", "an SVG, a drawing without pixels: render it to PNG first"),
        (rb"\s*<(!doctype )?html", "a web page: the download brought something else than the picture"),
        (rb"version https://git-lfs", "a Git LFS pointer and not the picture itself: run `git lfs pull` in its folder"),
    )
)


def is_picture_name(text: str) -> bool:
    """Whether this is clearly the name of a file with a picture: by its ending, and spaces only before common ones."""
    _, dot, suffix = text.rpartition(".")
    if not dot:
        return False
    suffix = suffix.lower()
    return suffix in COMMON_SUFFIXES or (suffix in SUFFIXES and not re.search(r"\s", text))


def is_heif(start: bytes) -> bool:
    """Whether a file that begins so is a HEIC or HEIF, which Pillow reads with the package pillow-heif."""
    return bool(_HEIF.match(start))


def what_it_is(start: bytes) -> str:
    """What a file that begins so is, and what to do, for a message; empty if that is not known."""
    if is_heif(start):
        return "a HEIC, which is read once pillow-heif is there: pip install pillow-heif, or save the picture as JPEG"
    return next((hint for pattern, hint in _OTHERS if pattern.match(start)), "")
