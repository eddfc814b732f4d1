/*
 * Python values as bytes and back, for other workers, checkpoints and the
 * journal.  None, bool, int, float, str, bytes, list, tuple, dict and
 * objects of plain classes are written directly as MessagePack:
 *
 *	tuple		an array whose first element is the mark TUPLE
 *	plain object	an array of the mark SHAPE, module, qualname, an array
 *			of names, and then a value for each of these, of its
 *			__dict__ or its __slots__
 *
 * Objects of a class mostly have the same attributes, so all that is in front
 * of the values is the same bytes: they are copied when an object is written,
 * and compared with those of the last one when it is read.  Older files have
 * [mark OBJECT, module, qualname, {name: value}].
 *
 * Anything else makes pickle write the value as a whole.  So does a list,
 * dict or object inside that something else refers to as well: who has it
 * twice must get it back as one, and only pickle keeps track of that.
 */
#include "py/py_host.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/part.h"

#define VALUE_DEPTH	100		/* of containers, before pickle */

/* What a packing function says. */
enum { PACK_DONE = 0, PACK_ERROR = -1, PACK_PICKLE = 1 };

struct packer {
	struct host_app	*app;
	struct buf	*b;
};

/*
 * Writing.
 */
static inline void
put_byte(struct buf *b, unsigned int v)
{
	*buf_reserve(b, 1) = (uint8_t)v;
	b->len++;
}

/* A type byte and n big-endian bytes of v. */
static inline void
put_num(struct buf *b, unsigned int type, uint64_t v, unsigned int n)
{
	uint8_t *p = buf_reserve(b, 9);

	*p++ = (uint8_t)type;
	v = __builtin_bswap64(v << (64 - 8 * n));
	memcpy(p, &v, sizeof(v));
	b->len += 1 + n;
}

static inline void
put_uint(struct buf *b, uint64_t v)
{
	if (v < 0x80)
		put_byte(b, (unsigned int)v);
	else if (v <= UINT8_MAX)
		put_num(b, 0xcc, v, 1);
	else if (v <= UINT16_MAX)
		put_num(b, 0xcd, v, 2);
	else if (v <= UINT32_MAX)
		put_num(b, 0xce, v, 4);
	else
		put_num(b, 0xcf, v, 8);
}

static inline void
put_int(struct buf *b, int64_t v)
{
	if (v >= 0)
		put_uint(b, (uint64_t)v);
	else if (v >= -32)
		put_byte(b, (unsigned int)(v & 0xff));
	else if (v >= INT8_MIN)
		put_num(b, 0xd0, (uint64_t)v, 1);
	else if (v >= INT16_MIN)
		put_num(b, 0xd1, (uint64_t)v, 2);
	else if (v >= INT32_MIN)
		put_num(b, 0xd2, (uint64_t)v, 4);
	else
		put_num(b, 0xd3, (uint64_t)v, 8);
}

/* fix: the one-byte form, up to `most` elements; then wide and wide + 1. */
static inline void
put_count(struct buf *b, unsigned int fix, unsigned int most,
    unsigned int wide, size_t n)
{
	if (n <= most)
		put_byte(b, fix | (unsigned int)n);
	else if (n <= UINT16_MAX)
		put_num(b, wide, n, 2);
	else
		put_num(b, wide + 1, n, 4);
}

void
py_put_str(struct buf *b, const char *p, size_t n)
{
	uint8_t *to;

	if (n < 32) {
		to = buf_reserve(b, n + 1);
		*to = (uint8_t)(0xa0 | n);
		memcpy(to + 1, p, n);
		b->len += n + 1;
		return;
	}
	if (n <= UINT8_MAX)
		put_num(b, 0xd9, n, 1);
	else if (n <= UINT16_MAX)
		put_num(b, 0xda, n, 2);
	else
		put_num(b, 0xdb, n, 4);
	buf_add(b, p, n);
}

static void
put_bin(struct buf *b, const void *p, size_t n)
{
	if (n <= UINT8_MAX)
		put_num(b, 0xc4, n, 1);
	else if (n <= UINT16_MAX)
		put_num(b, 0xc5, n, 2);
	else
		put_num(b, 0xc6, n, 4);
	buf_add(b, p, n);
}

static void
put_ext(struct buf *b, unsigned int type, size_t n)
{
	if (n <= UINT8_MAX)
		put_num(b, 0xc7, n, 1);
	else if (n <= UINT16_MAX)
		put_num(b, 0xc8, n, 2);
	else
		put_num(b, 0xc9, n, 4);
	put_byte(b, type);
}

static void
put_mark(struct buf *b, unsigned int mark)
{
	uint8_t *p = buf_reserve(b, 3);

	p[0] = 0xd4;			/* fixext 1 */
	p[1] = (uint8_t)mark;
	p[2] = 0;
	b->len += 3;
}

/* Lengths of MessagePack have 32 bits, and nothing useful is longer. */
static int
pack_length(Py_ssize_t n)
{
	if ((uint64_t)n < UINT32_MAX)
		return (PACK_DONE);
	PyErr_SetString(PyExc_OverflowError, "larger than 4 GiB");
	return (PACK_ERROR);
}

/* A str that is not ASCII. */
static int
pack_wide_str(struct packer *pk, PyObject *o)
{
	PyObject *bytes;
	int r;

	/* Not AsUTF8: that would keep the bytes as long as the str lives. */
	bytes = PyUnicode_AsUTF8String(o);
	if (bytes != NULL) {
		r = pack_length(PyBytes_GET_SIZE(bytes));
		if (r == PACK_DONE)
			py_put_str(pk->b, PyBytes_AS_STRING(bytes),
			    (size_t)PyBytes_GET_SIZE(bytes));
		Py_DECREF(bytes);
		return (r);
	}
	if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError))
		return (PACK_ERROR);
	py_err_drop();
	bytes = PyUnicode_AsEncodedString(o, "utf-8", "surrogatepass");
	if (bytes == NULL)
		return (PACK_ERROR);
	r = pack_length(PyBytes_GET_SIZE(bytes));
	if (r == PACK_DONE) {
		put_ext(pk->b, PY_EXT_STR, (size_t)PyBytes_GET_SIZE(bytes));
		buf_add(pk->b, PyBytes_AS_STRING(bytes),
		    (size_t)PyBytes_GET_SIZE(bytes));
	}
	Py_DECREF(bytes);
	return (r);
}

