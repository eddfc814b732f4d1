"""The manual and README against the programs: what they name exists, what
exists is named, and what they tell to type works.

WALLAROO_BUILD is the directory with the built programs; without it only what
can be seen in the source is checked.
"""

import os
import re
import shutil
import subprocess
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))
MAN = os.path.join(SOURCE, "man")
BUILD = os.environ.get("WALLAROO_BUILD")
PAGES = sorted(name for name in os.listdir(MAN) if name[-1].isdigit())

sys.path.insert(0, os.path.join(SOURCE, "py"))
sys.path.insert(0, os.path.join(SOURCE, "tests", "system"))

import harness  # noqa: E402

needs_build = pytest.mark.skipif(
    not BUILD or not os.access(
        os.path.join(BUILD, "wallaroo-supervisord"), os.X_OK),
    reason="WALLAROO_BUILD names no directory with built programs")
needs_mandoc = pytest.mark.skipif(
    shutil.which("mandoc") is None, reason="no mandoc")


@pytest.fixture
def opened():
    """Register what must be closed when the test ends."""
    things = []

    def add(thing):
        things.append(thing)
        return thing
    yield add
    for thing in reversed(things):
        thing.close()


def read(*path):
    with open(os.path.join(SOURCE, *path), encoding="utf-8") as file:
        return file.read()


def page(name):
    return read("man", name)


def run(*command, **more):
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, timeout=120, **more)


def items(text):
    """(head, body) of each list item of a page."""
    found = re.split(r"^\.It (.*)\n", text, flags=re.M)[1:]
    return list(zip(found[::2], found[1::2]))


def literal_blocks(text):
    """The .Bd -literal displays of a page, unescaped."""
    return [block.replace("\\e", "\\").replace("\\&", "")
            for block in re.findall(
                r"^\.Bd -literal[^\n]*\n(.*?)^\.Ed", text, re.M | re.S)]


# -- pages -------------------------------------------------------------------

def test_all_pages_are_there():
    assert PAGES == [
        "cluster.conf.5", "cluster_shrinker.1", "cluster_shutdown.1",
        "data_receiver.1", "external_sender.1", "machida3.1", "sender.1",
        "wallaroo-connectors.7", "wallaroo-kafka.7", "wallaroo-metrics.7",
        "wallaroo-ops.7",
        "wallaroo-protocol.7", "wallaroo-recovery.7", "wallaroo-replay.7",
        "wallaroo-supervisord.8", "wallaroo.7", "wallarooctl.8"]


@needs_mandoc
@pytest.mark.parametrize("name", PAGES)
def test_lint(name):
    """Nothing at all but that other pages are not installed here."""
    done = run("mandoc", "-T", "lint", "-W", "style", os.path.join(MAN, name))
    complaints = [
        line for line in done.stdout.splitlines()
        if "referenced manual not found" not in line]
    assert not complaints


@pytest.mark.parametrize("name", PAGES)
def test_title(name):
    stem, section = name.rsplit(".", 1)
    assert ".Dt %s %s\n" % (stem.upper(), section) in page(name)
    assert ".Nm %s\n" % stem in page(name)


@pytest.mark.parametrize("name", PAGES)
def test_references(name):
    """Pages and sections that a page refers to exist."""
    text = page(name)
    ours = {stem: section for stem, section in
            (other.rsplit(".", 1) for other in PAGES)}
    for stem, section in re.findall(r"\bXr (\S+) (\d)", text):
        if stem in ours or stem.startswith("wallaroo"):
            assert ours.get(stem) == section, "%s(%s)" % (stem, section)
    where = re.findall(
        r"^\.Sx ([^.,;\n]+?)\s*[.,;]?\n(?:in\n\.Xr (\S+) (\d))?", text, re.M)
    for title, stem, section in where:
        target = page("%s.%s" % (stem, section)) if stem else text
        assert re.search(r"^\.S[hs] %s$" % re.escape(title), target, re.M), \
            title


