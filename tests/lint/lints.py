"""The rules of this source tree that a program can check.

Each lint is a function that takes the top directory of a tree and yields
what it finds, one line each, "file:line: text".  test_lint.py runs them over
this tree, and over small trees with one fault each to show that they see it.
"""

import ast
import difflib
import os
import re
import shutil
import subprocess

C_DIRS = ("common", "supervisor", "worker", "py", "tests/unit", "tests/fake",
          "tests/system", "tests/bench", "tests/sim", "tests/fuzz")
LINTS = {}


def lint(function):
    LINTS[function.__name__] = function
    return function


def files(root, suffixes, dirs=C_DIRS):
    """Paths below root, relative, sorted."""
    for top in dirs:
        for where, below, names in os.walk(os.path.join(root, top)):
            below[:] = sorted(d for d in below
                              if d not in ("__pycache__", "build", ".deps"))
            for name in sorted(names):
                if name.endswith(suffixes):
                    yield os.path.relpath(os.path.join(where, name), root)


def read(root, path):
    with open(os.path.join(root, path), encoding="utf-8") as file:
        return file.read()


def code_only(text):
    """C without comments, strings and characters; lines stay lines."""
    def blank(match):
        found = match.group()
        if found[0] in "\"'":
            return found[0] + found[0]
        return re.sub(r"[^\n]", " ", found)
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"'
                  r"|'(?:\\.|[^'\\\n])+'", blank, text, flags=re.S)


def lines(text):
    return enumerate(text.split("\n"), 1)


def includes(root, path):
    for number, line in lines(read(root, path)):
        match = re.match(r'\s*#\s*include\s*(["<])([^">]+)', line)
        if match:
            yield number, match.group(1), match.group(2)


# -- what knows what --------------------------------------------------------

@lint
def python_only_in_py(root):
    """Python's headers are known in py/ only."""
    for path in files(root, (".c", ".h", ".def")):
        if path.startswith("py/"):
            continue
        for number, _, name in includes(root, path):
            if re.search(r"(^|/)(Python|structmember|frameobject|datetime"
                         r"|marshal)\.h$", name):
                yield "%s:%d: includes %s" % (path, number, name)
        if re.search(r"\bPyObject\b", code_only(read(root, path))):
            yield "%s:1: knows PyObject" % path


KNOWS = {
    "common": ("common/",),
    "supervisor": ("common/", "supervisor/"),
    "worker": ("common/", "worker/"),
    "py": ("common/", "py/", "worker/host.h", "worker/determ.h"),
}


@lint
def include_directions(root):
    """common knows nobody; supervisor and worker do not know each other."""
    for path in files(root, (".c", ".h", ".def"), tuple(KNOWS)):
        allowed = KNOWS[path.split("/")[0]]
        for number, quote, name in includes(root, path):
            if quote == '"' and not name.startswith(allowed):
                yield "%s:%d: must not include \"%s\"" % (path, number, name)


