/*
 * The Python host: starts and ends the interpreter, loads the application,
 * and is the table of functions that the worker knows (worker/host.h).
 */
#include "py/py_host.h"

#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/mem.h"
#include "common/mp.h"

#define HOST_WAIT_MS	1000	/* for the user's threads at the end */

static int
host_status(struct err *err, PyStatus s, const char *what)
{
	return (err_set(err, ERR_CONFIG, "Python does not start: %s: %s",
	    what, s.err_msg == NULL ? "exit" : s.err_msg));
}

/* Before anything of Python is used: memory and encodings. */
static int
host_preinit(struct err *err)
{
	const char *allocator = getenv("WALLAROO_PYMALLOC");
	PyPreConfig pre;
	PyStatus s;

	PyPreConfig_InitIsolatedConfig(&pre);
	pre.utf8_mode = 1;
	/* Python's own allocator hides leaks from valgrind and ASan. */
	if (allocator != NULL && strcmp(allocator, "malloc") == 0)
		pre.allocator = PYMEM_ALLOCATOR_MALLOC;
	s = Py_PreInitialize(&pre);
	return (PyStatus_Exception(s) ? host_status(err, s, "preinit") : 0);
}

static int
host_init(const struct py_env *env, struct err *err)
{
	/* The one variable of Python's that is no business of user code. */
	const char *nowrite = getenv("PYTHONDONTWRITEBYTECODE");
	PyConfig config;
	PyStatus s;
	int r = 0;

	if (PyImport_AppendInittab("_wallaroo_host",
	    PyInit__wallaroo_host) == -1)
		return (err_set(err, ERR_CONFIG, "Python does not start: "
		    "no memory"));
	PyConfig_InitIsolatedConfig(&config);
	config.install_signal_handlers = 0;
	config.write_bytecode = nowrite == NULL || nowrite[0] == '\0';
	/* The order of sets of strings is the same in all lives. */
	config.use_hash_seed = 1;
	config.hash_seed = 0;
	s = PyStatus_Ok();
	if (env->home != NULL)
		s = PyConfig_SetBytesString(&config, &config.home, env->home);
	if (!PyStatus_Exception(s) && env->executable != NULL)
		s = PyConfig_SetBytesString(&config, &config.executable,
		    env->executable);
	if (!PyStatus_Exception(s) && env->executable != NULL)
		s = PyConfig_SetBytesString(&config, &config.program_name,
		    env->executable);
	if (!PyStatus_Exception(s))
		s = Py_InitializeFromConfig(&config);
	if (PyStatus_Exception(s))
		r = host_status(err, s, "init");
	PyConfig_Clear(&config);
	return (r);
}

/* Insert a directory into sys.path; -1: exception. */
static int
host_path(PyObject *path, Py_ssize_t at, const char *dir)
{
	PyObject *s;
	int r;

	s = PyUnicode_DecodeFSDefault(dir);
	if (s == NULL)
		return (-1);
	r = PyList_Insert(path, at, s);
	Py_DECREF(s);
	return (r);
}

/*
 * The packages of an interpreter that is no venv, in place of those of
 * libpython's own prefix.
 */
static int
host_packages(const char *prefix)
{
	static const char code[] =
	    "import site, sys\n"
	    "gone = set(site.getsitepackages())\n"
	    "sys.path[:] = [p for p in sys.path if p not in gone]\n"
	    "sys.prefix = sys.exec_prefix = prefix\n"
	    "site.PREFIXES[:] = [prefix]\n"
	    "site.addsitedir(prefix + '/lib/python%d.%d/site-packages'"
	    " % sys.version_info[:2])\n";
	PyObject *globals, *s, *r = NULL;

	globals = PyDict_New();
	s = PyUnicode_DecodeFSDefault(prefix);
	if (globals != NULL && s != NULL && PyDict_SetItemString(globals,
	    "__builtins__", PyEval_GetBuiltins()) == 0 &&
	    PyDict_SetItemString(globals, "prefix", s) == 0)
		r = PyRun_String(code, Py_file_input, globals, globals);
	Py_XDECREF(r);
	Py_XDECREF(s);
	Py_XDECREF(globals);
	return (r == NULL ? -1 : 0);
}