static inline int
pack_str(struct packer *pk, PyObject *o)
{
	if (!PyUnicode_IS_COMPACT_ASCII(o))
		return (pack_wide_str(pk, o));
	if (pack_length(PyUnicode_GET_LENGTH(o)) != PACK_DONE)
		return (PACK_ERROR);
	py_put_str(pk->b, (const char *)PyUnicode_1BYTE_DATA(o),
	    (size_t)PyUnicode_GET_LENGTH(o));
	return (PACK_DONE);
}

/* An int beyond 64 bits. */
static int
pack_big(struct packer *pk, PyObject *o)
{
	PyObject *hex;
	int r;

	hex = PyNumber_ToBase(o, 16);
	if (hex == NULL)
		return (PACK_ERROR);
	r = pack_length(PyUnicode_GET_LENGTH(hex));
	if (r == PACK_DONE) {
		put_ext(pk->b, PY_EXT_LONG,
		    (size_t)PyUnicode_GET_LENGTH(hex));
		buf_add(pk->b, PyUnicode_1BYTE_DATA(hex),
		    (size_t)PyUnicode_GET_LENGTH(hex));
	}
	Py_DECREF(hex);
	return (r);
}

static inline int
pack_int(struct packer *pk, PyObject *o)
{
	unsigned long long u;
	long long v;
	int over;

	v = PyLong_AsLongLongAndOverflow(o, &over);
	if (over == 0) {
		put_int(pk->b, v);
		return (PACK_DONE);
	}
	if (over > 0) {
		u = PyLong_AsUnsignedLongLong(o);
		if (!PyErr_Occurred()) {
			put_uint(pk->b, u);
			return (PACK_DONE);
		}
		py_err_drop();
	}
	return (pack_big(pk, o));
}

static int pack_container(struct packer *, PyObject *, int, bool);

/*
 * depth: containers around this one.  shared: something else refers to a
 * tuple around it.
 */
static inline int
pack_value(struct packer *pk, PyObject *o, int depth, bool shared)
{
	double d;
	uint64_t bits;
	int r;

	if (PyUnicode_CheckExact(o))
		return (pack_str(pk, o));
	if (PyLong_CheckExact(o))
		return (pack_int(pk, o));
	if (o == Py_None)
		put_byte(pk->b, 0xc0);
	else if (o == Py_True)
		put_byte(pk->b, 0xc3);
	else if (o == Py_False)
		put_byte(pk->b, 0xc2);
	else if (PyFloat_CheckExact(o)) {
		d = PyFloat_AS_DOUBLE(o);
		memcpy(&bits, &d, sizeof(bits));
		put_num(pk->b, 0xcb, bits, 8);
	} else if (PyBytes_CheckExact(o)) {
		if (pack_length(PyBytes_GET_SIZE(o)) != PACK_DONE)
			return (PACK_ERROR);
		put_bin(pk->b, PyBytes_AS_STRING(o),
		    (size_t)PyBytes_GET_SIZE(o));
	} else {
		/*
		 * Held while it is looked into: an allocation can collect
		 * garbage, and a finalizer can change any container.
		 */
		Py_INCREF(o);
		r = pack_container(pk, o, depth, shared);
		Py_DECREF(o);
		return (r);
	}
	return (PACK_DONE);
}

static int
pack_list(struct packer *pk, PyObject *o, int depth, bool shared)
{
	Py_ssize_t n = PyList_GET_SIZE(o);
	int r;

	r = pack_length(n);
	if (r == PACK_DONE)
		put_count(pk->b, 0x90, 15, 0xdc, (size_t)n);
	for (Py_ssize_t i = 0; r == PACK_DONE && i < n; i++) {
		if (i >= PyList_GET_SIZE(o))
			return (PACK_PICKLE);
		r = pack_value(pk, PyList_GET_ITEM(o, i), depth, shared);
	}
	return (r == PACK_DONE && n != PyList_GET_SIZE(o) ? PACK_PICKLE : r);
}

static int
pack_tuple(struct packer *pk, PyObject *o, int depth, bool shared)
{
	Py_ssize_t n = PyTuple_GET_SIZE(o);
	int r;

	r = pack_length(n);
	if (r == PACK_DONE) {
		put_count(pk->b, 0x90, 15, 0xdc, (size_t)n + 1);
		put_mark(pk->b, PY_MARK_TUPLE);
	}
	for (Py_ssize_t i = 0; r == PACK_DONE && i < n; i++)
		r = pack_value(pk, PyTuple_GET_ITEM(o, i), depth, shared);
	return (r);
}

/* Written without running any code: no container, not even a hook. */
static bool
is_atom(PyObject *o)
{
	return (PyUnicode_CheckExact(o) || PyLong_CheckExact(o) ||
	    o == Py_None || PyBool_Check(o) || PyFloat_CheckExact(o) ||
	    PyBytes_CheckExact(o));
}

/* Likewise, for keys: atoms, and tuples of atoms. */
static bool
is_plain_key(PyObject *o)
{
	if (is_atom(o))
		return (true);
	if (!PyTuple_CheckExact(o))
		return (false);
	for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(o); i++)
		if (!is_atom(PyTuple_GET_ITEM(o, i)))
			return (false);
	return (true);
}

