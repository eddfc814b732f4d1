/*
 * The Python host through the table that the worker knows.  A small runtime
 * of the test's own stands in for the package, so that each function can be
 * given exactly the user functions that it must cope with; the last tests
 * use the real package.
 */
#include <sys/stat.h>
#include <sys/wait.h>

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/conf.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/mp.h"
#include "unit.h"
#include "worker/determ.h"
#include "worker/host.h"

#ifndef TEST_SOURCE
#define TEST_SOURCE	"."
#endif

static const struct host *const py = &host_python;

static const char runtime_py[] =
    "import importlib, types\n"
    "def install(host):\n"
    "    global HOST\n"
    "    HOST = host\n"
    "def load(module, args):\n"
    "    m = importlib.import_module(module)\n"
    "    return types.SimpleNamespace(**m.application_setup(args))\n";

/* The functions' numbers, in the order of F in the module below. */
enum {
	F_EVAL, F_REPR, F_SAME, F_LIST, F_STATE, F_KEY, F_LEN, F_GEN, F_RAISE,
	F_SHARED, F_BLOCKS, F_LOG, F_THREAD, F_CONTEXT, F_COUNT
};

static const char app_py[] =
    "import collections, copy, dataclasses, datetime, enum, gc\n"
    "import random, sys, threading, typing, abc, wallaroo._runtime as rt\n"
    "class Plain:\n"
    "    def __init__(self, **kw): self.__dict__.update(kw)\n"
    "    class Inner:\n"
    "        total = 0\n"
    "class Sub(Plain, abc.ABC): pass\n"
    "class Prop:\n"
    "    @property\n"
    "    def size(self): return self.__dict__.get('size', -1)\n"
    "class Slots:\n"
    "    __slots__ = ('a', 'b')\n"
    "class More(Slots):\n"
    "    __slots__ = ('c', '__d', '__weakref__')\n"
    "    def __init__(self, **kw):\n"
    "        for k, v in kw.items(): setattr(self, k, v)\n"
    "        self.__d = 'd'\n"
    "class Again(Slots):\n"
    "    __slots__ = ('a',)\n"
    "class Mixed(Slots): pass\n"
    "class Guarded(Slots):\n"
    "    __slots__ = ()\n"
    "    @property\n"
    "    def b(self): return 2\n"
    "@dataclasses.dataclass(slots=True)\n"
    "class Cell:\n"
    "    x: int\n"
    "    y: typing.Any = None\n"
    "@dataclasses.dataclass(slots=True, frozen=True)\n"
    "class Ice:\n"
    "    x: int\n"
    "class Hooked:\n"
    "    def __getstate__(self): return {'b': self.a}\n"
    "    def __setstate__(self, d): self.__dict__.update(d)\n"
    "class NewArgs:\n"
    "    def __new__(cls, a=7):\n"
    "        o = object.__new__(cls); o.a = a; return o\n"
    "@dataclasses.dataclass(frozen=True)\n"
    "class Point:\n"
    "    x: int\n"
    "    y: typing.Any = None\n"
    "Pair = collections.namedtuple('Pair', 'a b')\n"
    "class Color(enum.Enum):\n"
    "    RED = 1\n"
    "class MyDict(dict): pass\n"
    "class Bad:\n"
    "    def __repr__(self): raise SystemExit(3)\n"
    "def local():\n"
    "    class C: pass\n"
    "    return C()\n"
    "def make(**kw):\n"
    "    o = Slots()\n"
    "    for k, v in kw.items(): setattr(o, k, v)\n"
    "    return o\n"
    "def bare(**kw):\n"
    "    o = Plain.Inner()\n"
    "    for k, v in kw.items(): setattr(o, k, v)\n"
    "    return o\n"
    "kept = []\n"
    "def keep(o): kept.append(o); return o\n"
    "def dressed(o): return sys.version_info[:2] == (3, 11) and any(\n"
    "    type(x) is dict for x in gc.get_referents(o))\n"
    "def turned():\n"
    "    o = bare(a=1, b=2, c=3); del o.a; o.a = [4]; o.b = (5, [6])\n"
    "    return o\n"
    "def many(): return bare(**{'k%d' % i: i for i in range(40)})\n"
    "def undress(r, depth, n):\n"
    "    return bare(**{'k%d' % i: rnd(r, depth - 1) for i in range(n)})\n"
    "def with_a(o, a): o.a = a; return o\n"
    "def cycle():\n"
    "    a = []; a.append(a); return a\n"
    "def deep(n):\n"
    "    a = 1\n"
    "    for i in range(n): a = [a]\n"
    "    return a\n"
    "def ring():\n"
    "    a = Plain(); a.b = Plain(a=a); return a\n"
    "def twins():\n"
    "    x = [1]; return {'a': x, 'b': (x, x)}\n"
    "T = ([],)\n"
    "def tuples(): return [T, T]\n"
    "def rnd(r, depth):\n"
    "    k = r.randrange(18 if depth else 10)\n"
    "    if k == 0: return None\n"
    "    if k == 1: return r.random() < .5\n"
    "    if k == 2: return r.choice((1, -1)) * (1 << r.randrange(70))\n"
    "    if k == 3: return r.choice((1, -1)) * r.getrandbits(\n"
    "        r.randrange(1, 70))\n"
    "    if k == 4: return r.choice((0.0, -0.0, 1e300, r.random(),\n"
    "        float('inf')))\n"
    "    if k == 5: return ''.join(chr(r.randrange(32, 127))\n"
    "        for i in range(r.choice((0, 1, 5, 31, 32, 255, 256, 70000\n"
    "        if depth == 4 else 40))))\n"
    "    if k == 6: return ''.join(chr(r.choice((65, 0xe9, 0x20ac, 0x1f600,\n"
    "        0, 0xdc80))) for i in range(r.randrange(9)))\n"
    "    if k == 7: return r.randbytes(r.choice((0, 1, 255, 256)))\n"
    "    if k == 8: return r.choice((datetime.date(2020, 1, 2), Color.RED,\n"
    "        datetime.timedelta(1), complex(1, 2), frozenset((1, 2))))\n"
    "    if k == 9: return -r.randrange(300)\n"
    "    n = r.choice((0, 1, 2, 3, 15, 16)) if depth > 2 else r.randrange(4)\n"
    "    if k < 12: return [rnd(r, depth - 1) for i in range(n)]\n"
    "    if k < 14: return tuple(rnd(r, depth - 1) for i in range(n))\n"
    "    if k == 14: return {r.choice(('a%d' % i, i, (i, 'x'),\n"
    "        str(i).encode(), i + .5)): rnd(r, depth - 1) for i in range(n)}\n"
    "    if k == 15: return r.choice((Plain, Sub))(**{'k%d' % i:\n"
    "        rnd(r, depth - 1) for i in range(n)})\n"
    "    if k == 16: return undress(r, depth, n)\n"
    "    return r.choice((Point(rnd(r, depth - 1)),\n"
    "        Pair(rnd(r, depth - 1), 1), {1, 2}, MyDict(a=1),\n"
    "        make(a=rnd(r, depth - 1), b=2),\n"
    "        collections.Counter('aab')))\n"
    "def show(o):\n"
    "    t = type(o)\n"
    "    if t is int: return hex(o) if abs(o) > 1 << 64 else repr(o)\n"
    "    if isinstance(o, (list, tuple)): return '%s[%s]' % (t.__name__[0],\n"
    "        ', '.join(show(x) for x in o))\n"
    "    if isinstance(o, dict): return '%s{%s}' % (t.__name__[0],\n"
    "        ', '.join('%s: %s' % (show(k), show(v))\n"
    "        for k, v in o.items()))\n"
    "    if hasattr(o, '__dict__') and t.__module__ == __name__ \\\n"
    "        and not isinstance(o, enum.Enum):\n"
    "        return '%s%s' % (t.__qualname__, show(dict(o.__dict__)))\n"
    "    if t in (More, Again, Mixed, Guarded, Cell, Ice):\n"
    "        return t.__name__ + show({a: getattr(o, a) for a in ('a', 'b',\n"
    "            'c', '_More__d', 'x', 'y', 'z') if hasattr(o, a)})\n"
    "    if t is Slots: return 'Slots%s' % show([getattr(o, 'a', 0),\n"
    "        getattr(o, 'b', 0)])\n"
    "    return repr(o)\n"
    "def f_eval(b): return eval(b, globals())\n"
    "def f_repr(o):\n"
    "    r = show(o)\n"
    "    return r if len(r) % 2 else r.encode()\n"
    "def f_same(o): return o\n"
    "def f_list(o): return o\n"
    "class Total: count = 0\n"
    "def f_state(o, s):\n"
    "    s.count += 1\n"
    "    return (o, s.count)\n"
    "def f_key(o): return o\n"
    "def f_len(b): return eval(b)\n"
    "class Gen:\n"
    "    def __init__(self): self.n = 10\n"
    "    def initial_value(self):\n"
    "        self.n += 1\n"
    "        return (self.n,)\n"
    "    def apply(self, v):\n"
    "        self.n += 1\n"
    "        if self.n == 15: return None\n"
    "        return (self.n,)\n"
    "class Boom(Exception): pass\n"
    "def recurse(): recurse()\n"
    "def f_raise(o):\n"
    "    if o == 'exit': sys.exit(4)\n"
    "    if o == 'deep': recurse()\n"
    "    if o == 'memory': return [0] * 4 * (1 << 62)\n"
    "    if o == 'long': raise Boom('x' * 100000)\n"
    "    if o == 'lines': raise Boom('\\n'.join('line %d' % i\n"
    "        for i in range(1000)))\n"
    "    if o == 'bad': raise type('Odd', (Exception,),\n"
    "        {'__str__': lambda s: 1 / 0})()\n"
    "    if o == 'chain':\n"
    "        try: 1 / 0\n"
    "        except ZeroDivisionError as e: raise Boom('last') from e\n"
    "    raise Boom(o)\n"
    "def f_shared(o):\n"
    "    if isinstance(o, dict): return o['a'] is o['b'][0] is o['b'][1]\n"
    "    if isinstance(o, Plain): return o.b.a is o\n"
    "    if len(o) == 2: return o[0][0] is o[1][0]\n"
    "    return o[0] is o\n"
    "def f_blocks(o):\n"
    "    gc.collect()\n"
    "    return sys.getallocatedblocks()\n"
    "def f_log(o): rt.HOST.log(6, 'stdout', o)\n"
    "seen = []\n"
    "class Th(threading.Thread):\n"
    "    def run(self):\n"
    "        if self.name == 'stuck':\n"
    "            threading.Event().wait()\n"
    "        seen.append((rt.HOST.serial(), rt.HOST.context()[1]))\n"
    "def f_thread(o):\n"
    "    if o == 'stuck' or o == 'start':\n"
    "        Th(name=o).start()\n"
    "        return\n"
    "    return list(seen)\n"
    "def f_context(o):\n"
    "    return (rt.HOST.serial() > 0, rt.HOST.seed(), rt.HOST.context())\n"
    "F = [f_eval, f_repr, f_same, f_list, f_state, f_key, f_len, Gen(),\n"
    "    f_raise, f_shared, f_blocks, f_log, f_thread, f_context]\n"
    "def application_setup(args):\n"
    "    none = [None] * len(F)\n"
    "    factories = list(none)\n"
    "    factories[4] = Total\n"
    "    factories[8] = lambda: 1 / 0\n"
    "    frames = list(none)\n"
    "    frames[6] = f_len\n"
    "    return dict(functions=F, state_factories=factories,\n"
    "        frame_lengths=frames, serialize=None, deserialize=None,\n"
    "        topology=['wallaroo-topology', 1, args[-1], [],\n"
    "        [['Step \"%s\"' % f.__class__.__name__ if i == 7 else\n"
    "        f.__name__[2:], 'step', -1, i, -1, False, 'default', 1]\n"
    "        for i, f in enumerate(F)], [['a', True, -5, b'k', None]]])\n";