@pytest.mark.parametrize("name", PAGES)
def test_see_also(name):
    """Pages are listed once each, by section and then by name."""
    see = page(name).split(".Sh SEE ALSO\n")[1].split(".Sh")[0]
    listed = re.findall(r"^\.Xr (\S+) (\d)", see, re.M)
    assert listed == sorted(listed, key=lambda entry: entry[::-1])
    assert len(set(listed)) == len(listed)


# -- tables in the source ----------------------------------------------------

def conf_rows(connector=False):
    """(type, key, default, min, max) of each setting."""
    text = read("common", "conf.def").replace("\\\n", "\n").split(
        "#define CONF_CONNECTOR_TABLE(CONF)")[connector]
    rows = re.findall(
        r'^CONF\((\w+), \w+, "([^"]+)", ([^,]+), ([^,]+), ([^,]+),', text,
        re.M)
    assert len(rows) == len(re.findall(r"^CONF\(", text, re.M))
    return [tuple(cell.strip() for cell in row) for row in rows]


def as_written(kind, expression):
    """A number of conf.def as the manual writes it."""
    assert re.fullmatch(r"[0-9 <L]+", expression)
    number = eval(expression.replace("LL", ""))
    if kind == "ms":
        return "%g" % (number / 1000)
    letters = ["", "K", "M", "G"] if kind == "size" else [""]
    while len(letters) > 1 and number and number % 1024 == 0:
        number //= 1024
        letters.pop(0)
    return "%d%s" % (number, letters[0])


def settings_of(connector):
    """The part of the page that has them."""
    before, after = page("cluster.conf.5").split(".Sh CONNECTORS\n")
    own, rest = after.split("\n.Sh ", 1)
    return own if connector else before + "\n.Sh " + rest


@pytest.mark.parametrize(
    "row", [(False, *row) for row in conf_rows()] +
    [(True, *row) for row in conf_rows(True)],
    ids=lambda row: ("connector-" if row[0] else "") + row[2])
def test_setting(row):
    """Each setting has an item with its default and range."""
    connector, kind, key, default, low, high = row
    found = [(head, body) for head, body in items(settings_of(connector))
             if re.match(r"Ic %s No = " % re.escape(key), head)]
    assert len(found) == 1, key
    head, body = found[0]
    words = re.findall(r"[\w.-]+", body)
    words = [word.rstrip(".") for word in words]
    if kind == "choice":
        table = re.search(
            r"%s\[\] = \{([^}]*)\}" % low.strip(),
            read("common", "conf.c"), re.S).group(1)
        names = re.findall(r'"([^"]+)"', table)
        assert re.findall(r"[\w-]+", head.split("Cm", 1)[1]) == names
        chosen = default.strip().replace("CONF_", "").lower()
        assert re.search(r"default\n\.Cm %s\b" % chosen.replace("_", "-"),
                         body)
    elif kind in ("num", "size", "ms"):
        for value in (default, low, high):
            assert as_written(kind, value) in words, value
        assert "default " + as_written(kind, default) in body.replace(
            "default\n", "default ")


def test_no_setting_that_is_none():
    for connector in (False, True):
        known = {row[1] for row in conf_rows(connector)}
        for head, _ in items(settings_of(connector)):
            if " No = " in head:
                assert head.split()[1] in known


def stats_rows():
    return re.findall(r"^\tS\((\w+), \"", read("common", "stats.h"), re.M)


def test_metrics():
    """Each counter is an item, and nothing else is."""
    documented = []
    for head, _ in items(page("wallaroo-metrics.7")):
        documented += re.findall(r"\w+", head.replace("Cm", ""))
    assert len(stats_rows()) > 10
    assert sorted(documented) == sorted(stats_rows())


def messages():
    text = read("common", "msg.def")
    table = re.findall(r"MSG\((\w+), (\d+), FROM", text)
    for name, code in table:
        fields = re.search(
            r"#define MSG_FIELDS_%s\(F\)((?:.*\\\n)*.*\n)" % name, text)
        yield name, code, re.findall(r"F\(\w+, (\w+)\)", fields.group(1))


