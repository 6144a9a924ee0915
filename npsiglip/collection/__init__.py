"""Many pictures or texts, embedded once: found again by words, by pictures, and by what is like them."""
