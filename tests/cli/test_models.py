"""`npsiglip models`."""

import json

from tests.helpers.command import run


def test_models_as_json():
    rows = json.loads(run("models", "--json", model=None).stdout)
    by_name = {row["name"]: row for row in rows}
    assert next(iter(by_name)) == "builtin"
    assert by_name["builtin"]["download"] is None
    row = by_name["siglip-base-patch16-224"]
    assert (row["repository"], row["parameters"]) == ("google/siglip-base-patch16-224", 203_155_970)
    assert row["download"] == 4 * row["parameters"]
    assert set(row["memory"]) == {"float32", "bfloat16", "int8"}
    assert row["here"] in ("yes", "partly", "no")
    shown = run("models", model=None).stdout.splitlines()
    assert [line.split()[0] for line in shown[1 : 1 + len(rows)]] == list(by_name)
