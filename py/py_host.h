/*
 * What the files of the Python host share.  Only they include Python.h, and
 * all of them run on the worker's one thread with the GIL held, unless said
 * otherwise.  Conventions of this directory:
 *
 *	owned		the reference is ours: Py_CLEAR it
 *	borrowed	someone else's; said in a comment where it is taken
 *	returns new	the caller owns what it gets
 *	-1 / NULL	either *err is set, or, where a function has no err,
 *			a Python exception is
 */
#ifndef PY_PY_HOST_H
#define PY_PY_HOST_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/conf.h"
#include "common/err.h"
#include "worker/host.h"

#define PY_NAMES	1024		/* entries of a name cache, 2^n */
#define PY_OTHERS	256		/* classes known not to be plain, 2^n */
#define PY_NAME_MAX	48		/* longest name in it, bytes */
#define PY_SHAPES	1024		/* places for shapes, 2^n */
#define PY_SHAPE_MAX	64		/* attributes; objects with more are
					   pickled */
#define PY_REPR_MAX	200		/* bytes of a repr */

/* A generator's position. */
struct py_cursor {
	bool		 begun;
	PyObject	*apply;		/* owned; bound to the one in use */
	PyObject	*spare;		/* owned; untouched copy, or NULL */
	PyObject	*next;		/* owned; NULL = ended or failed */
	uint64_t	 at;		/* number of the value in next */
	bool		 told;		/* of its end, scripts have been */
	struct err	*failed;	/* owned; what it raised, for good */
};

/* One function number of the topology. */
struct py_fn {
	PyObject	*call;		/* owned; what is called */
	PyObject	*factory;	/* owned or NULL; a new state */
	PyObject	*frame_len;	/* owned or NULL */
	char		*name;		/* owned; of its stage, for people */
	struct py_cursor cursor;	/* generators */
};

/* Where an attribute of __slots__ lies. */
struct py_slot {
	PyObject	*name;		/* owned */
	Py_ssize_t	 offset;
};

/*
 * A plain class: an object of it is its class and its __dict__, or its class
 * and its __slots__, and nothing else, so both can be written without pickle.
 */
struct py_class {
	PyTypeObject	*type;		/* owned */
	bool		 descriptors;	/* some would catch a setattr */
	bool		 slotted;	/* it has no __dict__, but: */
	struct py_slot	*slot;		/* owned */
	size_t		 nslots;
	uint8_t		*head;		/* owned; module and qualname as two
					   str of MessagePack */
	size_t		 head_len;
	struct py_shape	*shape;		/* most recently written; borrowed */
};

/*
 * The attributes of an object in the order in which they were set: the same
 * for most objects of a class.  What an object's bytes begin with tells its
 * shape, so who has just seen one compares bytes, and needs neither class nor
 * names.  Those in the table stay until the end.
 */
struct py_shape {
	struct py_class	*class;		/* NULL: it is not plain any more */
	PyObject	**name;		/* owned, with what is in it */
	size_t		 n;
	uint8_t		*head;		/* owned; bytes before the values */
	size_t		 head_len;
	uint64_t	 hash;		/* of head */
	bool		 stale;		/* another class has its name now */
	bool		 kept;		/* in the table */
};

struct py_codec {
	struct py_class **by_type;	/* open addressing, owns the classes */
	struct py_class **by_head;	/* the same, by their heads */
	size_t		 size;		/* of both tables, 2^n */
	size_t		 n;
	struct py_class	*last;		/* most recently read */
	struct py_shape	*shapes[PY_SHAPES]; /* owned; open addressing by head,
					   half of it is used at most */
	size_t		 nshapes;
	struct py_shape	*last_shape;	/* most recently read */
	/* Some that are not plain, only to compare with: they may be gone,
	 * and a new class in the same place is then pickled, which is never
	 * wrong. */
	const PyTypeObject *others[PY_OTHERS];
	PyObject	*attrs[PY_NAMES]; /* owned; interned names */
	PyObject	*keys[PY_NAMES]; /* owned; keys of dicts */
	PyObject	*no_args;	/* owned; () */
	PyObject	*dispatch;	/* owned; copyreg.dispatch_table */
	destructor	 dealloc;	/* of classes written in Python */
	PyObject	*dumps, *loads;	/* owned; pickle's */
	PyObject	*protocol;	/* owned; 5 */
	PyObject	*serialize;	/* owned; the user's hook or NULL */
	PyObject	*deserialize;	/* owned; likewise */
};

