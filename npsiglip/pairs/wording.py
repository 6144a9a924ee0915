"""From what can be said of a picture to one caption: a language, a name or a sentence, a template, perhaps a tag."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random

from npsiglip.pairs.base import Words
from npsiglip.pairs.settings import SourceSettings

TEMPLATES: Mapping[str, Sequence[str]] = {"en": ("a photo of {}", "a picture of {}", "{}")}  # where none are given

# a caption with one of these is true of the picture and not of its mirror image
SIDES = frozenset(
    (
        "left",
        "right",
        "leftwards",
        "rightwards",
        "links",
        "rechts",
        "gauche",
        "droite",
        "izquierda",
        "derecha",
        "sinistra",
    )
)


class Wording:
    """Chooses captions as a source's settings say.

    Args:
        settings: languages and their weights, templates, the shares of plain names and of tags.
    """

    def __init__(self, settings: SourceSettings) -> None:
        self._languages = settings.languages
        self._templates = settings.templates or TEMPLATES
        self._plain, self._tags = settings.plain, settings.tags

    def _language(self, words: Words, rng: Random) -> str | None:
        known = dict.fromkeys([*words.captions, *words.names])
        weights = {code: self._languages.get(code, 0.0) if self._languages else 1.0 for code in known}
        place = rng.random() * sum(weights.values())
        for code, weight in weights.items():
            place -= weight
            if weight and place < 0:
                return code
        return next((code for code, weight in reversed(weights.items()) if weight), None)

    def caption(self, words: Words, rng: Random) -> str | None:
        """One of the captions, or a name in a template, alone, or with a tag; None if no language has any.

        Every call draws the same numbers from `rng`, whatever it chooses.
        """
        language, draws = self._language(words, rng), [rng.random() for _ in range(5)]
        if language is None:
            return None
        names, captions = words.names.get(language, ()), words.captions.get(language, ())
        if captions and (not names or draws[0] < 0.5):
            return captions[int(draws[1] * len(captions))]
        # the usual name half of the time, however many others there are
        name = names[0] if draws[1] < 0.5 else names[int((2 * draws[1] - 1) * len(names))]
        tags = words.tags.get(language, ())
        if tags and draws[2] < self._tags:
            tag = tags[int(draws[3] * len(tags))]
            return tag if draws[2] < self._tags / 2 else f"{name}, {tag}"
        templates = self._templates.get(language, ())
        if not templates or draws[4] < self._plain:
            return name
        return templates[int((draws[4] - self._plain) / (1 - self._plain) * len(templates))].format(name)

    def may_name_a_side(self, words: Words) -> bool:
        """Whether any caption that `caption` could give tells left from right."""
        sentences = (self._templates.get(code, ()) for code in words.names if self._known(code))
        return any(map(names_a_side, [*self.all(words), *(text.replace("{}", " ") for s in sentences for text in s)]))

    def _known(self, language: str) -> bool:
        return not self._languages or language in self._languages

    def all(self, words: Words) -> Iterator[str]:
        """Every phrase, without templates: what a vocabulary is trained on."""
        for said in (words.captions, words.names, words.tags):
            for language, texts in said.items():
                if self._known(language):
                    yield from texts


def names_a_side(caption: str) -> bool:
    """Whether the caption tells left from right."""
    return not SIDES.isdisjoint(caption.lower().replace("-", " ").replace(":", " ").split())
