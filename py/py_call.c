/*
 * Calls of user functions.  The function itself is called, with nothing of
 * ours between; its result is checked against what its kind may return.
 */
#include "py/py_host.h"

#include <stdlib.h>
#include <string.h>

#include "common/mem.h"

struct py_fn *
py_fn_of(struct host_app *app, int fn, struct err *err)
{
	if ((size_t)fn < app->nfn)	/* less than 0 is more than that */
		return (&app->fn[fn]);
	(void)err_set(err, ERR_CONFIG, "no function has number %d", fn);
	return (NULL);
}

static inline bool
is_known(struct host_app *app, int fn, struct err *err)
{
	return ((size_t)fn < app->nfn || py_fn_of(app, fn, err) != NULL);
}

/* Raise TypeError "NAME: must return WHAT, not TYPE". */
static void
call_wrong_type(const struct py_fn *f, const char *what, PyObject *got)
{
	PyErr_Format(PyExc_TypeError, "%s: must return %s, not %.200s",
	    f->name, what, got == Py_None ? "None" : Py_TYPE(got)->tp_name);
}

static void __attribute__((noinline, cold))
call_failed(struct host_app *app, struct err *err)
{
	(void)py_err_take(app, err, ERR_USER);
}

/*
 * Call f with n arguments, args[1] and so on; the place in front is lent to
 * methods, for their self.  A function that is written in Python is entered
 * without the checks and detours that others need.
 */
static inline PyObject *
enter(PyObject *f, PyObject **args, size_t n)
{
	PyObject *function;			/* borrowed from f */

	if (PyFunction_Check(f))
		return (((PyFunctionObject *)(void *)f)->vectorcall(f,
		    args + 1, n | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL));
	if (PyMethod_Check(f) && PyFunction_Check(function =
	    PyMethod_GET_FUNCTION(f))) {
		args[0] = PyMethod_GET_SELF(f);
		return (((PyFunctionObject *)(void *)function)->vectorcall(
		    function, args, n + 1, NULL));
	}
	return (PyObject_Vectorcall(f, args + 1,
	    n | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL));
}

/*
 * Call f with one argument (second NULL) or two.  Returns new; NULL: *err is
 * set.  The arguments are borrowed.
 */
static inline PyObject *
call(struct host_app *app, PyObject *f, PyObject *first, PyObject *second,
    struct err *err)
{
	PyObject *args[3] = { NULL, first, second }, *r;

	r = enter(f, args, second == NULL ? 1 : 2);
	if (__builtin_expect(r == NULL, 0))
		call_failed(app, err);
	return (r);
}

/* A str of ASCII as the bytes that it is; false: it is something else. */
static inline bool
add_ascii(struct buf *b, PyObject *o)
{
	const PyASCIIObject *s = (const PyASCIIObject *)(void *)o;

	if (!PyUnicode_CheckExact(o) || !s->state.compact || !s->state.ascii)
		return (false);
	buf_add(b, s + 1, (size_t)s->length);
	return (true);
}

static inline void
add_bytes(struct buf *b, PyObject *o)
{
	buf_add(b, PyBytes_AS_STRING(o), (size_t)PyBytes_GET_SIZE(o));
}

/* As call, with bytes for the argument. */
static PyObject *
call_bytes(struct host_app *app, PyObject *f, struct slice s,
    struct err *err)
{
	PyObject *bytes, *r;

	bytes = PyBytes_FromStringAndSize((const char *)s.data,
	    (Py_ssize_t)s.len);
	if (bytes == NULL) {
		(void)py_err_take(app, err, ERR_USER);
		return (NULL);
	}
	r = call(app, f, bytes, NULL, err);
	Py_DECREF(bytes);
	return (r);
}

int
py_frame_len(struct host_app *app, int fn, struct slice header,
    uint64_t *len, struct err *err)
{
	const struct py_fn *f = py_fn_of(app, fn, err);
	unsigned long long n = 0;
	PyObject *r;

	if (f == NULL)
		return (-1);
	if (f->frame_len == NULL)
		return (err_set(err, ERR_CONFIG, "%s has no payload_length",
		    f->name));
	r = call_bytes(app, f->frame_len, header, err);
	if (r == NULL)
		return (-1);
	if (PyLong_Check(r))
		n = PyLong_AsUnsignedLongLong(r);
	else
		call_wrong_type(f, "an int", r);
	Py_DECREF(r);
	if (PyErr_Occurred())
		return (py_err_take(app, err, ERR_USER));
	*len = n;
	return (0);
}

int
py_decode(struct host_app *app, int fn, struct slice s, host_val *out,
    struct err *err)
{
	PyObject *r;