@pytest.mark.parametrize("message", list(messages()), ids=lambda m: m[0])
def test_message(message):
    """Each message is an item with its code and its fields in order."""
    name, code, fields = message
    found = [body for head, body in items(page("wallaroo-protocol.7"))
             if head == "Cm %s Pq %s" % (name, code)]
    assert len(found) == 1
    signature = ""
    for line in found[0].splitlines():
        if not line.startswith(".Ar"):
            break
        signature += line[3:]
    assert [f for f in re.findall(r"\w+", signature)] == fields


def test_no_message_that_is_none():
    known = {(name, code) for name, code, _ in messages()}
    for found in re.findall(
            r"^\.It Cm (\w+) Pq (\d+)$", page("wallaroo-protocol.7"), re.M):
        assert found in known


# -- log lines ---------------------------------------------------------------

def c_strings():
    """All string literals of the programs, adjacent ones joined."""
    for directory in ("common", "supervisor", "worker", "py"):
        for name in sorted(os.listdir(os.path.join(SOURCE, directory))):
            if name.endswith((".c", ".h")):
                text = re.sub(r"/\*.*?\*/", " ", read(directory, name),
                              flags=re.S)
                text = re.sub(r'"\s*(?:PRI[diux]\w*)\s*"', "N", text)
                text = re.sub(r'"\s*(?:PRI[diux]\w*)', 'N"', text)
                text = re.sub(r'"\s*\n\s*"', "", text)
                for literal in re.findall(r'"((?:[^"\\\n]|\\.)*)"', text):
                    yield literal


def patterns():
    """Regular expressions for the lines of all formats."""
    found = []
    for literal in c_strings():
        for line in literal.replace('\\"', '"').split("\\n"):
            parts = re.split(r"%(?:%|[-0-9.*#]*(?:hh|h|ll|l|z|j)?[a-zA-Z])",
                             line)
            # One that is nearly all argument would match anything.
            if " " in line and len("".join(parts)) >= 8:
                found.append(re.compile(
                    ".*".join(re.escape(part) for part in parts), re.S))
    return found


def documented_lines():
    """Log lines of wallaroo-recovery(7), continuations joined."""
    for block in literal_blocks(page("wallaroo-recovery.7")):
        lines = []
        for line in block.splitlines():
            if line.startswith(" ") and lines:
                lines[-1] += " " + line.strip()
            else:
                lines.append(line)
        yield from lines


def test_log_lines():
    """What the runbook shows is what the programs write."""
    known = patterns()
    unknown = []
    python = r"\[\.\.\.\]$|Current thread|  File|Traceback|\w+Error: "
    for line in documented_lines():
        whole, text = re.match(
            r"(?:supervisor: |worker(?:-\d)?: |spare: )?(?:worker \d: )?"
            r"((?:cluster.conf:\d+: )?(.*))", line, re.S).groups()
        if not re.match(python, text) and not any(
                p.match(whole) or p.match(text) for p in known):
            unknown.append(line)
    assert not unknown


# -- programs ----------------------------------------------------------------

def options_of(program, flag="-h"):
    done = run(os.path.join(BUILD, program), flag)
    assert done.returncode == 0
    return set(re.findall(r"(?:^|[\s\[|,])(--?[a-zA-Z][a-z-]*)",
                          done.stdout + done.stderr))


@needs_build
@pytest.mark.parametrize("program, name", [
    ("wallaroo-supervisord", "wallaroo-supervisord.8"),
    ("wallarooctl", "wallarooctl.8")])
def test_options(program, name):
    """The page's options are the program's."""
    documented = set()
    for head, _ in items(page(name)):
        match = re.match(r"Fl (\S+)", head)
        if match:
            documented.add("-" + match.group(1))
    assert options_of(program) == documented


@needs_build
def test_verbs():
    usage = run(os.path.join(BUILD, "wallarooctl"), "-h")
    text = usage.stdout + usage.stderr
    documented = [head.split()[1] for head, _ in items(page("wallarooctl.8"))
                  if head.startswith("Cm ")][:6]
    for verb in documented:
        assert re.search(r"\b%s\b" % verb, text), verb