static char dir[] = "/tmp/check_host_python.XXXXXX";
static struct conf_app conf;
static struct host_app *app;
static struct err err;
static struct buf lines;		/* what was logged */

/*
 * Each test has a process of its own, even where CK_FORK=no asks for one
 * process, as it does under valgrind: Python cannot be started twice without
 * leaving something behind.  A leak then is the exit code of that process.
 */
static bool slowly;

static void __attribute__((constructor))
always_fork(void)
{
	const char *fork = getenv("CK_FORK");

	slowly = fork != NULL && strcmp(fork, "no") == 0;
#ifdef __SANITIZE_ADDRESS__
	slowly = true;
#endif
	(void)setenv("CK_FORK", "yes", 1);
}

/* Valgrind needs fifty times longer, AddressSanitizer nearly so. */
static int
rounds(int n)
{
	return (slowly ? n / 50 : n);
}

static void
put_file(const char *name, const char *text)
{
	char *path = xasprintf("%s/%s", dir, name), *slash;
	FILE *f;

	for (slash = path + sizeof(dir); (slash = strchr(slash, '/')) != NULL;
	    slash++) {
		*slash = '\0';
		ck_assert(mkdir(path, 0700) == 0 || errno == EEXIST);
		*slash = '/';
	}
	f = fopen(path, "w");
	ck_assert_ptr_nonnull(f);
	ck_assert_int_ne(fputs(text, f), EOF);
	ck_assert_int_eq(fclose(f), 0);
	free(path);
}

static int
remove_one(const char *path, const struct stat *st, int type, struct FTW *w)
{
	(void)st;
	(void)type;
	(void)w;
	return (remove(path));
}

static void
on_line(int priority, const char *line, void *arg)
{
	(void)arg;
	buf_addf(&lines, "%d %s\n", priority, line);
}

static void
prepare(void)
{
	char *package;

	memcpy(strrchr(dir, '.'), ".XXXXXX", sizeof(".XXXXXX"));
	ck_assert_ptr_nonnull(mkdtemp(dir));
	put_file("package/wallaroo/__init__.py", "");
	put_file("package/wallaroo/_runtime.py", runtime_py);
	put_file("app/app.py", app_py);
	memset(&conf, 0, sizeof(conf));
	conf.module = xstrdup("app");
	conf.python = xstrdup("");
	conf.python_path.item = xcalloc(1, sizeof(char *));
	conf.python_path.item[0] = xasprintf("%s/app", dir);
	conf.python_path.n = 1;
	conf.args.item = xcalloc(1, sizeof(char *));
	conf.args.item[0] = xstrdup("\xc3\xa9last");
	conf.args.n = 1;
	package = xasprintf("%s/package", dir);
	ck_assert_int_eq(setenv("WALLAROO_PYTHON_PACKAGE", package, 1), 0);
	free(package);
	/* The real package stays as it is in the source tree. */
	ck_assert_int_eq(setenv("PYTHONDONTWRITEBYTECODE", "1", 1), 0);
	app = NULL;
	buf_init(&lines);
	log_init("worker-0", LOG_DEBUG);
	log_sink(on_line, NULL);
}

static void
cleanup(void)
{
	py->close(app);
	log_sink(NULL, NULL);
	buf_fini(&lines);
	free(conf.module);
	free(conf.python);
	free(conf.python_path.item[0]);
	free(conf.python_path.item);
	free(conf.args.item[0]);
	free(conf.args.item);
	(void)nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void
start(void)
{
	int r;

	prepare();
	r = py->open(&app, &conf, &err);
	ck_assert_msg(r == 0, "%s", err.text);
}

/* The text must be part of err.text. */
static void
expect(int r, enum err_code code, const char *text)
{
	ck_assert_int_eq(r, -1);
	ck_assert_msg(err.code == code, "code %d: %s", err.code, err.text);
	ck_assert_msg(strstr(err.text, text) != NULL, "no \"%s\" in: %s",
	    text, err.text);
}

static void
expect_last(const char *text)
{
	const char *last = strrchr(err.text, '\n');

	last = last == NULL ? err.text : last + 1;
	ck_assert_str_eq(last, text);
}

/* The value of a Python expression. */
static host_val
eval(const char *text)
{
	host_val v = NULL;
	int r;

	r = py->decode(app, F_EVAL, slice_of(text, strlen(text)), &v, &err);
	ck_assert_msg(r == 0, "%s: %s", text, err.text);
	ck_assert_ptr_nonnull(v);
	return (v);
}

/* What a value looks like; the caller frees. */
static char *
show(host_val v)
{
	struct buf b;
	bool none;
	int r;

	buf_init(&b);
	r = py->encode(app, F_REPR, v, &b, &none, &err);
	ck_assert_msg(r == 0, "%s", err.text);
	ck_assert(!none);
	return (buf_str(&b));
}

static void
expect_value(host_val v, const char *text)
{
	char *s = show(v);

	ck_assert_str_eq(s, text);
	free(s);
	py->val_free(app, v);
}

/* fn(value of text) for a function of one output. */
static host_val
apply(int fn, const char *text)
{
	struct host_out out = { NULL, 0, 0 };
	host_val v = eval(text), r;
	int rc;

	rc = py->step(app, fn, false, NULL, v, &out, &err);
	ck_assert_msg(rc == 0, "%s", err.text);
	ck_assert_uint_le(out.n, 1);
	py->val_free(app, v);
	r = out.n == 0 ? NULL : out.val[0];
	free(out.val);
	return (r);
}

static int
raise_by(int fn, bool multi, const char *text)
{
	struct host_out out = { NULL, 0, 0 };
	host_val v = eval(text);
	int r;

	r = py->step(app, fn, multi, NULL, v, &out, &err);
	py->val_free(app, v);
	ck_assert_uint_eq(out.n, 0);
	free(out.val);
	return (r);
}

START_TEST(describe)
{
	struct buf b, want;

	start();
	buf_init(&b);
	buf_init(&want);
	ck_assert_int_eq(py->describe(app, &b, &err), 0);
	mp_put_array(&want, 6);
	mp_put_str(&want, "wallaroo-topology");
	mp_put_int(&want, 1);
	mp_put_str(&want, "\xc3\xa9last");
	mp_put_array(&want, 0);
	ck_assert_uint_gt(b.len, want.len);
	ck_assert_mem_eq(b.data, want.data, want.len);
	buf_clear(&want);
	mp_put_array(&want, 1);
	mp_put_array(&want, 5);
	mp_put_str(&want, "a");
	mp_put_bool(&want, true);
	mp_put_int(&want, -5);
	mp_put_bin(&want, "k", 1);
	mp_put_nil(&want);
	ck_assert_mem_eq(b.data + b.len - want.len, want.data, want.len);
	buf_fini(&b);
	buf_fini(&want);
	cleanup();
}
END_TEST

START_TEST(isolation)
{
	start();
	expect_value(eval("hash('wallaroo') == __import__('os') and 0 or "
	    "sys.flags.hash_randomization"), "0");
	expect_value(eval("sys.flags.utf8_mode"), "1");
	expect_value(eval("sys.flags.no_user_site"), "1");
	expect_value(eval("sys.path[0].endswith('/package') and "
	    "sys.path[1].endswith('/app')"), "True");
	expect_value(eval("__import__('signal').getsignal("
	    "__import__('signal').SIGINT) is "
	    "__import__('signal').default_int_handler"), "False");
	expect_value(eval("__import__('os').access(sys.executable, 1)"),
	    "True");
	cleanup();
}
END_TEST

/* Without python-path: where the configuration is. */
START_TEST(path_of_configuration)
{
	prepare();
	conf.python_path.n = 0;
	conf.file = xasprintf("%s/app/cluster.conf", dir);
	ck_assert_msg(py->open(&app, &conf, &err) == 0, "%s", err.text);
	free(conf.file);
	cleanup();
}
END_TEST

START_TEST(open_missing)
{
	prepare();
	free(conf.module);
	conf.module = xstrdup("no_such.module");
	expect(py->open(&app, &conf, &err), ERR_CONFIG,
	    "no module named \"no_such.module\"");
	expect(-1, ERR_CONFIG, conf.python_path.item[0]);
	cleanup();
}
END_TEST

START_TEST(open_imports_missing)
{
	prepare();
	put_file("app/app.py", "import no_such_thing\n");
	expect(py->open(&app, &conf, &err), ERR_CONFIG,
	    "app.py\", line 1, in <module>");
	expect_last("ModuleNotFoundError: No module named 'no_such_thing'");
	ck_assert_ptr_null(strstr(err.text, "_runtime.py"));
	ck_assert_ptr_null(strstr(err.text, "importlib"));
	cleanup();
}
END_TEST

START_TEST(open_raises)
{
	prepare();
	put_file("app/app.py", "def application_setup(args):\n"
	    "    return helper(args)\n"
	    "def helper(args):\n"
	    "    raise ValueError('no ' + args[0])\n");
	expect(py->open(&app, &conf, &err), ERR_CONFIG, "in helper");
	expect(-1, ERR_CONFIG, "line 2, in application_setup");
	expect_last("ValueError: no app");
	ck_assert_ptr_null(strstr(err.text, "_runtime.py"));
	cleanup();
}
END_TEST

START_TEST(open_syntax)
{
	prepare();
	put_file("app/app.py", "def f(:\n");
	expect(py->open(&app, &conf, &err), ERR_CONFIG, "app.py\", line 1");
	expect(-1, ERR_CONFIG, "SyntaxError");
	cleanup();
}
END_TEST

START_TEST(open_exits)
{
	static const struct { const char *code, *text; } cases[] = {
		{ "3", "application_setup exited with status 3" },
		{ "", "application_setup exited with status 0" },
		{ "'why'", "application_setup exited with status 1: why" },
	};
	char *text;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		prepare();
		text = xasprintf("import sys\ndef application_setup(args):\n"
		    "    sys.exit(%s)\n", cases[i].code);
		put_file("app/app.py", text);
		free(text);
		expect(py->open(&app, &conf, &err), ERR_CONFIG, "");
		ck_assert_str_eq(err.text, cases[i].text);
		cleanup();
	}
}
END_TEST

