/*
 * What the codec knows about classes: which of them are plain, and how a
 * plain one is found again; and caches of the names that values are full of.
 */
#include "py/py_host.h"

#include <stdlib.h>
#include <string.h>
#include <structmember.h>

#include "common/mem.h"
#include "common/part.h"

#define CLASS_TABLE	64		/* first size of the tables */
#define CLASS_MAX	8192		/* classes known; more are pickled */

/* Members with which a class takes its serialization into its own hands. */
static const char *const class_hooks[] = {
	"__reduce__", "__reduce_ex__", "__getstate__", "__setstate__",
	"__getnewargs__", "__getnewargs_ex__", "__new__", "__class__", NULL
};

static size_t
class_hash(const void *p, size_t n)
{
	const uint8_t *s = p;
	uint64_t h = 0xcbf29ce484222325ULL;

	for (size_t i = 0; i < n; i++)
		h = (h ^ s[i]) * 0x100000001b3ULL;
	return ((size_t)(h ^ h >> 32));
}

static size_t
class_hash_type(const PyTypeObject *t)
{
	uintptr_t x = (uintptr_t)t >> 4;

	return ((size_t)(x ^ x >> 12));
}

/* Where a class is in the table, or the free place where it belongs. */
static struct py_class **
class_slot(struct py_codec *c, const PyTypeObject *t)
{
	size_t i = class_hash_type(t) & (c->size - 1);

	while (c->by_type[i] != NULL && c->by_type[i]->type != t)
		i = (i + 1) & (c->size - 1);
	return (&c->by_type[i]);
}

static struct py_class **
class_head_slot(struct py_codec *c, struct slice head)
{
	size_t i = class_hash(head.data, head.len) & (c->size - 1);
	struct py_class *k;

	while ((k = c->by_head[i]) != NULL && (k->head_len != head.len ||
	    memcmp(k->head, head.data, head.len) != 0))
		i = (i + 1) & (c->size - 1);
	return (&c->by_head[i]);
}

static void
class_grow(struct py_codec *c)
{
	struct py_class **old = c->by_type;
	size_t n = c->size;

	free(c->by_head);
	c->size = n == 0 ? CLASS_TABLE : n * 2;
	c->by_type = xcalloc(c->size, sizeof(*c->by_type));
	c->by_head = xcalloc(c->size, sizeof(*c->by_head));
	for (size_t i = 0; i < n; i++) {
		struct py_class *k = old[i];

		if (k == NULL)
			continue;
		*class_slot(c, k->type) = k;
		*class_head_slot(c, slice_of(k->head, k->head_len)) = k;
	}
	free(old);
}

/* Empty, as `__slots__ = ()` is in mix-ins that add no members. */
static bool
class_is_empty(PyObject *slots)
{
	return (PyTuple_CheckExact(slots) && PyTuple_GET_SIZE(slots) == 0);
}

/* A slot's own descriptor, which takes what is set as it is. */
static bool
class_is_slot(PyObject *name, PyObject *member)
{
	const PyMemberDef *def;

	if (!Py_IS_TYPE(member, &PyMemberDescr_Type) ||
	    !PyUnicode_CheckExact(name) || !PyUnicode_IS_COMPACT_ASCII(name))
		return (false);
	def = ((PyMemberDescrObject *)(void *)member)->d_member;
	return (def->type == T_OBJECT_EX && def->flags == 0);
}

/*
 * Whether one class of the MRO lets its objects be plain.  descriptors is
 * set when it has a property or the like that would catch a setattr; in a
 * class of slots, where these are such, too, there must be no other.
 * -1: exception.
 */
