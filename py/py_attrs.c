/*
 * The attributes of an object that has no __dict__ yet.  CPython 3.11 keeps
 * them in an array beside the object and makes a dict only for who asks for
 * one; from then on the object is larger, and every attribute of it costs its
 * user more.  So a checkpoint, or an exchange, must not ask.  How the array
 * lies is known for the one version only; with any other the dict is used.
 */
#define Py_BUILD_CORE
#include "py/py_host.h"

#if PY_VERSION_HEX >= 0x030b0000 && PY_VERSION_HEX < 0x030c0000 &&	\
    !defined(PYPY_VERSION) && __has_include(<internal/pycore_dict.h>)
#define PY_ATTRS	1
#include <internal/pycore_dict.h>
#include <internal/pycore_object.h>
#endif

#ifdef PY_ATTRS

/* As py_attrs_name takes them. */
_Static_assert(sizeof(PyDictUnicodeEntry) == 2 * sizeof(PyObject *) &&
    offsetof(PyDictUnicodeEntry, me_key) == 0, "names of shared keys");

bool
py_attrs_of(PyObject *o, struct py_attrs *a)
{
	PyTypeObject *t = Py_TYPE(o);
	PyDictKeysObject *keys;		/* borrowed from the class */
	PyDictValues *values;		/* borrowed from the object */

	if (!(t->tp_flags & Py_TPFLAGS_MANAGED_DICT))
		return (false);
	values = *_PyObject_ValuesPointer(o);
	keys = ((PyHeapTypeObject *)(void *)t)->ht_cached_keys;
	if (values == NULL || keys == NULL || keys->dk_kind !=
	    DICT_KEYS_SPLIT)
		return (false);
	a->value = values->values;
	a->name = (PyObject *const *)(void *)DK_UNICODE_ENTRIES(keys);
	a->order = (const uint8_t *)values - 3;
	a->n = a->order[1];
	return (true);
}

#else

bool
py_attrs_of(PyObject *o, struct py_attrs *a)
{
	(void)o;
	(void)a;
	return (false);
}

#endif