	if (!is_known(app, fn, err))
		return (-1);
	r = call_bytes(app, app->call[fn], s, err);
	if (r == NULL)
		return (-1);
	if (r == Py_None)
		Py_CLEAR(r);
	*out = r;			/* the caller's */
	return (0);
}

/* The key is not what keys mostly are. */
static int __attribute__((noinline))
key_other(struct host_app *app, int fn, PyObject *key,
    struct buf *b, struct err *err)
{
	PyObject *text = NULL, *bytes = NULL;
	long n;
	int r = -1;

	if (PyBytes_Check(key)) {
		bytes = key;
		Py_INCREF(bytes);
	} else if (PyUnicode_Check(key)) {
		text = key;
		Py_INCREF(text);
	} else if (PyLong_Check(key)) {
		/* Out of a long's range is out of chr()'s, too. */
		n = PyLong_AsLong(key);
		if (n == -1 && PyErr_Occurred())
			py_err_drop();
		if (n < 0 || n > 0x10ffff)
			PyErr_SetString(PyExc_ValueError, "a key that is an "
			    "int must be from 0 to 0x10ffff");
		else
			text = PyUnicode_FromOrdinal((int)n);
	} else
		call_wrong_type(&app->fn[fn], "a key of type str, bytes or "
		    "int", key);
	if (text != NULL) {
		bytes = PyUnicode_AsEncodedString(text, "utf-8",
		    "surrogateescape");
		if (bytes == NULL) {
			/* Surrogates that never were bytes. */
			py_err_drop();
			bytes = PyUnicode_AsEncodedString(text, "utf-8",
			    "surrogatepass");
		}
	}
	if (bytes != NULL) {
		add_bytes(b, bytes);
		r = 0;
	} else
		(void)py_err_take(app, err, ERR_USER);
	Py_XDECREF(bytes);
	Py_XDECREF(text);
	return (r);
}

int
py_key(struct host_app *app, int fn, host_val in, struct buf *b,
    struct err *err)
{
	PyObject *key;
	int r = 0;

	if (!is_known(app, fn, err))
		return (-1);
	key = call(app, app->call[fn], in, NULL, err);
	if (key == NULL)
		return (-1);
	if (!add_ascii(b, key))
		r = key_other(app, fn, key, b, err);
	Py_DECREF(key);
	return (r);
}

/* Take what a multi function returned apart.  Takes the reference r. */
static int
step_list(struct host_app *app, int fn, PyObject *r, struct host_out *out,
    struct err *err)
{
	PyObject *o;
	int rc = 0;

	if (PyList_Check(r)) {
		for (Py_ssize_t i = 0; i < PyList_GET_SIZE(r); i++) {
			o = PyList_GET_ITEM(r, i);	/* borrowed */
			if (o == Py_None)
				continue;
			Py_INCREF(o);
			host_out_add(out, o);
		}
	} else if (r != Py_None) {
		call_wrong_type(&app->fn[fn], "a list or None", r);
		rc = py_err_take(app, err, ERR_USER);
	}
	Py_DECREF(r);
	return (rc);
}

int
py_step(struct host_app *app, int fn, bool multi, void *state, host_val in,
    struct host_out *out, struct err *err)
{
	PyObject *r;

	if (!is_known(app, fn, err))
		return (-1);
	r = call(app, app->call[fn], in, state, err);
	if (r == NULL)
		return (-1);
	if (multi)
		return (step_list(app, fn, r, out, err));
	if (r == Py_None)
		Py_DECREF(r);
	else
		host_out_add(out, r);	/* takes it */
	return (0);
}

/* --- windows ------------------------------------------------------------- */

/* Give each exception, or pair of one and the message that it is about, to
 * failed(), as if it had just been raised. */
static int
window_errors(struct host_app *app, int fn, PyObject *errors,
    struct host_window *w, int (*failed)(void *, struct err *), void *arg,
    struct err *err)
{
	PyObject *e;

	for (Py_ssize_t i = 0; i < PyList_GET_SIZE(errors); i++) {
		e = PyList_GET_ITEM(errors, i);		/* borrowed */
		w->of = NULL;
		if (PyTuple_Check(e)) {
			w->of = PyTuple_GET_ITEM(e, 1);
			e = PyTuple_GET_ITEM(e, 0);
		}
		Py_INCREF(e);
		Py_INCREF(Py_TYPE(e));
		PyErr_Restore((PyObject *)Py_TYPE(e), e,
		    PyException_GetTraceback(e));	/* takes all three */
		app->current = fn;
		(void)py_err_take(app, err, ERR_USER);
		app->current = -1;
		if (failed(arg, err) == -1)
			return (-1);
	}
	return (0);
}