@lint
def headers_alone(root):
    """Every header compiles alone, and twice."""
    build = os.environ.get("WALLAROO_BUILD", root)
    config = os.path.join(build, "config.h")
    base = os.environ.get("WALLAROO_CC", "cc").split()
    base += ["-fsyntax-only", "-x", "c", "-std=gnu11", "-Wall", "-Wextra",
             "-Werror", "-Wno-unused-function", "-I", root]
    if os.path.exists(config):
        base += ["-include", config]
    else:
        base += ["-D_GNU_SOURCE"]
    base += os.environ.get("WALLAROO_CPPFLAGS", "").split()
    for path in files(root, (".h",), tuple(KNOWS)):
        command = list(base)
        if path.startswith("py/"):
            command += os.environ.get("WALLAROO_PYTHON_CPPFLAGS", "").split()
        done = subprocess.run(
            command + ["-"], input='#include "%s"\n#include "%s"\n'
            % (path, path), stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            yield "%s:1: does not compile alone: %s" % (
                path, first_error(done.stderr))


def first_error(text):
    found = [line for line in text.splitlines() if "error:" in line]
    return found[0] if found else text.strip()


@lint
def header_guards(root):
    """A guard's name is the header's path."""
    for path in files(root, (".h",)):
        name = re.sub(r"[^A-Z0-9]", "_", path.upper())
        text = code_only(read(root, path))
        if not re.match(r"\s*#ifndef %s\n#define %s\n" % (name, name), text):
            yield "%s:1: no guard %s" % (path, name)


# -- what is not used -------------------------------------------------------

BANNED = {
    "strcpy": "snprintf or memcpy", "strcat": "buf_addf",
    "sprintf": "snprintf", "vsprintf": "vsnprintf", "gets": "fgets",
    "strtok": "strchr",
    "alloca": "a fixed array", "stpcpy": "memcpy",
    "strncpy": "snprintf", "strncat": "buf_addf", "tmpnam": "mkstemp",
    "mktemp": "mkstemp",
}


@lint
def banned_functions(root):
    """Functions that write without a limit or read without an error."""
    call = re.compile(r"(?<![\w.>])(%s)\s*\(" % "|".join(BANNED))
    for path in files(root, (".c", ".h", ".def")):
        for number, line in lines(code_only(read(root, path))):
            for match in call.finditer(line):
                yield "%s:%d: %s: use %s" % (
                    path, number, match.group(1), BANNED[match.group(1)])


@lint
def own_clock(root):
    """The programs take time and randomness from common/clock.h only."""
    call = re.compile(r"(?<![\w.>])(clock_gettime|gettimeofday|time|random"
                      r"|rand|srand|getrandom|getentropy|arc4random)\s*\(")
    for path in files(root, (".c",), ("common", "supervisor", "worker")):
        if path in ("common/clock.c", "worker/determ.c"):
            continue
        for number, line in lines(code_only(read(root, path))):
            for match in call.finditer(line):
                yield "%s:%d: %s: use common/clock.h" % (
                    path, number, match.group(1))


@lint
def printf_attributes(root):
    """Every function with a format has the attribute, static ones too."""
    for path in files(root, (".c", ".h")):
        text = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", " ",
                      code_only(read(root, path)), flags=re.M)
        for match in re.finditer(r"[^;{}#]*?,\s*(?:\.\.\.|va_list\s*\w*)\)"
                                 r"[^;{]*[;{]", text):
            found = match.group()
            if not re.search(r"const char \*\s*(fmt|format)?\s*,", found):
                continue
            if "(*" in found or "format(printf" in found:
                continue
            if re.search(r"\b(return|\w+\s*=)", found):
                continue
            name = re.search(r"(\w+)\s*\(", found)
            # A definition may have its attribute in a header.
            if name and re.search(r"\b%s\([^;]*format\(printf"
                                  % name.group(1), all_headers(root)):
                continue
            number = text.count("\n", 0, match.end()) + 1
            yield "%s:%d: %s has no format attribute" % (
                path, number, name.group(1) if name else "a function")


def all_headers(root, known={}):
    if root not in known:
        known[root] = "".join(code_only(read(root, path))
                              for path in files(root, (".h",)))
    return known[root]


# -- what is written down ---------------------------------------------------

def joined(root, path):
    return read(root, path).replace("\\\n", " ")


def table_rows(text, macro, table):
    """Arguments of the rows of an X-macro's table, as texts."""
    start = text.index("#define " + table)
    body = text[start:]
    end = re.search(r"\n#|\n\n", body)
    if end:
        body = body[:end.start()]
    strings = []

    def keep(match):
        strings.append(match.group()[1:-1])
        return "\0%d\0" % (len(strings) - 1)
    body = re.sub(r'"(?:\\.|[^"\\])*"', keep, body)
    body = re.sub(r"/\*.*?\*/", " ", body, flags=re.S)
    for match in re.finditer(r"(?<![\w#])%s\(([^()]*)\)" % macro,
                             body[body.index(")") + 1:]):
        row = []
        for argument in match.group(1).split(","):
            texts = re.findall("\0([0-9]+)\0", argument)
            row.append("".join(strings[int(i)] for i in texts) if texts
                       else argument.strip())
        yield row


def documented(root, page, name, macro):
    return re.search(r"^\.%s %s( |$)" % (macro, re.escape(name)),
                     read(root, page).replace("\\-", "-"), re.M)


@lint
def messages_documented(root):
    rows = list(table_rows(joined(root, "common/msg.def"), "MSG",
                           "MSG_TABLE(MSG)"))
    if not rows:
        yield "common/msg.def:1: no rows found"
    for row in rows:
        if not re.search(r"\b%s\b" % row[0],
                         read(root, "man/wallaroo-protocol.7")):
            yield "common/msg.def:1: %s is not in wallaroo-protocol(7)" \
                % row[0]


@lint
def settings_documented(root):
    text = joined(root, "common/conf.def")
    rows = list(table_rows(text, "CONF", "CONF_TABLE(CONF)"))
    if not rows:
        yield "common/conf.def:1: no rows found"
    if "CONF_CONNECTOR_TABLE(CONF)" in text:
        rows += table_rows(text, "CONF", "CONF_CONNECTOR_TABLE(CONF)")
    for row in rows:
        if not row[-1]:
            yield "common/conf.def:1: %s has no text" % row[2]
        if not documented(root, "man/cluster.conf.5", row[2], "It Ic"):
            yield "common/conf.def:1: %s is not in cluster.conf(5)" % row[2]