START_TEST(open_no_package)
{
	prepare();
	(void)setenv("WALLAROO_PYTHON_PACKAGE", "/nonexistent", 1);
	expect(py->open(&app, &conf, &err), ERR_CONFIG, "/nonexistent");
	cleanup();
}
END_TEST

/* python = something that is no Python of ours. */
START_TEST(open_wrong_python)
{
	char *path;

	prepare();
	free(conf.python);
	conf.python = xasprintf("%s/env", dir);
	expect(py->open(&app, &conf, &err), ERR_CONFIG, "No such file");
	put_file("env/pyvenv.cfg", "home = /usr/bin\nversion = 3.99.1\n");
	expect(py->open(&app, &conf, &err), ERR_CONFIG, "no bin/python3");
	put_file("env/bin/python3", "#!/bin/sh\n");
	path = xasprintf("%s/env/bin/python3", dir);
	ck_assert_int_eq(chmod(path, 0755), 0);
	expect(py->open(&app, &conf, &err), ERR_CONFIG,
	    "that is Python 3.99, but workers run Python 3.");
	expect(-1, ERR_CONFIG, "--with-python=3.99");
	/* The interpreter in it says the same. */
	free(conf.python);
	conf.python = path;
	expect(py->open(&app, &conf, &err), ERR_CONFIG, "3.99");
	/* A script outside of any environment. */
	put_file("bin/python", "#!/bin/sh\n");
	conf.python = xasprintf("%s/bin/python", dir);
	expect(py->open(&app, &conf, &err), ERR_CONFIG, "Permission denied");
	ck_assert_int_eq(chmod(conf.python, 0755), 0);
	expect(py->open(&app, &conf, &err), ERR_CONFIG, "wrapper script");
	/* The same with a library of another version. */
	put_file("lib/python3.98/os.py", "");
	expect(py->open(&app, &conf, &err), ERR_CONFIG, "Python 3.98");
	free(path);
	cleanup();
}
END_TEST

/* The version that this host was built for, from what it refuses. */
static char *
our_version(void)
{
	static const char before[] = "but workers run Python ";
	char *path, *at, *r;

	prepare();
	put_file("env/pyvenv.cfg", "version = 3.99.1\n");
	put_file("env/bin/python3", "");
	path = xasprintf("%s/env/bin/python3", dir);
	ck_assert_int_eq(chmod(path, 0755), 0);
	free(path);
	free(conf.python);
	conf.python = xasprintf("%s/env", dir);
	expect(py->open(&app, &conf, &err), ERR_CONFIG, before);
	cleanup();
	at = strstr(err.text, before) + sizeof(before) - 1;
	r = xstrndup(at, strcspn(at, ";"));
	ck_assert_int_eq(strncmp(r, "3.", 2), 0);
	return (r);
}

START_TEST(open_venv)
{
	char *version = our_version(), *text, *path;

	prepare();
	text = xasprintf("home = /usr/bin\nversion_info = %s.1.final.0\n"
	    "include-system-site-packages = false\n", version);
	put_file("env/pyvenv.cfg", text);
	free(text);
	put_file("env/bin/python", "#!/bin/sh\n");
	path = xasprintf("%s/env/bin/python", dir);
	ck_assert_int_eq(chmod(path, 0755), 0);
	text = xasprintf("env/lib/python%s/site-packages/only_here.py",
	    version);
	put_file(text, "x = 5\n");
	free(text);
	free(conf.python);
	conf.python = xasprintf("%s/env", dir);
	ck_assert_msg(py->open(&app, &conf, &err) == 0, "%s", err.text);
	expect_value(eval("__import__('only_here').x"), "5");
	expect_value(eval("sys.prefix.endswith('/env')"), "True");
	expect_value(eval("sys.executable.endswith('/env/bin/python')"),
	    "True");
	expect_value(eval("any('dist-packages' in p for p in sys.path)"),
	    "False");
	free(path);
	free(version);
	cleanup();
}
END_TEST

/* An interpreter with a library of its own, like one of pyenv or conda. */
START_TEST(open_other_prefix)
{
	char *version = our_version(), *text, *path;

	prepare();
	text = xasprintf("other/lib/python%s/os.py", version);
	put_file(text, "raise ImportError('not this library')\n");
	free(text);
	text = xasprintf("other/lib/python%s/site-packages/only_here.py",
	    version);
	put_file(text, "x = 6\n");
	free(text);
	text = xasprintf("other/bin/python%s", version);
	put_file(text, "#!/bin/sh\n");
	path = xasprintf("%s/%s", dir, text);
	free(text);
	ck_assert_int_eq(chmod(path, 0755), 0);
	free(conf.python);
	conf.python = path;
	ck_assert_msg(py->open(&app, &conf, &err) == 0, "%s", err.text);
	expect_value(eval("__import__('only_here').x"), "6");
	expect_value(eval("any('dist-packages' in p for p in sys.path)"),
	    "False");
	expect_value(eval("sys.prefix.endswith('/other')"), "True");
	free(version);
	cleanup();
}
END_TEST

START_TEST(decode_encode)
{
	host_val v;
	struct buf b;
	bool none;

	start();
	ck_assert_int_eq(py->decode(app, F_EVAL, slice_of("None", 4), &v,
	    &err), 0);
	ck_assert_ptr_null(v);
	expect(py->decode(app, F_EVAL, slice_of("1/0", 3), &v, &err),
	    ERR_USER, "Traceback (most recent call last):\n");
	expect_last("ZeroDivisionError: division by zero");
	buf_init(&b);
	v = eval("'\\xe9'");
	ck_assert_int_eq(py->encode(app, F_SAME, v, &b, &none, &err), 0);
	ck_assert(!none);
	ck_assert_mem_eq(b.data, "\xc3\xa9", 2);
	py->val_free(app, v);
	v = eval("b'\\xff\\0'");
	ck_assert_int_eq(py->encode(app, F_SAME, v, &b, &none, &err), 0);
	ck_assert_uint_eq(b.len, 4);
	ck_assert_mem_eq(b.data, "\xc3\xa9\xff\0", 4);
	ck_assert_int_eq(py->encode(app, F_LOG, v, &b, &none, &err), -1);
	py->val_free(app, v);
	v = eval("'x'");
	ck_assert_int_eq(py->encode(app, F_LOG, v, &b, &none, &err), 0);
	ck_assert(none);
	py->val_free(app, v);
	v = eval("[]");
	expect(py->encode(app, F_SAME, v, &b, &none, &err), ERR_USER, "");
	expect_last("TypeError: same: must return bytes, str or None, "
	    "not list");
	py->val_free(app, v);
	v = eval("'\\udc80'");
	expect(py->encode(app, F_SAME, v, &b, &none, &err), ERR_USER,
	    "UnicodeEncodeError");
	py->val_free(app, v);
	ck_assert_uint_eq(b.len, 4);
	expect(py->decode(app, 99, slice_of("", 0), &v, &err), ERR_CONFIG,
	    "99");
	expect(py->decode(app, -1, slice_of("", 0), &v, &err), ERR_CONFIG,
	    "-1");
	buf_fini(&b);
	cleanup();
}
END_TEST

START_TEST(steps)
{
	struct host_out out = { NULL, 0, 0 };
	host_val v;

	start();
	expect_value(apply(F_SAME, "[1, 2]"), "l[1, 2]");
	ck_assert_ptr_null(apply(F_LOG, "'filtered'"));
	v = eval("[1, None, [2]]");
	ck_assert_int_eq(py->step(app, F_LIST, true, NULL, v, &out, &err), 0);
	py->val_free(app, v);
	ck_assert_uint_eq(out.n, 2);
	expect_value(out.val[0], "1");
	expect_value(out.val[1], "l[2]");
	out.n = 0;
	v = eval("0");
	ck_assert_int_eq(py->step(app, F_LOG, true, NULL, v, &out, &err), -1);
	py->val_free(app, v);
	v = eval("'None is an empty list'");
	ck_assert_int_eq(py->step(app, F_LOG, true, NULL, v, &out, &err), 0);
	py->val_free(app, v);
	ck_assert_uint_eq(out.n, 0);
	v = eval("MyDict()");
	py->val_free(app, v);
	expect(raise_by(F_LIST, true, "(1,)"), ERR_USER, "");
	ck_assert_str_eq(err.text,
	    "TypeError: list: must return a list or None, not tuple");
	v = eval("type('L', (list,), {})((1, 2))");
	ck_assert_int_eq(py->step(app, F_LIST, true, NULL, v, &out, &err), 0);
	py->val_free(app, v);
	ck_assert_uint_eq(out.n, 2);
	py->val_free(app, out.val[0]);
	py->val_free(app, out.val[1]);
	free(out.val);
	/* Too few arguments: no frame, only what is wrong. */
	expect(raise_by(F_STATE, false, "1"), ERR_USER, "TypeError: f_state()");
	cleanup();
}
END_TEST

START_TEST(states)
{
	struct host_out out = { NULL, 0, 0 };
	struct buf b;
	void *state, *other;
	host_val v;

	start();
	ck_assert_int_eq(py->state_new(app, F_STATE, &state, &err), 0);
	v = eval("'a'");
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(py->step(app, F_STATE, false, state, v, &out,
		    &err), 0);
	ck_assert_uint_eq(out.n, 3);
	expect_value(out.val[0], "t['a', 1]");
	expect_value(out.val[1], "t['a', 2]");
	expect_value(out.val[2], "t['a', 3]");
	out.n = 0;
	buf_init(&b);
	ck_assert_int_eq(py->state_save(app, F_STATE, state, &b, &err), 0);
	ck_assert_int_eq(py->state_load(app, F_STATE, buf_slice(&b), &other,
	    &err), 0);
	py->state_free(app, state);
	ck_assert_int_eq(py->step(app, F_STATE, false, other, v, &out, &err),
	    0);
	expect_value(out.val[0], "t['a', 4]");
	buf_clear(&b);
	py->repr(app, other, &b);
	ck_assert_str_eq(buf_str(&b), "Total(count=4)");
	py->state_free(app, other);
	py->val_free(app, v);
	free(out.val);

	expect(py->state_new(app, F_RAISE, &state, &err), ERR_USER,
	    "ZeroDivisionError");
	expect(py->state_new(app, F_SAME, &state, &err), ERR_CONFIG,
	    "same has no state");
	buf_clear(&b);
	v = eval("[threading.Lock()]");
	expect(py->state_save(app, F_STATE, v, &b, &err), ERR_USER,
	    "step \"state\": a state of type list cannot be saved\n");
	expect(-1, ERR_USER, "TypeError: cannot pickle '_thread.lock' object");
	ck_assert_uint_eq(b.len, 0);
	py->val_free(app, v);
	v = eval("local()");
	expect(py->state_save(app, F_STATE, v, &b, &err), ERR_USER,
	    "a state of type app.local.<locals>.C cannot be saved");
	py->val_free(app, v);
	expect(py->state_load(app, F_STATE, slice_of("\xc1", 1), &state,
	    &err), ERR_CORRUPT, "step \"state\": a state: ");
	buf_fini(&b);
	cleanup();
}
END_TEST

