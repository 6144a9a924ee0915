"""Strings that a tokenizer may get wrong, made from a seed: for the goldens and for the live comparison.

Each string is a few fragments, from pools that were filled with what the original's steps treat in a special way,
put together so that they meet: a special token beside a combining mark, punctuation beside white space, "▁" at the
start. Some are empty, some far too long for any row, some have code points that Unicode has not assigned. Lone
surrogates are left out: the original cannot encode them.
"""

import random
from collections.abc import Callable
from string import punctuation

from golden.make_spiece import OTHER_LANGUAGES, corpus

SPECIAL = (
    *("</s>", "<unk>", "<pad>", "<s>", "</S>", "<UNK>", "<Unk>", "</ s>", "< /s>", "</s", "/s>", "<unk", "unk>"),
    *("<", ">", "<<", ">>", "</</s>s>", "<<unk>>", "</s></s>", "</s><unk>", "</s> </s>", " </s> ", "\n<unk>\t"),
    *("<0x41>", "<0x00>", "<extra_id_0>", "[MASK]", "<|endoftext|>", "＜/s＞", "</ſ>", "＜unk＞", "<ᵘnk>"),
)
UNDERLINES = ("▁", "▁▁", " ▁", "▁ ", "a▁b", "▁a", "_", "__", "a_b", "snake_case_name", "▂", "﹍", "＿")
WHITE_SPACE = (
    *(" ", "  ", "\t", "\n", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x1f", "\x85", "\xa0", "\u1680", "\u2003"),
    *("\u2009", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"),
)
INVISIBLE = (
    *("\x00", "\x01", "\x07", "\x08", "\x0e", "\x1b", "\x7f", "\x80", "\x9f", "\xad", "\u034f", "\u061c", "\u115f"),
    *("\u180e", "\u200b", "\u200c", "\u200d", "\u200e", "\u200f", "\u202a", "\u202e", "\u2060", "\u2066", "\u3164"),
    *("\ufe0e", "\ufe0f", "\ufeff", "\ufff9", "\ufffc", "\ufffd", "\ufffe", "\uffff", "\U000e0001", "\U000e0061"),
    *("\U0010ffff", "\ue000", "\U000f0000"),
)
COMBINING = (
    *("\u0301", "\u0308", "\u0327", "\u0338", "\u0345", "\u0307", "\u030a", "\u0323", "\u20d2", "\u20e3", "\u3099"),
    *("e\u0301", "A\u030a", "\u1112\u1161\u11ab", "q\u0307\u0323", "か\u3099", "=\u0338", ">\u0338", "<\u0338"),
    *("\u0338a", "\u0338" * 5, "Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d"),
)
CASES = (
    *(
        "İstanbul",
        "ıI",
        "I\u0307",
        "ẞ",
        "Straße",
        "STRASSE",
        "ΑΣ",
        "ΑΣ.",
        "ΑΣ.Α",
        "Σ",
        "ΌΣΟΣ ΟΔΥΣΣΕΎΣ",
        "ΑΣ\u0301",
        "ﬁ",
    ),
    *(
        "ﬀﬃ",
        "Ǆ",
        "ǅ",
        "ǆ",
        "K",
        "Å",
        "Ω",
        "ϴ",
        "ᾈ",
        "ᾼ",
        "𐐀",
        "𞤀",
        "Ⓐ",
        "Ａ",
        "Ⅷ",
        "ŉ",
        "ǰ",
        "Ŀ",
        "DŽ",
        "𝐀𝑩",
        "ℌ",
        "™",
        "№",
    ),
)
TYPOGRAPHY = (
    *(
        "…",
        "．．",
        "“a”",
        "‘b’",
        "it’s",
        "—",
        "–",
        "‐",
        "！",
        "？",
        "。",
        "、",
        "・",
        "½",
        "x²",
        "H₂O",
        "٣",
        "①",
        "㍿",
        "㎏",
        "ﷺ",
    ),
    *(
        "don't",
        "t-shirt",
        "U.S.A.",
        "3.14",
        "1,000",
        "100%",
        "#tag",
        "@user",
        "a&b",
        "C++",
        "C#",
        "{}",
        "$5",
        "€5",
        "`x`",
    ),
    *("http://example.org/a?b=c#d", "a.b@example.org", "~/x", "\\n", "^_^", ":-)", "(=^･ω･^=)", "¯\\_(ツ)_/¯"),
)
EMOJI = ("😀", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "👍🏽", "❤️", "1️⃣", "☃", "🂡", "𓀀")
RANGES = (
    *((0x20, 0x7E), (0x00, 0xFF), (0x100, 0x24F), (0x250, 0x36F), (0x370, 0x3FF), (0x400, 0x52F), (0x530, 0x6FF)),
    *((0x900, 0xDFF), (0xE00, 0x10FF), (0x1100, 0x13FF), (0x1E00, 0x1FFF), (0x2000, 0x2BFF), (0x2E80, 0x30FF)),
    *((0x3100, 0x33FF), (0x4E00, 0x9FFF), (0xA000, 0xABFF), (0xAC00, 0xD7A3), (0xF900, 0xFFFD), (0x10000, 0x11FFF)),
    *((0x1D000, 0x1D7FF), (0x1F000, 0x1FAFF), (0x20000, 0x2FA1F)),
)
EDGES = (
    "",
    " ",
    "\n",
    "▁",
    " ▁",
    "▁ ",
    "▁▁",
    "_",
    ".",
    "...",
    "</s>",
    "</s></s>",
    "<unk>",
    " </s>",
    "▁</s>",
    "</s>▁",
    "\x00",
)

CAPTIONS = sorted(set(corpus()))
WORDS = sorted({word for caption in CAPTIONS for word in caption.split()})


def _unicode(rng: random.Random) -> str:
    """Some characters of one block, or of several."""
    if rng.random() < 0.5:
        low, high = rng.choice(RANGES)
        return "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 12)))
    return "".join(chr(rng.randint(*rng.choice(RANGES))) for _ in range(rng.randint(1, 6)))


def _noise(rng: random.Random) -> str:
    """A storm of punctuation and white space."""
    return "".join(rng.choice(punctuation + " \t\n") for _ in range(rng.randint(1, 20)))


def _shout(rng: random.Random) -> str:
    """A caption in another case."""
    caption = rng.choice(CAPTIONS)
    return rng.choice((caption.upper(), caption.title(), caption.swapcase()))


def _pool(choices: tuple[str, ...] | list[str]) -> Callable[[random.Random], str]:
    return lambda rng: rng.choice(choices)


FRAGMENTS: tuple[tuple[int, Callable[[random.Random], str]], ...] = (
    (8, _pool(WORDS)),
    (3, _pool(CAPTIONS)),
    (3, _pool(OTHER_LANGUAGES)),
    (6, _pool(SPECIAL)),
    (3, _pool(UNDERLINES)),
    (3, _pool(WHITE_SPACE)),
    (3, _pool(INVISIBLE)),
    (4, _pool(COMBINING)),
    (3, _pool(CASES)),
    (3, _pool(TYPOGRAPHY)),
    (2, _pool(EMOJI)),
    (5, _unicode),
    (2, _noise),
    (2, _shout),
)
WEIGHTS = [weight for weight, _ in FRAGMENTS]
MAKERS = [maker for _, maker in FRAGMENTS]


def _short(rng: random.Random) -> str:
    separator = rng.choice(("", "", " ", " ", rng.choice(WHITE_SPACE)))
    return separator.join(maker(rng) for maker in rng.choices(MAKERS, WEIGHTS, k=rng.randint(1, 6)))


def _long(rng: random.Random) -> str:
    """More pieces than a row has places, with special tokens near where rows of 16 and 64 end."""
    words = [rng.choice(WORDS) for _ in range(rng.randint(10, 90))]
    for at in rng.choices(range(len(words)), k=rng.randint(0, 8)):
        words[at] = rng.choice(("</s>", "<unk>", "</s></s>", rng.choice(OTHER_LANGUAGES), _short(rng)))
    return rng.choice((" ", " ", "")).join(words)


def _brim(rng: random.Random) -> str:
    """About as many pieces as a row has places, the last of them `</s>` or not."""
    fill = rng.choice(("a ", "the ", "cat ", "a. ", "a</s>")) * rng.choice((rng.randint(12, 18), rng.randint(60, 67)))
    return fill + rng.choice(("", "</s>", "</s></s>", "</s>a", "<unk>", "…"))


def strings(count: int, seed: int) -> list[str]:
    """`count` different strings, the fixed edge cases first; the same for the same seed."""
    rng = random.Random(seed)
    made = dict.fromkeys(EDGES)
    while len(made) < count:
        (maker,) = rng.choices((_short, _long, _brim), (17, 2, 1))
        made[maker(rng)] = None
    return list(made)[:count]
