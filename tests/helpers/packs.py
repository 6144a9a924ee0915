"""Conformance packs of the tiny model, and candidates that a port could leave for one."""

import numpy as np

from npsiglip.verify.arithmetic import HONEST
from npsiglip.verify.mistakes import BY_NAME
from npsiglip.verify.operations import IDS, PIXELS, Context, run


def computed(pack, mistakes=(), variant=0, dtype="float32"):
    """What a port gives that computes all of a pack: levels 2 (on golden input) to 5, some operations mistaken."""
    made = [BY_NAME[name] for name in mistakes]
    context, golden = Context(pack.config, pack.params, HONEST[dtype][variant]), pack.golden
    env = {tap: pack.tensors[tap] for tap in (PIXELS, IDS) if tap in pack.tensors}
    found = {}
    single = {check.tap for check in pack.at(2)}
    for op in golden.ops:
        change, reads = next(((c, m.reads) for m in made if (c := m.change(op)) is not None), (None, ()))
        op = op._replace(inputs=(*op.inputs, *reads))
        found[op.tap] = env[op.tap] = run(context, op, env, change)
        if op.tap in single:
            found[f"level2.{op.tap}"] = run(context, op, pack.tensors, change)
    return found


def shown_golden(pack):
    """The golden results themselves, as a port in float64 would give them in float32."""
    checked = {check.tap for check in pack.checks}
    found = {tap: x for tap, x in pack.tensors.items() if tap in checked}
    return found | {check.name: pack.tensors[check.tap] for check in pack.at(2)}


def spoiled(x, how):
    """A tensor that is no result: a number that is none, or all zero."""
    x = np.array(x)
    x.flat[x.size // 2] = {"nan": np.nan, "inf": np.inf}[how]
    return x
