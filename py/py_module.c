/*
 * The module _wallaroo_host, through which the Python runtime asks for the
 * log and for the record's randomness, and the text of exceptions.
 */
#include "py/py_host.h"

#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/mem.h"
#include "worker/determ.h"

/* Bytes of a user's line in one line of the log; longer ones go on. */
#define MODULE_LINE	3600
/* Room in struct err for a traceback; the rest is for who wraps it. */
#define MODULE_TEXT	(ERR_TEXT - 256)
#define MODULE_LAST	768		/* of it, for "Type: message" */

/* One interpreter in a process: borrowed, for the module's functions. */
static struct host_app *module_app;

void
py_module_serve(struct host_app *app)
{
	module_app = app;
}

bool
py_on_worker_thread(const struct host_app *app)
{
	return (PyThread_get_thread_ident() == app->thread);
}

/* The stage whose code runs on this thread; NULL: none. */
static const char *
module_step(void)
{
	const struct host_app *app = module_app;
	int fn;

	if (app == NULL || !py_on_worker_thread(app))
		return (NULL);
	fn = app->current >= 0 ? app->current : determ_fn();
	return (fn < 0 || (size_t)fn >= app->nfn ? NULL : app->fn[fn].name);
}

/* How much of a text of n bytes fits into max, not cutting a character. */
static size_t
module_cut(const char *p, size_t n, size_t max)
{
	if (n <= max)
		return (n);
	while (max > 0 && ((unsigned char)p[max] & 0xc0) == 0x80)
		max--;
	return (max);
}

static void
module_line(int priority, const char *stream, const char *p, size_t n)
{
	const char *step = module_step();
	size_t k;

	do {
		k = module_cut(p, n, MODULE_LINE);
		if (step != NULL)
			log_at(priority, "%.*s stream=%s step=\"%s\"", (int)k,
			    p, stream, step);
		else
			log_at(priority, "%.*s stream=%s", (int)k, p, stream);
		p += k;
		n -= k;
	} while (n > 0);
}

/* log(priority, stream, text): a log line for each line of text. */
static PyObject *
module_log(PyObject *self, PyObject *args)
{
	PyObject *text, *bytes;
	const char *stream;
	char *p, *nl, *copy;
	Py_ssize_t n;
	int priority;

	(void)self;
	if (!PyArg_ParseTuple(args, "isU:log", &priority, &stream, &text))
		return (NULL);
	if (priority < LOG_EMERG || priority > LOG_DEBUG)
		priority = LOG_INFO;
	bytes = PyUnicode_AsEncodedString(text, "utf-8", "backslashreplace");
	if (bytes == NULL || PyBytes_AsStringAndSize(bytes, &p, &n) == -1) {
		Py_XDECREF(bytes);
		return (NULL);
	}
	p = copy = memcpy(xmalloc((size_t)n + 1), p, (size_t)n);
	Py_DECREF(bytes);
	for (Py_ssize_t i = 0; i < n; i++)
		if (p[i] == '\0')	/* would end the line */
			p[i] = '?';
	while ((nl = memchr(p, '\n', (size_t)n)) != NULL && nl + 1 < p + n) {
		module_line(priority, stream, p, (size_t)(nl - p));
		n -= nl + 1 - p;
		p = nl + 1;
	}
	if (nl != NULL)
		n--;
	module_line(priority, stream, p, (size_t)n);
	free(copy);
	Py_RETURN_NONE;
}

/*
 * serial(): changes with every call into user code, 0 outside of them.  Other
 * threads are always outside, even while they have interrupted one.
 */
static PyObject *
module_serial(PyObject *self, PyObject *unused)
{
	(void)self;
	(void)unused;
	if (module_app == NULL || !py_on_worker_thread(module_app))
		return (PyLong_FromLong(0));
	return (PyLong_FromUnsignedLongLong(determ_serial()));
}

/* seed(): 64 bits that belong to the record and step of that serial. */
static PyObject *
module_seed(PyObject *self, PyObject *unused)
{
	(void)self;
	(void)unused;
	return (PyLong_FromUnsignedLongLong(determ_seed()));
}

/*
 * context() -> (worker, step).  The worker is always -1: user code must not
 * depend on where it runs; log lines carry the worker by themselves.
 */