START_TEST(keys)
{
	static const struct { const char *text; size_t n; const char *key; }
	    good[] = {
		{ "'word'", 4, "word" }, { "''", 0, "" },
		{ "'\\xe9'", 2, "\xc3\xa9" }, { "b'a\\0\\xff'", 3, "a\0\xff" },
		{ "65", 1, "A" }, { "0x20ac", 3, "\xe2\x82\xac" },
		{ "True", 1, "\1" }, { "'\\udcff'", 1, "\xff" },
		{ "'\\ud800'", 3, "\xed\xa0\x80" },
		{ "0xd800", 3, "\xed\xa0\x80" },
		{ "type('S', (str,), {})('sub')", 3, "sub" },
	};
	static const char *const bad[] = { "1.5", "None if 0 else [1]",
		"()", "-1", "0x110000", "1 << 70", "bytearray(b'x')" };
	struct buf b;
	host_val v;

	start();
	buf_init(&b);
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		v = eval(good[i].text);
		buf_clear(&b);
		buf_add(&b, "-", 1);
		ck_assert_msg(py->key(app, F_KEY, v, &b, &err) == 0, "%s",
		    err.text);
		ck_assert_uint_eq(b.len, good[i].n + 1);
		ck_assert_mem_eq(b.data + 1, good[i].key, good[i].n);
		py->val_free(app, v);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		v = eval(bad[i]);
		buf_clear(&b);
		expect(py->key(app, F_KEY, v, &b, &err), ERR_USER, "key");
		ck_assert_uint_eq(b.len, 0);
		py->val_free(app, v);
	}
	buf_fini(&b);
	cleanup();
}
END_TEST

START_TEST(frame_lengths)
{
	uint64_t n = 1;

	start();
	ck_assert_int_eq(py->frame_len(app, F_LEN, slice_of("7", 1), &n,
	    &err), 0);
	ck_assert_uint_eq(n, 7);
	expect(py->frame_len(app, F_LEN, slice_of("-1", 2), &n, &err),
	    ERR_USER, "OverflowError");
	expect(py->frame_len(app, F_LEN, slice_of("'7'", 3), &n, &err),
	    ERR_USER, "must return an int, not str");
	expect(py->frame_len(app, F_LEN, slice_of("None", 4), &n, &err),
	    ERR_USER, "must return an int, not None");
	expect(py->frame_len(app, F_LEN, slice_of("1 << 64", 7), &n, &err),
	    ERR_USER, "OverflowError");
	expect(py->frame_len(app, F_SAME, slice_of("", 0), &n, &err),
	    ERR_CONFIG, "payload_length");
	ck_assert_uint_eq(n, 7);
	cleanup();
}
END_TEST

static void
expect_next(const char *text)
{
	host_val v;

	ck_assert_msg(py->generate(app, F_GEN, &v, &err) == 0, "%s", err.text);
	if (text == NULL)
		ck_assert_ptr_null(v);
	else
		expect_value(v, text);
}

START_TEST(generators)
{
	host_val v;

	start();
	expect_next("t[11]");
	expect_next("t[12]");
	ck_assert_int_eq(py->generate_seek(app, F_GEN, 3, &err), 0);
	expect_next("t[14]");
	expect_next(NULL);
	expect_next(NULL);
	/* Back: as if it had never run. */
	ck_assert_int_eq(py->generate_seek(app, F_GEN, 1, &err), 0);
	expect_next("t[12]");
	ck_assert_int_eq(py->generate_seek(app, F_GEN, 0, &err), 0);
	expect_next("t[11]");
	ck_assert_int_eq(py->generate_seek(app, F_GEN, 100, &err), 0);
	expect_next(NULL);
	expect(py->generate(app, F_SAME, &v, &err), ERR_USER,
	    "has no attribute 'initial_value'");
	cleanup();
}
END_TEST

START_TEST(generator_fails)
{
	host_val v;

	prepare();
	put_file("app/app.py",
	    "class Gen:\n"
	    "    def initial_value(self): return 2\n"
	    "    def apply(self, v): return 1 // (v - 1)\n"
	    "class None1:\n"
	    "    def initial_value(self): return None\n"
	    "    def apply(self, v): return 1\n"
	    "class Raise:\n"
	    "    def initial_value(self): raise SystemExit(2)\n"
	    "    def apply(self, v): return 1\n"
	    "def application_setup(a):\n"
	    "    def show(o): return repr(o)\n"
	    "    return dict(functions=[Gen(), show, None1(), Raise()],\n"
	    "    topology=[])\n");
	ck_assert_msg(py->open(&app, &conf, &err) == 0, "%s", err.text);
	for (int round = 0; round < 2; round++) {
		ck_assert_int_eq(py->generate(app, 0, &v, &err), 0);
		expect_value(v, "2");
		/* A value whose successor fails is given all the same. */
		ck_assert_int_eq(py->generate(app, 0, &v, &err), 0);
		expect_value(v, "1");
		for (int i = 0; i < 3; i++) {
			expect(py->generate(app, 0, &v, &err), ERR_USER,
			    "in apply");
			err.text[0] = '\0';
		}
		ck_assert_int_eq(py->generate_seek(app, 0, 0, &err), 0);
	}
	ck_assert_int_eq(py->generate(app, 2, &v, &err), 0);
	ck_assert_ptr_null(v);
	for (int i = 0; i < 3; i++) {
		expect(py->generate(app, 3, &v, &err), ERR_USER,
		    "SystemExit: 2");
		err.text[0] = '\0';
	}
	cleanup();
}
END_TEST

START_TEST(exceptions)
{
	start();
	expect(raise_by(F_RAISE, false, "'plain'"), ERR_USER, "in f_raise");
	ck_assert_int_eq(strncmp(err.text, "Traceback", 9), 0);
	expect_last("app.Boom: plain");
	expect(raise_by(F_RAISE, false, "'exit'"), ERR_USER, "in f_raise");
	expect_last("SystemExit: 4");
	expect(raise_by(F_RAISE, false, "'deep'"), ERR_USER, "in recurse");
	expect(-1, ERR_USER, "\nRecursionError: maximum recursion");
	expect(raise_by(F_RAISE, false, "'memory'"), ERR_USER, "in f_raise");
	expect_last("MemoryError");
	expect(raise_by(F_RAISE, false, "'chain'"), ERR_USER,
	    "ZeroDivisionError: division by zero");
	expect_last("app.Boom: last");
	expect(raise_by(F_RAISE, false, "'long'"), ERR_USER, "in f_raise");
	ck_assert_ptr_nonnull(strstr(err.text, "\napp.Boom: xxx"));
	ck_assert_uint_lt(strlen(err.text), ERR_TEXT - 200);
	expect(raise_by(F_RAISE, false, "'lines'"), ERR_USER, "  ...\n");
	expect_last("line 999");
	ck_assert_uint_lt(strlen(err.text), ERR_TEXT - 200);
	expect(raise_by(F_RAISE, false, "'bad'"), ERR_USER, "Odd");
	expect(raise_by(F_RAISE, true, "'multi'"), ERR_USER, "");
	expect_last("app.Boom: multi");
	/* The host goes on. */
	expect_value(apply(F_SAME, "1"), "1");
	cleanup();
}
END_TEST

/* Pack, unpack, compare; returns the bytes if asked to. */
static void
round_trip(const char *text, struct buf *keep)
{
	host_val v = eval(text), w;
	char *before, *after;
	struct buf b, again;

	buf_init(&b);
	buf_init(&again);
	buf_add(&b, "##", 2);
	ck_assert_msg(py->pack(app, v, &b, &err) == 0, "%s: %s", text,
	    err.text);
	before = show(v);		/* it may give it a __dict__ */
	py->val_free(app, v);
	ck_assert_msg(py->unpack(app, slice_of(b.data + 2, b.len - 2), &w,
	    &err) == 0, "%s: %s", text, err.text);
	after = show(w);
	ck_assert_str_eq(after, before);
	ck_assert_mem_eq(b.data, "##", 2);
	if (keep != NULL)
		buf_add(keep, b.data + 2, b.len - 2);
	py->val_free(app, w);
	free(before);
	free(after);
	buf_fini(&b);
	buf_fini(&again);
}

START_TEST(codec_values)
{
	static const char *const texts[] = {
		"0", "-1", "127", "128", "-32", "-33", "255", "256", "-128",
		"-129", "65535", "65536", "-32768", "-32769", "1 << 31",
		"-(1 << 31)", "-(1 << 31) - 1", "(1 << 32) - 1", "1 << 32",
		"(1 << 63) - 1", "1 << 63", "(1 << 64) - 1", "1 << 64",
		"-(1 << 63)", "-(1 << 63) - 1", "1 << 20000", "-(1 << 20000)",
		"True", "False", "[None]", "1.5", "-0.0", "float('nan')",
		"'a' * 31", "'a' * 32", "'a' * 255", "'a' * 256",
		"'a' * 65535", "'a' * 65536", "'\\0'", "'\\xe9' * 16",
		"'\\udc80x'", "'\\U0001f600'", "b''", "b'x' * 255",
		"b'x' * 256", "b'x' * 65536", "[]", "()", "{}", "[[]]", "((),)",
		"[0] * 15", "[0] * 16", "[0] * 65536", "(0,) * 14",
		"(0,) * 15", "(0,) * 16", "{i: -i for i in range(15)}",
		"{i: -i for i in range(16)}", "{i: -i for i in range(70000)}",
		"{'a': 1, (1, 'x'): 2, None: 3, b'k': 4, 1.5: 5, True: 6}",
		"{((1,), 2): 3}", "{Point(1): 2}", "{frozenset((1,)): 2}",
		"[(), (1,), ([2],), {'x': ({},)}]", "Plain()",
		"Plain(a=1, b=[2], c=Plain())", "Sub(x=1)", "Plain.Inner()",
		"bare()", "bare(a=1, b=[2], c=bare(d='x'))", "turned()",
		"many()", "[bare(**{'\\xe9': 1, '\\udc80': 2})]",
		"Point(1, [2])", "Prop()", "Slots()", "make(a=1)", "Pair(1, 2)",
		"More(a=1, c=[2])", "[More(b=Cell(3)), Cell(1, {2: 3})]",
		"with_a(Again(), 1)", "with_a(Mixed(), 2)", "Ice(4)",
		"(Cell(Slots()), Cell(1, 10 ** 30))",
		"Color.RED", "{1, 2}", "MyDict(a=1)", "NewArgs(8)",
		"collections.OrderedDict(a=1)", "collections.defaultdict(int)",
		"bytearray(b'x')", "range(3)", "datetime.date(2020, 1, 1)",
		"Ellipsis", "int", "f_eval", "deep(99)", "deep(100)",
		"deep(101)", "deep(150)", "[Plain(), Color.RED]", "10 ** 30",
		"Exception('x')", "1j", "datetime.timedelta(1)",
	};

	start();
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		round_trip(texts[i], NULL);
	cleanup();
}
END_TEST