static int
pack_dict(struct packer *pk, PyObject *o, int depth, bool shared)
{
	Py_ssize_t n = PyDict_GET_SIZE(o), done = 0, pos = 0;
	PyObject *key, *value;		/* borrowed */
	int r;

	r = pack_length(n);
	if (r == PACK_DONE)
		put_count(pk->b, 0x80, 15, 0xde, (size_t)n);
	while (r == PACK_DONE && PyDict_Next(o, &pos, &key, &value)) {
		if (!is_plain_key(key))
			return (PACK_PICKLE);
		r = pack_value(pk, key, depth, shared);
		if (r == PACK_DONE)
			r = pack_value(pk, value, depth, shared);
		done++;
	}
	return (r == PACK_DONE && (done != n || n != PyDict_GET_SIZE(o)) ?
	    PACK_PICKLE : r);
}

void
py_put_shape(struct buf *b, const struct py_class *k, size_t n)
{
	put_count(b, 0x90, 15, 0xdc, n + 4);
	put_mark(b, PY_MARK_SHAPE);
	buf_add(b, k->head, k->head_len);
	put_count(b, 0x90, 15, 0xdc, n);
}

/*
 * Below, an object is looked at twice: for the names of its attributes, which
 * tell its shape, then for their values.  Packing one of these may run code
 * that changes the object: then pickle shall have it, and say so or not.
 */
struct attrs {
	PyObject	*name[PY_SHAPE_MAX];	/* borrowed */
	size_t		 n;
};

/* The head of an object; NULL: pickle it. */
static inline struct py_shape *
pack_head(struct packer *pk, struct py_class *k, const struct attrs *at)
{
	struct py_shape *s;

	s = py_shape_of(&pk->app->codec, k, at->name, at->n);
	if (s != NULL)
		buf_add(pk->b, s->head, s->head_len);
	return (s);
}

/* Packing it allocates nothing, so it collects no garbage and runs no code. */
static inline bool
is_quiet(PyObject *o)
{
	return ((PyUnicode_CheckExact(o) && PyUnicode_IS_COMPACT_ASCII(o)) ||
	    (PyLong_CheckExact(o) && Py_ABS(Py_SIZE(o)) <= 2) ||
	    o == Py_None || PyBool_Check(o) || PyFloat_CheckExact(o));
}

/* The attributes of an object without a __dict__. */
static int
pack_attrs(struct packer *pk, PyObject *o, struct py_class *k,
    struct py_attrs *a, int depth)
{
	struct py_shape *s;
	struct attrs at;
	PyObject *v;
	bool changed = false, quiet;
	int r = PACK_DONE;

	if (a->n > PY_SHAPE_MAX)
		return (PACK_PICKLE);
	for (at.n = 0; at.n < a->n; at.n++)
		at.name[at.n] = py_attrs_name(a, at.n);
	if ((s = pack_head(pk, k, &at)) == NULL)
		return (PACK_PICKLE);
	for (size_t i = 0; r == PACK_DONE && !changed && i < s->n; i++) {
		v = py_attrs_value(a, i);
		quiet = is_quiet(v);
		r = pack_value(pk, v, depth, false);
		if (quiet)
			continue;
		changed = !py_attrs_of(o, a) || a->n != s->n;
		for (size_t j = i + 1; !changed && j < s->n; j++)
			changed = py_attrs_name(a, j) != s->name[j];
	}
	py_shape_done(s);
	return (r == PACK_DONE && changed ? PACK_PICKLE : r);
}

static inline PyObject *
slot_value(PyObject *o, const struct py_slot *s)
{
	PyObject *v;			/* borrowed from o */

	memcpy(&v, (const char *)o + s->offset, sizeof(v));
	return (v);
}

/* The slots of an object that are set. */
static int
pack_slots(struct packer *pk, PyObject *o, struct py_class *k, int depth)
{
	struct py_shape *s;
	struct attrs at = { .n = 0 };
	size_t i, done = 0;
	PyObject *v;
	int r = PACK_DONE;

	if (k->nslots > PY_SHAPE_MAX)
		return (PACK_PICKLE);
	for (i = 0; i < k->nslots; i++)
		if (slot_value(o, &k->slot[i]) != NULL)
			at.name[at.n++] = k->slot[i].name;
	if ((s = pack_head(pk, k, &at)) == NULL)
		return (PACK_PICKLE);
	for (i = 0; r == PACK_DONE && i < k->nslots; i++) {
		if ((v = slot_value(o, &k->slot[i])) == NULL)
			continue;
		if (done == s->n || s->name[done++] != k->slot[i].name)
			r = PACK_PICKLE;
		else
			r = pack_value(pk, v, depth, false);
	}
	if (r == PACK_DONE && done != s->n)
		r = PACK_PICKLE;
	py_shape_done(s);
	return (r);
}

/* The __dict__ of an object. */
static int
pack_members(struct packer *pk, PyObject *dict, struct py_class *k, int depth)
{
	Py_ssize_t pos = 0;
	struct py_shape *s;
	struct attrs at = { .n = 0 };
	PyObject *key, *value;		/* borrowed */
	size_t done = 0;
	int r = PACK_DONE;

	if (PyDict_GET_SIZE(dict) > PY_SHAPE_MAX)
		return (PACK_PICKLE);
	while (PyDict_Next(dict, &pos, &key, &value))
		at.name[at.n++] = key;
	if ((s = pack_head(pk, k, &at)) == NULL)
		return (PACK_PICKLE);
	pos = 0;
	while (r == PACK_DONE && PyDict_Next(dict, &pos, &key, &value))
		if (done == s->n || s->name[done++] != key)
			r = PACK_PICKLE;
		else
			r = pack_value(pk, value, depth, false);
	if (r == PACK_DONE && done != s->n)
		r = PACK_PICKLE;
	py_shape_done(s);
	return (r);
}

static int
pack_object(struct packer *pk, PyObject *o, int depth)
{
	struct py_attrs a;
	struct py_class *k;
	PyObject *dict;
	int r;

	k = py_class_of(&pk->app->codec, Py_TYPE(o));
	if (k == NULL)
		return (PyErr_Occurred() ? PACK_ERROR : PACK_PICKLE);
	if (k->slotted)
		return (pack_slots(pk, o, k, depth));
	if (py_attrs_of(o, &a))
		return (pack_attrs(pk, o, k, &a, depth));
	dict = PyObject_GenericGetDict(o, NULL);
	if (dict == NULL)
		return (PACK_ERROR);
	/* The object's reference and this one; another may change it. */
	if (!PyDict_CheckExact(dict) || Py_REFCNT(dict) > 2)
		r = PACK_PICKLE;
	else
		r = pack_members(pk, dict, k, depth);
	Py_DECREF(dict);
	return (r);
}