struct host_app {
	struct py_fn	*fn;		/* [nfn] */
	PyObject	**call;		/* [nfn] borrowed from fn: every event
					   asks for these */
	size_t		 nfn;
	int		 current;	/* fn of what is called for a state or
					   window; for a record's, determ.h */
	unsigned long	 thread;	/* the worker's */
	PyThreadState	*idle;		/* between idle_enter and _leave */
	struct py_codec	 codec;
	PyObject	*loaded;	/* owned; _runtime.Loaded */
	PyObject	*module;	/* owned; _wallaroo_host */
	PyObject	*format;	/* owned; traceback.format_exception */
	PyObject	*short_repr;	/* owned; reprlib.Repr().repr */
	char		*package;	/* owned; directory of wallaroo/ */
	bool		 initialized;	/* the interpreter is */
	bool		 machida;	/* scripts read the output */
};

/*
 * py_env.c: which files Python starts from.  The standard library is always
 * the one that belongs to libpython; an environment adds its packages.
 */
struct py_env {
	char	*home;		/* owned; libpython's prefix, or NULL */
	char	*executable;	/* owned; sys.executable, or NULL */
	char	*prefix;	/* owned; of an interpreter with packages of
				   its own that is no venv, or NULL */
};
int	 py_env_find(struct py_env *, const char *python, struct err *);
void	 py_env_fini(struct py_env *);
/* The directory that contains wallaroo/; owned by the caller. */
char	*py_env_package(struct err *);

/* py_module.c: the module _wallaroo_host and the text of exceptions. */
PyMODINIT_FUNC	 PyInit__wallaroo_host(void);
/* Whose module functions answer; NULL: nobody's. */
void	 py_module_serve(struct host_app *);
/* True when the caller is the worker's thread. */
bool	 py_on_worker_thread(const struct host_app *);
/*
 * Take the current exception (there must be one) into *err as its traceback,
 * "Type: message" last.  Clears it.  Returns -1.
 */
int	 py_err_take(struct host_app *, struct err *, enum err_code);
/* As above, as a text; owned by the caller. */
char	*py_err_text(struct host_app *);
/* An exception that is nobody's: in clean-up, and in texts for people. */
static inline void
py_err_drop(void)
{
	PyErr_Clear();
}

/* py_class.c */
int	 py_codec_open(struct py_codec *);
void	 py_codec_close(struct py_codec *);
/* A plain class; borrowed; NULL: not plain, or an exception. */
struct py_class *py_class_of(struct py_codec *, PyTypeObject *);
/*
 * The class of which these bytes are the head, that is its names; borrowed.
 * NULL: an exception, or *other is what has that name now, a new reference.
 */
struct py_class *py_class_named(struct py_codec *, struct slice head,
	    struct slice module, struct slice qualname, PyObject **other);
/*
 * The shape of an object of this class with these attributes, borrowed.  NULL:
 * names that only pickle can write.  py_shape_done() afterwards.
 */
struct py_shape *py_shape_make(struct py_codec *, struct py_class *,
	    PyObject *const *name, size_t n);