static PyObject *
module_context(PyObject *self, PyObject *unused)
{
	const char *step = module_step();

	(void)self;
	(void)unused;
	return (Py_BuildValue("(is)", -1, step == NULL ? "" : step));
}

/* where() -> (position, key): what the call of user code works on. */
static PyObject *
module_where(PyObject *self, PyObject *unused)
{
	(void)self;
	(void)unused;
	return (Py_BuildValue("(Ky#)",
	    (unsigned long long)host_where.position,
	    host_where.key.len == 0 ? "" : (const char *)host_where.key.data,
	    (Py_ssize_t)host_where.key.len));
}

/* pause(bool): the debugger reads the real clock, the function doesn't. */
static PyObject *
module_pause(PyObject *self, PyObject *args)
{
	int pause;

	(void)self;
	if (!PyArg_ParseTuple(args, "p:pause", &pause))
		return (NULL);
	determ_pause(pause != 0);
	Py_RETURN_NONE;
}

/* replay() -> (position or None, key or None, exception) */
static PyObject *
module_replay(PyObject *self, PyObject *unused)
{
	PyObject *position;

	(void)self;
	(void)unused;
	if (host_replay.at_position)
		position = PyLong_FromUnsignedLongLong(host_replay.position);
	else
		position = (Py_INCREF(Py_None), Py_None);
	if (position == NULL)
		return (NULL);
	return (Py_BuildValue("(NNi)", position, host_replay.key == NULL ?
	    (Py_INCREF(Py_None), Py_None) : PyBytes_FromString(host_replay.key),
	    (int)host_replay.exception));
}

static PyMethodDef module_methods[] = {
	{ "log", module_log, METH_VARARGS,
	    "log(priority, stream, text): write lines to the log" },
	{ "serial", module_serial, METH_NOARGS,
	    "serial() -> number of this call of user code, 0 outside" },
	{ "seed", module_seed, METH_NOARGS,
	    "seed() -> 64-bit seed of this call of user code" },
	{ "context", module_context, METH_NOARGS,
	    "context() -> (-1, name of the step that runs)" },
	{ "where", module_where, METH_NOARGS,
	    "where() -> (position, key) of the record at work" },
	{ "pause", module_pause, METH_VARARGS,
	    "pause(bool): real clock and randomness, in a replay only" },
	{ "replay", module_replay, METH_NOARGS,
	    "replay() -> (position, key, exception) at which to stop" },
	{ NULL, NULL, 0, NULL }
};

static struct PyModuleDef module_def = {
	PyModuleDef_HEAD_INIT, "_wallaroo_host",
	"What the worker offers to the Python runtime.", -1, module_methods,
	NULL, NULL, NULL, NULL
};

PyMODINIT_FUNC
PyInit__wallaroo_host(void)
{
	return (PyModule_Create(&module_def));
}

/* True for a frame of ours or of the import machinery. */
static bool
module_is_inner(const struct host_app *app, PyObject *tb)
{
	PyObject *frame, *code = NULL, *file = NULL;
	const char *name = NULL;
	size_t n = app->package == NULL ? 0 : strlen(app->package);
	bool inner;

	frame = PyObject_GetAttrString(tb, "tb_frame");
	if (frame != NULL)
		code = PyObject_GetAttrString(frame, "f_code");
	if (code != NULL)
		file = PyObject_GetAttrString(code, "co_filename");
	if (file != NULL)
		name = PyUnicode_AsUTF8(file);	/* borrowed from file */
	inner = name != NULL && ((n > 0 &&
	    strncmp(name, app->package, n) == 0 &&
	    strncmp(name + n, "/wallaroo/", 10) == 0) ||
	    strncmp(name, "<frozen importlib", 17) == 0 ||
	    strstr(name, "/importlib/__init__.py") != NULL);
	py_err_drop();
	Py_XDECREF(file);
	Py_XDECREF(code);
	Py_XDECREF(frame);
	return (inner);
}

/*
 * The part of a traceback that begins in the user's code: new reference, or
 * NULL when nothing of it does.  Takes the reference it is given.
 */
static PyObject *
module_user_frames(const struct host_app *app, PyObject *tb)
{
	PyObject *next;

	while (tb != NULL && tb != Py_None && module_is_inner(app, tb)) {
		next = PyObject_GetAttrString(tb, "tb_next");
		Py_DECREF(tb);
		tb = next;
	}
	if (tb == NULL)
		py_err_drop();
	if (tb == Py_None)
		Py_CLEAR(tb);
	return (tb);
}

