"""python -m wallaroo run, with real files, pipes and sockets."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from conftest import PACKAGE

APP = """
    import sys
    import wallaroo
    from wallaroo import codecs
    from stages import Numbers, Total, add, double, last_digit

    @wallaroo.computation("Number")
    def number(data):
        return int(data)

    def application_setup(args):
        print("args", args, wallaroo._ARGS, sys.argv, file=sys.stderr)
        config = eval(args[1])
        sinks = [eval(arg) for arg in args[2:]]
        return wallaroo.build_application("Run", wallaroo.source(
            "Numbers", config).to(number).to(add).to_sinks(sinks))
"""

OUT = "wallaroo.StdoutSinkConfig(codecs.lines_encoder)"
STDIN = "wallaroo.StdinSourceConfig('s', codecs.lines_decoder)"


@pytest.fixture
def app(tmp_path):
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    return tmp_path


def start(directory, environment, *args, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "wallaroo", "run", *args], cwd=directory,
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, **options,
    )


def run(directory, environment, *args, given="", status=0):
    process = start(directory, environment, *args)
    out, err = process.communicate(given, timeout=30)
    assert process.returncode == status, err
    return out, err


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def connect(port):
    until = time.monotonic() + 20
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_generator_to_stdout(app, environment):
    source = "wallaroo.GenSourceConfig(Numbers(4))"
    out, err = run(app, environment, "app.py", source, OUT)
    assert out == "0\n1\n3\n6\n"
    args = ["app.py", source, OUT]
    assert "args %s %s %s" % (args, tuple(args), args) in err


def test_file_to_file(app, environment):
    (app / "in").write_text("1\n2\n3")
    (app / "out").write_text("from earlier")
    run(
        app, environment, "app.py",
        "wallaroo.FileSourceConfig('f', 'in', codecs.lines_decoder)",
        "wallaroo.FileSinkConfig('out', codecs.lines_encoder)",
    )
    assert (app / "out").read_text() == "1\n3\n6\n"


def test_stdin_to_two_sinks(app, environment):
    out, _ = run(
        app, environment, "app.py", STDIN, OUT,
        "wallaroo.FileSinkConfig('out', codecs.lines_encoder)",
        given="5\n6\n",
    )
    assert out == (app / "out").read_text() == "5\n11\n"


def test_stdin_from_a_file(app, environment):
    (app / "in").write_text("5\n6\n")
    with open(app / "in") as file:
        out = subprocess.run(
            [sys.executable, "-m", "wallaroo", "run", "app.py", STDIN, OUT],
            cwd=app, env=environment, stdin=file, stdout=subprocess.PIPE,
            check=True, text=True, timeout=30,
        )
    assert out.stdout == "5\n11\n"


def test_module_name_and_path(app, environment):
    source = "wallaroo.GenSourceConfig(Numbers(2))"
    assert run(app, environment, "app", source, OUT)[0] == "0\n1\n"
    path = str(app / "app.py")
    assert run("/", environment, path, source, OUT)[0] == "0\n1\n"


def test_tcp_to_tcp(app, environment):
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = start(
            app, environment, "app.py",
            "wallaroo.TCPSourceConfig('n', '127.0.0.1', '%d', "
            "codecs.lines_decoder)" % port,
            "wallaroo.TCPSinkConfig('127.0.0.1', '%d', "
            "codecs.lines_encoder)" % listener.getsockname()[1],
        )
        listener.settimeout(20)
        receiver, _ = listener.accept()
        received = receiver.makefile("r")
        with connect(port) as first, connect(port) as second:
            first.sendall(b"1\n2")
            assert received.readline() == "1\n"
            second.sendall(b"10\n")
            assert received.readline() == "11\n"
            first.sendall(b"0\n")
            assert received.readline() == "31\n"
        # A last line without its end.
        with connect(port) as third:
            third.sendall(b"5")
        assert received.readline() == "36\n"
        process.send_signal(signal.SIGTERM)
        assert received.readline() == ""
        process.communicate(timeout=20)
        assert process.returncode == 0
        receiver.close()


def test_tcp_sink_waits_for_its_receiver(app, environment):
    port = free_port()
    process = start(
        app, environment, "app.py", STDIN,
        "wallaroo.TCPSinkConfig('127.0.0.1', %d, codecs.lines_encoder)" % port,
    )
    process.stdin.write("7\n")
    process.stdin.close()
    line = process.stderr.readline()
    while "waiting for a receiver" not in line:
        assert line
        line = process.stderr.readline()
    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.settimeout(20)
        with listener.accept()[0] as receiver:
            assert receiver.makefile("r").readline() == "7\n"
    assert process.wait(20) == 0
    process.stdout.close()
    process.stderr.close()


def test_bad_client_loses_only_its_connection(app, environment):
    port = free_port()
    process = start(
        app, environment, "app.py",
        "wallaroo.TCPSourceConfig('n', '127.0.0.1', %d, "
        "codecs.lines_decoder, max_size=5)" % port, OUT,
    )
    with connect(port) as bad:
        bad.sendall(b"1\n1234567\n2\n")
        assert process.stdout.readline() == "1\n"
        assert bad.recv(1) == b""
    with connect(port) as good:
        good.sendall(b"3\n")
        assert process.stdout.readline() == "4\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "a line longer than 5 bytes" in err


def test_port_in_use(app, environment):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        _, err = run(
            app, environment, "app.py",
            "wallaroo.TCPSourceConfig('n', '127.0.0.1', %d, "
            "codecs.lines_decoder)" % port, OUT, status=1,
        )
    assert "cannot listen on 127.0.0.1:%d" % port in err


def test_user_error(app, environment):
    out, err = run(
        app, environment, "app.py", STDIN, OUT, given="1\nx\n2\n", status=1)
    assert out == "1\n"
    assert "user function failed step='Number'" in err
    assert "invalid literal for int()" in err
    out, _ = run(
        app, environment, "--on-error", "skip", "app.py", STDIN, OUT,
        given="1\nx\n2\n")
    assert out == "1\n3\n"
    out, err = run(
        app, environment, "--on-error=dead-letter", "app.py", STDIN, OUT,
        given="1\nx\n2\n")
    assert out == "1\n3\n"
    letter = json.loads(err.splitlines()[-1])
    assert (letter["step"], letter["input"]) == ("Number", "'x'")


def test_errors_of_setup(app, environment):
    _, err = run(app, environment, "missing.py", status=1)
    assert "there is no missing.py" in err
    _, err = run(app, environment, "no_such_module", status=1)
    assert "No module named 'no_such_module'" in err
    _, err = run(app, environment, "app.py", "1 / 0", status=1)
    assert "ZeroDivisionError" in err
    assert "Something went wrong while building the application" in err
    run(app, environment, "app.py", "sys.exit(2)", status=2)
    _, err = run(app, environment, "app.py", STDIN, "wallaroo.TCPSinkConfig("
                 "'h', 'x', codecs.lines_encoder)", status=1)
    assert "h:x has a port that is none" in err
    _, err = run(app, environment, "app.py", "wallaroo.FileSourceConfig('f', "
                 "'nothing', codecs.lines_decoder)", OUT, status=1)
    assert ('source "Numbers": cannot open nothing: No such file or directory'
            in err)
    _, err = run(app, environment, "app.py", STDIN, "wallaroo.FileSinkConfig("
                 "'/no/where', codecs.lines_encoder)", status=1)
    assert ('sink "/no/where": cannot open it: No such file or directory'
            in err)
    (app / "empty.py").write_text("x = 1\n")
    _, err = run(app, environment, "empty.py", status=1)
    assert "empty.py has no function application_setup(args)" in err


def test_workers_behind_the_applications_arguments(app, environment):
    """They are the application's; who did not mean that is told."""
    args = ["app.py", STDIN, OUT]
    _, err = run(app, environment, *args, "--workers=2", status=1)
    assert "--workers=2 stands behind an argument of the application" in err
    _, err = run(app, environment, *args)
    assert "stands behind" not in err
    _, err = run(app, environment, "app.py", "--", *args[1:], "--workers",
                 status=1)
    assert "stands behind" not in err