/*
 * Our package first, so that no other wallaroo takes its place, then the
 * user's directories, then Python's.  -1: exception.
 */
static int
host_paths(struct host_app *app, const struct conf_app *conf,
    const struct py_env *env)
{
	PyObject *path = PySys_GetObject("path");	/* borrowed */
	const char *slash;
	char *dir;
	int r;

	if (path == NULL || !PyList_Check(path)) {
		PyErr_SetString(PyExc_RuntimeError, "there is no sys.path");
		return (-1);
	}
	if (env->prefix != NULL && host_packages(env->prefix) == -1)
		return (-1);
	r = host_path(path, 0, app->package);
	for (size_t i = 0; r == 0 && i < conf->python_path.n; i++)
		r = host_path(path, (Py_ssize_t)i + 1,
		    conf->python_path.item[i]);
	if (r == 0 && conf->python_path.n == 0 && conf->file != NULL &&
	    (slash = strrchr(conf->file, '/')) != NULL) {
		dir = xstrndup(conf->file, (size_t)(slash - conf->file) + 1);
		if (slash > conf->file)
			dir[slash - conf->file] = '\0';
		r = host_path(path, 1, dir);
		free(dir);
	}
	return (r);
}

/* Call module.name(...) and drop its result; -1: exception. */
static int __attribute__((format(printf, 3, 0)))
host_call(const char *module, const char *name, const char *format, ...)
{
	PyObject *m, *f = NULL, *args, *r = NULL;
	va_list ap;

	va_start(ap, format);
	args = Py_VaBuildValue(format, ap);
	va_end(ap);
	m = args == NULL ? NULL : PyImport_ImportModule(module);
	if (m != NULL)
		f = PyObject_GetAttrString(m, name);
	if (f != NULL)
		r = PyObject_Call(f, args, NULL);
	Py_XDECREF(r);
	Py_XDECREF(f);
	Py_XDECREF(m);
	Py_XDECREF(args);
	return (r == NULL ? -1 : 0);
}

/* The supervisor logs what it finds there, and tells it the next process. */
static int
host_faults(void)
{
	/* file, all_threads; register() has chain after them */
	if (host_call("faulthandler", "enable", "(ii)", host_stack_fd, 1) ==
	    -1)
		return (-1);
	return (host_call("faulthandler", "register", "(iiii)", SIGUSR2,
	    host_stack_fd, 1, 0));
}

/* An attribute of a module; returns new; NULL: exception. */
static PyObject *
host_attr(const char *module, const char *name)
{
	PyObject *m, *r = NULL;

	m = PyImport_ImportModule(module);
	if (m != NULL)
		r = PyObject_GetAttrString(m, name);
	Py_XDECREF(m);
	return (r);
}

/* The short repr, with more room than reprlib gives by itself; new. */
static PyObject *
host_short_repr(void)
{
	static const struct { const char *name; long value; } limits[] = {
		{ "maxstring", 120 }, { "maxother", 120 }, { "maxlong", 60 },
		{ "maxdict", 12 }, { "maxlist", 12 }, { "maxtuple", 12 },
		{ "maxset", 12 }
	};
	PyObject *class, *o = NULL, *n, *r = NULL;
	int rc = 0;

	class = host_attr("reprlib", "Repr");
	if (class != NULL)
		o = PyObject_CallNoArgs(class);
	for (size_t i = 0; o != NULL && rc == 0 &&
	    i < sizeof(limits) / sizeof(limits[0]); i++) {
		n = PyLong_FromLong(limits[i].value);
		rc = n == NULL ? -1 :
		    PyObject_SetAttrString(o, limits[i].name, n);
		Py_XDECREF(n);
	}
	if (o != NULL && rc == 0)
		r = PyObject_GetAttrString(o, "repr");
	Py_XDECREF(o);
	Py_XDECREF(class);
	return (r);
}

