import pytest

from npsiglip.errors import InputError
from npsiglip.extras import library


def test_a_library_that_is_there():
    assert library("json.decoder", "parquet").JSONDecoder().decode("1") == 1


@pytest.mark.parametrize("what", ["this", "clip:x"])
def test_a_library_that_is_not_there(what):
    with pytest.raises(InputError, match=rf"^{what} needs no_such_library.*pip install 'npsiglip\[parquet\]'"):
        library("no_such_library.part", "parquet", what)