@needs_build
@pytest.mark.parametrize("what", ["conf", "connector", "protocol"])
def test_generated_lists(what):
    done = run(os.path.join(BUILD, "wallaroo-supervisord"), "-x", what)
    assert done.returncode == 0
    rows = [name for name, _, _ in messages()] if what == "protocol" else [
        row[1] for row in conf_rows(what == "connector")]
    for row in rows:
        assert re.search(r"\b%s\b" % re.escape(row), done.stdout), row


def words_of(name, begin, end):
    """Everything that a section of a page calls a name."""
    text = page(name).split(begin)[1].split(end)[0]
    words = set()
    for line in re.findall(r"^\.(?:It |Pq )?Cm (.*)$", text, re.M):
        words |= set(re.findall(r"[a-z_]+", line))
    return words


def keys_of(value):
    if isinstance(value, dict):
        return set(value).union(*map(keys_of, value.values()))
    if isinstance(value, list):
        return set().union(*map(keys_of, value))
    return set()


@needs_build
def test_readme_application(opened):
    """It runs as README says, and all fields of wallarooctl are known."""
    (text,) = readme_blocks("python")
    port = harness.free_port()
    cluster = opened(harness.Cluster(
        text, workers=3, args=["--in", "words@127.0.0.1:%d" % port],
        settings={"durability": None}))
    out = cluster.out("stdout")
    with open(out, "wb") as file:
        cluster.start(stdout=file)
    client = opened(harness.Feeder(port))
    client.send(b"a rose is a rose\nis a rose\n")
    harness.wait_for(lambda: open(out).read().count("\n") == 8, "8 counts")
    assert sorted(open(out)) == sorted([
        "a 1\n", "rose 1\n", "is 1\n", "a 2\n", "rose 2\n", "is 2\n",
        "a 3\n", "rose 3\n"])
    known = words_of("wallarooctl.8", ".Ss Fields of status", ".Sh ")
    assert keys_of(cluster.status()) <= known | set(stats_rows())
    fields = set()
    fields |= keys_of(cluster.ctl("state", "get", "Count", "rose"))
    fields |= keys_of(cluster.ctl("checkpoint"))
    fields |= keys_of(cluster.ctl("version"))
    shown = cluster.ctl_raw("state", "get", "Count", "rose")
    assert b"3" in shown.stdout
    assert cluster.ctl_raw("state", "get", "Count", "lily").returncode == 1
    pid = cluster.pids()[1]
    fields |= keys_of(cluster.ctl("restart", "1"))
    cluster.wait_replaced(1, pid)
    fields |= keys_of(cluster.ctl("stop"))
    fields.add("connector")		# of a restart; there is none here
    assert fields == words_of("wallarooctl.8", ".Ss Fields of the others",
                              ".Ss Fields of status") - {
        "stop", "stopped", "checkpoint", "restart", "get"}
    assert cluster.wait_exit() == 0


def check_conf(tmp_path, text):
    path = tmp_path / "cluster.conf"
    path.write_text(text)
    return run(os.path.join(BUILD, "wallaroo-supervisord"), "-n", "-c",
               str(path))


CONTRACT = """\
application "wc" {
        module = "word_count"
        workers = 3
        args = {"--in", "words@127.0.0.1:7010", "--out", "127.0.0.1:7002"}
        state-directory = "/var/lib/wallaroo/wc"
        durability = process
}
"""


def test_first_configuration_is_the_contract():
    assert literal_blocks(page("cluster.conf.5"))[0] == CONTRACT


@needs_build
def test_configurations_are_valid(tmp_path):
    texts = [block for name in PAGES for block in literal_blocks(page(name))
             if block.startswith("application ")]
    assert len(texts) >= 2
    texts += readme_blocks("")
    for text in texts:
        done = check_conf(tmp_path, text)
        assert done.returncode == 0, done.stderr
        again = check_conf(tmp_path, done.stdout)
        assert again.stdout == done.stdout


