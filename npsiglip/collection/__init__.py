"""Collections: folders of pictures or lists of texts, embedded once, kept as an index, searched."""