static int
class_base_is_plain(const struct py_codec *c, PyTypeObject *t, bool slotted,
    bool *descriptors)
{
	PyObject *dict = t->tp_dict;	/* borrowed */
	PyObject *name, *member;	/* borrowed */
	const char *s;
	Py_ssize_t pos = 0;

	if (!(t->tp_flags & Py_TPFLAGS_HEAPTYPE) ||
	    t->tp_dealloc != c->dealloc || dict == NULL)
		return (0);
	while (PyDict_Next(dict, &pos, &name, &member)) {
		if (!PyUnicode_Check(name))
			continue;
		s = PyUnicode_AsUTF8(name);
		if (s == NULL)
			return (-1);
		if (strcmp(s, "__dict__") == 0 ||
		    strcmp(s, "__weakref__") == 0) {
			if (!Py_IS_TYPE(member, &PyGetSetDescr_Type))
				return (0);
			continue;
		}
		if (strcmp(s, "__slots__") == 0 && !slotted &&
		    !class_is_empty(member))
			return (0);
		for (size_t i = 0; class_hooks[i] != NULL; i++)
			if (strcmp(s, class_hooks[i]) == 0)
				return (0);
		if (Py_TYPE(member)->tp_descr_set == NULL)
			continue;
		if (slotted && !class_is_slot(name, member))
			return (0);
		*descriptors = !slotted;
	}
	return (1);
}

/* -1: exception. */
static int
class_is_plain(const struct py_codec *c, PyTypeObject *t, bool *descriptors)
{
	bool slotted = t->tp_dictoffset == 0;
	PyObject *base;			/* borrowed */
	int r;

	if (t->tp_mro == NULL || t->tp_itemsize != 0 ||
	    t->tp_new != PyBaseObject_Type.tp_new ||
	    (t->tp_flags & Py_TPFLAGS_IS_ABSTRACT))
		return (0);
	for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(t->tp_mro); i++) {
		base = PyTuple_GET_ITEM(t->tp_mro, i);
		if (base == (PyObject *)&PyBaseObject_Type)
			continue;
		if (!PyType_Check(base))
			return (0);
		r = class_base_is_plain(c, (PyTypeObject *)base, slotted,
		    descriptors);
		if (r != 1)
			return (r);
	}
	/* A reducer registered by copyreg.pickle(). */
	r = PyMapping_HasKey(c->dispatch, (PyObject *)t);
	return (r == 0);
}

/* One more slot; false: another class of the MRO has one of that name. */
static bool
class_slot_add(struct py_class *k, PyObject *name, PyObject *member)
{
	for (size_t i = 0; i < k->nslots; i++)
		if (PyUnicode_Compare(k->slot[i].name, name) == 0)
			return (false);
	k->slot = xreallocarray(k->slot, k->nslots + 1, sizeof(*k->slot));
	Py_INCREF(name);
	k->slot[k->nslots++] = (struct py_slot){ name,
	    ((PyMemberDescrObject *)(void *)member)->d_member->offset };
	return (true);
}

/* Learn where the slots of a plain class lie, those of its bases first. */
static bool
class_slots(struct py_class *k)
{
	PyObject *mro = k->type->tp_mro;	/* borrowed, with all in it */
	PyObject *base, *name, *member;
	Py_ssize_t pos;

	k->slotted = k->type->tp_dictoffset == 0;
	for (Py_ssize_t i = PyTuple_GET_SIZE(mro); k->slotted && i-- > 0; ) {
		base = PyTuple_GET_ITEM(mro, i);
		pos = 0;
		if (base == (PyObject *)&PyBaseObject_Type)
			continue;
		while (PyDict_Next(((PyTypeObject *)base)->tp_dict, &pos,
		    &name, &member))
			if (Py_IS_TYPE(member, &PyMemberDescr_Type) &&
			    !class_slot_add(k, name, member))
				return (false);
	}
	return (true);
}

/* The object that a module and a dotted name lead to; returns new. */
static PyObject *
class_find(PyObject *module, PyObject *qualname)
{
	PyObject *at, *next, *parts, *dot;

	at = PyImport_Import(module);
	dot = PyUnicode_FromString(".");
	parts = dot == NULL ? NULL : PyUnicode_Split(qualname, dot, -1);
	Py_XDECREF(dot);
	if (at != NULL) {
		/* The import gives a package's top: take what was named. */
		Py_DECREF(at);
		at = PyImport_GetModule(module);
	}
	if (parts == NULL)
		Py_CLEAR(at);
	for (Py_ssize_t i = 0; at != NULL && i < PyList_GET_SIZE(parts); i++) {
		next = PyObject_GetAttr(at, PyList_GET_ITEM(parts, i));
		Py_DECREF(at);
		at = next;
	}
	Py_XDECREF(parts);
	return (at);
}