/* What the host itself needs of Python; -1: exception. */
static int
host_tools(struct host_app *app, const struct conf_app *conf)
{
	bool plain;

	app->machida = conf->machida != NULL && conf->machida[0] != '\0';
	plain = host_replay.on || app->machida;
	app->format = host_attr("traceback", "format_exception");
	if (app->format == NULL || host_faults() == -1 ||
	    py_codec_open(&app->codec) == -1)
		return (-1);
	app->short_repr = host_short_repr();
	app->module = PyImport_ImportModule("_wallaroo_host");
	if (app->short_repr == NULL || app->module == NULL)
		return (-1);
	return (host_call("wallaroo._runtime", plain ? "install_plain" :
	    "install", "(O)", app->module));
}

/* A list of texts, after a first one if there is one; new. */
static PyObject *
host_texts(const char *first, const struct conf_list *l)
{
	PyObject *list, *s;
	size_t extra = first != NULL;
	bool ok;

	list = PyList_New(0);
	ok = list != NULL;
	for (size_t i = 0; ok && i < l->n + extra; i++) {
		s = PyUnicode_DecodeFSDefault(i < extra ? first :
		    l->item[i - extra]);
		ok = s != NULL && PyList_Append(list, s) == 0;
		Py_XDECREF(s);
	}
	if (!ok)
		Py_CLEAR(list);
	return (list);
}

/*
 * _runtime.load(module, [program] + args), where the program is the module if
 * no command line says another; that is then given, too.  Returns new; NULL:
 * exception.
 */
static PyObject *
host_load(const struct conf_app *conf)
{
	bool line = conf->command_line.n > 0;
	PyObject *load, *list, *whole = NULL, *r = NULL;

	load = host_attr(host_replay.on ? "wallaroo._replay" :
	    "wallaroo._runtime", "load");
	list = host_texts(line ? conf->command_line.item[0] : conf->module,
	    &conf->args);
	if (line)
		whole = host_texts(NULL, &conf->command_line);
	if (load != NULL && list != NULL && (!line || whole != NULL))
		r = line ? PyObject_CallFunction(load, "sOO", conf->module,
		    list, whole) : PyObject_CallFunction(load, "sO",
		    conf->module, list);
	Py_XDECREF(whole);
	Py_XDECREF(list);
	Py_XDECREF(load);
	return (r);
}

/* The current exception is a SystemExit: say with what. */
static int
host_exited(struct err *err)
{
	PyObject *type, *value, *tb, *code = NULL, *text = NULL;
	const char *s = NULL;
	long status = 1;

	PyErr_Fetch(&type, &value, &tb);
	PyErr_NormalizeException(&type, &value, &tb);
	if (value != NULL)
		code = PyObject_GetAttrString(value, "code");
	if (code == Py_None)
		status = 0;
	else if (code != NULL && PyLong_Check(code))
		status = PyLong_AsLong(code);
	else if (code != NULL && (text = PyObject_Str(code)) != NULL)
		s = PyUnicode_AsUTF8(text);	/* borrowed from text */
	py_err_drop();
	(void)err_set(err, ERR_CONFIG, ERR_EXITED "%ld%s%s", status,
	    s == NULL ? "" : ": ", s == NULL ? "" : s);
	Py_XDECREF(text);
	Py_XDECREF(code);
	Py_XDECREF(tb);
	Py_XDECREF(value);
	Py_XDECREF(type);
	return (-1);
}

/* The current exception says that the application's module is missing. */
static bool
host_is_missing(const char *module)
{
	PyObject *type, *value, *tb, *name = NULL;
	const char *s = NULL;
	size_t n;
	bool yes = false;

	if (!PyErr_ExceptionMatches(PyExc_ModuleNotFoundError))
		return (false);
	PyErr_Fetch(&type, &value, &tb);
	PyErr_NormalizeException(&type, &value, &tb);
	if (value != NULL)
		name = PyObject_GetAttrString(value, "name");
	if (name != NULL && PyUnicode_Check(name))
		s = PyUnicode_AsUTF8(name);	/* borrowed from name */
	if (s != NULL) {
		/* It, or a package that it is in. */
		n = strlen(s);
		yes = strncmp(module, s, n) == 0 &&
		    (module[n] == '\0' || module[n] == '.');
	}
	py_err_drop();
	Py_XDECREF(name);
	PyErr_Restore(type, value, tb);
	return (yes);
}