# -- README ------------------------------------------------------------------

def readme_blocks(language):
    return [text for name, text in re.findall(
        r"^```(\w*)\n(.*?)^```$", read("README"), re.M | re.S)
        if name == language]


def readme_commands(prompt):
    return re.findall(r"^    %s (.*)$" % re.escape(prompt), read("README"),
                      re.M)


def test_two_commands():
    first, second = readme_commands("#")
    assert second == "make check-all"
    steps = [step.strip() for step in first.split("&&")]
    assert steps[0] == "apt-get update"
    assert " apt-get install -y " in " " + steps[1]
    assert steps[2:] == ["./autogen.sh", "./configure", "make", "make demo"]
    for command in (first, second):
        assert run("sh", "-n", "-c", command).returncode == 0


def test_packages():
    """Those that the first command installs are explained, and are those
    that configure names when they are missing."""
    installed = set(readme_commands("#")[0].split("--no-install-recommends")[1]
                    .split("&&")[0].split())
    table = read("README").split("Why each package")[1].split("What is")[0]
    explained = set()
    for row in re.findall(r"^\| ([^|]+) \|", table, re.M):
        explained |= set(row.split(", "))
    assert installed == explained - {"package"}
    configure = read("configure.ac")
    for name in re.findall(r"WALLAROO_MISSING\(\[([\w.+-]+)\]\)", configure):
        assert name in installed, name


@pytest.mark.parametrize("prompt", ["#", "$"])
def test_readme_shell(prompt):
    for command in readme_commands(prompt):
        assert run("sh", "-n", "-c", command).returncode == 0, command


def test_readme_directories():
    table = read("README").split("What is where")[1].split("Style:")[0]
    for name in re.findall(r"^\| (\w+/) \|", table, re.M):
        assert os.path.isdir(os.path.join(SOURCE, name)), name
    for name in re.findall(r"^- ([\w.-]+)\((\d)\)", read("README"), re.M):
        assert "%s.%s" % name in PAGES


def test_word_count_on_the_reference_executor(tmp_path, monkeypatch):
    """Twenty lines, and they count."""
    (text,) = readme_blocks("python")
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) == 20
    (tmp_path / "readme_word_count.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    import collections

    import readme_word_count
    import wallaroo.testing
    words = ["a rose is a rose", "is a rose"]
    result = wallaroo.testing.run(
        readme_word_count.application_setup(
            ["word_count", "--in", "words@127.0.0.1:7010"]),
        {"words": words})
    counts = collections.Counter()
    expected = []
    for word in " ".join(words).split():
        counts[word] += 1
        expected.append(b"%s %d\n" % (word.encode(), counts[word]))
    assert result.outputs == {"stdout": expected}
    assert {key: total.count for key, total
            in result.states["Count"].items()} == counts


def test_manual_application_on_the_reference_executor(tmp_path, monkeypatch):
    (text,) = [block for block in literal_blocks(page("wallaroo.7"))
               if block.startswith("import wallaroo")]
    (tmp_path / "manual_word_count.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    import manual_word_count
    import wallaroo.testing
    result = wallaroo.testing.run(
        manual_word_count.application_setup(["word_count"]),
        {"lines": ["a b a"]})
    assert result.outputs == {"stdout": [b"a 1\n", b"b 1\n", b"a 2\n"]}


def test_python_names():
    """What wallaroo(7) calls a function of the package is one."""
    import wallaroo
    section = page("wallaroo.7").split(".Sh THE PYTHON PACKAGE")[1]
    section = section.split(".Ss Testing")[0]
    names = re.findall(r"^\.It Fn (\w+)", section, re.M)
    assert len(names) > 12
    for name in names:
        assert hasattr(wallaroo, name), name
    for name in re.findall(r"^\.It Fn \.(\w+)", section, re.M):
        assert any(hasattr(cls, name) for cls in (
            wallaroo.Pipeline, wallaroo.RangeWindowsBuilder,
            wallaroo.CountWindowsBuilder,
            wallaroo.SessionWindowsBuilder)), name
