/* Targets of py/: messages and states as bytes, from other workers and from
 * checkpoints. */
#include <sys/stat.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "tests/fuzz/fuzz.h"
#include "worker/host.h"

/* In the place of the package. */
static const char runtime_py[] =
    "import importlib, types\n"
    "def install(host):\n"
    "    pass\n"
    "def load(module, args):\n"
    "    m = importlib.import_module(module)\n"
    "    return types.SimpleNamespace(**m.application_setup(args))\n";

/* Classes of each kind that has a form of its own. */
static const char app_py[] =
    "import collections, dataclasses, enum\n"
    "class Plain: pass\n"
    "class Slots:\n"
    "    __slots__ = ('a', 'b')\n"
    "class Hooked:\n"
    "    def __setstate__(self, d): self.__dict__.update(d)\n"
    "class Prop:\n"
    "    @property\n"
    "    def size(self): return 1\n"
    "@dataclasses.dataclass(frozen=True)\n"
    "class Point:\n"
    "    x: int\n"
    "Pair = collections.namedtuple('Pair', 'a b')\n"
    "class Color(enum.Enum):\n"
    "    RED = 1\n"
    "class MyDict(dict): pass\n"
    "def no_class(): pass\n"
    "def application_setup(args):\n"
    "    return dict(functions=[], state_factories=[], frame_lengths=[],\n"
    "        serialize=None, deserialize=None, topology=[])\n";

static struct host_app *app;
static char dir[] = "/dev/shm/wallaroo-fuzz-XXXXXX";
static const char *const made[] = { "wallaroo/__init__.py",
    "wallaroo/_runtime.py", "app.py", "wallaroo", "" };

static void
stop_python(void)
{
	char *path;
	size_t i;

	host_python.close(app);
	for (i = 0; i < sizeof(made) / sizeof(made[0]); i++) {
		path = xasprintf("%s/%s", dir, made[i]);
		(void)remove(path);
		free(path);
	}
}

static void
put_file(const char *name, const char *text)
{
	char *path = xasprintf("%s/%s", dir, name);
	FILE *f = fopen(path, "we");

	if (f == NULL || fputs(text, f) == EOF || fclose(f) != 0)
		fuzz_check(!"/dev/shm can be written");
	free(path);
}

static void
start_python(void)
{
	struct conf_app conf = { .module = "app", .python = "" };
	char *package, *here = dir;
	struct err err;

	if (mkdtemp(dir) == NULL)
		fuzz_check(!"/dev/shm can be written");
	package = xasprintf("%s/wallaroo", dir);
	fuzz_check(mkdir(package, 0700) == 0);
	free(package);
	put_file(made[0], "");
	put_file(made[1], runtime_py);
	put_file(made[2], app_py);
	conf.python_path.item = &here;
	conf.python_path.n = 1;
	(void)setenv("WALLAROO_PYTHON_PACKAGE", dir, 1);
	(void)setenv("PYTHONDONTWRITEBYTECODE", "1", 1);
	if (host_python.open(&app, &conf, &err) == -1) {
		fprintf(stderr, "%s\n", err.text);
		exit(1);
	}
	(void)atexit(stop_python);
}

/* What is accepted is written, and must read the same again. */
void
fuzz_value(const uint8_t *data, size_t n)
{
	struct buf one = { 0 }, two = { 0 };
	host_val v = NULL, w = NULL;
	struct err err;

	if (app == NULL)
		start_python();
	if (host_python.unpack(app, slice_of(data, n), &v, &err) == -1) {
		fuzz_check(err.text[0] != '\0');
		return;
	}
	/* Not all that can be made can be saved: a value deep in itself. */
	if (host_python.pack(app, v, &one, &err) == 0) {
		fuzz_check(host_python.unpack(app, buf_slice(&one), &w,
		    &err) == 0);
		fuzz_check(host_python.pack(app, w, &two, &err) == 0);
		fuzz_check(one.len == two.len &&
		    memcmp(one.data, two.data, one.len) == 0);
		host_python.val_free(app, w);
	}
	host_python.val_free(app, v);
	buf_fini(&one);
	buf_fini(&two);
}
