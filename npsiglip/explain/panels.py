"""The words of the eleven panels: a sentence, what to look for, the reference's lines, the tap, a question to try."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from npsiglip.reference import backward, loss, model, positions, quantize
from npsiglip.reference.resize import resize, resize_weights


class Panel(NamedTuple):
    """What a panel says.

    Attributes:
        number, title, sentence: its head.
        look: what to look for.
        functions: of the reference, whose lines it shows.
        taps: the names of what is shown, as in docs/glossary.md.
        question: to try.
        answer: how it can be told from the panel.
        question_live, answer_live: more of both, for a page with the live model.
    """

    number: int
    title: str
    sentence: str
    look: str
    functions: tuple[Callable[..., Any], ...]
    taps: tuple[str, ...]
    question: str
    answer: str
    question_live: str = ""
    answer_live: str = ""

    @property
    def anchor(self) -> str:
        """Its place in the page."""
        return f"panel-{self.number}"


START = "\N{MINUS SIGN}log(N\N{NO-BREAK SPACE}\N{MINUS SIGN}\N{NO-BREAK SPACE}1)"

PANELS = (
    Panel(
        1,
        "From a file to pixels",
        "A picture of any size becomes a small square of numbers from \N{MINUS SIGN}1 to 1, its shape squashed, "
        "every input pixel counted.",
        "The third picture is the difference to a naive resize, eight times enlarged: edges and fine patterns. A model "
        "that is fed the second instead of the first sees another picture.",
        (resize_weights, resize),
        ("image.decoded", "image.resized", "image.pixels"),
        "Where in the picture does the naive resize differ most, and why there?",
        "At edges and fine texture: the naive way looks at four pixels and skips those between; the good one lets "
        "every pixel count.",
    ),
    Panel(
        2,
        "Patches become tokens",
        "The square is cut into patches, and each is multiplied with the same learned filters: one number a filter.",
        "The filters: smooth colour blobs, edges, stripes. The overlay says how long each patch's vector is: a patch "
        "far from mid grey or full of contrast is long.",
        (model.extract_patches, model.linear),
        ("image.patch_embed",),
        "Which patch has the longest vector, and what is in it?",
        "The line below the map names it, and it stands enlarged beside it: strong colour, or strong contrast. A click "
        "chooses another patch to compare.",
    ),
    Panel(
        3,
        "Where a patch was",
        "Attention does not know order, so a learned vector for its place is added to each patch.",
        "Similarity of the chosen patch's position to all others: a learned map of the square; below 0 nothing is "
        "drawn. Beside it the same for positions interpolated to a finer grid: smooth, but trained on by nobody.",
        (positions.interpolate, model.image_tokens),
        ("image.embed",),
        "Choose a patch in a corner: is its row or its column more like it?",
        "The line below the map has the mean cosine of the row and of the column, for the patch that a click "
        "chooses. On the finer grid the brightest cells lie at the same place.",
    ),
    Panel(
        4,
        "Attention, layer by layer",
        "In each head each patch asks all patches, and mixes their values by how well the keys answer.",
        "Choose a patch, a layer and a head. Entropy says how wide a head looks (0 one patch, 1 all alike), distance "
        "how far. Early heads often look near, late heads at a few patches from everywhere.",
        (model.attention,),
        ("image.blocks.i.attn.probs",),
        "Which head looks most at its neighbours?",
        "The line below the maps names the head of the least distance; the table has them all.",
        "What happens to the probabilities if it is switched off?",
        "Choose its layer and head, switch it off, and compare the two columns of probabilities.",
    ),
    Panel(
        5,
        "The probe, and what a label owes to a patch",
        "One learned query, the probe, attends to all tokens and makes them one vector; the probe itself is not added.",
        "Above: where each head of the probe looks. Below: what the chosen label's logit owes to each patch, by exact "
        "gradients, and what it loses when patches are made grey one at a time. Attention is not attribution.",
        (model.map_head, backward.l2_normalize),
        ("image.map_head.attn.probs", "image.pooled"),
        "Do the gradient and the grey patches name the same place for each label?",
        "The line below says how far they agree. Where they do not, believe the grey patch about grey patches.",
    ),
    Panel(
        6,
        "The residual stream",
        "Each block only adds to the stream of tokens; whatever is read later was written here before.",
        "The norm grows with depth. Patches that were different become alike, or groups do. A few channels are many "
        "times the median: outliers, the trouble of int8.",
        (model.block,),
        ("image.embed", "image.blocks.i.+mlp"),
        "At what depth is the chosen patch most like its object, and least like the background?",
        "Move through the depths: bright patches are alike; the line below the map names the most and the least alike.",
    ),
    Panel(
        7,
        "From words to a vector",
        "The text loses case and punctuation, is cut into pieces, padded to a fixed length, and read off at the last "
        "place: a padding.",
        "The padding is attended to; masked, as most models do it, the vector moves, and so does the logit. The bars "
        "say what each word adds to the logit with this picture.",
        (model.text_tower,),
        ("text.ids", "text.pooled", "text.head"),
        "Which word of the label matters most, and is there one that harms?",
        "The longest bar. A bar to the left: without the word the label would fit better.",
    ),
    Panel(
        8,
        "From a cosine to a probability",
        "Both vectors have length one; their cosine is multiplied by t, the bias is added, and the sigmoid is the "
        "probability of this pair alone.",
        "The cosine of the right caption, too, is far below 1; t and bias decide what counts as a match. Softmax "
        "beside it must share out 1: it has a winner even if nothing fits.",
        (model.logits, model.sigmoid, model.softmax),
        ("zimg", "ztxt", "logits", "probs"),
        "Why is the probability of a wrong caption 0.00002 and not 0.3?",
        "Read a wrong caption's row from left to right: its cosine is low, so cosine times t plus bias lies far "
        "below 0, where the sigmoid is nearly 0, whatever the other labels are. 0.3 would be a share of 1 among the "
        "labels: softmax. Training put the bias there since hardly one of all pairs matches; move it and look.",
    ),
    Panel(
        9,
        "The loss",
        "Of N pictures and N captions every one of the N x N pairs is a yes-or-no question; the diagonal says yes.",
        "Red cells cost. One of N is positive, so the bias should begin near " + START + ". A cell needs only its own "
        "two vectors: blocks go round a ring of devices, and no device ever sees all.",
        (loss.sigmoid_block,),
        ("logits", "loss"),
        "Set the bias to 0: how does the loss change, and which cells pay?",
        "The line below the cells splits the loss: matches pay less, the others more. In a trained model it is those "
        "few whose logit comes near 0. Before training every cosine is near 0, and all N - 1 others in a row pay log "
        "2 each: see the share of positives.",
    ),
    Panel(
        10,
        "Fewer bits",
        "The same pass in float32, bfloat16 and int8, against float64, layer by layer.",
        "How far apart the lines are, and whether they rise with depth. Below: what is left of it in the "
        "probabilities.",
        (quantize.quantize_rows, quantize.quantize_weights),
        ("image.embed", "image.blocks.i.+mlp", "zimg", "ztxt"),
        "How many digits of a logit hold in bfloat16?",
        "Compare the logits in the table: those that agree with float64.",
    ),
    Panel(
        11,
        "How it came about",
        "The loss of a training, its accuracies, and where the probe looked on the way.",
        "Stairs in the curve: something was learned. At the first checkpoint the probe looks everywhere alike.",
        (loss.sigmoid_loss,),
        ("image.map_head.attn.probs",),
        "From which checkpoint on does the probe find the object?",
        "Compare the rows with the picture.",
    ),
)
