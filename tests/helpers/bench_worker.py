"""A worker's program as a file."""

import textwrap


def script(folder, code):
    """A file with the code, for a command."""
    path = folder / f"worker{len(list(folder.iterdir()))}.py"
    path.write_text(textwrap.dedent(code), encoding="utf-8")
    return str(path)