/* An object is written as its __dict__ would be, and not given one. */
START_TEST(codec_bare)
{
	static const char *const texts[] = {
		"bare()", "bare(a=1, b='x', c=(1, 2))", "turned()",
		"bare(a=bare(b=bare()), c=[])", "many()",
		"(lambda x: bare(a=x, b=x))([1])", "bare(**{'\\xe9': 1})"
	};
	struct buf bare, dressed;
	char text[200];
	host_val v;

	start();
	buf_init(&bare);
	buf_init(&dressed);
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		buf_clear(&bare);
		buf_clear(&dressed);
		(void)snprintf(text, sizeof(text), "keep(%s)", texts[i]);
		v = eval(text);
		ck_assert_int_eq(py->pack(app, v, &bare, &err), 0);
		py->val_free(app, v);
		/* Not so many, or pickled: those get one. */
		if (i < 4)
			expect_value(eval("dressed(kept[-1])"), "False");
		v = eval("(kept[-1].__dict__, kept.pop())[1]");
		ck_assert_int_eq(py->pack(app, v, &dressed, &err), 0);
		py->val_free(app, v);
		if (i < 6) {
			ck_assert_uint_eq(bare.len, dressed.len);
			ck_assert_mem_eq(bare.data, dressed.data, bare.len);
		}
		ck_assert_int_eq(py->unpack(app, buf_slice(&bare), &v, &err),
		    0);
		py->val_free(app, v);
	}
	buf_fini(&bare);
	buf_fini(&dressed);
	cleanup();
}
END_TEST

/* Written without pickle? */
static bool
is_plain(const struct buf *b)
{
	return (b->len > 2 && (b->data[0] & 0xf0) == 0x90 &&
	    b->data[1] == 0xd4 && b->data[2] == 6);
}

/* Attributes that differ, in number or order, and more shapes than are kept:
 * what is written does not depend on what was written before. */
START_TEST(codec_shapes)
{
	static const struct { const char *text; bool plain; } rows[] = {
		{ "bare(a=1, b=2)", true }, { "bare(b=1, a=2)", true },
		{ "bare(a=bare(b=bare(a=1)), b=bare(a=2, b=3))", true },
		{ "Plain(**{'a b': 1, '': 2})", true },
		{ "Plain(**{''.join(('a', 'b')): 1})", true },
		{ "Plain(**{'k%d' % i: i for i in range(11)})", true },
		{ "Plain(**{'k%d' % i: i for i in range(64)})", false },
		{ "Plain(**{'k%d' % i: i for i in range(65)})", false },
		{ "bare(**{'\\xe9': 1})", false },
		{ "Plain(a=[1])", true }, { "Cell(1, Cell(2))", true },
		{ "More(b=More(a=1), a=3)", true },
	};
	struct buf b[2] = { { 0 }, { 0 } };
	host_val v;

	start();
	for (size_t turn = 0; turn < 2; turn++) {
		for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
			struct buf one = { 0 };

			round_trip(rows[i].text, NULL);
			v = eval(rows[i].text);
			ck_assert_int_eq(py->pack(app, v, &one, &err), 0);
			/* Sixteen and more have another array's head. */
			ck_assert_msg(i == 6 || is_plain(&one) ==
			    rows[i].plain, "%s", rows[i].text);
			py->val_free(app, v);
			buf_add(&b[turn], one.data, one.len);
			buf_fini(&one);
		}
		round_trip("[Plain(**{'k%d' % i: i}) for i in range(700)]",
		    NULL);
		round_trip("[Plain(**{'x': 1, 'k%d' % (i % 7): i})"
		    " for i in range(50)]", NULL);
	}
	ck_assert_uint_eq(b[0].len, b[1].len);
	ck_assert_mem_eq(b[0].data, b[1].data, b[0].len);
	buf_fini(&b[0]);
	buf_fini(&b[1]);
	cleanup();
}
END_TEST

/* Slots are written like a __dict__, where nothing else is in the way. */
START_TEST(codec_slots)
{
	static const struct { const char *text; bool plain; } rows[] = {
		{ "Slots()", true }, { "make(a=1, b=[2])", true },
		{ "More(a=1, c=[2])", true }, { "Cell(1)", true },
		{ "Again()", false }, { "with_a(Mixed(), 2)", false },
		{ "Guarded()", false }, { "Ice(1)", false },
		{ "(lambda x: make(a=x, b=x))([1])", false }
	};
	struct buf b;
	host_val v;

	start();
	buf_init(&b);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		buf_clear(&b);
		v = eval(rows[i].text);
		ck_assert_int_eq(py->pack(app, v, &b, &err), 0);
		ck_assert_msg(is_plain(&b) == rows[i].plain, "%s",
		    rows[i].text);
		py->val_free(app, v);
	}
	/* One that a new version does not have. */
	buf_clear(&b);
	buf_add(&b, "\x94\xd4\2\0\xa3" "app\xa5Slots\x81\xa1" "z\5", 18);
	expect(py->unpack(app, buf_slice(&b), &v, &err), ERR_USER,
	    "AttributeError");
	buf_clear(&b);
	buf_add(&b, "\x95\xd4\6\0\xa3" "app\xa5Slots\x91\xa1" "z\5", 18);
	expect(py->unpack(app, buf_slice(&b), &v, &err), ERR_USER,
	    "AttributeError");
	buf_fini(&b);
	cleanup();
}
END_TEST

START_TEST(codec_special)
{
	struct buf b;
	host_val v, w;

	start();
	/* A property's own value in the __dict__. */
	v = eval("(lambda o: (o.__dict__.update(size=4), o)[1])(Prop())");
	buf_init(&b);
	ck_assert_int_eq(py->pack(app, v, &b, &err), 0);
	ck_assert_ptr_nonnull(memmem(b.data, b.len, "Prop", 4));
	ck_assert_int_eq(py->unpack(app, buf_slice(&b), &w, &err), 0);
	expect_value(w, "Propd{'size': 4}");
	py->val_free(app, v);
	/* Its own __getstate__ wins. */
	v = eval("(lambda o: (setattr(o, 'a', 4), o)[1])(Hooked())");
	buf_clear(&b);
	ck_assert_int_eq(py->pack(app, v, &b, &err), 0);
	ck_assert_int_eq(py->unpack(app, buf_slice(&b), &w, &err), 0);
	expect_value(w, "Hookedd{'b': 4}");
	py->val_free(app, v);
	/* Short values stay short: a plain object is not pickled. */
	v = eval("Plain(count=1)");
	buf_clear(&b);
	ck_assert_int_eq(py->pack(app, v, &b, &err), 0);
	ck_assert_uint_eq(b.len, 1 + 3 + 4 + 6 + 1 + 6 + 1);
	py->val_free(app, v);
	/* What cannot be written leaves the buffer as it was. */
	v = eval("[1, threading.Lock()]");
	expect(py->pack(app, v, &b, &err), ERR_USER,
	    "a message of type list cannot be saved");
	ck_assert_uint_eq(b.len, 22);
	py->val_free(app, v);
	v = eval("deep(100000)");
	expect(py->pack(app, v, &b, &err), ERR_USER, "RecursionError");
	py->val_free(app, v);
	v = eval("lambda: 0");
	expect(py->pack(app, v, &b, &err), ERR_USER,
	    "a message of type function cannot be saved");
	py->val_free(app, v);
	buf_fini(&b);
	cleanup();
}
END_TEST

/* What is one object before is one object after. */
START_TEST(codec_shared)
{
	static const char *const texts[] = { "cycle()", "ring()", "twins()",
		"tuples()" };
	struct host_out out = { NULL, 0, 0 };
	struct buf b;
	host_val v, w;

	start();
	buf_init(&b);
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		v = eval(texts[i]);
		buf_clear(&b);
		ck_assert_int_eq(py->pack(app, v, &b, &err), 0);
		ck_assert_int_eq(py->unpack(app, buf_slice(&b), &w, &err), 0);
		out.n = 0;
		ck_assert_int_eq(py->step(app, F_SHARED, false, NULL, w, &out,
		    &err), 0);
		ck_assert_uint_eq(out.n, 1);
		expect_value(out.val[0], "True");
		py->val_free(app, v);
		py->val_free(app, w);
	}
	free(out.val);
	buf_fini(&b);
	cleanup();
}
END_TEST

START_TEST(codec_random)
{
	char text[64];

	start();
	for (int seed = 0; seed < rounds(1500); seed++) {
		(void)snprintf(text, sizeof(text),
		    "[rnd(random.Random(%d), 4)]", seed);
		round_trip(text, NULL);
	}
	cleanup();
}
END_TEST

/* Neither reading beyond the end nor a crash, whatever the bytes are. */
START_TEST(codec_malformed)
{
	static const char *const texts[] = {
		"[1, -5, 'abc', b'xy', None, True, 1.5, 1 << 40, -1 << 40]",
		"{'a': [1, 2], (1, 2): {}, 3: Plain(a=1, b=(1, 2))}",
		"(Point(1), 'x' * 40, 1 << 70, '\\udc80')",
		"{1, 2}", "'a' * 300", "list(range(20))",
		"Sub(x=Plain.Inner())",
	};
	uint64_t state = 1, seen[8] = { 0 };
	struct slice s;
	struct buf b, m;
	host_val v;
	int r;

	start();
	buf_init(&b);
	buf_init(&m);
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		buf_clear(&b);
		round_trip(texts[i], &b);
		for (size_t n = 0; n < b.len; n++) {
			s = unit_exact(b.data, n);
			expect(py->unpack(app, s, &v, &err), ERR_CORRUPT, "");
			unit_free(s);
		}
		for (int k = 0; k < rounds(4000); k++) {
			buf_clear(&m);
			buf_add(&m, b.data, b.len);
			for (uint64_t j = unit_random(&state) % 4 + 1; j > 0;
			    j--)
				m.data[unit_random(&state) % m.len] =
				    (uint8_t)unit_random(&state);
			s = unit_exact(m.data, m.len);
			r = py->unpack(app, s, &v, &err);
			ck_assert(r == 0 || err.code == ERR_CORRUPT ||
			    err.code == ERR_USER);
			seen[r == 0 ? 0 : err.code]++;
			if (r == 0)
				py->val_free(app, v);
			unit_free(s);
		}
	}
	ck_assert_uint_gt(seen[ERR_CORRUPT], (uint64_t)rounds(1000));
	ck_assert_uint_gt(seen[0], (uint64_t)rounds(1000));
	buf_fini(&b);
	buf_fini(&m);
	cleanup();
}
END_TEST

