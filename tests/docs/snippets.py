"""Run what a page of doc/ shows, and compare what comes out.

A block with a caption is a file of this name.  A block of the language
"console" has commands, each behind "$ ", and what they print: standard output
and error output together, to the letter; only "..." stands for any text within
its line.  All blocks of a page are taken in their order, in one directory.
Other blocks there are none, so everything that is shown is run.

    python3 snippets.py PAGE.rst

shows what differs.
"""

import os
import re
import subprocess
import sys
import tempfile
import textwrap

LIMIT = 120
# Said where /dev/shm is too small for journals, as in many containers.
NO_ROOM = re.compile(".*is not on a tmpfs.*\n")


class Wrong(Exception):
    """A page that shows something else than what comes out."""


class Block:
    """A literal block of a page."""

    def __init__(self, line, language, caption, text):
        self.line = line
        self.language = language
        self.caption = caption
        self.text = text


def blocks(page):
    """Of a page's text, those that Sphinx shows literally."""
    lines = page.split("\n")
    at = 0
    while at < len(lines):
        begin = at
        match = re.match(r"( *)\.\. code-block::\s*(\S*)$", lines[at])
        at += 1
        if match is None:
            if re.search(r"(?<!\.\.)::$", lines[begin]) and not re.match(
                    r" *\.\. ", lines[begin]) or ">>> " in lines[begin]:
                raise Wrong("line %d: use .. code-block::" % (begin + 1))
            continue
        deeper = len(match.group(1)) + 1
        body = []
        while at < len(lines) and (not lines[at].strip() or re.match(
                " {%d}" % deeper, lines[at])):
            body.append(lines[at])
            at += 1
        text = textwrap.dedent("\n".join(body)).strip("\n") + "\n"
        options = re.match(r"((?::\w+:.*\n)*)\n*", text)
        found = re.search(r":caption: (.*)", options.group(1))
        yield Block(begin + 1, match.group(2), found and found.group(1),
                    text[options.end():])


def commands(text):
    """(command, what is shown below it) of a console."""
    parts = re.split(r"^\$ ", text, flags=re.M)
    if parts[0].strip():
        raise Wrong("a console begins with a command, not %r" % parts[0])
    for part in parts[1:]:
        match = re.match(r"((?:.*\\\n)*.*\n)", part)
        yield match.group(1), part[match.end():]


def matches(shown, printed):
    pattern = re.escape(shown.rstrip("\n")).replace(r"\.\.\.", "[^\n]*")
    return re.fullmatch(pattern, printed.rstrip("\n")) is not None


def run_block(block, directory, environment):
    if block.caption is not None:
        if block.language == "console" or "/" in block.caption:
            raise Wrong("a file cannot be %r" % block.caption)
        with open(os.path.join(directory, block.caption), "w") as file:
            file.write(block.text)
        return
    if block.language != "console":
        raise Wrong("neither a file, with a caption, nor a console")
    for command, shown in commands(block.text):
        done = subprocess.run(
            ["sh", "-c", command], cwd=directory, env=environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=LIMIT)
        printed = NO_ROOM.sub("", done.stdout)
        if not matches(shown, printed):
            raise Wrong("$ %s\nshown:\n%s\nprinted:\n%s" % (
                command, shown, printed))


def run(path, directory, environment):
    """How many blocks there were; raises Wrong."""
    with open(path, encoding="utf-8") as file:
        found = list(blocks(file.read()))
    wrong = []
    for block in found:
        try:
            run_block(block, directory, environment)
        except Wrong as error:
            wrong.append("%s, line %d: %s" % (path, block.line, error))
    if wrong:
        raise Wrong("\n".join(wrong))
    return len(found)


def environment(scratch, package, programs):
    """Where python3 is this one, and finds the package and the programs."""
    tools = os.path.join(scratch, "bin")
    os.mkdir(tools)
    python = os.path.join(tools, "python3")
    with open(python, "w") as file:
        file.write('#!/bin/sh\nexec %s "$@"\n' % sys.executable)
    os.chmod(python, 0o755)
    temporary = os.path.join(scratch, "tmp")
    os.mkdir(temporary)
    env = dict(
        os.environ, PYTHONPATH=package, PYTHONDONTWRITEBYTECODE="1",
        PYTEST_ADDOPTS="-p no:cacheprovider", WALLAROO_PREFIX=programs,
        TMPDIR=temporary, LC_ALL="C.UTF-8",
        PATH=os.pathsep.join([tools, programs, os.environ["PATH"]]))
    env.pop("WALLAROO_PYTHON_PACKAGE", None)
    return env


def main(paths):
    source = os.path.dirname(os.path.dirname(os.path.dirname(
        os.path.abspath(__file__))))
    programs = os.path.abspath(os.environ.get("WALLAROO_BUILD", source))
    status = 0
    for path in paths:
        with tempfile.TemporaryDirectory() as scratch:
            directory = os.path.join(scratch, "page")
            os.mkdir(directory)
            try:
                print(path, run(path, directory, environment(
                    scratch, os.path.join(source, "py"), programs)))
            except Wrong as wrong:
                print(wrong)
                status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