/* Anything that is not an atom; the caller holds one more reference. */
static int
pack_container(struct packer *pk, PyObject *o, int depth, bool shared)
{
	/* The value as a whole may have any number of owners. */
	bool many = depth > 0 && Py_REFCNT(o) > 2;

	if (depth >= VALUE_DEPTH)
		return (PACK_PICKLE);
	/* A tuple cannot change, so having two of it does no harm. */
	if (PyTuple_CheckExact(o))
		return (pack_tuple(pk, o, depth + 1, shared || many));
	if (shared || many)
		return (PACK_PICKLE);
	if (PyDict_CheckExact(o))
		return (pack_dict(pk, o, depth + 1, false));
	if (PyList_CheckExact(o))
		return (pack_list(pk, o, depth + 1, false));
	return (pack_object(pk, o, depth + 1));
}

static int
pack_by_pickle(struct packer *pk, PyObject *o)
{
	struct py_codec *c = &pk->app->codec;
	PyObject *bytes, *args[2] = { o, c->protocol };
	struct slice s;
	uint64_t sum;
	int r;

	bytes = PyObject_Vectorcall(c->dumps, args, 2, NULL);
	if (bytes == NULL)
		return (PACK_ERROR);
	s = slice_of(PyBytes_AS_STRING(bytes),
	    (size_t)PyBytes_GET_SIZE(bytes));
	r = pack_length(PyBytes_GET_SIZE(bytes));
	if (r == PACK_DONE) {
		/* So that pickle never sees what it has not written. */
		sum = part_hash(s);
		put_ext(pk->b, PY_EXT_PICKLE, sizeof(sum) + s.len);
		buf_add(pk->b, &sum, sizeof(sum));
		buf_add(pk->b, s.data, s.len);
	}
	Py_DECREF(bytes);
	return (r);
}

static int
pack_by_user(struct packer *pk, PyObject *o)
{
	PyObject *bytes;
	int r;

	bytes = PyObject_CallOneArg(pk->app->codec.serialize, o);
	if (bytes == NULL)
		return (PACK_ERROR);
	if (!PyBytes_Check(bytes)) {
		PyErr_Format(PyExc_TypeError,
		    "serialize() must return bytes, not %.200s",
		    Py_TYPE(bytes)->tp_name);
		r = PACK_ERROR;
	} else if ((r = pack_length(PyBytes_GET_SIZE(bytes))) == PACK_DONE) {
		put_ext(pk->b, PY_EXT_USER,
		    (size_t)PyBytes_GET_SIZE(bytes));
		buf_add(pk->b, PyBytes_AS_STRING(bytes),
		    (size_t)PyBytes_GET_SIZE(bytes));
	}
	Py_DECREF(bytes);
	return (r);
}

/* "module.Type", or "Type" of a builtin. */
static void
value_type_name(PyObject *o, char *to, size_t room)
{
	PyObject *module, *name;
	const char *m = NULL, *q = NULL;

	module = PyObject_GetAttrString((PyObject *)Py_TYPE(o), "__module__");
	name = PyObject_GetAttrString((PyObject *)Py_TYPE(o), "__qualname__");
	if (module != NULL && PyUnicode_Check(module))
		m = PyUnicode_AsUTF8(module);	/* borrowed from module */
	if (name != NULL && PyUnicode_Check(name))
		q = PyUnicode_AsUTF8(name);	/* borrowed from name */
	if (m == NULL || strcmp(m, "builtins") == 0)
		(void)snprintf(to, room, "%s",
		    q == NULL ? Py_TYPE(o)->tp_name : q);
	else
		(void)snprintf(to, room, "%s.%s", m,
		    q == NULL ? Py_TYPE(o)->tp_name : q);
	Py_XDECREF(name);
	Py_XDECREF(module);
	py_err_drop();
}

/* "TEXT: an object of module.Type cannot be saved", then the traceback. */
static int
pack_failed(struct host_app *app, PyObject *o, const char *what,
    struct err *err)
{
	char type[256], *text;
	struct err why;

	(void)py_err_take(app, &why, ERR_USER);
	value_type_name(o, type, sizeof(type));
	text = why.text;
	return (err_set(err, ERR_USER, "%s of type %s" ERR_UNSAVED "%.*s",
	    what, type, (int)sizeof(why.text) - 400, text));
}

static int
pack_root(struct host_app *app, PyObject *o, struct buf *b, const char *what,
    struct err *err)
{
	struct packer pk = { app, b };
	size_t start = b->len;
	int r;

	if (app->codec.serialize != NULL)
		r = pack_by_user(&pk, o);
	else {
		r = pack_value(&pk, o, 0, false);
		if (r == PACK_PICKLE) {
			b->len = start;
			r = pack_by_pickle(&pk, o);
		}
	}
	if (r == PACK_DONE)
		return (0);
	b->len = start;
	return (pack_failed(app, o, what, err));
}

/*
 * Reading.  Nothing that is read is believed: not a length, a count, a name
 * nor a depth.
 */
struct unpacker {
	struct host_app	*app;
	const uint8_t	*start;
	const uint8_t	*p;
	const uint8_t	*end;
	size_t		 budget;	/* elements that may still be claimed:
					   each takes a byte at least */
	const char	*bad;		/* what is wrong with the bytes */
};

static PyObject *unpack_value(struct unpacker *, int);

/* The bytes are not ours: NULL, no exception. */
static PyObject *
unpack_bad(struct unpacker *u, const char *why)
{
	py_err_drop();
	if (u->bad == NULL)
		u->bad = why;
	return (NULL);
}