START_TEST(codec_hostile)
{
	static const struct { const char *bytes; size_t n; } cases[] = {
		{ "", 0 }, { "\xc1", 1 }, { "\xdd\xff\xff\xff\xff", 5 },
		{ "\xdf\xff\xff\xff\xff\1", 6 }, { "\xdf\x80\0\0\0\1", 6 },
		{ "\xdb\xff\xff\xff\xff", 5 }, { "\xc6\xff\xff\xff\xff", 5 },
		{ "\xc9\xff\xff\xff\xff\3", 6 }, { "\xa1\xff", 2 },
		{ "\x81\x90\1", 3 }, { "\x81\x80\1", 3 }, { "\1\1", 2 },
		{ "\xd4\1\0", 3 }, { "\x91\xd4\3\0", 4 },
		{ "\x91\xd4\1\1", 4 }, { "\x93\xd4\2\0\xa1x\xa1y", 8 },
		{ "\x94\xd4\2\0\1\1\1", 7 }, { "\x94\xd4\2\0\xa3" "app", 8 },
		{ "\xc7\3\3abc", 6 }, { "\xc7\x0a\3" "12345678N.", 13 },
		{ "\xc7\2\5" "0x", 5 }, { "\xc7\3\5" "1\0002", 6 },
		{ "\xc7\1\6\xff", 4 }, { "\xc7\0\7", 3 },
		{ "\xca\0\0\0\0", 5 }, { "\xd5\1\0\0", 4 },
		{ "\x94\xd4\2\0\xa8" "builtins\xa3" "int\x80", 18 },
		{ "\x94\xd4\2\0\xa3" "app\xa6" "f_eval\x80", 16 },
		{ "\x93\xd4\6\0\xa1x\xa1y", 8 }, { "\x94\xd4\6\0\1\1\1", 7 },
		{ "\x94\xd4\6\0\xa3" "app", 8 },
		{ "\x94\xd4\6\0\xa3" "app\xa5Plain", 14 },
		{ "\x94\xd4\6\0\xa3" "app\xa5Plain\x80", 15 },
		{ "\x94\xd4\6\0\xa3" "app\xa5Plain\x91\xa1x", 17 },
		{ "\x95\xd4\6\0\xa3" "app\xa5Plain\x91\1\1", 17 },
		{ "\x95\xd4\6\0\xa3" "app\xa5Plain\x91\xa1\xff\1", 18 },
		{ "\x95\xd4\6\0\xa3" "app\xa5Plain\x91\xa1x", 17 },
		{ "\x94\xd4\6\0\xa8" "builtins\xa3" "int\x90", 18 },
		{ "\x94\xd4\6\0\xa3" "app\xa6" "f_eval\x90", 16 },
		{ "\xdd\0\0\0\4\xd4\6\0\xa1x\xa1y\xdd\0\0\0\1", 17 },
	};
	struct slice s;
	struct buf b;
	host_val v;

	start();
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		s = unit_exact(cases[i].bytes, cases[i].n);
		ck_assert_msg(py->unpack(app, s, &v, &err) == -1 &&
		    err.code == ERR_CORRUPT, "case %zu: %s", i, err.text);
		unit_free(s);
	}
	/* As deep as it gets, with nothing inside. */
	buf_init(&b);
	for (int i = 0; i < 1000000; i++)
		buf_add(&b, "\x91", 1);
	expect(py->unpack(app, buf_slice(&b), &v, &err), ERR_CORRUPT,
	    "too deep");
	/* Each level claims all that is left. */
	buf_clear(&b);
	for (int i = 0; i < 100000; i++)
		buf_add(&b, "\xdd\0\1\0\0", 5);
	expect(py->unpack(app, buf_slice(&b), &v, &err), ERR_CORRUPT, "");
	/* A class that is gone is told by name. */
	buf_clear(&b);
	buf_addf(&b, "%s", "\x94\xd4\2");
	buf_add(&b, "\0\xa3" "app\xa4" "Gone\x80", 11);
	expect(py->unpack(app, buf_slice(&b), &v, &err), ERR_USER,
	    "has no attribute 'Gone'");
	buf_clear(&b);
	buf_add(&b, "\x94\xd4\6\0\xa3" "app\xa4" "Gone\x90", 14);
	expect(py->unpack(app, buf_slice(&b), &v, &err), ERR_USER,
	    "has no attribute 'Gone'");
	buf_fini(&b);
	cleanup();
}
END_TEST

/* Written by one version of the application, read by the next. */
START_TEST(codec_new_version)
{
	struct buf b;
	host_val v;

	start();
	buf_init(&b);
	buf_add(&b, "\x94\xd4\2\0\xa3" "app\xa5Slots\x81\xa1" "a\5", 18);
	ck_assert_msg(py->unpack(app, buf_slice(&b), &v, &err) == 0, "%s",
	    err.text);
	expect_value(v, "Slotsl[5, 0]");
	buf_clear(&b);
	buf_add(&b, "\x94\xd4\2\0\xa3" "app\xa6Hooked\x81\xa1" "a\5", 19);
	ck_assert_msg(py->unpack(app, buf_slice(&b), &v, &err) == 0, "%s",
	    err.text);
	expect_value(v, "Hookedd{'a': 5}");
	/* As they are written today. */
	buf_clear(&b);
	buf_add(&b, "\x95\xd4\6\0\xa3" "app\xa5Slots\x91\xa1" "a\5", 18);
	ck_assert_msg(py->unpack(app, buf_slice(&b), &v, &err) == 0, "%s",
	    err.text);
	expect_value(v, "Slotsl[5, 0]");
	buf_clear(&b);
	buf_add(&b, "\x95\xd4\6\0\xa3" "app\xa6Hooked\x91\xa1" "a\5", 19);
	ck_assert_msg(py->unpack(app, buf_slice(&b), &v, &err) == 0, "%s",
	    err.text);
	expect_value(v, "Hookedd{'a': 5}");
	buf_fini(&b);
	cleanup();
}
END_TEST

START_TEST(codec_hooks)
{
	struct buf b;
	host_val v;
	struct slice s;

	prepare();
	put_file("app/app.py",
	    "import json\n"
	    "def f_eval(b): return eval(b)\n"
	    "def f_repr(o): return repr(o)\n"
	    "def s(o):\n"
	    "    if o == 1: return 'text'\n"
	    "    return json.dumps(o).encode()\n"
	    "def d(b): return json.loads(b)\n"
	    "def application_setup(a):\n"
	    "    return dict(functions=[f_eval, f_repr], topology=[],\n"
	    "        serialize=s, deserialize=d)\n");
	ck_assert_msg(py->open(&app, &conf, &err) == 0, "%s", err.text);
	buf_init(&b);
	v = eval("(1, 2)");
	ck_assert_int_eq(py->pack(app, v, &b, &err), 0);
	py->val_free(app, v);
	ck_assert_uint_eq(b.len, 9);
	ck_assert_mem_eq(b.data + 3, "[1, 2]", 6);
	ck_assert_int_eq(py->unpack(app, buf_slice(&b), &v, &err), 0);
	expect_value(v, "[1, 2]");
	v = eval("{1}");
	expect(py->pack(app, v, &b, &err), ERR_USER, "in s\n");
	expect(-1, ERR_USER, "a message of type set cannot be saved\n");
	py->val_free(app, v);
	v = eval("1");
	expect(py->pack(app, v, &b, &err), ERR_USER,
	    "TypeError: serialize() must return bytes, not str");
	py->val_free(app, v);
	s = slice_of("\xc7\1\4{", 4);
	expect(py->unpack(app, s, &v, &err), ERR_USER, "in d\n");
	buf_fini(&b);
	cleanup();
}
END_TEST

START_TEST(reprs)
{
	static const struct { const char *text, *repr; } cases[] = {
		{ "'a'", "'a'" }, { "[1, (2,)]", "[1, (2,)]" },
		{ "Plain(a=1, b='x')", "Plain(a=1, b='x')" },
		{ "Plain.Inner()", "Inner()" },
		{ "Plain(a=Bad())", "Plain(a=<Bad>)" }, { "Bad()", "<Bad>" },
	};
	struct buf b;
	host_val v;

	start();
	buf_init(&b);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		v = eval(cases[i].text);
		buf_clear(&b);
		py->repr(app, v, &b);
		ck_assert_str_eq(buf_str(&b), cases[i].repr);
		py->val_free(app, v);
	}
	v = eval("Plain(**{'k%d' % i: '\\xe9' * 1000 for i in range(99)})");
	buf_clear(&b);
	buf_add(&b, "x", 1);
	py->repr(app, v, &b);
	ck_assert_uint_le(b.len, 201);
	ck_assert_uint_gt(b.len, 150);
	ck_assert_mem_eq(b.data + b.len - 3, "...", 3);
	py->val_free(app, v);
	for (int i = 0; i < 2; i++) {
		v = eval(i == 0 ? "list(range(10**6))" : "'x' * 10**6");
		buf_clear(&b);
		py->repr(app, v, &b);
		ck_assert_uint_le(b.len, 200);
		py->val_free(app, v);
	}
	buf_fini(&b);
	cleanup();
}
END_TEST

START_TEST(logs)
{
	struct origin o = { .time_ns = 1, .id = 5 };

	start();
	determ_enter(&o, F_LOG);
	ck_assert_ptr_null(apply(F_LOG, "'one\\ntwo\\n'"));
	ck_assert_str_eq(buf_str(&lines),
	    "6 worker-0: one stream=stdout step=\"log\"\n"
	    "6 worker-0: two stream=stdout step=\"log\"\n");
	buf_clear(&lines);
	ck_assert_ptr_null(apply(F_LOG, "'\\0\\udc80'"));
	ck_assert_str_eq(buf_str(&lines),
	    "6 worker-0: ?\\udc80 stream=stdout step=\"log\"\n");
	buf_clear(&lines);
	ck_assert_ptr_null(apply(F_LOG, "'\\xe9' * 5000"));
	(void)buf_str(&lines);
	ck_assert_ptr_nonnull(strchr((char *)lines.data, '\n') + 1);
	ck_assert_uint_gt(lines.len, 10000);
	ck_assert_ptr_null(strstr((char *)lines.data, "?"));
	buf_clear(&lines);
	determ_enter(&o, F_EVAL);
	expect_value(eval("[rt.HOST.log(4, 'x', ''), rt.HOST.log(99, 'y', "
	    "'z')]"), "l[None, None]");
	ck_assert_ptr_nonnull(strstr(buf_str(&lines),
	    "4 worker-0:  stream=x step=\"eval\"\n"));
	determ_leave();
	/* Outside of any step. */
	buf_clear(&lines);
	expect_value(eval("[rt.HOST.log(4, 'x', 'y')]"), "l[None]");
	ck_assert_ptr_null(strstr(buf_str(&lines), "step="));
	cleanup();
}
END_TEST