/*
 * The names of a class, as its objects have them.  0: it is not found under
 * its own name, so pickle shall say so.
 */
static int
class_head(struct py_class *k)
{
	PyObject *module, *qualname = NULL, *found = NULL;
	const char *m = NULL, *q = NULL;
	Py_ssize_t mlen = 0, qlen = 0;
	struct buf b;
	int r = 0;

	module = PyObject_GetAttrString((PyObject *)k->type, "__module__");
	if (module != NULL)
		qualname = PyObject_GetAttrString((PyObject *)k->type,
		    "__qualname__");
	if (module == NULL || !PyUnicode_Check(module) || qualname == NULL ||
	    !PyUnicode_Check(qualname))
		goto out;
	m = PyUnicode_AsUTF8AndSize(module, &mlen);	/* borrowed */
	q = PyUnicode_AsUTF8AndSize(qualname, &qlen);	/* borrowed */
	if (m == NULL || q == NULL)
		goto out;
	found = class_find(module, qualname);
	if (found != (PyObject *)k->type)
		goto out;
	buf_init(&b);
	py_put_str(&b, m, (size_t)mlen);
	py_put_str(&b, q, (size_t)qlen);
	k->head = b.data;		/* taken */
	k->head_len = b.len;
	r = 1;
out:
	py_err_drop();
	Py_XDECREF(found);
	Py_XDECREF(qualname);
	Py_XDECREF(module);
	return (r);
}

/* Shapes of a class that had the same name are not what is read any more. */
static void
class_outdate(struct py_codec *c, const struct py_class *k)
{
	for (size_t i = 0; i < PY_SHAPES; i++) {
		struct py_shape *s = c->shapes[i];

		if (s != NULL && s->class != k && s->class->head_len ==
		    k->head_len && memcmp(s->class->head, k->head,
		    k->head_len) == 0)
			s->stale = true;
	}
	c->last_shape = NULL;
}

/* Enter a class into the tables; whoever had its name before is replaced. */
static void
class_add(struct py_codec *c, struct py_class *k)
{
	if (*class_head_slot(c, slice_of(k->head, k->head_len)) != NULL)
		class_outdate(c, k);
	if (c->n >= c->size / 2)
		class_grow(c);
	*class_slot(c, k->type) = k;
	c->n++;
	*class_head_slot(c, slice_of(k->head, k->head_len)) = k;
	c->last = NULL;
}

static void
class_free(struct py_class *k)
{
	Py_DECREF(k->type);
	for (size_t i = 0; i < k->nslots; i++)
		Py_DECREF(k->slot[i].name);
	free(k->slot);
	free(k->head);
	free(k);
}

/* Look at a class for the first time; NULL: not plain, or an exception. */
static struct py_class *
class_learn(struct py_codec *c, PyTypeObject *t)
{
	struct py_class *k;
	bool descriptors = false;

	if (c->n >= CLASS_MAX || class_is_plain(c, t, &descriptors) != 1)
		return (NULL);
	k = xcalloc(1, sizeof(*k));
	Py_INCREF(t);
	k->type = t;
	k->descriptors = descriptors;
	if (!class_slots(k) || class_head(k) == 0) {
		class_free(k);
		return (NULL);
	}
	/* Finding the name may have run code that got here as well. */
	if (*class_slot(c, t) == NULL)
		class_add(c, k);
	else
		class_free(k);
	return (*class_slot(c, t));
}

struct py_class *
py_class_of(struct py_codec *c, PyTypeObject *t)
{
	const PyTypeObject **other;
	struct py_class *k;

	k = *class_slot(c, t);
	if (k != NULL)
		return (k);
	other = &c->others[class_hash_type(t) & (PY_OTHERS - 1)];
	if (*other == t)
		return (NULL);
	k = class_learn(c, t);
	if (k == NULL && !PyErr_Occurred())
		*other = t;
	return (k);
}

struct py_class *
py_class_named(struct py_codec *c, struct slice head, struct slice module,
    struct slice qualname, PyObject **other)
{
	PyObject *m, *q = NULL, *found = NULL;
	struct py_class *k = c->last;

