"""What a caption claims of a pair does not depend on the order of its things."""

from npsiglip.world import claims as claims_module
from npsiglip.world.claims import shown
from tests.helpers.worlds import at, scene_of


def test_claims_of_pairs_do_not_depend_on_the_order():
    first, second = at("red", "circle", 0.2, 0.5), at("blue", "star", 0.8, 0.5)
    bits = claims_module.RELATIONS
    keys = [(claims_module.thing_key(thing), 0) for thing in (first, second)]
    left = claims_module.ordered(keys[0], keys[1], bits["left"], 0)
    assert left == claims_module.ordered(keys[1], keys[0], bits["right"], 0)
    above = claims_module.ordered(keys[0], keys[1], bits["above"], 0)
    assert above == claims_module.ordered(keys[1], keys[0], bits["below"], 0)
    for things in ((first, second), (second, first)):
        picture = shown(scene_of(*things, kind="pair"))
        assert left.true_of(picture)
        assert not above.true_of(picture)
    turned = shown(scene_of(at("red", "circle", 0.8, 0.5), at("blue", "star", 0.2, 0.5), kind="pair"))
    assert not left.true_of(turned)
    alone = claims_module.Claims((keys[1],))
    assert alone.true_of(turned)
    assert not left.true_of(shown(scene_of(first)))
