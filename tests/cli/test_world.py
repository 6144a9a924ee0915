"""`npsiglip world`; tests/world/test_shards.py has what it writes."""

from importlib import util

from tests.helpers.command import assert_refused, run


def test_a_world_without_matplotlib_names_no_option_that_is_not_there(images, monkeypatch):
    found = util.find_spec
    monkeypatch.setattr("npsiglip.world.fonts.find_spec", lambda name: None if name == "matplotlib" else found(name))
    result = run("world", "-o", "w", "--count", "1", model=None)
    assert_refused(result, "pip install 'npsiglip[train]'", "in Python")
