"""What `--fast-decode` costs: `python benchmarks/fast_decode.py FOLDER --model MODEL -l LABEL...`.

Each JPEG of a folder is prepared twice, whole and at 1/2, 1/4 or 1/8 of its size, and embedded. Printed are the cosine
of the two vectors, how far the best probability moves, and how many pictures change their first label. Labels may be
the lines of a file, `--labels FILE`. Take photographs as they come: pictures of noise or of flat colours say nothing.
"""

import argparse
from pathlib import Path

import numpy as np

from npsiglip import SigLIP
from npsiglip.collection.items import Bad
from npsiglip.collection.prepare import picture
from npsiglip.collection.records import Failure
from npsiglip.collection.where import Where


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("-l", "--label", action="append", default=[])
    parser.add_argument("--labels", help="a file with a label a line")
    options = parser.parse_args()
    labels = options.label + (Path(options.labels).read_text(encoding="utf-8").splitlines() if options.labels else [])
    model = SigLIP.from_pretrained(options.model)
    texts, rows, names, fractions = model.encode_text(labels) if labels else None, [[], []], [], []
    for item in Where([options.folder]):
        if isinstance(item, Bad) or not item.key.lower().endswith((".jpg", ".jpeg")):
            continue
        both = [picture((item, None), model.processor, fast) for fast in (False, True)]
        if any(isinstance(one, Failure) for one in both):
            continue
        for kept, one in zip(rows, both, strict=True):
            kept.append(model.encode_image(one.input)[0])
        names.append(Path(item.key).name)
        fractions.append(both[0].record.width * both[0].record.height / 1e6)
    whole, fast = (np.asarray(kept, np.float64) for kept in rows)
    if not len(whole):
        raise SystemExit(f"{options.folder} has no JPEG that can be read")
    cosine = (whole * fast).sum(1) / np.linalg.norm(whole, axis=1) / np.linalg.norm(fast, axis=1)
    others = whole @ whole.T / np.outer(*[np.linalg.norm(whole, axis=1)] * 2)
    print(f"{len(cosine)} pictures, {np.median(fractions):.1f} megapixels in the median")
    worst = int(cosine.argmin())
    print(f"cosine: median {np.median(cosine):.6f}, least {cosine[worst]:.6f} ({names[worst]})")
    off_diagonal = others[~np.eye(len(others), dtype=bool)]
    print(f"cosine of different pictures: median {np.median(off_diagonal):.3f}, highest {off_diagonal.max():.6f}")
    if labels:
        before, after = whole @ texts.T, fast @ texts.T
        changed = [names[i] for i in np.flatnonzero(before.argmax(1) != after.argmax(1))]
        print(f"first of {len(labels)} labels changed: {len(changed)} of {len(names)} {', '.join(changed[:5])}")
        probs = [model.compare(rows.astype(np.float32), texts).probs for rows in (whole, fast)]
        moved = np.abs(probs[0].max(1) - probs[1].max(1))
        print(f"the best probability moves by {np.median(moved):.5f} in the median, {moved.max():.5f} at most")


if __name__ == "__main__":
    main()