START_TEST(context)
{
	struct origin o = { .time_ns = 86400000000000, .id = 5 };
	char *text;

	start();
	determ_enter(&o, F_CONTEXT);
	text = xasprintf("t[True, %llu, t[-1, 'context']]",
	    (unsigned long long)determ_seed());
	expect_value(apply(F_CONTEXT, "1"), text);
	free(text);
	/* The clock of libpython follows the record. */
	expect_value(eval("int(__import__('time').time())"), "86400");
	determ_leave();
	expect_value(eval("rt.HOST.serial()"), "0");
	expect_value(eval("__import__('time').time() > 1e9"), "True");
	cleanup();
}
END_TEST

static void
idle(long ms)
{
	struct timespec ts = { 0, ms * 1000000 };

	py->idle_enter(app);
	(void)nanosleep(&ts, NULL);
	py->idle_leave(app);
}

/* A user's thread runs while the worker waits, and is in no step. */
START_TEST(threads)
{
	struct origin o = { .time_ns = 1, .id = 5 };
	char *s = NULL;
	host_val v;

	start();
	determ_enter(&o, F_THREAD);
	ck_assert_ptr_null(apply(F_THREAD, "'start'"));
	determ_leave();
	for (int i = 0; i < 500; i++) {
		idle(10);
		free(s);
		v = apply(F_THREAD, "'seen'");
		s = show(v);
		py->val_free(app, v);
		if (strcmp(s, "l[]") != 0)
			break;
	}
	ck_assert_str_eq(s, "l[t[0, '']]");
	free(s);
	cleanup();
}
END_TEST

START_TEST(stuck_thread)
{
	struct timespec a, b;
	start();
	ck_assert_ptr_null(apply(F_THREAD, "'stuck'"));
	(void)clock_gettime(CLOCK_MONOTONIC, &a);
	cleanup();
	(void)clock_gettime(CLOCK_MONOTONIC, &b);
	ck_assert_int_lt(b.tv_sec - a.tv_sec, 10);
	/* This interpreter cannot be ended: no other test can follow. */
	_exit(EXIT_SUCCESS);
}
END_TEST

START_TEST(stack_dump)
{
	char path[sizeof(dir) + 16], text[4096] = "";
	int fd, saved;
	ssize_t n;

	start();
	(void)snprintf(path, sizeof(path), "%s/stderr", dir);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	saved = dup(STDERR_FILENO);
	ck_assert_int_ge(dup2(fd, STDERR_FILENO), 0);
	expect_value(eval("__import__('os').kill(__import__('os').getpid(), "
	    "__import__('signal').SIGUSR2) or 1"), "1");
	ck_assert_int_ge(dup2(saved, STDERR_FILENO), 0);
	n = pread(fd, text, sizeof(text) - 1, 0);
	ck_assert_int_gt(n, 0);
	ck_assert_ptr_nonnull(strstr(text, "in f_eval"));
	(void)close(fd);
	(void)close(saved);
	cleanup();
}
END_TEST

/* The interpreter's objects, after everything has been used often. */
static long
blocks(void)
{
	host_val v = apply(F_BLOCKS, "0");
	char *s = show(v);
	long n = strtol(s, NULL, 10);

	py->val_free(app, v);
	free(s);
	return (n);
}

static void
use_everything(void)
{
	struct host_out out = { NULL, 0, 0 };
	struct buf b;
	host_val v;
	void *state;

	round_trip("rnd(random.Random(3), 4) or 1", NULL);
	round_trip("Plain(a=1)", NULL);
	round_trip("{1}", NULL);
	buf_init(&b);
	for (int i = 0; i < 3; i++) {
		v = eval(i == 0 ? "'\\xe9'" : i == 1 ? "3" : "1.5");
		(void)py->key(app, F_KEY, v, &b, &err);
		py->repr(app, v, &b);
		py->val_free(app, v);
	}
	expect(raise_by(F_RAISE, false, "'chain'"), ERR_USER, "");
	expect(raise_by(F_LIST, true, "(1,)"), ERR_USER, "");
	v = eval("[1, None]");
	ck_assert_int_eq(py->step(app, F_LIST, true, NULL, v, &out, &err), 0);
	py->val_free(app, out.val[0]);
	ck_assert_int_eq(py->state_new(app, F_STATE, &state, &err), 0);
	ck_assert_int_eq(py->step(app, F_STATE, false, state, v, &out, &err),
	    0);
	py->val_free(app, out.val[1]);
	py->repr(app, state, &b);
	py->state_free(app, state);
	py->val_free(app, v);
	v = eval("[threading.Lock(), local()]");
	expect(py->pack(app, v, &b, &err), ERR_USER, "");
	py->val_free(app, v);
	ck_assert_int_eq(py->generate_seek(app, F_GEN, 2, &err), 0);
	expect_next("t[13]");
	ck_assert_int_eq(py->unpack(app, slice_of("\x92\1\xc1", 3), &v, &err),
	    -1);
	free(out.val);
	buf_fini(&b);
}

START_TEST(leaks)
{
	int n = rounds(1000);
	long first, last;

	start();
	for (int i = 0; i < n; i++)
		use_everything();
	first = blocks();
	for (int i = 0; i < 2 * n; i++)
		use_everything();
	last = blocks();
	/* Python's own caches fill up slowly; a leak would be 2 n. */
	if (n == 1000)
		ck_assert_int_lt(last - first, n);
	cleanup();
}
END_TEST

static const char count_py[] =
    "import wallaroo\n"
    "@wallaroo.decoder(header_length=4, length_fmt='>I')\n"
    "def decode(bs): return bs.decode()\n"
    "@wallaroo.computation_multi(name='Split')\n"
    "def split(line): return line.split()\n"
    "@wallaroo.key_extractor\n"
    "def word(w): return w\n"
    "class Total: count = 0\n"
    "@wallaroo.state_computation(name='Count', state=Total)\n"
    "def count(w, total):\n"
    "    print('counting', w)\n"
    "    total.count += 1\n"
    "    return (w, total.count)\n"
    "@wallaroo.encoder\n"
    "def encode(t): return '%s => %d\\n' % t\n"
    "def application_setup(args):\n"
    "    return wallaroo.build_application('count',\n"
    "        wallaroo.source('words', wallaroo.TCPSourceConfig('words',\n"
    "        '127.0.0.1', '7010', decode)).to(split).key_by(word)\n"
    "        .to(count).to_sink(wallaroo.TCPSinkConfig('127.0.0.1', '7002',\n"
    "        encode)))\n";

static const char windows_py[] =
    "def f_eval(b): return eval(b)\n"
    "def f_repr(o): return repr(o)\n"
    "def f_windows(state, key, value, time, watermark):\n"
    "    assert (key, time, watermark) == ('k\\udcff', 1000, 2**64 - 1)\n"
    "    if value is None: state[:] = [time]\n"
    "    if value == 'raise': raise ValueError('all of it')\n"
    "    if value == 'same': return None\n"
    "    if value == 'none': return 1\n"
    "    errors = []\n"
    "    for n in range(3 if value == 'errors' else 0):\n"
    "        try: raise KeyError(n)\n"
    "        except KeyError as e: errors.append(e)\n"
    "    n = 20 if value == 'many' else 2\n"
    "    return ([(i, time + i) for i in range(n)], watermark // 2, errors,\n"
    "        watermark, value is None)\n"
    "def application_setup(args):\n"
    "    return dict(functions=[f_eval, f_repr, f_windows],\n"
    "        state_factories=[None, None, list], topology=[],\n"
    "        serialize=None, deserialize=None)\n";

/* The interpreter's objects; exceptions and their frames are in circles. */
static long
allocated(void)
{
	host_val v = eval("0 * __import__('gc').collect() + "
	    "__import__('sys').getallocatedblocks()");
	char *s = show(v);
	long n = strtol(s, NULL, 10);

	py->val_free(app, v);
	free(s);
	return (n);
}

static int
one_failed(void *arg, struct err *e)
{
	struct buf *b = arg;

	ck_assert_int_eq(e->code, ERR_USER);
	ck_assert_ptr_nonnull(strstr(e->text, "in f_windows\n"));
	buf_addf(b, "%s ", strrchr(e->text, '\n') + 1);
	return (strstr(e->text, "KeyError: 1") == NULL ? 0 : -1);
}

static int
give(void *state, const char *text, struct host_out *out,
    struct host_window *w, struct buf *failed)
{
	host_val v = text == NULL ? NULL : eval(text);
	int r;

	for (size_t i = 0; i < out->n; i++)
		py->val_free(app, out->val[i]);
	out->n = 0;
	r = py->window(app, 2, state, slice_of("k\xff", 2), v, 1000,
	    UINT64_MAX, out, w, one_failed, failed, &err);
	if (v != NULL)
		py->val_free(app, v);
	return (r);
}

START_TEST(windows)
{
	struct host_out out = { NULL, 0, 0 };
	struct host_window w = { .time_ns = NULL };
	struct buf failed = { 0 };
	void *state;
	long first = 0;

	prepare();
	put_file("app/app.py", windows_py);
	ck_assert_msg(py->open(&app, &conf, &err) == 0, "%s", err.text);
	ck_assert_int_eq(py->state_new(app, 2, &state, &err), 0);
	ck_assert_int_eq(give(state, "'m'", &out, &w, &failed), 0);
	ck_assert_uint_eq(out.n, 2);
	ck_assert_uint_eq(w.time_ns[1], 1001);
	ck_assert_uint_eq(w.newest_ns, UINT64_MAX / 2);
	ck_assert_uint_eq(w.due, UINT64_MAX);
	ck_assert(!w.open);
	ck_assert_int_eq(give(state, NULL, &out, &w, &failed), 0);
	ck_assert(w.open);
	ck_assert_int_eq(give(state, "'many'", &out, &w, &failed), 0);
	ck_assert_uint_eq(out.n, 20);
	ck_assert_uint_eq(w.time_ns[19], 1019);
	ck_assert(!w.same);
	ck_assert_int_eq(give(state, "'same'", &out, &w, &failed), 0);
	ck_assert(w.same);
	ck_assert_uint_eq(out.n, 0);
	/* The first error is passed over, the second is not. */
	ck_assert_int_eq(give(state, "'errors'", &out, &w, &failed), -1);
	ck_assert_str_eq(buf_str(&failed), "KeyError: 0 KeyError: 1 ");
	expect(give(state, "'raise'", &out, &w, &failed), ERR_USER,
	    "ValueError: all of it");
	expect(give(state, "'none'", &out, &w, &failed), ERR_USER,
	    "windows gave no result");
	for (int i = 0; i < rounds(2000); i++) {
		(void)give(state, i % 3 == 0 ? NULL : i % 3 == 1 ? "'many'" :
		    "'errors'", &out, &w, &failed);
		if (i == 500)
			first = allocated();
	}
	/* Caches fill up; a leak would be one a call on top. */
	if (first != 0)
		ck_assert_int_lt(allocated() - first, 1400);
	(void)give(state, "'m'", &out, &w, &failed);
	for (size_t i = 0; i < out.n; i++)
		py->val_free(app, out.val[i]);
	py->state_free(app, state);
	free(out.val);
	free(w.time_ns);
	buf_fini(&failed);
	cleanup();
}
END_TEST

