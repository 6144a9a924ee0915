"""`npsiglip.compare`: the same picture, labels and template for every model; nothing is made more alike than it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from npsiglip.comparison.adapters import Encoder, Native, encoder, said_of
from npsiglip.comparison.scores import SIGMOID, Agreement, Scores, agreements
from npsiglip.errors import InputError
from npsiglip.model import SigLIP
from npsiglip.outputs import SigLIPOutput
from npsiglip.zero_shot import DEFAULT_TEMPLATE, fill_template

Labels = Sequence[str] | Mapping[str, Sequence[str]]
ONE = ""  # the name of a set of labels that has none


@dataclass(frozen=True)
class Comparison:
    """What several models say; `scores[set of labels][model]`."""

    scores: dict[str, dict[str, Scores]]

    @property
    def sets(self) -> list[str]:
        """The names of the sets of labels, such as languages; "" for a single list."""
        return list(self.scores)

    @property
    def models(self) -> list[str]:
        """The models, in the order given."""
        return list(next(iter(self.scores.values())))

    def between_models(self, name: str = ONE) -> list[Agreement]:
        """How far models agree about one set of labels."""
        return agreements(list(self.scores[name].items()))

    def between_sets(self, model: str) -> list[Agreement]:
        """How far one model says the same in several languages, whose labels are in the same order."""
        return agreements([(name, found[model]) for name, found in self.scores.items()])

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "sets": [
                {
                    "name": name,
                    "models": [scores.to_dict() for scores in found.values()],
                    "agreement": [each._asdict() for each in self.between_models(name)],
                }
                for name, found in self.scores.items()
            ],
            "languages": [
                {"model": model, "agreement": [each._asdict() for each in self.between_sets(model)]}
                for model in self.models
                if len(self.scores) > 1
            ],
        }


def label_sets(labels: Labels) -> dict[str, list[str]]:
    """Sets of labels by their names; of a list, one without a name.

    Raises:
        InputError: none; sets of different lengths.
    """
    sets = {str(name): list(each) for name, each in labels.items()} if isinstance(labels, Mapping) else None
    if sets is None:
        return {ONE: list(labels) if not isinstance(labels, str) else [labels]}
    if not sets:
        raise InputError("no labels were given; expected a list, or several by their languages")
    if len({len(each) for each in sets.values()}) > 1:
        sizes = ", ".join(f"{name} {len(each)}" for name, each in sets.items())
        raise InputError(f"the same labels in several languages are as many in each; got {sizes}")
    return sets


def filled_sets(labels: Labels, template: str | Mapping[str, str]) -> dict[str, tuple[list[str], list[str]]]:
    """Sets of labels, and their texts: each in the template, or in that of its name.

    Raises:
        InputError: labels or a template that cannot be used.
    """
    found = {}
    for name, each in label_sets(labels).items():
        own = template if isinstance(template, str) else template.get(name)
        if own is None:
            raise InputError(f"no template was given for {name!r}; there are those of {', '.join(map(repr, template))}")
        found[name] = each, fill_template(each, own)
    return found


def scores_of(model: str, labels: Sequence[str], output: SigLIPOutput) -> Scores:
    """What one of this project's models says of one picture."""
    return Scores(model, SIGMOID, tuple(labels), *said_of(output))


def compare(
    image: Any,
    labels: Labels,
    models: Sequence[str | Path | SigLIP | Encoder] = ("builtin",),
    template: str | Mapping[str, str] = DEFAULT_TEMPLATE,
) -> Comparison:
    """What several models say of one picture.

    Args:
        image: a path, or what `SigLIP.encode_image` takes; models of other libraries take paths and PIL images.
        labels: a list; or several in the same order by their languages: {"en": ["a cat"], "de": ["eine Katze"]}.
        models: names, folders, or loaded; of other libraries as `npsiglip.comparison.adapters` names them.
        template: the sentence that every label is put into, the same for all models; or one for each language.

    Raises:
        InputError: labels, a template or a picture that cannot be used; a model twice; an extra that is missing.
        CheckpointError: a model that cannot be loaded.
    """
    sets = filled_sets(labels, template)
    if not models:
        raise InputError("no models were given; expected one at least, such as 'builtin'")
    names: list[str] = []
    encoders: list[Encoder] = []
    for model in models:  # all of them, before time is spent
        found = (
            Native(model) if isinstance(model, SigLIP) else encoder(model) if isinstance(model, str | Path) else model
        )
        if found.name in names:
            raise InputError(f"the model {found.name!r} was given twice")
        names.append(found.name)
        encoders.append(found)
    scores: dict[str, dict[str, Scores]] = {name: {} for name in sets}
    for each in encoders:
        texts = [text for _, filled in sets.values() for text in filled]
        said, start = each.scores(image, texts), 0
        for name, (own, _) in sets.items():
            part = slice(start, start + len(own))
            start += len(own)
            logits = None if said.logit is None else said.logit[part]
            scores[name][each.name] = Scores(each.name, each.kind, tuple(own), said.cosine[part], logits)
    return Comparison(scores)
