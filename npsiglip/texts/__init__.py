"""From texts to token ids: one module a tokenizer, `base` for what they share, `load` for which one a folder has."""
