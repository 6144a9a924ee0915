"""Model files: what is in them, and which parameter of ours each tensor is.

    stored                  a tensor as a file holds it, whatever the file's format
    safetensors, npz        files of named tensors
    hf_names, big_vision_names, openclip_names      which tensor is which parameter
    big_vision_config, openclip_config, openclip_arch   a model's shapes, where no config.json tells them
    openclip                folders of open_clip and timm
    matching                every tensor is taken exactly once
    adapter, cut_out        LoRA adapters; image towers in larger models
    quantized               weights in 8 bits
    sentence_transformers   folders of that library
    told                    whose format a folder is in, and what a user has to say of it

`npsiglip.checkpoint` opens a folder with these; `npsiglip.convert` writes other folders.
"""
