"""Writes a released shape as a model folder with random weights: `python golden/random_folder.py NAME FOLDER`.

For timings and comparisons at full size where a trained checkpoint is not at hand; needs npsiglip, no framework.
`npsiglip classify IMAGE... -l LABEL --model FOLDER` and transformers both load the folder. The weights are those of
`npsiglip.params.random_params`, so the probabilities mean nothing; the tokenizer is the tiny golden one, whose ids
are the first thousand of the token table.
"""

import argparse
import json
import shutil
from pathlib import Path

from npsiglip.config import SigLIPConfig
from npsiglip.params import random_params
from npsiglip.save import SAVE_DTYPES, save_folder
from npsiglip.variants import VARIANTS, variant

TINY = Path(__file__).parent / "tiny"
SEED = 20230327


def copy_json(source: Path, target: Path, **changes: object) -> None:
    """Copies a JSON object with some of its entries replaced."""
    content = json.loads(source.read_text(encoding="utf-8")) | changes
    target.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write(
    folder: str | Path, config: SigLIPConfig, seed: int = SEED, outlier: float = 1.0, dtype: str = "float32"
) -> None:
    """Writes `config` with random weights, a tokenizer and an image processor; see `random_params` for `outlier`."""
    folder = Path(folder)
    save_folder(folder, config, random_params(config, seed, outlier), dtype)
    if config.text:
        shutil.copyfile(TINY / "spiece.model", folder / "spiece.model")
        name = "tokenizer_config.json"
        copy_json(TINY / name, folder / name, model_max_length=config.text.seq_len)
    if config.image:
        name = "preprocessor_config.json"
        size = {"height": config.image.image_size, "width": config.image.image_size}
        copy_json(TINY / name, folder / name, size=size)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=VARIANTS, metavar="NAME", help=", ".join(VARIANTS))
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="created if it does not exist")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument(
        "--outlier", type=float, default=1.0, help="100 makes residual streams carry 100 times their median"
    )
    parser.add_argument("--dtype", choices=SAVE_DTYPES, default="float32")
    options = parser.parse_args()
    write(options.folder, variant(options.name), options.seed, options.outlier, options.dtype)


if __name__ == "__main__":
    main()
