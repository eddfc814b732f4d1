"""The conformance kit as a user has it: programs, started as they are."""

import os
import shutil
import subprocess
import sys

import pytest

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
PACKAGE = os.environ.get("WALLAROO_PYTHON_PACKAGE") or os.path.join(
    ROOT, "py")
EXAMPLES = os.path.join(ROOT, "examples", "connectors")

sys.path.insert(0, PACKAGE)
sys.dont_write_bytecode = True
os.environ["PYTHONPATH"] = PACKAGE
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


def need(program, package):
    """A language that is missing is a failure: nothing was tested."""
    path = shutil.which(program)
    if path is None:
        pytest.fail("%s is not installed (Debian package %s)" % (
            program, package))
    return path


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """built(language, name): the path of an example's program."""
    directory = tmp_path_factory.mktemp("programs")

    def build(language, name):
        program = str(directory / ("%s-%s" % (language, name)))
        source = os.path.join(EXAMPLES, language)
        if language == "go":
            command = [need("go", "golang-go"), "build", "-o", program,
                       name + ".go", "wire.go"]
        else:
            command = [need("rustc", "rustc"), "--edition", "2021", "-O",
                       "-D", "warnings", "-o", program, name + ".rs"]
        subprocess.run(command, cwd=source, check=True, env=dict(
            os.environ, GO111MODULE="off", GOTOOLCHAIN="local",
            GOFLAGS="", GOCACHE=str(directory / "cache"),
            GOPATH=str(directory / "gopath")))
        return program

    yield build
    shutil.rmtree(directory, ignore_errors=True)
