"""What was computed lately."""

from npsiglip.server.cache import Cache


def test_the_least_recently_used_make_room():
    cache = Cache(3 * (Cache.PER_KEY + 10))
    for key in "abc":
        cache.put(key, key.upper(), 10)
    assert cache.get("a") == "A"
    cache.put("d", "D", 10)
    assert [cache.get(key) for key in "abcd"] == ["A", None, "C", "D"]
    assert cache.used == 3 * (Cache.PER_KEY + 10)
    cache.put("d", "E", 20)
    assert (cache.get("d"), cache.get("c"), len(cache)) == ("E", "C", 2)


def test_what_is_too_large_is_not_kept():
    cache = Cache(100)
    cache.put("a", "A", 10)
    assert (cache.get("a"), cache.used, len(cache)) == (None, 0, 0)
