"""Names of timm's architectures, and what is known of them."""

from npsiglip.config import GELU_ERF, GELU_TANH
from npsiglip.formats import openclip_arch


def test_names_of_architectures():
    assert len(openclip_arch.known_names()) == 34
    for name in ("vit_base_patch16_clip_224", "vit_base_patch16_siglip_448", "vit_so400m_patch14_siglip_896", "siglip"):
        assert openclip_arch.architecture(name) is None
    known = openclip_arch.architecture("vit_so400m_patch14_siglip_gap_896.pali_pt")
    assert (known.num_heads, known.activation, known.mean) == (16, GELU_ERF, True)
    tanh = {name for name in openclip_arch.known_names() if openclip_arch.architecture(name).activation == GELU_TANH}
    # of the modules that timm 1.0.31 builds: B/32, L/16-512, So400m/16 and g-opt
    kinds = ("base_patch32", "so400m_patch16", "giantopt_patch16")
    of_timm = {f"vit_{kind}_siglip_{gap}{size}" for kind in kinds for gap in ("", "gap_") for size in (256, 384, 512)}
    of_timm |= {"vit_large_patch16_siglip_512", "vit_large_patch16_siglip_gap_512"}
    assert tanh == of_timm & set(openclip_arch.known_names()) and len(tanh) == 14