/* A Python call failed: either the bytes' fault or the user's. */
static PyObject *
unpack_check(struct unpacker *u, PyObject *o, const char *why)
{
	return (o == NULL ? unpack_bad(u, why) : o);
}

/* n bytes, or NULL and u->bad. */
static inline const uint8_t *
take(struct unpacker *u, size_t n)
{
	const uint8_t *p = u->p;

	if (n > (size_t)(u->end - p)) {
		(void)unpack_bad(u, "cut short");
		return (NULL);
	}
	u->p += n;
	return (p);
}

/* A big-endian number of n bytes; false: cut short. */
static inline bool
take_num(struct unpacker *u, unsigned int n, uint64_t *v)
{
	const uint8_t *p = take(u, n);

	if (p == NULL)
		return (false);
	*v = 0;
	while (n-- > 0)
		*v = *v << 8 | *p++;
	return (true);
}

/* Count of elements, taken out of the budget; each needs `per` values. */
static inline bool
take_count(struct unpacker *u, uint64_t n, unsigned int per)
{
	if (n > u->budget / per) {
		(void)unpack_bad(u, "more elements than bytes");
		return (false);
	}
	u->budget -= (size_t)n * per;
	return (true);
}

static inline PyObject *
unpack_str(struct unpacker *u, uint64_t n)
{
	const uint8_t *p = take(u, n);

	return (p == NULL ? NULL : unpack_check(u, PyUnicode_DecodeUTF8(
	    (const char *)p, (Py_ssize_t)n, NULL), "str is not UTF-8"));
}

static PyObject *
unpack_bin(struct unpacker *u, uint64_t n)
{
	const uint8_t *p = take(u, n);

	return (p == NULL ? NULL :
	    PyBytes_FromStringAndSize((const char *)p, (Py_ssize_t)n));
}

static PyObject *
unpack_float(struct unpacker *u)
{
	uint64_t bits;
	double d;

	if (!take_num(u, 8, &bits))
		return (NULL);
	memcpy(&d, &bits, sizeof(d));
	return (PyFloat_FromDouble(d));
}

static PyObject *
unpack_uint(struct unpacker *u, unsigned int n)
{
	uint64_t v;

	return (take_num(u, n, &v) ? PyLong_FromUnsignedLongLong(v) : NULL);
}

static PyObject *
unpack_int(struct unpacker *u, unsigned int n)
{
	unsigned int unused = 64 - 8 * n;
	uint64_t v;

	if (!take_num(u, n, &v))
		return (NULL);
	/* Shifted up and arithmetically down again: the sign is extended. */
	return (PyLong_FromLongLong((int64_t)(v << unused) >> unused));
}

static PyObject *
unpack_list(struct unpacker *u, uint64_t n, int depth)
{
	PyObject *list, *o;

	list = PyList_New((Py_ssize_t)n);
	for (Py_ssize_t i = 0; list != NULL && i < (Py_ssize_t)n; i++) {
		o = unpack_value(u, depth);
		if (o == NULL)
			Py_CLEAR(list);
		else
			PyList_SET_ITEM(list, i, o);	/* takes it */
	}
	return (list);
}

static PyObject *
unpack_tuple(struct unpacker *u, uint64_t n, int depth)
{
	PyObject *tuple, *o;

	tuple = PyTuple_New((Py_ssize_t)n);
	for (Py_ssize_t i = 0; tuple != NULL && i < (Py_ssize_t)n; i++) {
		o = unpack_value(u, depth);
		if (o == NULL)
			Py_CLEAR(tuple);
		else
			PyTuple_SET_ITEM(tuple, i, o);	/* takes it */
	}
	return (tuple);
}

/* A short str through a cache, since names come again and again. */
static inline PyObject *
unpack_name(struct unpacker *u, PyObject **cache, bool intern, int depth)
{
	const uint8_t *p;
	size_t n;

	if (u->p >= u->end || (*u->p & 0xe0) != 0xa0)
		return (unpack_value(u, depth));
	n = *u->p++ & 0x1f;
	p = take(u, n);
	return (p == NULL ? NULL : unpack_check(u, py_name(cache, p, n,
	    intern), "str is not UTF-8"));
}

static PyObject *
unpack_dict(struct unpacker *u, uint64_t n, int depth)
{
	PyObject *dict, *key, *value;
	int r;

	dict = PyDict_New();
	for (uint64_t i = 0; dict != NULL && i < n; i++) {
		key = unpack_name(u, u->app->codec.keys, false, depth);
		value = key == NULL ? NULL : unpack_value(u, depth);
		r = -1;
		if (value != NULL && !is_plain_key(key))
			(void)unpack_bad(u, "not a key of a dict");
		else if (value != NULL)
			r = PyDict_SetItem(dict, key, value);
		Py_XDECREF(value);
		Py_XDECREF(key);
		if (r == -1)
			Py_CLEAR(dict);
	}
	return (dict);
}

/* -1: exception.  dict NULL: it may have none. */
static inline int
set_attr(PyObject *o, PyObject *dict, PyObject *name, PyObject *value)
{
	return (dict != NULL ? PyDict_SetItem(dict, name, value) :
	    PyObject_GenericSetAttr(o, name, value));
}

/* One attribute; -1: u->bad or exception. */
static int
unpack_attr(struct unpacker *u, PyObject *o, PyObject *dict, int depth)
{
	PyObject *name, *value;
	int r = -1;

	name = unpack_name(u, u->app->codec.attrs, true, depth);
	value = name == NULL ? NULL : unpack_value(u, depth);
	if (value == NULL)
		;
	else if (!PyUnicode_CheckExact(name))
		(void)unpack_bad(u, "attribute without a name");
	else
		r = set_attr(o, dict, name, value);
	Py_XDECREF(value);
	Py_XDECREF(name);
	return (r);
}

/* Set an attribute past any __setattr__, as pickle does. */
static int
set_past(PyObject *o, PyObject *name, PyObject *value)
{
	PyObject *dict;
	int r;

	r = PyObject_GenericSetAttr(o, name, value);
	if (r == 0)
		return (0);
	/* A property of that name without a setter, say. */
	py_err_drop();
	dict = PyObject_GenericGetDict(o, NULL);
	if (dict != NULL)
		r = PyDict_SetItem(dict, name, value);
	Py_XDECREF(dict);
	return (r);
}

