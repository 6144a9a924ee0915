"""A server in a process of its own, as users start it."""

import contextlib
import re
import subprocess
import sys
import threading

from tests.helpers.command import environment
from tests.helpers.golden_data import ROOT


@contextlib.contextmanager
def server(*options, **changes):
    """The address of a server with these options, on a free port; it ends with the context.

    Args:
        options: of `npsiglip serve`.
        changes: variables of its environment.
    """
    command = [sys.executable, "-m", "npsiglip", "serve", "--port", "0", *map(str, options)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment(**changes))
    assert process.stderr is not None
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            if found := re.match(r"serving: (http://\S+)", line):
                break
        else:
            raise AssertionError(f"the server did not start: {''.join(said)}")
        rest = threading.Thread(target=lambda: said.extend(process.stderr), daemon=True)
        rest.start()
        yield Started(found[1], process, said)
    finally:
        process.terminate()
        process.wait(60)
        process.stderr.close()


class Started:
    """A server that runs."""

    def __init__(self, url, process, said):
        self.url, self.process, self.said = url, process, said
