"""Collections: pictures or texts, embedded once, kept as an index: found again by words, by pictures, by likeness."""