static int
host_missing(const char *module, struct err *err)
{
	PyObject *path = PySys_GetObject("path");	/* borrowed */
	const char *s;
	struct buf b;

	py_err_drop();
	buf_init(&b);
	for (Py_ssize_t i = 0; path != NULL && PyList_Check(path) &&
	    i < PyList_GET_SIZE(path); i++) {
		/* items: borrowed */
		if (!PyUnicode_Check(PyList_GET_ITEM(path, i)))
			continue;
		s = PyUnicode_AsUTF8(PyList_GET_ITEM(path, i));
		buf_addf(&b, "%s%s", b.len == 0 ? "" : ", ",
		    s == NULL ? "?" : s);
		py_err_drop();
	}
	(void)err_set(err, ERR_CONFIG, "no module named \"%s\"; python-path "
	    "says where to look; searched: %.1500s", module, buf_str(&b));
	buf_fini(&b);
	return (-1);
}

/* Name the functions of sources, stages or sinks, for people. */
static void
host_names(struct host_app *app, PyObject *list, Py_ssize_t at)
{
	PyObject *row, *fn;		/* borrowed from list */
	const char *s;
	long i;

	for (Py_ssize_t n = 0; PyList_Check(list) &&
	    n < PyList_GET_SIZE(list); n++) {
		row = PyList_GET_ITEM(list, n);
		if (!PyList_Check(row) || PyList_GET_SIZE(row) <= at)
			continue;
		fn = PyList_GET_ITEM(row, at);
		i = PyLong_Check(fn) ? PyLong_AsLong(fn) : -1;
		s = PyUnicode_Check(PyList_GET_ITEM(row, 0)) ?
		    PyUnicode_AsUTF8(PyList_GET_ITEM(row, 0)) : NULL;
		py_err_drop();
		if (i < 0 || (size_t)i >= app->nfn || s == NULL ||
		    app->fn[i].name != NULL)
			continue;
		app->fn[i].name = xstrdup(s);
		/* It stands between quotes in the log. */
		for (char *p = app->fn[i].name; *p != '\0'; p++)
			if (*p == '"' || (unsigned char)*p < 0x20)
				*p = '\'';
	}
}

/* An item of a list, None as NULL; returns new or NULL. */
static PyObject *
host_item(PyObject *list, Py_ssize_t i)
{
	PyObject *o;			/* borrowed from list */

	if (list == NULL || !PyList_Check(list) || i >= PyList_GET_SIZE(list))
		return (NULL);
	o = PyList_GET_ITEM(list, i);
	if (o == Py_None)
		return (NULL);
	Py_INCREF(o);
	return (o);
}

/* An attribute, None as NULL; returns new or NULL; no exception. */
static PyObject *
host_optional(PyObject *o, const char *name)
{
	PyObject *r = PyObject_GetAttrString(o, name);

	if (r == NULL)
		py_err_drop();
	if (r == Py_None)
		Py_CLEAR(r);
	return (r);
}

/* The tables of functions; -1: exception. */
static int
host_functions(struct host_app *app)
{
	PyObject *call, *factory, *frame, *topo;

	call = PyObject_GetAttrString(app->loaded, "functions");
	factory = host_optional(app->loaded, "state_factories");
	frame = host_optional(app->loaded, "frame_lengths");
	topo = host_optional(app->loaded, "topology");
	if (call != NULL && PyList_Check(call)) {
		app->nfn = (size_t)PyList_GET_SIZE(call);
		app->fn = xcalloc(app->nfn + 1, sizeof(*app->fn));
		app->call = xcalloc(app->nfn + 1, sizeof(*app->call));
	} else if (call != NULL)
		PyErr_SetString(PyExc_TypeError, "functions is no list");
	if (topo != NULL && PyList_Check(topo) && PyList_GET_SIZE(topo) == 6) {
		host_names(app, PyList_GET_ITEM(topo, 3), 3);
		host_names(app, PyList_GET_ITEM(topo, 4), 3);
		host_names(app, PyList_GET_ITEM(topo, 5), 2);
	}
	for (size_t i = 0; i < app->nfn; i++) {
		app->call[i] = host_item(call, (Py_ssize_t)i);
		app->fn[i].call = app->call[i];
		app->fn[i].factory = host_item(factory, (Py_ssize_t)i);
		app->fn[i].frame_len = host_item(frame, (Py_ssize_t)i);
		if (app->fn[i].name == NULL)
			app->fn[i].name = xasprintf("function %zu", i);
		if (app->fn[i].call == NULL)
			PyErr_Format(PyExc_TypeError, "%s is None",
			    app->fn[i].name);
	}
	app->codec.serialize = host_optional(app->loaded, "serialize");
	app->codec.deserialize = host_optional(app->loaded, "deserialize");
	Py_XDECREF(topo);
	Py_XDECREF(frame);
	Py_XDECREF(factory);
	Py_XDECREF(call);
	return (PyErr_Occurred() ? -1 : 0);
}