/* [(output, time), ...]; -1: exception. */
static int
window_outputs(PyObject *list, struct host_out *out, struct host_window *w)
{
	PyObject *pair, *value;			/* borrowed from list */
	unsigned long long t;

	host_window_reserve(w, out->n + (size_t)PyList_GET_SIZE(list));
	for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
		pair = PyList_GET_ITEM(list, i);
		t = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(pair, 1));
		if (t == (unsigned long long)-1 && PyErr_Occurred())
			return (-1);
		w->time_ns[out->n] = t;
		value = PyTuple_GET_ITEM(pair, 0);
		Py_INCREF(value);
		host_out_add(out, value);
	}
	return (0);
}

static unsigned long long
ull(uint64_t v)
{
	return (v);
}

/* The members of a Fired, in its order; -1: exception. */
static int
window_fired(PyObject *r, struct host_out *out, struct host_window *w)
{
	long wait;

	if (!PyTuple_Check(r) || PyTuple_GET_SIZE(r) != 5 ||
	    !PyList_Check(PyTuple_GET_ITEM(r, 0)) ||
	    !PyList_Check(PyTuple_GET_ITEM(r, 2))) {
		PyErr_SetString(PyExc_TypeError, "windows gave no result");
		return (-1);
	}
	w->newest_ns = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(r, 1));
	w->due = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(r, 3));
	wait = PyLong_AsLong(PyTuple_GET_ITEM(r, 4));
	w->open = wait == 1;		/* as in _windows.Fired */
	w->rests = wait == 2;
	w->gone = wait == 3;
	if (PyErr_Occurred())
		return (-1);
	return (window_outputs(PyTuple_GET_ITEM(r, 0), out, w));
}