/*
 * An object of a class that was plain when it was written and is not any
 * more, after a change of the application.  What pickle would do: make it
 * with __new__, give the attributes to __setstate__ if there is one.  Takes
 * the reference to attrs, which may be NULL, as an error.
 */
static PyObject *
unpack_changed(struct unpacker *u, PyObject *class, PyObject *attrs)
{
	PyObject *o, *set = NULL, *r = NULL, *key, *value;
	PyTypeObject *type = (PyTypeObject *)class;
	Py_ssize_t pos = 0;

	if (attrs == NULL)
		return (NULL);
	if (!PyType_Check(class) || !(type->tp_flags &
	    Py_TPFLAGS_HEAPTYPE)) {
		Py_DECREF(attrs);
		return (unpack_bad(u, "object of what is no class"));
	}
	o = PyObject_CallMethod((PyObject *)type, "__new__", "O", type);
	if (o != NULL)
		set = PyObject_GetAttrString(o, "__setstate__");
	if (set != NULL)
		r = PyObject_CallOneArg(set, attrs);
	else if (o != NULL) {
		py_err_drop();
		r = Py_None;
		Py_INCREF(r);
		/* key, value: borrowed from attrs, which is ours alone */
		while (r != NULL && PyDict_Next(attrs, &pos, &key, &value))
			if (set_past(o, key, value) == -1)
				Py_CLEAR(r);
	}
	if (r == NULL)
		Py_CLEAR(o);
	Py_XDECREF(r);
	Py_XDECREF(set);
	Py_DECREF(attrs);
	return (o);
}

/* The bytes of a str, whose text is not looked at. */
static bool
take_str(struct unpacker *u, struct slice *s)
{
	uint64_t n = 0;
	uint8_t type;
	bool ok;

	if (u->p >= u->end)
		return (false);
	type = *u->p++;
	if ((type & 0xe0) == 0xa0) {
		n = type & 0x1f;
		ok = true;
	} else
		ok = type >= 0xd9 && type <= 0xdb &&
		    take_num(u, 1U << (type - 0xd9), &n);
	s->data = ok ? take(u, n) : NULL;
	s->len = n;
	return (s->data != NULL);
}

/* Number of pairs of a map. */
static bool
take_map(struct unpacker *u, uint64_t *n)
{
	uint8_t type;

	if (u->p >= u->end)
		return (false);
	type = *u->p++;
	if ((type & 0xf0) == 0x80)
		*n = type & 0x0f;
	else if ((type != 0xde && type != 0xdf) ||
	    !take_num(u, type == 0xde ? 2 : 4, n))
		return (false);
	return (take_count(u, *n, 2));
}

/* A new object of a plain class, and the dict for its attributes, or NULL if
 * they can be set; both are new references.  NULL: exception. */
static inline PyObject *
unpack_new(struct unpacker *u, const struct py_class *k, PyObject **dict)
{
	PyObject *o;

	*dict = NULL;
	o = k->type->tp_new(k->type, u->app->codec.no_args, NULL);
	if (o != NULL && k->descriptors) {
		*dict = PyObject_GenericGetDict(o, NULL);
		if (*dict == NULL)
			Py_CLEAR(o);
	}
	return (o);
}

/* An object of a plain class, from its attributes on. */
static PyObject *
unpack_plain(struct unpacker *u, const struct py_class *k, uint64_t n,
    int depth)
{
	PyObject *o, *dict;

	o = unpack_new(u, k, &dict);
	for (uint64_t i = 0; o != NULL && i < n; i++)
		if (unpack_attr(u, o, dict, depth) == -1)
			Py_CLEAR(o);
	Py_XDECREF(dict);
	return (o);
}

/* The mark OBJECT has been read. */
static PyObject *
unpack_object(struct unpacker *u, int depth)
{
	const uint8_t *names = u->p;
	struct slice module, qualname, all;
	const struct py_class *k;
	PyObject *o, *other;
	uint64_t n = 0;

	if (!take_str(u, &module) || !take_str(u, &qualname))
		return (unpack_bad(u, "object without a class"));
	all = slice_of(names, (size_t)(u->p - names));
	if (!take_map(u, &n))
		return (unpack_bad(u, "object without attributes"));
	k = py_class_named(&u->app->codec, all, module, qualname, &other);
	if (k != NULL)
		return (unpack_plain(u, k, n, depth));
	if (other == NULL)
		return (NULL);		/* it cannot be found */
	o = unpack_changed(u, other, unpack_dict(u, n, depth));
	Py_DECREF(other);
	return (o);
}

/* The number of names, which must be n. */
static bool
take_names(struct unpacker *u, uint64_t n)
{
	uint64_t m = n + 1;

	if (u->p < u->end && (*u->p & 0xf0) == 0x90)
		m = *u->p++ & 0x0f;
	else if (u->p < u->end && (*u->p == 0xdc || *u->p == 0xdd))
		(void)take_num(u, *u->p++ == 0xdc ? 2 : 4, &m);
	return (m == n);
}

/* n names from p on, which are known to be str; owned; NULL: not UTF-8. */
static PyObject **
names_of(struct unpacker *u, const uint8_t *p, size_t n)
{
	struct unpacker at = *u;
	PyObject **name = xcalloc(n + 1, sizeof(*name));
	struct slice s;

	at.p = p;
	for (size_t i = 0; i < n; i++) {
		if (take_str(&at, &s))
			name[i] = py_name(u->app->codec.attrs, s.data, s.len,
			    true);
		if (name[i] != NULL)
			continue;
		while (i-- > 0)
			Py_DECREF(name[i]);
		free(name);
		(void)unpack_bad(u, "str is not UTF-8");
		return (NULL);
	}
	return (name);
}