/* With the interpreter running: everything up to the loaded application. */
static int
host_start(struct host_app *app, const struct conf_app *conf,
    const struct py_env *env, struct err *err)
{
	app->thread = PyThread_get_thread_ident();
	py_module_serve(app);
	if (host_paths(app, conf, env) == -1 || host_tools(app, conf) == -1)
		return (py_err_take(app, err, ERR_CONFIG));
	app->loaded = host_load(conf);
	if (app->loaded == NULL) {
		if (PyErr_ExceptionMatches(PyExc_SystemExit))
			return (host_exited(err));
		if (host_is_missing(conf->module))
			return (host_missing(conf->module, err));
		return (py_err_take(app, err, ERR_CONFIG));
	}
	/*
	 * What the imports made stays: the collector need not look at it
	 * again and again.
	 */
	if (host_functions(app) == -1 || host_call("gc", "collect", "()") ==
	    -1 || host_call("gc", "freeze", "()") == -1)
		return (py_err_take(app, err, ERR_CONFIG));
	return (0);
}

static void	host_close(struct host_app *);

static int
host_open(struct host_app **out, const struct conf_app *conf,
    struct err *err)
{
	struct host_app *app;
	struct py_env env;
	int r;

	if (py_env_find(&env, conf->python, err) == -1)
		return (-1);
	app = xcalloc(1, sizeof(*app));
	app->current = -1;
	app->package = py_env_package(err);
	r = app->package == NULL ? -1 : host_preinit(err);
	if (r == 0)
		r = host_init(&env, err);
	app->initialized = r == 0;
	if (r == 0)
		r = host_start(app, conf, &env, err);
	py_env_fini(&env);
	if (r == -1) {
		host_close(app);
		return (-1);
	}
	*out = app;
	return (0);
}

/* Nested lists of scalars as MessagePack; -1: exception. */
static int
host_put(struct buf *b, PyObject *o, int depth)
{
	Py_ssize_t n;
	const char *s;

	if (o == Py_None)
		mp_put_nil(b);
	else if (PyBool_Check(o))
		mp_put_bool(b, o == Py_True);
	else if (PyLong_Check(o))
		mp_put_int(b, PyLong_AsLongLong(o));
	else if (PyBytes_Check(o))
		mp_put_bin(b, PyBytes_AS_STRING(o),
		    (size_t)PyBytes_GET_SIZE(o));
	else if (PyUnicode_Check(o)) {
		s = PyUnicode_AsUTF8AndSize(o, &n);	/* borrowed from o */
		if (s != NULL)
			mp_put_strn(b, s, (size_t)n);
	} else if (PyList_Check(o) && depth < 8) {
		mp_put_array(b, (uint32_t)PyList_GET_SIZE(o));
		for (Py_ssize_t i = 0; i < PyList_GET_SIZE(o); i++)
			if (host_put(b, PyList_GET_ITEM(o, i), depth + 1) ==
			    -1)
				return (-1);
	} else
		PyErr_Format(PyExc_TypeError, "%.200s in the topology",
		    Py_TYPE(o)->tp_name);
	return (PyErr_Occurred() ? -1 : 0);
}

static int
host_describe(struct host_app *app, struct buf *b, struct err *err)
{
	PyObject *topo;
	size_t start = b->len;
	int r = -1;

	topo = PyObject_GetAttrString(app->loaded, "topology");
	if (topo != NULL)
		r = host_put(b, topo, 0);
	Py_XDECREF(topo);
	if (r == 0)
		return (0);
	b->len = start;
	return (py_err_take(app, err, ERR_CONFIG));
}