/* (state, key, value or None, time, watermark[, order]); returns new. */
static PyObject *
window_call(const struct py_fn *f, PyObject *state, struct slice key,
    PyObject *in, uint64_t time_ns, uint64_t watermark,
    const struct event *ev)
{
	PyObject *args[7] = { NULL, state }, *r = NULL;
	size_t n = 5;

	args[2] = PyUnicode_DecodeUTF8((const char *)key.data,
	    (Py_ssize_t)key.len, "surrogateescape");
	args[3] = in == NULL ? Py_None : in;
	args[4] = PyLong_FromUnsignedLongLong(time_ns);
	args[5] = PyLong_FromUnsignedLongLong(watermark);
	if (ev != NULL) {
		n = 6;
		args[6] = Py_BuildValue("(KKKK)", ull(ev->source),
		    ull(ev->part), ull(ev->seq), ull(ev->sub));
	}
	if (args[2] != NULL && args[4] != NULL && args[5] != NULL &&
	    (ev == NULL || args[6] != NULL))
		r = PyObject_Vectorcall(f->call, args + 1,
		    n | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
	Py_XDECREF(args[6]);
	Py_XDECREF(args[2]);
	Py_XDECREF(args[4]);
	Py_XDECREF(args[5]);
	return (r);
}

int
py_window(struct host_app *app, int fn, void *state, struct slice key,
    host_val in, uint64_t time_ns, uint64_t watermark, struct host_out *out,
    struct host_window *w, int (*failed)(void *, struct err *), void *arg,
    struct err *err)
{
	const struct py_fn *f = py_fn_of(app, fn, err);
	PyObject *r;
	int rc = -1;

	if (f == NULL)
		return (-1);
	app->current = fn;
	r = window_call(f, state, key, in, time_ns, watermark, w->event);
	w->late = r == Py_False;
	w->same = w->late || r == Py_None;
	if (w->same) {			/* the usual case */
		w->newest_ns = 0;
		rc = 0;
	} else if (r == NULL || window_fired(r, out, w) == -1)
		(void)py_err_take(app, err, ERR_USER);
	else
		rc = window_errors(app, fn, PyTuple_GET_ITEM(r, 2), w, failed,
		    arg, err);
	app->current = -1;
	Py_XDECREF(r);
	return (rc);
}

/* The output is neither bytes nor ASCII. */
static int __attribute__((noinline))
encode_other(struct host_app *app, int fn, PyObject *r,
    struct buf *b, bool *none, struct err *err)
{
	PyObject *bytes = NULL;

	*none = r == Py_None;
	if (*none)
		return (0);
	if (PyBytes_Check(r)) {
		bytes = r;
		Py_INCREF(bytes);
	} else if (PyUnicode_Check(r))
		bytes = PyUnicode_AsUTF8String(r);
	else
		call_wrong_type(&app->fn[fn], "bytes, str or None", r);
	if (bytes == NULL)
		return (py_err_take(app, err, ERR_USER));
	add_bytes(b, bytes);
	Py_DECREF(bytes);
	return (0);
}

int
py_encode(struct host_app *app, int fn, host_val in, struct buf *b,
    bool *none, struct err *err)
{
	PyObject *r;
	int rc = 0;

	if (!is_known(app, fn, err))
		return (-1);
	r = call(app, app->call[fn], in, NULL, err);
	if (r == NULL)
		return (-1);
	*none = false;
	if (PyBytes_CheckExact(r))
		add_bytes(b, r);
	else if (!add_ascii(b, r))
		rc = encode_other(app, fn, r, b, none, err);
	Py_DECREF(r);
	return (rc);
}

int
py_state_new(struct host_app *app, int fn, void **obj, struct err *err)
{
	const struct py_fn *f = py_fn_of(app, fn, err);
	PyObject *r;

	if (f == NULL)
		return (-1);
	if (f->factory == NULL)
		return (err_set(err, ERR_CONFIG, "%s has no state", f->name));
	app->current = fn;
	r = PyObject_CallNoArgs(f->factory);
	if (r == NULL)
		(void)py_err_take(app, err, ERR_USER);
	app->current = -1;
	if (r == NULL)
		return (-1);
	*obj = r;			/* the caller's */
	return (0);
}

/* Values and states alike. */
void
py_free(struct host_app *app, void *o)
{
	(void)app;
	Py_XDECREF((PyObject *)o);
}

/*
 * Generators.  apply() is called when a value is taken, before the value
 * goes anywhere: then it cannot see what later steps do to it.  What apply()
 * raises is told when the value that it should have made is asked for, and
 * from then on: there is nothing to go on from.
 */
void
py_cursor_fini(struct py_cursor *c)
{
	Py_CLEAR(c->apply);
	Py_CLEAR(c->spare);
	Py_CLEAR(c->next);
	free(c->failed);
	memset(c, 0, sizeof(*c));
}

/* Enter the value that the generator gave, or that it gave none. */
static void
cursor_set(struct py_cursor *c, PyObject *next, const struct err *why)
{
	if (next == NULL) {
		c->failed = xmalloc(sizeof(*c->failed));
		*c->failed = *why;
	} else if (next == Py_None)
		Py_CLEAR(next);
	Py_XSETREF(c->next, next);	/* takes it */
}

/* The first value of gen, which is borrowed; -1: *err is set. */
static int
cursor_begin(struct host_app *app, int fn, PyObject *gen, struct err *err)
{
	struct py_cursor *c = &app->fn[fn].cursor;
	PyObject *initial, *value = NULL;
	struct err why;

	app->current = fn;
	initial = PyObject_GetAttrString(gen, "initial_value");
	if (initial != NULL)
		Py_XSETREF(c->apply, PyObject_GetAttrString(gen, "apply"));
	if (initial != NULL && c->apply != NULL)
		value = PyObject_CallNoArgs(initial);
	if (value == NULL)
		(void)py_err_take(app, &why, ERR_USER);
	Py_XDECREF(initial);
	app->current = -1;
	c->begun = true;
	c->at = 0;
	cursor_set(c, value, &why);
	if (value != NULL)
		return (0);
	*err = why;
	return (-1);
}

/* A copy of a generator that has not run, or NULL: it cannot be copied. */
static PyObject *
cursor_copy(PyObject *gen)
{
	PyObject *copy, *deepcopy = NULL, *r = NULL;

	copy = PyImport_ImportModule("copy");
	if (copy != NULL)
		deepcopy = PyObject_GetAttrString(copy, "deepcopy");
	if (deepcopy != NULL)
		r = PyObject_CallOneArg(deepcopy, gen);
	if (r == NULL)
		py_err_drop();
	Py_XDECREF(deepcopy);
	Py_XDECREF(copy);
	return (r);
}

/* Begin for the first time: what the user made is used itself. */
static int
cursor_first(struct host_app *app, int fn, struct err *err)
{
	struct py_fn *f = &app->fn[fn];

	f->cursor.spare = cursor_copy(f->call);
	return (cursor_begin(app, fn, f->call, err));
}

/* Begin again: with a copy of the copy that was made before the first run. */
static int
cursor_again(struct host_app *app, int fn, struct err *err)
{
	struct py_cursor *c = &app->fn[fn].cursor;
	PyObject *gen = NULL;
	int r;

	free(c->failed);
	c->failed = NULL;
	if (c->spare != NULL)
		gen = cursor_copy(c->spare);
	if (gen == NULL)
		return (err_set(err, ERR_USER, "%s: this generator cannot be "
		    "copied, so it cannot begin again", app->fn[fn].name));
	r = cursor_begin(app, fn, gen, err);
	Py_DECREF(gen);
	return (r);
}

/* It gave no value: under machida3 that is a line in the output. */
static void
cursor_ended(const struct host_app *app, struct py_cursor *c)
{
	if (app->machida && !c->told)
		PySys_WriteStdout("GenSource produced a None. Stopping "
		    "GenSource.\n");
	c->told = true;
}

int
py_generate(struct host_app *app, int fn, host_val *out, struct err *err)
{
	struct py_fn *f = py_fn_of(app, fn, err);
	struct py_cursor *c;
	PyObject *value;
	struct err why;

	if (f == NULL)
		return (-1);
	c = &f->cursor;
	if (!c->begun && cursor_first(app, fn, err) == -1)
		return (-1);
	if (c->failed != NULL) {
		*err = *c->failed;
		return (-1);
	}
	value = c->next;		/* now ours */
	c->next = NULL;
	if (value != NULL) {
		app->current = fn;
		cursor_set(c, call(app, c->apply, value, NULL, &why), &why);
		app->current = -1;
		c->at++;
	} else
		cursor_ended(app, c);
	*out = value;			/* the caller's */
	return (0);
}

int
py_generate_seek(struct host_app *app, int fn, uint64_t n, struct err *err)
{
	struct py_fn *f = py_fn_of(app, fn, err);
	host_val value;
	int r = 0;

	if (f == NULL)
		return (-1);
	if (!f->cursor.begun)
		r = cursor_first(app, fn, err);
	else if (n < f->cursor.at)
		r = cursor_again(app, fn, err);
	while (r == 0 && f->cursor.at < n) {
		r = py_generate(app, fn, &value, err);
		if (r == 0 && value == NULL)
			break;		/* it ended before */
		if (r == 0)
			py_free(app, value);
	}
	return (r);
}

/*
 * Texts for people.
 */
static void
repr_add(struct buf *b, PyObject *text)
{
	const char *p;
	Py_ssize_t n;

	if (text == NULL || !PyUnicode_Check(text))
		return;
	p = PyUnicode_AsUTF8AndSize(text, &n);	/* borrowed from text */
	if (p != NULL)
		buf_add(b, p, (size_t)n);
}

static void
repr_any(struct host_app *app, PyObject *o, struct buf *b)
{
	PyObject *text;

	text = PyObject_CallOneArg(app->short_repr, o);
	if (text == NULL)
		buf_addf(b, "<%s>", Py_TYPE(o)->tp_name);
	repr_add(b, text);
	Py_XDECREF(text);
	py_err_drop();
}

/* Name(attribute=value, ...) of an object that has no repr of its own. */
static void
repr_members(struct host_app *app, PyObject *o, PyObject *dict, struct buf *b)
{
	PyObject *key, *value;		/* borrowed; held while in use */
	const char *name = strrchr(Py_TYPE(o)->tp_name, '.');
	const char *between = "";
	Py_ssize_t pos = 0;
	size_t start = b->len;

	buf_addf(b, "%s(", name == NULL ? Py_TYPE(o)->tp_name : name + 1);
	while (b->len - start < PY_REPR_MAX &&
	    PyDict_Next(dict, &pos, &key, &value)) {
		Py_INCREF(key);
		Py_INCREF(value);
		buf_addf(b, "%s", between);
		repr_add(b, key);
		buf_addf(b, "=");
		repr_any(app, value, b);
		Py_DECREF(value);
		Py_DECREF(key);
		between = ", ";
	}
	buf_addf(b, ")");
}

void
py_repr(struct host_app *app, const void *obj, struct buf *b)
{
	size_t end, start = b->len;
	PyObject *o, *dict = NULL;

	/* The contract's const; Python counts even readers. */
	memcpy(&o, &obj, sizeof(o));
	if (Py_TYPE(o)->tp_repr == PyBaseObject_Type.tp_repr)
		dict = PyObject_GenericGetDict(o, NULL);
	py_err_drop();
	if (dict != NULL)
		repr_members(app, o, dict, b);
	else
		repr_any(app, o, b);
	Py_XDECREF(dict);
	py_err_drop();
	if (b->len - start <= PY_REPR_MAX)
		return;
	end = start + PY_REPR_MAX - 3;
	while (end > start && (b->data[end] & 0xc0) == 0x80)
		end--;
	b->len = end;
	buf_add(b, "...", 3);
}
