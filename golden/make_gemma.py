"""Trains a tiny vocabulary like SigLIP 2's and stores what transformers makes of it: `python golden/make_gemma.py`.

Writes golden/gemma: `tokenizer.model` (SentencePiece), `tokenizer.json` (the same for the tokenizers library),
`tokenizer_config.json` (the settings of the released checkpoints) and `tokens.json` (strings, and the ids that
`AutoTokenizer` gives them beside a config.json of SigLIP 2).

The settings are those of Gemma's vocabulary: BPE, `<pad>` 0, `<eos>` 1, `<bos>` 2, `<unk>` 3, added tokens behind
them, byte fallback, digits one by one, no normalisation but a space to "▁", no dummy prefix. tokenizer.json has the
structure that transformers' converter gave the released one. 1000 pieces instead of 256,000. Needs transformers 5.x.
"""

import io
import json
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the root of the repository

from golden.make_spiece import corpus
from golden.make_tokens import _stable
from golden.strings import strings

FOLDER = Path(__file__).parent / "gemma"
FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
VOCAB_SIZE = 1000
SEED = 256_000
COUNT = 250
SEQ_LEN = 64
NEWLINES, SPACES = ["\n" * n for n in range(1, 5)], ["▁" * n for n in range(2, 6)]
TURNS = ["<start_of_turn>", "<end_of_turn>"]
TOKENS = {"pad_piece": "<pad>", "eos_piece": "<eos>", "bos_piece": "<bos>", "unk_piece": "<unk>"}
TOKENS |= {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
ADDED = ["<mask>", "<2mass>", "[@BOS@]", "<unused0>", "<unused1>", *TURNS, *NEWLINES, *SPACES, "<table>", "</table>"]
EXTRA = (  # what Gemma's vocabulary treats in a special way, and what looks like it
    *("a photo<eos>", "<eos><eos>", "<bos>a", "<pad>", "a<pad>b", "<EOS> <Pad>", "<unk>", "<mask>x", "[@BOS@] [@bos@]"),
    *("<start_of_turn>user\nA CAT<end_of_turn>\n", "<START_OF_TURN>", "<unused1>", "<unused2>", "<table>A</TABLE>"),
    *("\n\n\n", "a\n\n\n\n\n\nb", "a  b", "a   b      c", "▁▁a▁b", " ▁ ", "\ta\t\tb", "2023 3.14", "THIS IS A Photo."),
    *("<0x41>", "<0x0A>", "ΑΣ ΟΔΟΣ", "İI", "a cat " * 30, "a cat" * 15 + "<eos>", "ẞ ﬁ K"),
)


def gemma_strings(count: int, seed: int) -> list[str]:
    """`count` different strings, those of EXTRA first, with this vocabulary's spelling of special tokens."""
    spelt = (text.replace("</s>", "<eos>").replace("<s>", "<bos>") for text in strings(2 * count, seed))
    return list(dict.fromkeys([*EXTRA, *spelt]))[:count]


def train() -> bytes:
    """The bytes of a SentencePiece model with Gemma's settings."""
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=written,
        model_type="bpe",
        vocab_size=VOCAB_SIZE,
        **TOKENS,
        user_defined_symbols=ADDED,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        byte_fallback=True,
        character_coverage=0.9998,
        num_threads=1,
        shuffle_input_sentence=False,
        minloglevel=2,
    )
    return written.getvalue()


def convert(model: bytes) -> str:
    """The content of tokenizer.json: pieces, and every way to merge two of them into a third, best scores first."""
    from sentencepiece import SentencePieceProcessor
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import BPE
    from transformers.tokenization_utils_base import generate_merges

    sp = SentencePieceProcessor(model_proto=model)
    pieces = [sp.id_to_piece(i) for i in range(len(sp))]
    pieces[pieces.index("<0x09>")] = "\t"  # as in the released file
    scores = {piece: sp.get_score(i) for i, piece in enumerate(pieces)}
    vocab = {piece: i for i, piece in enumerate(pieces)}
    bpe = BPE(vocab, generate_merges(vocab, scores), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing("$A <eos>:0", special_tokens=[("<eos>", 1)])
    special = ("<pad>", "<eos>", "<bos>", "<unk>", *TURNS)
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=t in special) for t in pieces[: 4 + len(ADDED)]])
    return tokenizer.to_str() + "\n"


def settings(tokenizer_json: str) -> dict[str, object]:
    """The content of tokenizer_config.json, as released."""
    added = {str(token.pop("id")): token for token in json.loads(tokenizer_json)["added_tokens"]}
    return {
        "add_bos_token": False,
        "add_eos_token": True,
        "added_tokens_decoder": added,
        "additional_special_tokens": TURNS,
        "bos_token": "<bos>",
        "clean_up_tokenization_spaces": False,
        "do_lower_case": True,
        "eos_token": "<eos>",
        "extra_special_tokens": {},
        "model_input_names": ["input_ids"],
        "model_max_length": SEQ_LEN,
        "pad_token": "<pad>",
        "padding_side": "right",
        "processor_class": "SiglipProcessor",
        "sp_model_kwargs": {},
        "spaces_between_special_tokens": False,
        "tokenizer_class": "GemmaTokenizer",
        "unk_token": "<unk>",
        "use_default_system_prompt": False,
    }


def rows(texts: list[str], source: Path = FOLDER) -> list[list[int]]:
    """The ids that `AutoTokenizer` gives beside a config.json of type siglip2, in rows of 64."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        for name in FILES:
            shutil.copy(source / name, folder)
        (Path(folder) / "config.json").write_text('{"model_type": "siglip2"}')
        tokenizer = AutoTokenizer.from_pretrained(folder)
    assert type(tokenizer).__name__ == "Siglip2Tokenizer"
    return tokenizer(texts, padding="max_length", max_length=SEQ_LEN, truncation=True).input_ids


def main() -> None:
    """Writes golden/gemma."""
    FOLDER.mkdir(exist_ok=True)
    model = train()
    (FOLDER / "tokenizer.model").write_bytes(model)
    content = convert(model)
    (FOLDER / "tokenizer.json").write_text(content, encoding="utf-8")
    text = json.dumps(settings(content), ensure_ascii=False)
    (FOLDER / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")

    texts = [text for text in gemma_strings(2 * COUNT, SEED) if _stable(text)][:COUNT]
    head = {name: version(name) for name in ("transformers", "tokenizers", "sentencepiece")}
    head |= {"seed": SEED, "seq_len": SEQ_LEN, "pad": 0}
    lines = []
    for text, row in zip(texts, rows(texts), strict=True):
        while row[-1] == 0:
            row.pop()
        lines.append(json.dumps({"text": text, "ids": row}, separators=(",", ":")))
    written = json.dumps(head)[:-1] + ', "cases": [\n' + ",\n".join(lines) + "\n]}\n"
    (FOLDER / "tokens.json").write_text(written, encoding="ascii")
    for path in sorted(FOLDER.iterdir()):
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
