"""From pictures to pixels, as Hugging Face's image processors and open_clip's make them.

kinds, files    which file is a picture, and what it holds
decode          whatever a caller hands in -> 8-bit RGB
settings        what preprocessor_config.json says
processor       RGB -> pixels [N, 3, H, W]
naflex          RGB -> patches of pictures that keep their shape
openclip        pixels as open_clip and timm make them
"""