/* The lines that traceback.format_exception gives, joined; new or NULL. */
static PyObject *
module_format(struct host_app *app, PyObject *type, PyObject *value,
    PyObject *tb)
{
	PyObject *lines, *empty, *text = NULL;

	if (app->format == NULL)
		return (NULL);
	lines = PyObject_CallFunctionObjArgs(app->format, type,
	    value == NULL ? Py_None : value, tb == NULL ? Py_None : tb, NULL);
	empty = PyUnicode_FromString("");
	if (lines != NULL && empty != NULL)
		text = PyUnicode_Join(empty, lines);
	Py_XDECREF(empty);
	Py_XDECREF(lines);
	if (text != NULL) {
		lines = PyUnicode_AsEncodedString(text, "utf-8",
		    "backslashreplace");
		Py_DECREF(text);
		text = lines;
	}
	if (text == NULL)
		py_err_drop();
	return (text);
}

/*
 * Only the type's name, for exceptions that cannot even be formatted, since
 * memory or the stack is used up.
 */
static char *
module_type_name(PyObject *type)
{
	if (type != NULL && PyType_Check(type))
		return (xasprintf("%s: (its traceback could not be made)",
		    ((PyTypeObject *)type)->tp_name));
	return (xstrdup("an exception of unknown type"));
}

/* A copy as a C string; a NUL byte, which may be in a message, as "?". */
static char *
module_text(PyObject *bytes)
{
	size_t i, n = (size_t)PyBytes_GET_SIZE(bytes);
	char *text = xmalloc(n + 1);

	memcpy(text, PyBytes_AS_STRING(bytes), n);
	for (i = 0; i < n; i++)
		if (text[i] == '\0')
			text[i] = '?';
	text[n] = '\0';
	return (text);
}

char *
py_err_text(struct host_app *app)
{
	PyObject *type, *value, *tb, *bytes;
	char *text;
	size_t n;

	PyErr_Fetch(&type, &value, &tb);
	PyErr_NormalizeException(&type, &value, &tb);
	tb = module_user_frames(app, tb);
	bytes = module_format(app, type, value, tb);
	text = bytes == NULL ? module_type_name(type) : module_text(bytes);
	Py_XDECREF(bytes);
	/* Not only released: a frame would keep the values it works on. */
	if (value != NULL && PyExceptionInstance_Check(value))
		(void)PyException_SetTraceback(value, Py_None);
	Py_XDECREF(tb);
	Py_XDECREF(value);
	Py_XDECREF(type);
	py_err_drop();
	for (n = strlen(text); n > 0 && text[n - 1] == '\n'; n--)
		text[n - 1] = '\0';
	return (text);
}

/*
 * Fit a traceback into struct err: of its last line the beginning, of the
 * lines before as many as fit, the last ones first.
 */
static void
module_fit(struct buf *b, const char *text)
{
	static const char gap[] = "  ...\n";
	const char *last, *p, *first;
	size_t n, room;

	n = strlen(text);
	if (n <= MODULE_TEXT) {
		buf_add(b, text, n);
		return;
	}
	last = strrchr(text, '\n');
	last = last == NULL ? text : last + 1;
	n = module_cut(last, strlen(last), MODULE_LAST);
	first = strchr(text, '\n');
	if (first != NULL && first < last &&
	    (size_t)(first + 1 - text) < MODULE_TEXT / 4) {
		first++;
		room = MODULE_TEXT - n - sizeof(gap) - (size_t)(first - text);
		p = (size_t)(last - first) > room ? last - room : first;
		if (p > first) {
			p = strchr(p, '\n');	/* last[-1] is one */
			p++;
		}
		buf_add(b, text, (size_t)(first - text));
		if (p > first)
			buf_add(b, gap, sizeof(gap) - 1);
		buf_add(b, p, (size_t)(last - p));
	}
	buf_add(b, last, n);
	if (last[n] != '\0')
		buf_add(b, "...", 3);
}

int
py_err_take(struct host_app *app, struct err *err, enum err_code code)
{
	struct buf b;
	char *text;

	buf_init(&b);
	text = py_err_text(app);
	module_fit(&b, text);
	(void)err_set(err, code, "%s", buf_str(&b));
	free(text);
	buf_fini(&b);
	return (-1);
}