/*
 * A shape that is not the last one; the mark has been read.  *other: its
 * class, if that is not plain; a new reference.  NULL: u->bad or exception.
 */
static struct py_shape *
unpack_shape(struct unpacker *u, const uint8_t *head, size_t n,
    PyObject **other)
{
	struct py_codec *c = &u->app->codec;
	struct slice module, qualname, class, all, s;
	const uint8_t *first = u->p;
	struct py_shape *found;
	struct py_class *k;
	PyObject **name;

	*other = NULL;
	if (!take_str(u, &module) || !take_str(u, &qualname))
		return (unpack_bad(u, "object without a class"), NULL);
	class = slice_of(first, (size_t)(u->p - first));
	if (!take_names(u, n))
		return (unpack_bad(u, "object without attributes"), NULL);
	first = u->p;
	for (size_t i = 0; i < n; i++)
		if (!take_str(u, &s))
			return (unpack_bad(u, "attribute without a name"),
			    NULL);
	all = slice_of(head, (size_t)(u->p - head));
	if ((found = py_shape_find(c, all)) != NULL)
		return (found);
	k = py_class_named(c, class, module, qualname, other);
	if (k == NULL && *other == NULL)
		return (NULL);		/* it cannot be found */
	if ((name = names_of(u, first, n)) != NULL)
		return (py_shape_read(c, k, name, n, all));
	Py_CLEAR(*other);
	return (NULL);
}

/* The values of an object whose class is not plain any more. */
static PyObject *
unpack_other(struct unpacker *u, const struct py_shape *s, PyObject *class,
    int depth)
{
	PyObject *attrs, *value;
	int r;

	attrs = PyDict_New();
	for (size_t i = 0; attrs != NULL && i < s->n; i++) {
		value = unpack_value(u, depth);
		r = value == NULL ? -1 : PyDict_SetItem(attrs, s->name[i],
		    value);
		Py_XDECREF(value);
		if (r == -1)
			Py_CLEAR(attrs);
	}
	return (unpack_changed(u, class, attrs));
}

static PyObject *
unpack_values(struct unpacker *u, const struct py_shape *s, int depth)
{
	PyObject *o, *dict, *value;
	int r;

	o = unpack_new(u, s->class, &dict);
	for (size_t i = 0; o != NULL && i < s->n; i++) {
		value = unpack_value(u, depth);
		r = value == NULL ? -1 : set_attr(o, dict, s->name[i], value);
		Py_XDECREF(value);
		if (r == -1)
			Py_CLEAR(o);
	}
	Py_XDECREF(dict);
	return (o);
}

/* An object of n attributes; head: where it began, the mark has been read. */
static PyObject *
unpack_shaped(struct unpacker *u, const uint8_t *head, size_t n, int depth)
{
	struct py_codec *c = &u->app->codec;
	struct py_shape *s = c->last_shape;
	PyObject *other, *o;

	if (s != NULL && s->head_len <= (size_t)(u->end - head) &&
	    memcmp(s->head, head, s->head_len) == 0) {
		u->p = head + s->head_len;
		return (unpack_values(u, s, depth));
	}
	if ((s = unpack_shape(u, head, n, &other)) == NULL)
		return (NULL);
	if (s->kept)
		c->last_shape = s;
	if (s->class != NULL)
		o = unpack_values(u, s, depth);
	else
		o = unpack_other(u, s, other, depth);
	Py_XDECREF(other);
	py_shape_done(s);
	return (o);
}

/* An array: a list, unless its first element is a mark. */
static PyObject *
unpack_array(struct unpacker *u, uint64_t n, const uint8_t *head, int depth)
{
	if (!take_count(u, n, 1))
		return (NULL);
	if (n == 0 || u->end - u->p < 3 || u->p[0] != 0xd4)
		return (unpack_list(u, n, depth));
	u->p += 3;
	if (u->p[-1] != 0)
		return (unpack_bad(u, "unknown mark"));
	if (u->p[-2] == PY_MARK_TUPLE)
		return (unpack_tuple(u, n - 1, depth));
	if (u->p[-2] == PY_MARK_OBJECT && n == 4)
		return (unpack_object(u, depth));
	if (u->p[-2] == PY_MARK_SHAPE && n >= 4)
		return (unpack_shaped(u, head, (size_t)n - 4, depth));
	return (unpack_bad(u, "unknown mark"));
}

static PyObject *
unpack_pickle(struct unpacker *u, const uint8_t *p, size_t n)
{
	PyObject *view, *o;
	uint64_t sum;

	if (n < sizeof(sum))
		return (unpack_bad(u, "pickle without its checksum"));
	memcpy(&sum, p, sizeof(sum));
	p += sizeof(sum);
	n -= sizeof(sum);
	if (part_hash(slice_of(p, n)) != sum)
		return (unpack_bad(u, "checksum of a pickle"));
	view = PyBytes_FromStringAndSize((const char *)p, (Py_ssize_t)n);
	if (view == NULL)
		return (NULL);
	o = PyObject_CallOneArg(u->app->codec.loads, view);
	Py_DECREF(view);
	return (o);
}

static PyObject *
unpack_user(struct unpacker *u, const uint8_t *p, size_t n)
{
	PyObject *bytes, *o = NULL;

	if (u->app->codec.deserialize == NULL) {
		PyErr_SetString(PyExc_TypeError, "written by a serialize() "
		    "that the application does not have any more");
		return (NULL);
	}
	bytes = PyBytes_FromStringAndSize((const char *)p, (Py_ssize_t)n);
	if (bytes != NULL)
		o = PyObject_CallOneArg(u->app->codec.deserialize, bytes);
	Py_XDECREF(bytes);
	return (o);
}

static PyObject *
unpack_long(struct unpacker *u, const uint8_t *p, size_t n)
{
	PyObject *o = NULL;
	char *text, *end;

	text = xstrndup((const char *)p, n);
	if (strlen(text) == n) {
		o = PyLong_FromString(text, &end, 16);
		if (o != NULL && *end != '\0')
			Py_CLEAR(o);
	}
	free(text);
	return (unpack_check(u, o, "long int"));
}