def test_usage(app, environment):
    _, err = run(app, environment, status=2)
    assert "usage: python -m wallaroo run" in err
    out, _ = run(app, environment, "--help")
    assert "app.py" in out


def test_breakpoint(app, environment):
    (app / "stops.py").write_text(textwrap.dedent("""
        import wallaroo
        from stages import Numbers

        @wallaroo.computation("Stops")
        def stops(data):
            breakpoint()
            return data

        def application_setup(args):
            return wallaroo.build_application("x", wallaroo.source(
                "N", wallaroo.GenSourceConfig(Numbers(1))).to(stops).to_sink(
                wallaroo.StdoutSinkConfig(wallaroo.codecs.lines_encoder)))
    """))
    out, _ = run(
        app, environment, "stops.py",
        given="p 'data is %d' % data\nc\n",
    )
    assert "data is 0" in out and out.endswith("0\n")


def test_closed_stdout_is_an_error_not_a_traceback(app, environment):
    process = start(
        app, environment, "app.py",
        "wallaroo.GenSourceConfig(Numbers())", OUT)
    process.stdout.close()
    assert process.wait(20) == 1
    err = process.stderr.read()
    process.stderr.close()
    process.stdin.close()
    assert "Broken pipe" in err and "Traceback" not in err


def test_tracebacks_show_the_users_frames(app, environment):
    """Of a function, and of what builds the application; nothing of ours."""
    _, err = run(app, environment, "app.py", STDIN, OUT, given="1\nx\n",
                 status=1)
    assert 'app.py", line' in err and "in number" in err
    assert "ValueError: invalid literal" in err
    assert "user function failed step='Number'" in err
    (app / "app.py").write_text("import wallaroo\n\n\n"
                                "def application_setup(args):\n"
                                "    return wallaroo.source('s', 3)\n")
    _, more = run(app, environment, "app.py", status=1)
    assert 'app.py", line 5, in application_setup' in more
    for line in (err + more).splitlines():
        assert os.path.join(PACKAGE, "wallaroo", "") not in line, line
        assert "importlib" not in line
