"""The models hold, and each planted bug is found; in check-long also with
larger bounds."""

import os
import shutil
import subprocess
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
MODELS = sorted(name[:-4] for name in os.listdir(HERE)
                if name.endswith(".pml"))
SIZES = [[], ["--large"]] if os.environ.get("WALLAROO_LEVEL") == "long" \
    else [[]]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "".join(size) or "-")
@pytest.mark.parametrize("model", MODELS)
def test_model(model, size):
    if shutil.which("spin") is None:
        pytest.skip("the Debian package spin is not installed")
    out = subprocess.run(
        [sys.executable, "-B", os.path.join(HERE, "run"), *size, model],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert out.returncode == 0, out.stdout
    assert "ok     %-9s holds" % model in out.stdout


def test_a_bug_that_is_not_found_is_a_failure(tmp_path):
    """A check that cannot fail would be none."""
    if shutil.which("spin") is None:
        pytest.skip("the Debian package spin is not installed")
    for name, text, code in (
        ("good", " * bugs: A\n */\n#ifdef BUG_A\n#define B 1\n#endif\n"
         "active proctype p() {\n#ifdef B\n\tassert(false)\n#endif\nskip }", 0),
        ("blind", " * bugs: A\n */\nactive proctype p() { skip }", 1),
        ("wrong", " */\nactive proctype p() { assert(false) }", 1),
    ):
        (tmp_path / (name + ".pml")).write_text("/*\n" + text + "\n")
        shutil.copy(os.path.join(HERE, "run"), tmp_path)
        out = subprocess.run(
            [sys.executable, "-B", str(tmp_path / "run"), name],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert out.returncode == code, out.stdout
