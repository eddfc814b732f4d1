"""machida3's command line, and the configuration that it becomes."""

import os
import re
import subprocess
import sys

import pytest

from wallaroo.tools import machida3
from wallaroo.tools.machida3 import Refused, parse, plan

ONE = ["--application-module", "app", "--cluster-initializer"]


def line(*args, program="machida3"):
    return parse(program, list(args))


def rest(*args):
    return line(*args).rest[1:]


# -- taking it apart ---------------------------------------------------------

@pytest.mark.parametrize("args", [
    ["--name", "x"], ["--name=x"], ["-n", "x"], ["-nx"], ["-n=x"],
    ["-tn", "x"], ["-tnx"]])
def test_forms(args):
    parsed = line(*args)
    assert parsed.options["name"] == "x" and parsed.rest == ["machida3"]


def test_bundled_flags():
    assert set(line("-th").options) == {"cluster-initializer", "help"}
    assert line("-tw", "1").options == {"cluster-initializer": True,
                                        "worker-count": 1}


@pytest.mark.parametrize("name", [o.name for o in machida3.OPTIONS])
def test_every_option(name):
    """Each is known by its exact name, and not passed on."""
    option = machida3.LONG[name]
    value = {machida3.take_number: "1_0", machida3.take_address: "h:1",
             machida3.take_unused: "h:0", machida3.take_text: "x",
             None: None}[option.take]
    args = ["--" + name] + ([value] if value else [])
    parsed = line(*args, "--in", "y")
    assert parsed.rest == ["machida3", "--in", "y"]
    wanted = {"1_0": 10, None: True}.get(value, value)
    assert parsed.options == {name: wanted}
    assert parsed.whole == ["machida3"] + args + ["--in", "y"]
    if value:
        assert line("--%s=%s" % (name, value)).options == {name: wanted}
    if option.short:
        assert line("-" + option.short, *args[1:]).options == {name: wanted}
    assert name in machida3.HELP


def test_unknown_options_stay_in_order():
    args = ["--in", "a@h:1", "-i", "x", "--worker-name", "worker1",
            "--out=h:2", "word", "-", "-iname", "--nam", "x"]
    assert rest(*(args[:4] + ["-t"] + args[4:])) == args


def test_the_end_of_options():
    assert rest("-t", "--", "-t", "--ponynoblock", "x") == [
        "--", "-t", "--ponynoblock", "x"]


def test_pony_options_are_passed_to_nobody():
    parsed = line("a", "--ponythreads", "1", "b", "--ponynoblock",
                  "--ponypinasio", "--ponypin", "--ponygcfactor", "2",
                  "--ponythreads=1", "c")
    assert parsed.rest == parsed.whole == ["machida3", "a", "b", "c"]
    assert parsed.threads == "1"


@pytest.mark.parametrize("args,says", [
    (["--name"], "--name needs a value"),
    (["--name", "-x"], "--name needs a value"),
    (["-n"], "-n needs a value"),
    (["--cluster-initializer=yes"], "takes no value"),
    (["-w", "two"], "'two' is no number"),
    (["--worker-count=-1"], "no number"),
    (["--external", "5050"], "is no address"),
    (["--external", "h:0"], "is no address"),
    (["-c", "host:http"], "is no address"),
    (["--my-data", "host"], "is no address"),
    (["-tq"], "there is no option -q"),
])
def test_malformed(args, says):
    with pytest.raises(Refused) as refused:
        line(*args)
    assert says in str(refused.value)


# -- what can be run ---------------------------------------------------------

@pytest.mark.parametrize("args,says", [
    ([], "You must provide Machida with --application-module"),
    (ONE + ["--ponythreads", "4"],
     "You must provide Machida with the '--ponythreads 1' argument"),
    (ONE + ["-w", "0"], "must not be 0"),
    (ONE + ["-w", "2"], "workers = N"),
    (ONE + ["-j", "h:1"], "--join is for"),
    (["--application-module", "app"], "You must specify a worker name"),
    (["--application-module", "app", "-n", "w1", "-c", "h:1"],
     "workers = N"),
    (["--application-module", "app", "-n", "w1", "-d", "h:1"],
     "--data is for the --cluster-initializer"),
    (["--application-module", "app", "-n", "w1", "-w", "2"],
     "--worker-count is for"),
    (["--application-module", "app", "-n", "w4", "-j", "h:1", "-w", "2"],
     "workers = N"),
    (ONE + ["-r", "/tmp/"], "must not end in a slash"),
    (ONE + ["-r", "/no/such"], "no such directory"),
    (ONE + ["--external-access", "all"], "loopback or any"),
])
def test_refused(args, says, environment):
    with pytest.raises(Refused) as refused:
        plan(line(*args))
    assert says in str(refused.value)


