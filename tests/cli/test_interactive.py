"""`npsiglip search --interactive`: query after query, and settings between them."""

import os
import pty
import select
import sys
import time

import pytest

from npsiglip.cli.activity import Activity
from npsiglip.cli.collections import open_index
from npsiglip.cli.options import ModelOptions
from npsiglip.cli.search import _Searcher
from npsiglip.collection.merge import compact
from npsiglip.collection.query import parse
from npsiglip.collection.store import Store
from npsiglip.errors import InputError
from tests.helpers.collections import index_of
from tests.helpers.command import environment, invoke, lines_of_json
from tests.helpers.golden_data import ROOT


@pytest.fixture
def collection(tmp_path, images, model):
    return index_of(tmp_path / "index", model, model.encode_image(images), [tmp_path / name for name in images])


def ask(collection, lines, *args):
    return invoke("search", "-i", collection, "--interactive", *args, input="".join(f"{line}\n" for line in lines))


def ranks(stdout):
    return [line.split()[0] for line in stdout.splitlines()]


def test_query_after_query_as_without_a_prompt(collection, images):
    result = ask(collection, ["a cat", "./one.png - a dog"], "--json")
    assert result.exit_code == 0
    alone = invoke("search", "-i", collection, "a cat", "./one.png - a dog", "--json")
    assert lines_of_json(result.stdout) == lines_of_json(alone.stdout)


def test_queries_that_are_given_come_first(collection):
    result = invoke("search", "-i", collection, "x", "--interactive", "--json", input="y\n")
    assert [line["query"] for line in lines_of_json(result.stdout)] == ["x", "y"]


@pytest.mark.parametrize("end", ["", ":q", ":quit"])
def test_what_ends_it(collection, end):
    assert ranks(ask(collection, ["a cat", end, "a dog"]).stdout) == ["1", "2", "3"]


def test_settings(collection, images, tmp_path):
    result = ask(collection, [":k 2", "a cat", ":min-prob 1", "a cat", ":min-prob off", ":k 1", "a cat"])
    assert ranks(result.stdout) == ["1", "2", "1"]
    result = ask(collection, ["a cat", ":similar 2"], "--paths")
    first, second, third, *similar = result.stdout.splitlines()
    assert sorted(similar) == sorted([first, third])
    assert second not in similar
    ask(collection, ["a cat", f":sheet {tmp_path}/s.html"])
    assert "one.png" in (tmp_path / "s.html").read_text(encoding="utf-8")
    assert ":similar N" in ask(collection, [":help"]).stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("./none.png", "does not exist"),
        ("- a dog", "only says what pictures should not show"),
        (" ".join(["word"] * 200), "tokens that the model reads"),
        (":k 0", ":k: expected a number from 1"),
        (":k x", ":k: expected a number from 1"),
        (":similar 1", "nothing was found yet"),
        (":sheet x.png", "nothing was found yet"),
        (":min-prob 2", "from 0 to 1, or off"),
        (":preview on", "do not go to a terminal"),
        (":preview", "there is no ':preview'"),
        (":what 3", "there is no ':what 3'"),
        (": ", "there is no ':'"),
        (":sheet 'x", "No closing quotation"),
    ],
)
def test_what_cannot_be_answered_is_told_and_does_not_end_it(collection, line, message):
    result = ask(collection, [line, "a cat"])
    assert result.exit_code == 0
    assert message in result.stderr
    assert ranks(result.stdout) == ["1", "2", "3"]
    assert result.stderr.count("error: ") == 1


def test_after_an_answer(collection):
    assert "from 1 to 3, got '4'" in ask(collection, ["a cat", ":similar 4"]).stderr


def test_without_a_query(collection):
    result = invoke("search", "-i", collection)
    assert result.exit_code == 2
    assert "--interactive" in result.stderr


def test_on_a_terminal(collection):
    """A prompt, lines before within reach of the arrows, ctrl-D ends."""
    command = [sys.executable, "-m", "npsiglip", "search", "-i", str(collection), "--interactive", "-k", "1"]
    child, terminal = pty.fork()
    if not child:
        os.chdir(ROOT)
        os.execve(sys.executable, command, environment(TERM="xterm"))
    seen = b""

    def until(text, times):
        nonlocal seen
        end = time.monotonic() + 60
        while seen.count(text) < times and time.monotonic() < end:
            if select.select([terminal], [], [], 1)[0]:
                try:
                    seen += os.read(terminal, 65_536)
                except OSError:
                    break
        assert seen.count(text) >= times, seen

    try:
        until(b"search> ", 1)
        os.write(terminal, b"a cat\n")
        until(b".png", 1)
        until(b"search> ", 2)
        os.write(terminal, b"\x1b[A\n")  # the line before
        until(b".png", 2)
        until(b"search> ", 3)
        os.write(terminal, b"\x04")
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    finally:
        os.close(terminal)
    assert seen.count(b"a cat") == 2


def test_an_index_that_another_process_writes_meanwhile(collection, tmp_path):
    """Queries go on, with what there is then."""
    with open_index(collection) as opened:
        searcher = _Searcher(opened, ModelOptions(), "{}", None)
        with Activity() as activity:
            searcher.load(activity)
        ((before, _),) = searcher.find([parse("a cat")], 9, None)
        with Store.open(collection, write=True) as store:
            store.drop([str(tmp_path / "one.png")])
            assert compact(store, 0.0)
        ((after, _),) = searcher.find([parse("a cat")], 9, None)
        assert after == [hit for hit in before if not hit.key.endswith("one.png")]
        assert [hit.key for hit in searcher.similar(after[0], 9)] == [after[1].key]
        (gone,) = (hit for hit in before if hit not in after)
        with pytest.raises(InputError, match="is not in the index any more"):
            searcher.similar(gone, 9)
