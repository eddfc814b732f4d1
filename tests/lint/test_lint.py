"""Every lint finds nothing here, and finds the fault that is made for it."""

import os
import shutil

import pytest

import lints

ROOT = os.environ.get("WALLAROO_SOURCE") or os.path.dirname(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.mark.parametrize("name", sorted(lints.LINTS))
def test_clean(name):
    if name == "block_depth" and lints.clang_format() is None:
        pytest.skip("no clang-format-14")
    found = list(lints.LINTS[name](ROOT))
    assert not found, "\n" + "\n".join(found)


def function(body, head="int\nf(int a)\n"):
    return "/* x */\n%s{\n%s}\n" % (head, body)


# A small tree that every lint accepts ...
GOOD = {
    "Makefile.am": "x_SOURCES = common/a.c common/a.h py/p.c worker/w.c \\\n"
                   "\tcommon/conf.def common/msg.def common/stats.h \\\n"
                   "\tman/cluster.conf.5 man/wallaroo-metrics.7 \\\n"
                   "\tman/wallaroo-protocol.7 py/wallaroo/x.py \\\n"
                   "\tsupervisor/s.c tests/unit/check_a.c\n"
                   "x:\n\tmkdir supervisor worker\n"
                   "EXTRA_DIST = a \\\n\texamples tests\n",
    "examples/e.py": "x = 1\n",
    "common/a.h": "/* x */\n#ifndef COMMON_A_H\n#define COMMON_A_H\n\n"
                  "#include <stddef.h>\n\n#define A_MAGIC 1\n\n"
                  "size_t\tf(const char *);\n"
                  "void\tlog_it(const char *, ...)\n"
                  "\t    __attribute__((format(printf, 1, 2)));\n\n"
                  "#endif\n",
    "common/a.c": '/* x */\n#include "common/a.h"\n\n'
                  "/* strcpy(a, b) */\n"
                  "static const char *const t = \"strcpy(a, b) return 1\";\n"
                  "\nint\ng(int a)\n{\n\tif (a == 1)\n\t\treturn (1);\n"
                  "\treturn (0);\n}\n\n"
                  "void\nlog_it(const char *fmt, ...)\n{\n\t(void)fmt;\n}\n",
    "common/conf.def": "/* x */\n#define CONF_TABLE(CONF)\t\\\n"
                       "CONF(str, module, \"module\", \"\", 0, 0,\t\\\n"
                       "    \"Python (a module), \" \"yes\")\t\\\n"
                       "CONF(num, n, \"the-n\", 1, 1, 2, \"text\")\n",
    "common/msg.def": "/* x */\n#define MSG_TABLE(MSG)\t\\\n"
                      "\tMSG(start, 1, FROM_SUP)\t/* (fd) */\t\\\n"
                      "\tMSG(stop, 2, FROM_SUP)\n\n#define OTHER 1\n",
    "common/stats.h": "/* x */\n#ifndef COMMON_STATS_H\n"
                      "#define COMMON_STATS_H\n\n"
                      "#define STATS_TABLE(S)\t\\\n"
                      "S(turns, \"turns\")\t\\\nS(pid, \"process\")\n\n"
                      "#endif\n",
    "man/cluster.conf.5": ".Dd November 21, 2026\n.Dt CLUSTER.CONF 5\n.Os\n"
                          ".Sh NAME\n.Nm cluster.conf\n.Nd x\n"
                          ".Sh DESCRIPTION\n.Bl -tag -width Ds\n"
                          ".It Ic module\nx\n.It Ic the-n No = Ar n\nx\n"
                          ".El\n",
    "man/wallaroo-metrics.7": ".Dd November 21, 2026\n"
                              ".Dt WALLAROO-METRICS 7\n.Os\n.Sh NAME\n"
                              ".Nm x\n.Nd x\n.Sh DESCRIPTION\n"
                              "turns and pid.\n",
    "man/wallaroo-protocol.7": ".Dd November 21, 2026\n"
                               ".Dt WALLAROO-PROTOCOL 7\n.Os\n.Sh NAME\n"
                               ".Nm x\n.Nd x\n.Sh DESCRIPTION\n"
                               "start and stop.\n",
    "py/p.c": '/* x */\n#include <Python.h>\n\n#include "common/a.h"\n'
              '#include "worker/host.h"\n',
    "py/wallaroo/x.py": "x = 1\n",
    "worker/w.c": '/* x */\n#include "common/a.h"\n',
    "supervisor/s.c": '/* x */\n#include "common/a.h"\n',
    "tests/unit/check_a.c": "/* x */\n",
    "tests/x.py": "x = 1\n",
    "autogen.sh": "#!/bin/sh\nset -eu\ntrue\n",
    ".ci/run": '#!/bin/sh\nset -e\npackages="make\n    cc"\n',
    "README": "# apt-get install --no-install-recommends make cc && make\n",
}

# ... and for each lint what it must not accept: file, its new text (or what
# is put after its old one), and a word of what must be said.
PLANTED = [
    ("python_only_in_py", "worker/w.c", "+#include <Python.h>\n",
     "Python.h"),
    ("python_only_in_py", "common/a.h", "+struct PyObject;\n", "PyObject"),
    ("include_directions", "common/a.c", '+#include "worker/w.h"\n',
     "worker/w.h"),
    ("include_directions", "worker/w.c", '+#include "supervisor/s.h"\n',
     "supervisor/s.h"),
    ("include_directions", "py/p.c", '+#include "worker/store.h"\n',
     "worker/store.h"),
    ("headers_alone", "common/b.h", "/* x */\nuint32_t f(void);\n",
     "uint32_t"),
    ("headers_alone", "common/b.h", "/* x */\nstruct b { int x; };\n",
     "redefinition"),
    ("header_guards", "common/b.h", "/* x */\n#ifndef B_H\n#define B_H\n"
     "#endif\n", "COMMON_B_H"),
    ("banned_functions", "common/a.c", "+\nstrcpy(a, b);\n", "strcpy"),
    ("banned_functions", "worker/w.c", "+\nx = sprintf (a, b);\n",
     "sprintf"),
    ("banned_functions", "supervisor/s.c", "+\n strcat(a, b);\n", "strcat"),
    ("own_clock", "worker/w.c", "+\nx = time(NULL);\n", "time"),
    ("own_clock", "common/a.c", "+\nclock_gettime(0, &ts);\n",
     "clock_gettime"),
    ("parsers_fuzzed", "common/a.h", "+int\ta_unpack(struct slice);\n",
     "a_unpack"),
    ("printf_attributes", "worker/w.c",
     "+\nstatic void\nsay(int x, const char *fmt, ...)\n{\n}\n", "say"),
    ("printf_attributes", "common/a.c",
     "+\nvoid say(const char *, ...);\n", "say"),
    ("messages_documented", "common/msg.def",
     GOOD["common/msg.def"].replace("(stop", "(halt"), "halt"),
    ("messages_documented", "common/msg.def",
     "/* x */\n#define MSG_TABLE(MSG)\n", "no rows"),
    ("settings_documented", "common/conf.def",
     GOOD["common/conf.def"].replace("the-n", "the-m"), "the-m"),
    ("settings_documented", "common/conf.def",
     GOOD["common/conf.def"].replace('"text"', '""'), "no text"),
    ("counters_documented", "common/stats.h",
     GOOD["common/stats.h"].replace("S(pid", "S(ppid"), "ppid"),
    ("counters_documented", "common/stats.h",
     GOOD["common/stats.h"].replace('"process"', '""'), "no text"),
    ("manual_pages", "man/cluster.conf.5",
     GOOD["man/cluster.conf.5"].replace(".El\n", ""), "Bl"),
    ("manual_pages", "man/wallaroo-metrics.7", "+.Xy unknown\n", "Xy"),
    ("duty_of_file", "worker/w.c", "int x;\n", "open with a comment"),
    ("layout", "common/a.c", "+\n", "one newline"),
    ("layout", "common/a.c", "+int x; \n", "blanks at the end"),
    ("layout", "common/a.c", "+int %s;\n" % ("x" * 80), "80 columns"),
    ("layout", "common/a.c", "+\t\t\t\t\t\t\t\t\t\tint x;\n", "80 columns"),
    ("layout", "common/a.c", "+        int x;\n", "instead of a tab"),
    ("layout", "common/a.c", function("\treturn 1;\n"), "parentheses"),
    ("layout", "common/a.c", function("\tif(a)\n\t\treturn (1);\n"),
     "after a keyword"),
    ("layout", "common/a.c", "+typedef struct x {\n\tint a;\n} y;\n",
     "typedef"),
    ("layout", "common/a.c", function("\treturn (1);\n", "int f(int a)\n"),
     "its own line"),
    ("layout", "common/a.c", function(
        "\treturn (1);\n", "static char *f(int a,\n    int b)\n"),
     "its own line"),
    ("block_depth", "common/a.c", function(
        "\tif (a)\n\treturn (1);\n\treturn (0);\n"), "should be 2"),
    ("python_39", "py/wallaroo/x.py", "match x:\n    case 1:\n        pass\n",
     "x.py:"),
    ("python_compiles", "tests/x.py", "def f(:\n", "x.py:1"),
    ("shell_scripts", "autogen.sh", "#!/bin/sh\ntrue\n", "set -e"),
    ("shell_scripts", "autogen.sh", "#!/bin/sh\nset -e\nif true\n",
     "autogen.sh"),
    ("everything_listed", "common/b.c", "/* x */\n", "common/b.c"),
    ("everything_listed", "worker/new.h", "/* x */\n", "worker/new.h"),
    ("everything_listed", "py/wallaroo/new.py", "x = 1\n", "new.py"),
    ("everything_listed", "supervisor/new.c", "/* x */\n", "new.c"),
    ("everything_listed", "man/new.7", ".Dd x\n", "man/new.7"),
    ("everything_listed", "tests/unit/check_new.c", "/* x */\n",
     "check_new.c"),
    ("same_packages", ".ci/run", '#!/bin/sh\nset -e\npackages="make"\n',
     "cc"),
    ("unique_magics", "worker/w.c", "+#define W_MAGIC 1\n", "A_MAGIC"),
]


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for path, text in GOOD.items():
        full = tmp_path / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_text(text)
    for path in ("autogen.sh", ".ci/run"):
        (tmp_path / path).chmod(0o755)
    monkeypatch.delenv("WALLAROO_BUILD", raising=False)
    return tmp_path


@pytest.mark.parametrize("name", sorted(lints.LINTS))
def test_accepts(tree, name):
    assert list(lints.LINTS[name](str(tree))) == []


@pytest.mark.parametrize(
    "name, path, text, word", PLANTED,
    ids=["%s-%d" % (row[0], i) for i, row in enumerate(PLANTED)])
def test_planted(tree, name, path, text, word):
    if name == "block_depth" and lints.clang_format() is None:
        pytest.skip("no clang-format-14")
    full = tree / path
    if text.startswith("+"):
        full.write_text(full.read_text() + text[1:])
    else:
        full.write_text(text)
    found = list(lints.LINTS[name](str(tree)))
    assert any(word in line for line in found), found


def test_every_lint_is_planted():
    assert {row[0] for row in PLANTED} == set(lints.LINTS)


def test_script_must_be_executable(tree):
    (tree / "autogen.sh").chmod(0o644)
    assert any("not executable" in line
               for line in lints.shell_scripts(str(tree)))


def test_no_mandoc_is_a_finding(tree, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert list(lints.manual_pages(str(tree)))