@lint
def counters_documented(root):
    rows = list(table_rows(joined(root, "common/stats.h"), "S",
                           "STATS_TABLE(S)"))
    if not rows:
        yield "common/stats.h:1: no rows found"
    for row in rows:
        if not row[-1]:
            yield "common/stats.h:1: %s has no text" % row[0]
        if not re.search(r"\b%s\b" % row[0],
                         read(root, "man/wallaroo-metrics.7")):
            yield "common/stats.h:1: %s is not in wallaroo-metrics(7)" \
                % row[0]


@lint
def manual_pages(root):
    """mandoc has nothing to say about any page."""
    mandoc = shutil.which("mandoc")
    if mandoc is None:
        yield "man:1: mandoc is not installed (Debian package mandoc)"
        return
    pages = list(files(root, tuple(".%d" % i for i in range(1, 10)),
                       ("man",)))
    if not pages:
        yield "man:1: no pages"
    for path in pages:
        done = subprocess.run([mandoc, "-T", "lint", "-W", "warning", path],
                              cwd=root, stdout=subprocess.PIPE, text=True,
                              stderr=subprocess.STDOUT)
        for line in done.stdout.splitlines():
            yield line.replace("mandoc: ", "", 1)


@lint
def duty_of_file(root):
    """A source file opens with a comment that says what it is for."""
    for path in files(root, (".c", ".h", ".def")):
        if not read(root, path).startswith("/*"):
            yield "%s:1: does not open with a comment" % path


# -- how it looks -----------------------------------------------------------

@lint
def layout(root):
    """KNF as far as lines alone show it."""
    for path in files(root, (".c", ".h", ".def")):
        text = read(root, path)
        if not text.endswith("\n") or text.endswith("\n\n"):
            yield "%s:%d: the end is not one newline" % (
                path, text.count("\n"))
        code = code_only(text).split("\n")
        for number, line in lines(text):
            if line != line.rstrip():
                yield "%s:%d: blanks at the end" % (path, number)
            if len(line.expandtabs(8)) > 80:
                yield "%s:%d: longer than 80 columns" % (path, number)
            if line.startswith("        "):
                yield "%s:%d: blanks instead of a tab" % (path, number)
            part = code[number - 1]
            if re.search(r"\breturn\b\s*[^\s(;]", part):
                yield "%s:%d: return without parentheses" % (path, number)
            if re.search(r"\b(if|for|while|switch)\(", part):
                yield "%s:%d: no blank after a keyword" % (path, number)
            if re.match(r"\s*typedef struct\b.*\{", part):
                yield "%s:%d: typedef of a struct" % (path, number)
        for number in one_line_heads(code):
            yield "%s:%d: return type not on its own line" % (path, number)


def one_line_heads(code):
    """Function definitions whose name does not begin its line."""
    for i, line in enumerate(code):
        if not re.match(r"[a-z_][\w\s*]*[\s*]\w+\(", line) \
                or "__attribute__" in line:
            continue
        end = i
        while end < len(code) and not re.search(r"[;{]", code[end]) \
                and end < i + 8:
            if end + 1 < len(code) and code[end + 1] == "{" \
                    and code[end].endswith(")"):
                yield i + 1
                break
            end += 1


def clang_format():
    named = os.environ.get("WALLAROO_CLANG_FORMAT", "clang-format-14")
    return shutil.which(named) if named else None


@lint
def block_depth(root):
    """Blocks are indented as deep as clang-format sees them.

    It has no word in how tables are set and where a line is broken: only
    lines that it leaves alone but for their number of tabs are compared.
    """
    program = clang_format()
    if program is None:
        return
    for path in files(root, (".c", ".h")):
        style = "file" if os.path.exists(os.path.join(
            root, ".clang-format")) else "{IndentWidth: 8, UseTab: Always," \
            " TabWidth: 8, ColumnLimit: 80}"
        done = subprocess.run([program, "-style=" + style, path], cwd=root,
                              stdout=subprocess.PIPE, text=True, check=True)
        ours = read(root, path).split("\n")
        theirs = done.stdout.split("\n")
        match = difflib.SequenceMatcher(
            None, [" ".join(line.split()) for line in ours],
            [" ".join(line.split()) for line in theirs], autojunk=False)
        for tag, a, b, c, d in match.get_opcodes():
            if tag != "equal":
                continue
            for i, k in zip(range(a, b), range(c, d)):
                one = re.match(r"\s*", ours[i]).group()
                two = re.match(r"\s*", theirs[k]).group()
                if one != two and ours[i].strip() and " " not in one + two \
                        and not ours[i].endswith("\\") \
                        and not re.match(r"\s*([/*#.]|\w+:|[A-Z_]+\(\w+\)$)",
                                         ours[i]) \
                        and in_function(ours, i):
                    yield "%s:%d: %d tabs, should be %d" % (
                        path, i + 1, len(one), len(two))


