"""Names of folders to be written: not those of files, which somebody may take them for."""

from __future__ import annotations

from pathlib import Path

from npsiglip.errors import InputError

_NAMES = (
    ".7z .arrow .bin .bz2 .ckpt .csv .gz .h5 .hdf5 .jpeg .jpg .json .jsonl .npy .npz .onnx .parquet .pdf .png .pt .pth "
    ".rar .safetensors .tar .tbz .tgz .toml .txt .txz .webp .xz .zip .zst"
)
_FILES = frozenset(_NAMES.split())


def check_folder_name(folder: Path, instead: str = "") -> None:
    """Refuse to make a folder with the name of a file; one that exists is a folder, whatever its name.

    Args:
        folder: to be written.
        instead: what else may be written, for the message.

    Raises:
        InputError: its name ends like a file's.
    """
    if folder.suffix.lower() in _FILES and not folder.is_dir():
        raise InputError(
            f"{str(folder)!r} ends in {folder.suffix}, and a folder is what would be written; expected the name of a "
            f"folder, without this ending{instead}"
        )