static inline struct py_shape *
py_shape_of(struct py_codec *c, struct py_class *k, PyObject *const *name,
    size_t n)
{
	struct py_shape *s = k->shape;

	if (s != NULL && s->n == n && (n == 0 || memcmp(s->name, name,
	    n * sizeof(*name)) == 0))
		return (s);
	return (py_shape_make(c, k, name, n));
}
/* The one with this head, NULL: not known yet. */
struct py_shape *py_shape_find(struct py_codec *, struct slice head);
/* A shape that was read: its names are taken.  class NULL: see there. */
struct py_shape *py_shape_read(struct py_codec *, struct py_class *,
	    PyObject **name, size_t n, struct slice head);
void	 py_shape_free(struct py_shape *);
static inline void
py_shape_done(struct py_shape *s)
{
	if (__builtin_expect(!s->kept, 0))
		py_shape_free(s);
}
/* A str of ASCII bytes from a cache; returns new; NULL: exception. */
PyObject *py_name(PyObject **cache, const uint8_t *, size_t, bool intern);

/* py_attrs.c: attributes of an object without a __dict__, in the order in
 * which they were set; borrowed, and valid until any code runs. */
struct py_attrs {
	PyObject *const	*name;		/* every second one */
	PyObject *const	*value;
	const uint8_t	*order;		/* read downwards */
	size_t		 n;
};
/* False: it has a dict, or none of this is known. */
bool	 py_attrs_of(PyObject *, struct py_attrs *);
static inline PyObject *
py_attrs_name(const struct py_attrs *a, size_t i)
{
	return (a->name[2 * *(a->order - i)]);
}
static inline PyObject *
py_attrs_value(const struct py_attrs *a, size_t i)
{
	return (a->value[*(a->order - i)]);
}

/* py_value.c */
#define PY_MARK_TUPLE	1	/* first element of an array: a tuple */
#define PY_MARK_OBJECT	2	/* ...: module, qualname, attributes; as
				   objects were written once */
#define PY_MARK_SHAPE	6	/* ...: module, qualname, names, values */
#define PY_EXT_PICKLE	3	/* XXH3 of the pickle, pickle */
#define PY_EXT_USER	4	/* what the user's serialize() gave */
#define PY_EXT_LONG	5	/* int beyond 64 bits, hexadecimal */
#define PY_EXT_STR	6	/* str with lone surrogates, surrogatepass */

int	 py_pack(struct host_app *, host_val, struct buf *, struct err *);
int	 py_unpack(struct host_app *, struct slice, host_val *, struct err *);
int	 py_state_save(struct host_app *, int, const void *, struct buf *,
	    struct err *);
int	 py_state_load(struct host_app *, int, struct slice, void **,
	    struct err *);
/* For the heads of plain objects: a str; the begin of one up to the names of
 * its class; a count of names. */
void	 py_put_str(struct buf *, const char *, size_t);
void	 py_put_shape(struct buf *, const struct py_class *, size_t n);

/* py_call.c */
int	 py_frame_len(struct host_app *, int, struct slice, uint64_t *,
	    struct err *);
int	 py_decode(struct host_app *, int, struct slice, host_val *,
	    struct err *);
int	 py_generate(struct host_app *, int, host_val *, struct err *);
int	 py_generate_seek(struct host_app *, int, uint64_t, struct err *);
int	 py_key(struct host_app *, int, host_val, struct buf *, struct err *);
int	 py_step(struct host_app *, int, bool, void *, host_val,
	    struct host_out *, struct err *);
int	 py_window(struct host_app *, int, void *, struct slice, host_val,
	    uint64_t, uint64_t, struct host_out *, struct host_window *,
	    int (*)(void *, struct err *), void *, struct err *);
int	 py_encode(struct host_app *, int, host_val, struct buf *, bool *,
	    struct err *);
int	 py_state_new(struct host_app *, int, void **, struct err *);
void	 py_free(struct host_app *, void *);
void	 py_repr(struct host_app *, const void *, struct buf *);
void	 py_cursor_fini(struct py_cursor *);
/* Function number fn; borrowed; NULL: *err is set. */
struct py_fn *py_fn_of(struct host_app *, int fn, struct err *);

#endif