static void
host_idle_enter(struct host_app *app)
{
	app->idle = PyEval_SaveThread();
}

static void
host_idle_leave(struct host_app *app)
{
	PyEval_RestoreThread(app->idle);
	app->idle = NULL;
}

/* Whoever cannot tell takes it for changed. */
static bool
host_changed(struct host_app *app, uint64_t since_ns, struct buf *what)
{
	PyObject *f, *r;
	const char *text = NULL;
	bool is = true;

	(void)app;
	f = host_attr("wallaroo._sources", "changed");
	r = f == NULL ? NULL : PyObject_CallFunction(f, "K",
	    (unsigned long long)since_ns);
	if (r == Py_None)
		is = false;
	else if (r != NULL)
		text = PyUnicode_AsUTF8(r);
	if (is)
		buf_addf(what, "%s", text == NULL ? "unknown" : text);
	Py_XDECREF(r);
	Py_XDECREF(f);
	py_err_drop();
	return (is);
}

/* Threads of the user's that Py_FinalizeEx would wait for. */
static bool
host_has_threads(void)
{
	PyObject *list, *t, *daemon;
	Py_ssize_t n = 0;

	list = host_attr("threading", "enumerate");
	t = list == NULL ? NULL : PyObject_CallNoArgs(list);
	Py_XDECREF(list);
	for (Py_ssize_t i = 0; t != NULL && i < PyList_GET_SIZE(t); i++) {
		daemon = PyObject_GetAttrString(PyList_GET_ITEM(t, i),
		    "daemon");
		n += daemon == Py_False;
		Py_XDECREF(daemon);
	}
	Py_XDECREF(t);
	py_err_drop();
	return (n > 1);			/* the worker's is one */
}

/*
 * End the interpreter.  A thread that does not end must not keep the worker
 * from doing so: then only what was registered with atexit is run, and the
 * rest ends with the process.
 */
static void
host_finalize(struct host_app *app)
{
	struct timespec wait = { 0, 10000000 };
	bool threads = false;

	for (int ms = 0; ms < HOST_WAIT_MS; ms += 10) {
		threads = host_has_threads();
		if (!threads)
			break;
		host_idle_enter(app);
		(void)nanosleep(&wait, NULL);
		host_idle_leave(app);
	}
	if (threads) {
		if (host_call("atexit", "_run_exitfuncs", "()") == -1)
			py_err_drop();
		return;
	}
	if (host_call("gc", "unfreeze", "()") == -1)
		py_err_drop();
	(void)Py_FinalizeEx();
}

/* Also of what host_open left unfinished. */
static void
host_close(struct host_app *app)
{
	if (app == NULL)
		return;
	if (app->idle != NULL)
		host_idle_leave(app);
	for (size_t i = 0; i < app->nfn; i++) {
		struct py_fn *f = &app->fn[i];

		py_cursor_fini(&f->cursor);
		Py_CLEAR(f->call);
		Py_CLEAR(f->factory);
		Py_CLEAR(f->frame_len);
	}
	py_codec_close(&app->codec);
	Py_CLEAR(app->loaded);
	Py_CLEAR(app->format);
	Py_CLEAR(app->short_repr);
	Py_CLEAR(app->module);
	if (app->initialized)
		host_finalize(app);
	py_module_serve(NULL);
	for (size_t i = 0; i < app->nfn; i++)
		free(app->fn[i].name);
	free(app->fn);
	free(app->call);
	free(app->package);
	free(app);
}

const struct host host_python = {
	.name = "python",
	.abi = HOST_ABI,
	.open = host_open,
	.describe = host_describe,
	.frame_len = py_frame_len,
	.decode = py_decode,
	.generate = py_generate,
	.generate_seek = py_generate_seek,
	.key = py_key,
	.step = py_step,
	.window = py_window,
	.encode = py_encode,
	.pack = py_pack,
	.unpack = py_unpack,
	.val_free = py_free,
	.state_new = py_state_new,
	.state_save = py_state_save,
	.state_load = py_state_load,
	.state_free = py_free,
	.repr = py_repr,
	.idle_enter = host_idle_enter,
	.idle_leave = host_idle_leave,
	.changed = host_changed,
	.close = host_close
};