def test_refusals_are_errors_with_exit_code_1(environment):
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from wallaroo.tools.machida3 "
         "import main; sys.exit(main())"], env=environment,
        stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: You must provide Machida with")


def test_its_name_is_initializer():
    assert plan(line(*ONE, "--name", "other")).name == "initializer"


@pytest.mark.parametrize("program,args,resilient", [
    ("machida3", [], False), ("/x/machida3", ["--run-with-resilience"], True),
    ("/x/machida3-resilience", [], True),
    ("machida3-resilience", ["--run-with-resilience"], True)])
def test_resilience(program, args, resilient):
    planned = plan(line(*ONE, *args, program=program))
    assert planned.resilient is resilient
    assert planned.directory == "/tmp"


# -- the configuration -------------------------------------------------------

@pytest.fixture
def configured(tmp_path, monkeypatch):
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.setenv("PYTHONPATH", "/a::relative:/a")
    monkeypatch.chdir(tmp_path)

    def make(*args, program="machida3"):
        planned = plan(line(*ONE, "-r", str(tmp_path), *args,
                            program=program))
        return machida3.settings(planned, str(tmp_path / "state"))
    return make


def test_settings(configured, tmp_path):
    got = configured("--in", "x", "-e", "127.0.0.1:5050")
    assert got["module"] == "app" and got["machida"] == "initializer"
    assert got["args"] == ["--in", "x"]
    assert got["command-line"][0] == "machida3"
    assert got["durability"] == "none" and got["workers"] == "1"
    assert got["python-path"] == ["/a", str(tmp_path / "relative"),
                                  str(tmp_path)]
    assert got["external-address"] == "127.0.0.1:5050"
    assert got["external-access"] == "loopback"
    assert ("user" in got) == (os.geteuid() == 0)
    assert "python" not in got and "checkpoint-interval" not in got
    assert (got["max-message"], got["journal-size"]) == ("4M", "16M")


@pytest.mark.parametrize("ns,wanted", [
    ("1000000000", "1.000"), ("1", "0.010"), ("250_000_000", "0.250"),
    ("99999999999999999", "3600.000")])
def test_time_between_checkpoints(configured, ns, wanted):
    got = configured("--run-with-resilience", "--time-between-checkpoints",
                     ns)
    assert got["durability"] == "process"
    assert got["checkpoint-interval"] == wanted


def test_where_journals_are_is_said_once(configured, tmp_path):
    assert "runtime-directory" in configured("--run-with-resilience")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "catalog.sqlite").touch()
    assert "runtime-directory" not in configured("--run-with-resilience")


def test_virtual_environment(configured, tmp_path, monkeypatch):
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path))
    assert "python" not in configured()
    (tmp_path / "lib" / ("python%d.%d" % sys.version_info[:2])).mkdir(
        parents=True)
    assert configured()["python"] == str(tmp_path)


@pytest.mark.parametrize("module,name", [
    ("app", "app"), ("shop.orders", "shop.orders"), ("a b\u00e4", "a_b_"),
    (".-", "app"), ("x" * 100, "x" * 64)])
def test_name_of_the_application(tmp_path, module, name):
    planned = plan(line("--application-module", module, "-t"))
    text = machida3.configuration(planned, str(tmp_path))
    assert text.startswith('application "%s" {\n' % name)


def test_strings():
    assert machida3.quoted('a"b\\c${D}\n\x7f\u00e4') == \
        '"a\\"b\\\\c\\${D}\\x0a\\x7f\u00e4"'
    assert machida3.quoted(["a", "b c"]) == '{"a", "b c"}'
    assert machida3.quoted([]) == "{}"
    assert machida3.quoted(machida3.Word("1")) == "1"


def test_state_directories_differ(tmp_path):
    """No module and name can be taken for another one's."""
    seen = set()
    for module, name in [("a", "b-c"), ("a-b", "c"), ("a", "b/c"),
                         ("a", "b c"), ("a.b", "c")]:
        planned = plan(line("--application-module", module, "-t", "-r",
                            str(tmp_path)))._replace(name=name)
        path = machida3.kept_state(planned)
        assert os.path.dirname(path) == str(tmp_path)
        assert os.stat(path).st_mode & 0o777 == 0o700
        seen.add(path)
    assert len(seen) == 5


def test_others_directories_are_not_used(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(Refused):
        machida3.private(str(tmp_path / "link"))
    (tmp_path / "file").touch()
    with pytest.raises(Refused):
        machida3.private(str(tmp_path / "file"))


def test_help_names_every_option():
    named = set(re.findall(r"--([a-z-]+)", machida3.HELP))
    assert named - {"pony"} >= set(machida3.LONG)