static PyObject *
unpack_ext(struct unpacker *u, unsigned int width)
{
	const uint8_t *type, *p;
	uint64_t n;

	if (!take_num(u, width, &n) || (type = take(u, 1)) == NULL ||
	    (p = take(u, n)) == NULL)
		return (NULL);
	switch (*type) {
	case PY_EXT_PICKLE:
		return (unpack_pickle(u, p, n));
	case PY_EXT_USER:
		return (unpack_user(u, p, n));
	case PY_EXT_LONG:
		return (unpack_long(u, p, n));
	case PY_EXT_STR:
		return (unpack_check(u, PyUnicode_DecodeUTF8((const char *)p,
		    (Py_ssize_t)n, "surrogatepass"), "str"));
	default:
		return (unpack_bad(u, "unknown extension"));
	}
}

/* What has a length of 1, 2 or 4 bytes after its type. */
static PyObject *
unpack_long_form(struct unpacker *u, uint8_t type, const uint8_t *head,
    int depth)
{
	uint64_t n;

	switch (type) {
	case 0xc4: case 0xc5: case 0xc6:
		return (take_num(u, 1U << (type - 0xc4), &n) ?
		    unpack_bin(u, n) : NULL);
	case 0xc7: case 0xc8: case 0xc9:
		return (unpack_ext(u, 1U << (type - 0xc7)));
	case 0xd9: case 0xda: case 0xdb:
		return (take_num(u, 1U << (type - 0xd9), &n) ?
		    unpack_str(u, n) : NULL);
	case 0xdc: case 0xdd:
		return (take_num(u, type == 0xdc ? 2 : 4, &n) ?
		    unpack_array(u, n, head, depth) : NULL);
	case 0xde: case 0xdf:
		return (take_num(u, type == 0xde ? 2 : 4, &n) &&
		    take_count(u, n, 2) ? unpack_dict(u, n, depth) : NULL);
	default:
		return (unpack_bad(u, "unknown type"));
	}
}

static PyObject *
unpack_number(struct unpacker *u, uint8_t type)
{
	if (type == 0xcb)
		return (unpack_float(u));
	if (type <= 0xcf)
		return (unpack_uint(u, 1U << (type - 0xcc)));
	return (unpack_int(u, 1U << (type - 0xd0)));
}

/* Returns new; NULL: u->bad, or else a Python exception. */
static PyObject *
unpack_value(struct unpacker *u, int depth)
{
	const uint8_t *head = u->p;
	uint8_t type;

	if (head >= u->end)
		return (unpack_bad(u, "cut short"));
	if (depth > VALUE_DEPTH)
		return (unpack_bad(u, "too deep"));
	type = *u->p++;
	if ((type & 0xe0) == 0xa0)
		return (unpack_str(u, type & 0x1f));
	if (type < 0x80 || type >= 0xe0)
		return (PyLong_FromLong((int8_t)type));
	if ((type & 0xf0) == 0x80)
		return (take_count(u, type & 0x0f, 2) ?
		    unpack_dict(u, type & 0x0f, depth + 1) : NULL);
	if ((type & 0xf0) == 0x90)
		return (unpack_array(u, type & 0x0f, head, depth + 1));
	switch (type) {
	case 0xc0:
		Py_RETURN_NONE;
	case 0xc2:
		Py_RETURN_FALSE;
	case 0xc3:
		Py_RETURN_TRUE;
	case 0xcb: case 0xcc: case 0xcd: case 0xce: case 0xcf:
	case 0xd0: case 0xd1: case 0xd2: case 0xd3:
		return (unpack_number(u, type));
	default:
		return (unpack_long_form(u, type, head, depth + 1));
	}
}

static int
unpack_root(struct host_app *app, struct slice s, PyObject **out,
    const char *what, struct err *err)
{
	struct unpacker u = { app, s.data, s.data, NULL, s.len, NULL };
	PyObject *o;

	u.end = s.data + s.len;
	o = unpack_value(&u, 0);
	if (o != NULL && u.p != u.end) {
		Py_CLEAR(o);
		(void)unpack_bad(&u, "something follows");
	}
	if (o != NULL) {
		*out = o;
		return (0);
	}
	if (u.bad != NULL) {
		py_err_drop();
		return (err_set(err, ERR_CORRUPT, "%s: %s at byte %td of %zu",
		    what, u.bad, u.p - u.start, s.len));
	}
	(void)py_err_take(app, err, ERR_USER);
	return (err_wrap(err, "%s" ERR_UNREAD, what));
}

/*
 * The functions of the host.
 */
int
py_pack(struct host_app *app, host_val v, struct buf *b, struct err *err)
{
	return (pack_root(app, v, b, "a message", err));
}

int
py_unpack(struct host_app *app, struct slice s, host_val *out,
    struct err *err)
{
	PyObject *o;

	if (unpack_root(app, s, &o, "a message", err) == -1)
		return (-1);
	*out = o;			/* the caller's */
	return (0);
}

int
py_state_save(struct host_app *app, int fn, const void *obj, struct buf *b,
    struct err *err)
{
	const struct py_fn *f = py_fn_of(app, fn, err);
	void *o;
	int r;

	if (f == NULL)
		return (-1);
	/* The contract's const; Python counts even readers. */
	memcpy(&o, &obj, sizeof(o));
	app->current = fn;
	r = pack_root(app, o, b, "a state", err);
	app->current = -1;
	return (r == -1 ? err_wrap(err, "step \"%s\"", f->name) : 0);
}

int
py_state_load(struct host_app *app, int fn, struct slice s, void **obj,
    struct err *err)
{
	const struct py_fn *f = py_fn_of(app, fn, err);
	PyObject *o;
	int r;

	if (f == NULL)
		return (-1);
	app->current = fn;
	r = unpack_root(app, s, &o, "a state", err);
	app->current = -1;
	if (r == -1)
		return (err_wrap(err, "step \"%s\"", f->name));
	*obj = o;			/* the caller's */
	return (0);
}
