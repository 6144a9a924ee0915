"""The job of `npsiglip classify IMAGE... -l LABEL --json` by transformers.

Run it as `transformers_classify.py FOLDER THREADS IMAGE LABEL ...`. Written for the least time: the classes of this
model, no Auto classes, no pipeline, no torchvision.
"""

import json
import sys

import torch
from PIL import Image
from transformers import SiglipImageProcessorPil, SiglipModel, SiglipTokenizer


def main() -> None:
    folder, threads, image, *labels = sys.argv[1:]
    torch.set_num_threads(int(threads))
    model = SiglipModel.from_pretrained(folder).eval()
    tokenizer = SiglipTokenizer.from_pretrained(folder)
    processor = SiglipImageProcessorPil.from_pretrained(folder)
    texts = [f"This is a photo of {label}." for label in labels]
    tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
    pixels = processor(Image.open(image).convert("RGB"), return_tensors="pt")
    with torch.inference_mode():
        probs = torch.sigmoid(model(input_ids=tokens.input_ids, **pixels).logits_per_image)[0]
    scores = [{"label": label, "score": float(prob)} for label, prob in zip(labels, probs, strict=True)]
    print(json.dumps({"image": image, "scores": sorted(scores, key=lambda score: -score["score"])}))


if __name__ == "__main__":
    main()
