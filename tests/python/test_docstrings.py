"""Every public name says what it is, and its examples are right."""

import doctest
import inspect

import pytest

import wallaroo
import wallaroo.connectors
import wallaroo.helpers
import wallaroo.pytest_plugin
import wallaroo.testing
from wallaroo import codecs, helpers

MODULES = [wallaroo, wallaroo.codecs, wallaroo.connectors, wallaroo.helpers,
           wallaroo.testing, wallaroo.pytest_plugin]


def names_of(module):
    """Public names: those it lists, else those it defines."""
    listed = getattr(module, "__all__", None)
    return sorted(listed or (
        name for name, value in vars(module).items()
        if not name.startswith("_") and getattr(
            value, "__module__", None) == module.__name__
        and inspect.isclass(value)))


PUBLIC = [(module, name) for module in MODULES for name in names_of(module)]


@pytest.mark.parametrize(
    "module, name", PUBLIC,
    ids=["%s.%s" % (module.__name__, name) for module, name in PUBLIC])
def test_docstring(module, name):
    thing = getattr(module, name)
    if not inspect.isclass(thing) and not inspect.isroutine(thing):
        return				# constants and modules
    # not that of a base class
    doc = (vars(thing).get("__doc__") if inspect.isclass(thing)
           else thing.__doc__)
    assert doc and doc.strip() and not doc.startswith(name + "("), doc


def test_examples(capsys):
    """Those of the package, run by doctest."""
    finder = doctest.DocTestFinder(recurse=False)
    names = {"wallaroo": wallaroo, "codecs": codecs, "helpers": helpers}
    runner = doctest.DocTestRunner(
        optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL)
    for module, name in PUBLIC:
        thing = getattr(module, name)
        if not inspect.isclass(thing) and not inspect.isroutine(thing):
            continue
        things = [(name, thing)]
        if inspect.isclass(thing):
            things += [("%s.%s" % (name, each), value)
                       for each, value in vars(thing).items()
                       if inspect.isfunction(value)]
        for what, value in things:
            for test in finder.find(value, what, globs=dict(names)):
                runner.run(test)
    failed, tried = runner.summarize(verbose=False)
    assert not failed, capsys.readouterr().out
    assert tried > 40
