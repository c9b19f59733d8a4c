"""Texts that break things: one of each kind, and what every Unicode block begins with."""

import unicodedata

ODD: dict[str, str] = {
    "empty": "",
    "spaces": " \t\n\r\u00a0\u2003\u3000 ",
    "a letter": "a",
    "null": "a\x00b\x00",
    "control characters": "".join(map(chr, [*range(1, 32), *range(127, 160)])) + "text",
    "lone high surrogate": "a \ud800 b",
    "lone low surrogate": "\udfff\udc00",
    "swapped surrogates": "\udc00\ud800",
    "right to left": "שלום עולם مرحبا بالعالم",
    "directions": "\u202eabc\u202c \u2066def\u2069 \u200f",
    "emoji sequences": "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇪🇸 1️⃣ 🧑🏿‍🚀",
    "combining": "Z̸̡̛̗a̷l̵g̶o̴ é é ﬁ Å",
    "zero width": "a\u200bb\u200cc\u200dd\ufeffe\u2060",
    "byte order mark": "\ufefftext",
    "line separators": "a\u2028b\u2029c\x85d\x0be\x0cf\r\ng\rh",
    "private use": "\ue000\ue001\uf8ff\U000f0000\U0010fffd",
    "noncharacters": "\ufffe\uffff\ufdd0\U0001ffff",
    "special tokens": "[CLS] [SEP] [MASK] [PAD] <pad> <bos> <eos> </s> <unk> <|endoftext|> <0x00>",
    "templates": "{{ 7 * 7 }} {% for %} ${jndi:x} %s %n ../../etc/passwd <script>",
    "quotes": "\"'''\"\"\\\\ \\n \\u0000",
    "numbers": "NaN inf -0 1e999 ٠١٢ Ⅷ ½",
    "a long word": "x" * 20_000,
    "long of one sign": "." * 20_000,
    "unknown words": "qzxv wvutsr 龘龘龘 ꙮ 𒐫 ﷽",
}


def blocks() -> str:
    """A character of every 128, unassigned ones too; surrogates are no characters."""
    return "".join(chr(code) for code in range(0, 0x110000, 128) if not 0xD800 <= code < 0xE000)


ODD["every block"] = blocks()
ODD["every category"] = "".join({unicodedata.category(chr(code)): chr(code) for code in range(0x20000) if not 0xD800 <= code < 0xE000}.values())
MILLION = ("día 🙂 text, " * 100_000)[:1_000_000]