/* A function's number, from the topology: list 0 has the sources, 1 the
 * stages, 2 the sinks. */
static int
fn_at(uint32_t list, uint32_t row, uint32_t field)
{
	uint32_t rows, fields;
	int64_t fn = -1;
	struct buf b;
	struct mp c;

	buf_init(&b);
	ck_assert_int_eq(py->describe(app, &b, &err), 0);
	mp_init(&c, buf_slice(&b));
	ck_assert_uint_eq(mp_get_array(&c), 6);
	for (int i = 0; i < 3; i++)
		mp_skip(&c);
	for (uint32_t l = 0; l < 3; l++) {
		rows = mp_get_array(&c);
		for (uint32_t r = 0; r < rows; r++) {
			fields = mp_get_array(&c);
			for (uint32_t f = 0; f < fields; f++)
				if (l == list && r == row && f == field)
					fn = mp_get_int(&c);
				else
					mp_skip(&c);
		}
	}
	ck_assert(mp_end(&c));
	ck_assert_int_ge(fn, 0);
	buf_fini(&b);
	return ((int)fn);
}

/* What tests/python/test_sources.py tests, as a worker asks it. */
START_TEST(changed)
{
	struct buf what = { 0 };

	prepare();
	put_file("app/app.py", count_py);
	ck_assert_int_eq(setenv("WALLAROO_PYTHON_PACKAGE", TEST_SOURCE "/py",
	    1), 0);
	ck_assert_msg(py->open(&app, &conf, &err) == 0, "%s", err.text);
	/* Imports began long after everything was written. */
	ck_assert_msg(!py->changed(app, INT64_MAX, &what), "%s",
	    buf_str(&what));
	ck_assert(!py->changed(app, INT64_MAX, &what));
	put_file("app/app.py", "");
	ck_assert(py->changed(app, INT64_MAX, &what));
	ck_assert_ptr_nonnull(strstr(buf_str(&what), "/app/app.py"));
	buf_fini(&what);
	cleanup();
}
END_TEST

/* One that cannot tell is not to be trusted. */
START_TEST(changed_unknown)
{
	struct buf what = { 0 };

	start();			/* with a package that has no such */
	ck_assert(py->changed(app, INT64_MAX, &what));
	ck_assert_str_eq(buf_str(&what), "unknown");
	buf_fini(&what);
	cleanup();
}
END_TEST

START_TEST(real_package)
{
	struct origin o = { .time_ns = 1, .id = 5 };
	struct host_out out = { NULL, 0, 0 };
	struct buf b;
	host_val v;
	void *state;
	bool none;

	prepare();
	put_file("app/app.py", count_py);
	ck_assert_int_eq(setenv("WALLAROO_PYTHON_PACKAGE", TEST_SOURCE "/py",
	    1), 0);
	ck_assert_msg(py->open(&app, &conf, &err) == 0, "%s", err.text);
	ck_assert_int_eq(py->decode(app, fn_at(0, 0, 3), slice_of("a b a", 5),
	    &v, &err), 0);
	ck_assert_int_eq(py->step(app, fn_at(1, 0, 3), true, NULL, v, &out,
	    &err), 0);
	py->val_free(app, v);
	ck_assert_uint_eq(out.n, 3);
	buf_init(&b);
	ck_assert_int_eq(py->key(app, fn_at(1, 1, 3), out.val[0], &b, &err),
	    0);
	ck_assert_str_eq(buf_str(&b), "a");
	ck_assert_int_eq(py->state_new(app, fn_at(1, 2, 3), &state, &err), 0);
	determ_enter(&o, fn_at(1, 2, 3));
	ck_assert_int_eq(py->step(app, fn_at(1, 2, 3), false, state,
	    out.val[0], &out, &err), 0);
	determ_leave();
	ck_assert_str_eq(buf_str(&lines),
	    "6 worker-0: counting a stream=stdout step=\"Count\"\n");
	ck_assert_uint_eq(out.n, 4);
	buf_clear(&b);
	ck_assert_int_eq(py->pack(app, out.val[3], &b, &err), 0);
	ck_assert_int_eq(py->unpack(app, buf_slice(&b), &v, &err), 0);
	buf_clear(&b);
	ck_assert_int_eq(py->encode(app, fn_at(2, 0, 2), v, &b, &none, &err),
	    0);
	ck_assert(!none);
	ck_assert_str_eq(buf_str(&b), "a => 1\n");
	py->val_free(app, v);
	py->state_free(app, state);
	for (size_t i = 0; i < out.n; i++)
		py->val_free(app, out.val[i]);
	free(out.val);
	buf_fini(&b);
	cleanup();
}
END_TEST

/*
 * The windows of each published table, one stage after the other; decode()
 * gives cells of the tables.
 */
static const char published_py[] =
    "import sys\n"
    "sys.dont_write_bytecode = True\n"
    "sys.path.insert(0, '" TEST_SOURCE "/tests/python')\n"
    "import wallaroo, windows_model as model\n"
    "from wallaroo import _windows, seconds\n"
    "_windows.RangeArithmetic.offset_of = lambda self, key: 0\n"
    "TABLES = list(model.PUBLISHED.values())\n"
    "class Sum(wallaroo.Aggregation):\n"
    "    def initial_accumulator(self): return [0]\n"
    "    def update(self, number, sums): sums[0] += number\n"
    "    def combine(self, a, b): return [a[0] + b[0]]\n"
    "    def output(self, key, sums): return sums[0]\n"
    "@wallaroo.decoder(header_length=4, length_fmt='>I')\n"
    "def decode(b): return eval(b)\n"
    "@wallaroo.encoder\n"
    "def encode(o): return repr(o)\n"
    "def application_setup(args):\n"
    "    p = wallaroo.source('tables', wallaroo.TCPSourceConfig(\n"
    "        'tables', '127.0.0.1', '7010', decode)).collect()\n"
    "    for length, slide, delay, _ in TABLES:\n"
    "        w = wallaroo.range_windows(seconds(length))\n"
    "        w = w.with_delay(seconds(delay))\n"
    "        w = w.with_slide(seconds(slide)) if slide else w\n"
    "        p = p.to(w.over(Sum))\n"
    "    return wallaroo.build_application('tables', p.to_sink(\n"
    "        wallaroo.TCPSinkConfig('127.0.0.1', '7002', encode)))\n";

/* What decode() makes of a text. */
static host_val __attribute__((format(printf, 1, 2)))
cell(const char *fmt, ...)
{
	char text[128];
	host_val v = NULL;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	ck_assert_msg(py->decode(app, fn_at(0, 0, 3),
	    slice_of(text, (size_t)n), &v, &err) == 0, "%s", err.text);
	return (v);
}

static int64_t
number(host_val v)
{
	struct buf b = { 0 };
	int64_t n;
	bool none;

	ck_assert_int_eq(py->encode(app, fn_at(2, 0, 2), v, &b, &none, &err),
	    0);
	n = strtoll(buf_str(&b), NULL, 10);
	py->val_free(app, v);
	buf_fini(&b);
	return (n);
}

/* One row of a table: what leaves the windows is what the table says. */
static void
published_row(void *state, int fn, int table, int row)
{
	static const char of[] = "TABLES[%d][3][%d][%d]";
	struct host_out out = { NULL, 0, 0 };
	struct host_window w = { .time_ns = NULL };
	host_val value = cell(of, table, row, 0);
	uint64_t time = (uint64_t)number(cell(of, table, row, 1)),
	    mark = (uint64_t)number(cell(of, table, row, 2));

	ck_assert_msg(py->window(app, fn, state, slice_of("key", 3), value,
	    time * 1000000000, mark * 1000000000, &out, &w, NULL, NULL,
	    &err) == 0, "%s", err.text);
	py->val_free(app, value);
	ck_assert_int_eq((int64_t)out.n,
	    number(cell("len(TABLES[%d][3][%d][3])", table, row)));
	for (size_t i = 0; i < out.n; i++)
		ck_assert_int_eq(number(out.val[i]), number(cell(
		    "TABLES[%d][3][%d][3][%zu]", table, row, i)));
	free(out.val);
	free(w.time_ns);
}

START_TEST(published_windows)
{
	int64_t tables, rows;
	void *state;
	int fn;

	prepare();
	put_file("app/app.py", published_py);
	ck_assert_int_eq(setenv("WALLAROO_PYTHON_PACKAGE", TEST_SOURCE "/py",
	    1), 0);
	ck_assert_msg(py->open(&app, &conf, &err) == 0, "%s", err.text);
	tables = number(cell("len(TABLES)"));
	ck_assert_int_gt(tables, 7);
	for (int t = 0; t < tables; t++) {
		fn = fn_at(1, (uint32_t)t + 1, 3);
		ck_assert_int_eq(py->state_new(app, fn, &state, &err), 0);
		rows = number(cell("len(TABLES[%d][3])", t));
		for (int r = 0; r < rows; r++)
			published_row(state, fn, t, r);
		py->state_free(app, state);
	}
	cleanup();
}
END_TEST

/* What is wrong is told without our own lines, where there is a choice. */
START_TEST(real_package_no_pipeline)
{
	prepare();
	put_file("app/app.py", "def application_setup(args):\n"
	    "    return 5\n");
	ck_assert_int_eq(setenv("WALLAROO_PYTHON_PACKAGE", TEST_SOURCE "/py",
	    1), 0);
	expect(py->open(&app, &conf, &err), ERR_CONFIG, "Error");
	ck_assert_ptr_null(strstr(err.text, "_runtime.py"));
	cleanup();
}
END_TEST

START_TEST(real_package_refuses)
{
	prepare();
	put_file("app/app.py", "import wallaroo\n"
	    "def application_setup(args):\n"
	    "    print('half a line', end='')\n"
	    "    wallaroo.computation(name='x')(5)\n");
	ck_assert_int_eq(setenv("WALLAROO_PYTHON_PACKAGE", TEST_SOURCE "/py",
	    1), 0);
	expect(py->open(&app, &conf, &err), ERR_CONFIG,
	    "line 4, in application_setup");
	ck_assert_ptr_nonnull(strstr(buf_str(&lines), "half a line"));
	cleanup();
}
END_TEST

UNIT_MAIN("host_python", describe, isolation, path_of_configuration,
    open_missing, open_imports_missing, open_raises, open_syntax, open_exits,
    open_no_package, open_wrong_python, open_venv, open_other_prefix,
    decode_encode, steps, states, keys, frame_lengths, generators,
    generator_fails, exceptions, codec_values, codec_bare, codec_shapes,
    codec_slots,
    codec_special, codec_shared, codec_random, codec_malformed, codec_hostile,
    codec_new_version, codec_hooks, reprs, logs, context, threads, stack_dump,
    changed, changed_unknown,
    leaks, windows, real_package, published_windows, real_package_no_pipeline,
    real_package_refuses, stuck_thread)