def in_function(ours, i):
    """Between a { and a } in column 0, where no initializer began."""
    while i >= 0:
        if ours[i].startswith("{"):
            return True
        if ours[i].startswith("}") or (
                ours[i].endswith("{") and not ours[i][:1].isspace()):
            return False
        i -= 1
    return False


# -- other languages --------------------------------------------------------

@lint
def python_39(root):
    """The package and the examples are Python 3.9."""
    for path in files(root, (".py",), ("py", "examples")):
        try:
            ast.parse(read(root, path), path, feature_version=(3, 9))
        except SyntaxError as error:
            yield "%s:%d: %s" % (path, error.lineno or 1, error.msg)


@lint
def python_compiles(root):
    for path in files(root, (".py",), ("tests",)):
        try:
            ast.parse(read(root, path), path)
        except SyntaxError as error:
            yield "%s:%d: %s" % (path, error.lineno or 1, error.msg)


@lint
def shell_scripts(root):
    """Shell scripts are POSIX, stop at errors, and can be run."""
    for path in ["autogen.sh"] + list(files(root, ("",), (
            ".ci", "examples", "tests"))):
        full = os.path.join(root, path)
        if not os.path.exists(full) or path.endswith((".pyc", ".conf")):
            continue
        with open(full, "rb") as file:
            first = file.readline(200)
        if not re.match(rb"#! ?/bin/(ba)?sh\b", first):
            continue
        if not os.access(full, os.X_OK):
            yield "%s:1: is not executable" % path
        if not re.search(r"^set -[a-z]*e", read(root, path), re.M):
            yield "%s:1: has no set -e" % path
        done = subprocess.run(["sh" if b"bash" not in first else "bash",
                               "-n", full], stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            yield "%s:1: %s" % (path, done.stderr.strip())


# -- the tarball ------------------------------------------------------------

@lint
def everything_listed(root):
    """Every source file is in Makefile.am, or in a directory that is."""
    text = re.sub(r"^\s*#.*$", "", read(root, "Makefile.am"), flags=re.M)
    listed = set(re.findall(r"[\w./@+-]+", text))
    extra = re.search(r"^EXTRA_DIST =((?:.*\\\n)*.*)", text, re.M)
    dirs = {name for name in (extra.group(1).split() if extra else ())
            if os.path.isdir(os.path.join(root, name))}
    wanted = list(files(root, (".c", ".h", ".def", ".in"),
                        ("common", "supervisor", "worker", "py")))
    wanted += files(root, (".py", ".typed"), ("py",))
    wanted += files(root, tuple(".%d" % i for i in range(1, 10)), ("man",))
    wanted += files(root, (".c",), ("tests/unit",))
    for path in wanted:
        if path in listed:
            continue
        if not path.startswith("tests/unit/") and any(
                path.startswith(name + "/") for name in dirs):
            continue
        yield "%s:1: is not in Makefile.am" % path


@lint
def same_packages(root):
    """README and .ci/run install the same packages."""
    readme = re.search(r"--no-install-recommends ([^&]*)&&",
                       read(root, "README"))
    script = re.search(r'packages="([^"]*)"', read(root, ".ci/run"))
    if not readme or not script:
        yield "README:1: no list of packages here or in .ci/run"
    elif sorted(readme.group(1).split()) != sorted(script.group(1).split()):
        yield "README:1: other packages than .ci/run: %s" % " ".join(sorted(
            set(readme.group(1).split()) ^ set(script.group(1).split())))


# Called by a parser that is fuzzed: checkpoint_unpack(), host_python.unpack().
PARTS_OF_PARSERS = ("windows_unpack", "progress_unpack", "reach_unpack",
                    "part_unpack", "py_unpack", "committer_unpack")


@lint
def parsers_fuzzed(root):
    """What makes something of bytes is called by a fuzz target."""
    fuzzed = "".join(code_only(read(root, path)) for path in
                     files(root, ".c", ("tests/fuzz",)))
    for path in files(root, ".h", ("common", "supervisor", "worker", "py")):
        for number, line in lines(code_only(read(root, path))):
            for name in re.findall(
                    r"\b(\w+_(?:unpack|parse|parse_\w+|restore))\(", line):
                if name not in PARTS_OF_PARSERS and not re.search(
                        r"\b%s\(" % name, fuzzed):
                    yield "%s:%d: %s has no fuzz target" % (
                        path, number, name)


@lint
def unique_magics(root):
    """Two kinds of file or page never begin alike."""
    seen = {}
    for path in files(root, (".c", ".h", ".def"),
                      ("common", "supervisor", "worker", "py")):
        for number, line in lines(read(root, path)):
            match = re.match(r"#define\s+(\w*MAGIC)\s+(\S+)", line)
            if not match:
                continue
            if match.group(2) in seen:
                yield "%s:%d: %s is the same as %s" % (
                    path, number, match.group(1), seen[match.group(2)])
            seen[match.group(2)] = match.group(1)