	*other = NULL;
	if (k != NULL && k->head_len == head.len &&
	    memcmp(k->head, head.data, head.len) == 0)
		return (k);
	k = *class_head_slot(c, head);
	if (k != NULL)
		return (c->last = k);
	m = PyUnicode_DecodeUTF8((const char *)module.data,
	    (Py_ssize_t)module.len, NULL);
	if (m != NULL)
		q = PyUnicode_DecodeUTF8((const char *)qualname.data,
		    (Py_ssize_t)qualname.len, NULL);
	if (q != NULL)
		found = class_find(m, q);
	if (found != NULL && PyType_Check(found))
		k = py_class_of(c, (PyTypeObject *)found);
	if (k == NULL && !PyErr_Occurred())
		*other = found;
	else
		Py_XDECREF(found);
	Py_XDECREF(q);
	Py_XDECREF(m);
	return (k);
}

/* --- shapes --------------------------------------------------------------- */

/* Where a shape is in the table, or the free place where it belongs. */
static struct py_shape **
shape_slot(struct py_codec *c, struct slice head, uint64_t hash)
{
	size_t i = (size_t)hash & (PY_SHAPES - 1);
	struct py_shape *s;

	while ((s = c->shapes[i]) != NULL && (s->stale || s->hash != hash ||
	    s->head_len != head.len || memcmp(s->head, head.data,
	    head.len) != 0))
		i = (i + 1) & (PY_SHAPES - 1);
	return (&c->shapes[i]);
}

struct py_shape *
py_shape_find(struct py_codec *c, struct slice head)
{
	return (*shape_slot(c, head, part_hash(head)));
}

void
py_shape_free(struct py_shape *s)
{
	for (size_t i = 0; i < s->n; i++)
		Py_DECREF(s->name[i]);
	free(s->name);
	free(s->head);
	free(s);
}

/* Takes names and head. */
static struct py_shape *
shape_new(struct py_class *k, PyObject **name, size_t n, struct buf *head)
{
	struct py_shape *s = xcalloc(1, sizeof(*s));

	s->class = k;
	s->name = name;
	s->n = n;
	s->head = head->data;
	s->head_len = head->len;
	s->hash = part_hash(buf_slice(head));
	return (s);
}

/* Into the table where there is room, and no other of the same head. */
static void
shape_keep(struct py_codec *c, struct py_shape *s)
{
	struct py_shape **slot;

	if (c->nshapes >= PY_SHAPES / 2 || s->n > PY_SHAPE_MAX)
		return;
	slot = shape_slot(c, slice_of(s->head, s->head_len), s->hash);
	if (*slot != NULL)
		return;
	*slot = s;
	s->kept = true;
	c->nshapes++;
}

/* The same names, and these very objects. */
static bool
shape_has(const struct py_shape *s, const struct py_class *k,
    PyObject *const *name, size_t n)
{
	return (s->class == k && s->n == n && (n == 0 || memcmp(s->name, name,
	    n * sizeof(*name)) == 0));
}

struct py_shape *
py_shape_make(struct py_codec *c, struct py_class *k, PyObject *const *name,
    size_t n)
{
	PyObject **names = xcalloc(n + 1, sizeof(*names));
	struct buf head = { 0 };
	struct py_shape *s;
	bool interned = true;
	size_t i;

	py_put_shape(&head, k, n);
	for (i = 0; i < n && PyUnicode_CheckExact(name[i]) &&
	    PyUnicode_IS_COMPACT_ASCII(name[i]); i++) {
		names[i] = name[i];
		Py_INCREF(names[i]);
		interned = interned && PyUnicode_CHECK_INTERNED(name[i]);
		py_put_str(&head, (const char *)PyUnicode_1BYTE_DATA(name[i]),
		    (size_t)PyUnicode_GET_LENGTH(name[i]));
	}
	s = shape_new(k, names, i, &head);
	if (i < n) {
		py_shape_free(s);
		return (NULL);
	}
	if (!interned)
		return (s);
	shape_keep(c, s);
	if (!s->kept) {
		struct py_shape *other = *shape_slot(c, buf_slice(&head),
		    s->hash);

		if (other == NULL || !shape_has(other, k, names, n))
			return (s);
		py_shape_free(s);
		s = other;
	}
	return (k->shape = s);
}

