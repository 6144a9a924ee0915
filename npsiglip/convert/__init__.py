"""Writing models: between formats (`formats`), to 8 bits (`quantize`), and a folder's other files (`files`)."""
