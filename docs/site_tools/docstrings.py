"""Docstrings are plain text with Google's sections; Sphinx wants reStructuredText.

`code spans` get its marks, indented lines are shown as they stand (equations, lists of modules), and signs that mean
something to it (stars, bars, underscores) are shielded. Sections are left to Napoleon, which comes after this.

Kernels are objects of Numba's; what is documented is the function that each was made of.
"""

import importlib
import pkgutil
import re

SECTION = re.compile(r"(Args|Returns|Raises|Yields|Attributes|Warns|Example|Examples|Note):$")


def shielded(text):
    """A line of words, with double backticks and no other marks."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        parts[-2:] = ["`".join(parts[-2:])]
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = f"``{part}``"
        else:
            part = re.sub(r"([\\*|`])", r"\\\1", part)
            parts[i] = re.sub(r"(?<=\w)_(?!\w)", r"\\_", part)
            if i and parts[i][:1].isalnum():
                parts[i] = "\\ " + parts[i]
    return "".join(parts)


def returned(lines):
    """The lines below "Returns:" as a field: a list where they say several things by name, else a paragraph."""
    base = min((len(line) - len(line.lstrip()) for line in lines), default=0)
    items = [bool(re.match(rf" {{{base}}}[\w, ]+: ", line)) for line in lines]
    if not (items and items[0] and (sum(items) > 1 or len(lines) > 1)):
        return ["", ":returns:", *(f"    {shielded(line.strip())}" for line in lines)]
    marked = (f"    {'-' if item else ' '} {shielded(line.strip())}" for item, line in zip(items, lines, strict=True))
    return ["", ":returns:", *marked]


def prepared(lines):
    """The lines of a docstring as reStructuredText with Google's sections."""
    out, section, listed, literal, results = [], False, False, False, None
    for line in [*joined(lines), ""]:
        indent = len(line) - len(line.lstrip())
        if results is not None:
            if line.strip() and indent:
                results.append(line)
                continue
            out += [*returned(results), ""]
            results = None
        if not line.strip():
            out.append("")
        elif SECTION.match(line):
            section, literal = True, False
            if line == "Returns:":
                results = []
            else:
                out += ["", line]
        elif indent == 0:
            item = line.startswith("- ")
            if literal or section or (item and not listed):
                out.append("")
            section, literal, listed = False, False, item
            out.append(shielded(line))
        elif section:
            name = re.match(r"(\s+[\w*., ]+: )?(.*)", line)
            out.append((name[1] or "") + (shielded(name[2].lstrip() if name[1] else name[2])))
        elif listed and indent == 2:
            out.append(shielded(line))
        else:
            if not literal:
                out += ["", "::", ""]
                literal = True
            out.append(line)
    return out


def joined(lines):
    """Lines, where a code span that goes over the end of a line is brought onto one."""
    out = []
    for line in lines:
        if out and out[-1].count("`") % 2 and line.strip():
            out[-1] = f"{out[-1]} {line.strip()}"
        else:
            out.append(line)
    return out


def process(app, what, name, obj, options, lines):
    """What autodoc calls for every docstring."""
    lines[:] = prepared(lines)


def show_functions(app):
    """Puts the Python functions of kernels where Numba's objects are. No kernel can run afterwards, and none has to."""
    import npsiglip.kernels

    for found in pkgutil.iter_modules(npsiglip.kernels.__path__, "npsiglip.kernels."):
        importlib.import_module(found.name)
    for found in pkgutil.iter_modules(npsiglip.kernels.__path__, "npsiglip.kernels."):
        module = importlib.import_module(found.name)
        for name, value in list(vars(module).items()):
            function = getattr(value, "py_func", None) or getattr(value, "function", None)
            if getattr(function, "__module__", None) == module.__name__:
                setattr(module, name, function)


def setup(app):
    """What Sphinx calls."""
    app.connect("builder-inited", show_functions)
    app.connect("autodoc-process-docstring", process, priority=400)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