struct py_shape *
py_shape_read(struct py_codec *c, struct py_class *k, PyObject **name,
    size_t n, struct slice head)
{
	struct buf copy = { 0 };
	struct py_shape *s;

	buf_add(&copy, head.data, head.len);
	s = shape_new(k, name, n, &copy);
	if (k != NULL)
		shape_keep(c, s);
	return (s);
}

/* --- names ---------------------------------------------------------------- */

PyObject *
py_name(PyObject **cache, const uint8_t *p, size_t n, bool intern)
{
	PyObject **slot, *s;
	size_t h;

	if (n == 0 || n > PY_NAME_MAX)
		return (PyUnicode_DecodeUTF8((const char *)p, (Py_ssize_t)n,
		    NULL));
	/* Names of one program differ in length, ends or middle. */
	h = n * 0x9e3779b1U ^ (size_t)p[0] * 0x85ebca6bU ^
	    (size_t)p[n - 1] * 0xc2b2ae35U ^ (size_t)p[n / 2] * 0x27d4eb2fU ^
	    (size_t)p[n / 3] * 0x165667b1U;
	slot = &cache[(h >> 7) & (PY_NAMES - 1)];
	s = *slot;
	if (s != NULL && (size_t)PyUnicode_GET_LENGTH(s) == n &&
	    memcmp(PyUnicode_1BYTE_DATA(s), p, n) == 0) {
		Py_INCREF(s);
		return (s);
	}
	s = PyUnicode_DecodeUTF8((const char *)p, (Py_ssize_t)n, NULL);
	if (s == NULL || !PyUnicode_IS_COMPACT_ASCII(s))
		return (s);
	if (intern)
		PyUnicode_InternInPlace(&s);
	Py_XDECREF(*slot);
	Py_INCREF(s);
	*slot = s;
	return (s);
}

/* An attribute of a module; returns new; NULL: exception. */
static PyObject *
class_import(const char *module, const char *name)
{
	PyObject *m, *r = NULL;

	m = PyImport_ImportModule(module);
	if (m != NULL)
		r = PyObject_GetAttrString(m, name);
	Py_XDECREF(m);
	return (r);
}

int
py_codec_open(struct py_codec *c)
{
	PyObject *sample;

	class_grow(c);
	c->no_args = PyTuple_New(0);
	c->protocol = PyLong_FromLong(5);
	c->dumps = class_import("pickle", "dumps");
	c->loads = class_import("pickle", "loads");
	c->dispatch = class_import("copyreg", "dispatch_table");
	/* Any class that is written in Python shows how they all end. */
	sample = class_import("reprlib", "Repr");
	if (sample != NULL && PyType_Check(sample))
		c->dealloc = ((PyTypeObject *)sample)->tp_dealloc;
	Py_XDECREF(sample);
	return (c->no_args == NULL || c->protocol == NULL ||
	    c->dumps == NULL || c->loads == NULL || c->dispatch == NULL ||
	    c->dealloc == NULL ? -1 : 0);
}

void
py_codec_close(struct py_codec *c)
{
	for (size_t i = 0; i < PY_SHAPES; i++)
		if (c->shapes[i] != NULL)
			py_shape_free(c->shapes[i]);
	for (size_t i = 0; i < c->size; i++) {
		struct py_class *k = c->by_type[i];

		if (k != NULL)
			class_free(k);
	}
	free(c->by_type);
	free(c->by_head);
	for (size_t i = 0; i < PY_NAMES; i++) {
		Py_CLEAR(c->attrs[i]);
		Py_CLEAR(c->keys[i]);
	}
	Py_CLEAR(c->no_args);
	Py_CLEAR(c->dispatch);
	Py_CLEAR(c->dumps);
	Py_CLEAR(c->loads);
	Py_CLEAR(c->protocol);
	Py_CLEAR(c->serialize);
	Py_CLEAR(c->deserialize);
	memset(c, 0, sizeof(*c));
}
