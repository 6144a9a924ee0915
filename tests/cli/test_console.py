"""What a person is told on stderr: warnings in one line, without source."""

import warnings
from pathlib import Path

import npsiglip
from tests.helpers.command import run


def test_warnings_are_one_line_without_source(images, monkeypatch):
    load = npsiglip.SigLIP.from_pretrained

    def warn(*args, **options):
        warnings.warn("something\nodd", RuntimeWarning, stacklevel=1)
        return load(*args, **options)

    monkeypatch.setattr(npsiglip.SigLIP, "from_pretrained", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = run("classify", "one.png", "-l", "a")
    assert result.exit_code == 0
    assert result.stderr == "warning: something\nodd\n"


def test_a_cache_that_cannot_be_written_is_one_warning(images, monkeypatch):
    from npsiglip.kernels import cache

    def no_room(path, parts):
        raise OSError(28, "No space left on device")

    def compile_two(*args, **options):
        for key in ("a", "b"):
            cache.save(Path(key), key.encode(), b"code")
        return load(*args, **options)

    load = npsiglip.SigLIP.from_pretrained
    monkeypatch.setattr(cache, "_write", no_room)
    monkeypatch.setattr(cache, "_told", set())
    monkeypatch.setattr(npsiglip.SigLIP, "from_pretrained", compile_two)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = run("classify", "one.png", "-l", "a")
    assert result.exit_code == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith("warning: the kernel cache ")
    assert "(No space left on device)" in line
    assert line.endswith("set NUMBA_CACHE_DIR to a folder that can be written")
