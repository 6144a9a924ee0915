"""Folders and patterns of names -> the pictures in them, in the order of their names, one folder in memory at a time.

Hidden files and folders are left out. A link to a folder is followed if it leads out of the walk, once; one that leads
back into it is not: what is there has a name already. So links in circles end.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from npsiglip.collection.items import SEPARATOR, Bad, Item, file_item, key_bytes, reason_of
from npsiglip.errors import InputError
from npsiglip.images.kinds import COMMON_SUFFIXES

MAGIC = re.compile(r"[*?[]")


def is_picture(name: str) -> bool:
    """Whether a file of a folder is taken: by its ending."""
    return name.rpartition(".")[2].lower() in COMMON_SUFFIXES


_TOKEN = re.compile(r"\*\*/|\*+|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)


def _one(token: str) -> str:
    """A part of a shell's pattern as a regular expression."""
    if token == "**/":
        return "(?:[^/]+/)*"
    if token.startswith("*"):
        return "[^/]*"
    if token == "?":
        return "[^/]"
    if len(token) > 1:
        inner = token[1:-1].replace("\\", "\\\\").replace("[", "\\[")
        return f"[^{inner[1:]}]" if inner.startswith("!") else f"[{inner}]"
    return re.escape(token)


def _pattern(glob: str) -> re.Pattern[str]:
    """A shell's pattern of a path, in which `**` stands for any number of folders.

    Raises:
        InputError: it is none.
    """
    if glob == "**" or glob.endswith("/**"):
        glob += "/*"
    try:
        return re.compile("".join(map(_one, _TOKEN.findall(glob))) + r"\Z", re.DOTALL)
    except re.error as error:
        raise InputError(f"the pattern {glob!r} cannot be: {error}; expected one such as '*.jpg' or '[a-z]*'") from None


def split_glob(text: str) -> tuple[str, str]:
    """The folder that a pattern begins in, and the pattern within it: "a/b*/*.jpg" is "a" and "b*/*.jpg"."""
    parts = text.split("/")
    first = next(n for n, part in enumerate(parts) if MAGIC.search(part))
    return "/".join(parts[:first]) or ("/" if text.startswith("/") else "."), "/".join(parts[first:])


@dataclass(frozen=True)
class Folder:
    """The pictures in a folder and those under it.

    root: the folder, an absolute path.
    ignore: shell patterns: of a name, or, if a "/" is in one, of a path from the root on.
    glob: a pattern that paths from the root on have to match; empty: all pictures.

    Raises:
        InputError: a pattern that is none.
    """

    root: str
    ignore: tuple[str, ...] = ()
    glob: str = ""

    def __post_init__(self) -> None:
        _pattern(self.glob)

    @property
    def prefix(self) -> str:
        """What keys under it begin with."""
        return self.root.rstrip("/") + "/"

    def is_gone(self, key: str) -> bool:
        """Whether a file under it is there no more; a member of a tar is there while the tar is."""
        ends = [len(key), *(found.start() for found in re.finditer(SEPARATOR, key))]
        return not any(os.path.lexists(key[:end]) for end in ends)

    @property
    def name(self) -> str:
        """What the listing is of."""
        return os.path.join(self.root, self.glob) if self.glob else self.root  # noqa: PTH118

    def _ignored(self, name: str, relative: str) -> bool:
        for pattern in self.ignore:
            wanted = pattern.rstrip("/")
            if fnmatch.fnmatchcase(relative if "/" in wanted else name, wanted):
                return True
        return False

    def _names(self, folder: str, before: str, walked: set[str]) -> list[str] | Bad:
        """The names in a folder, those of folders with a slash, in the order that whole paths have."""
        names = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name
                    if name.startswith(".") or self._ignored(name, before + name):
                        continue
                    if self._is_folder(entry, walked):
                        names.append(name + "/")
                    elif _is_other(entry):
                        continue
                    elif self.glob or is_picture(name):
                        names.append(name)
        except OSError as error:
            reason = f"the folder cannot be read: {reason_of(error)}"
            return Bad(folder, reason, self.name, folder.rstrip("/") + "/")
        return sorted(names, key=key_bytes)

    def _is_folder(self, entry: os.DirEntry[str], walked: set[str]) -> bool:
        """Whether to go into it."""
        try:
            if not entry.is_dir():
                return False
            if not entry.is_symlink():
                return True
            target = os.path.realpath(entry.path)
        except OSError:
            return False
        if any(f"{target}/".startswith(f"{root.rstrip('/')}/") for root in walked):
            return False  # it has been, or will be, seen under its own name
        if any(f"{root}/".startswith(f"{target.rstrip('/')}/") for root in walked):
            return False  # an ancestor
        walked.add(target)
        return True

    def __iter__(self) -> Iterator[Item | Bad]:
        """Its pictures; Bad for a folder that cannot be read, and for what is called like a picture and is none."""
        pattern = _pattern(self.glob) if self.glob else None
        walked = {os.path.realpath(self.root)}
        stack: list[tuple[str, Iterator[str]]] = []

        def enter(before: str) -> Bad | None:
            names = self._names(os.path.join(self.root, before), before, walked)  # noqa: PTH118
            if isinstance(names, Bad):
                return names
            stack.append((before, iter(names)))
            return None

        bad = enter("")
        if bad:
            yield bad
        while stack:
            before, names = stack[-1]
            name = next(names, None)
            if name is None:
                stack.pop()
            elif name.endswith("/"):
                if bad := enter(before + name):
                    yield bad
            elif pattern is None or pattern.match(before + name):
                yield file_item(os.path.join(self.root, before + name), self.name)  # noqa: PTH118


def _is_other(entry: os.DirEntry[str]) -> bool:
    """A folder that is not gone into."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def check_ignore(patterns: Sequence[str]) -> tuple[str, ...]:
    """The patterns, without a "./" at their beginning."""
    return tuple(pattern.removeprefix("./") for pattern in patterns)
