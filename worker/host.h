/*
 * The whole contract between the runtime and a language.  The worker never
 * sees a PyObject; the host never sees a socket, SQLite or libev.
 *
 * Values and state objects are opaque pointers owned by the host's heap.  A
 * host_val obtained from any call below is owned by the caller and is given
 * back with val_free.  `fn` is the number that the topology gave.  All calls
 * come from one thread.  0 = done; -1 = *err is set: ERR_USER for an
 * exception of user code (text: traceback, last line last), anything else is
 * fatal.  A call that may run user code is bracketed by the worker through
 * determ.h, so clocks and randomness inside follow the record's origin.
 */
#ifndef WORKER_HOST_H
#define WORKER_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/conf.h"
#include "common/err.h"

#define HOST_ABI	3

struct host_app;			/* the host's own */
typedef void *host_val;			/* one message */

/* Outputs of one call, in order; the host appends, the worker empties. */
struct host_out {
	host_val	*val;		/* owned array of owned values */
	size_t		 n;
	size_t		 cap;
};
void	host_out_grow(struct host_out *);	/* what host_out_add calls */
static inline void
host_out_add(struct host_out *o, host_val v)	/* takes the value */
{
	if (o->n == o->cap)
		host_out_grow(o);
	o->val[o->n++] = v;
}

/*
 * Where event time is used, what a message has beside its origin.  Messages
 * are applied in the order of their event times, then of these members up to
 * sub, which don't depend on workers: windows put in order what has come to
 * them on several ways.
 */
struct event {
	uint64_t	 seen_ns;	/* watermark it was too late for */
	uint64_t	 source;	/* behind them: windows */
	uint64_t	 part;		/* connection; or hash of the key */
	uint64_t	 seq;		/* offset in that */
	uint64_t	 sub;		/* among what was made of a record,
					   up to ... */
	uint64_t	 width;		/* sub + width - 1 */
};

/* What a call of window() says besides its outputs. */
struct host_window {
	uint64_t	*time_ns;	/* owned array; of each output */
	size_t		 cap;
	uint64_t	 newest_ns;	/* end of the newest that fired, or 0 */
	uint64_t	 due;		/* the watermark that fires the next */
	bool		 open;		/* a timeout would find something */
	bool		 rests;		/* the key waits for nothing but to
					   expire */
	bool		 gone;		/* it is as if it had never been */
	bool		 same;		/* nothing fired, due is as it was,
					   and it is open */
	bool		 late;		/* so is all, and the input came too
					   late for any window */
	host_val	 of;		/* while failed() runs: what failed,
					   NULL: the input */
	/* Said to window(): the input's place in the order of event times,
	 * NULL where there are none. */
	const struct event *event;
};
/* Room for the times of so many outputs. */
void	host_window_reserve(struct host_window *, size_t);

struct host {
	const char	*name;		/* "python" */
	uint32_t	 abi;		/* HOST_ABI, or no start */

	/*
	 * Start the interpreter, import conf->module, call
	 * application_setup([module] + args).  ERR_CONFIG with everything the
	 * user needs to see on failure (traceback, SystemExit code, missing
	 * module with the path searched).  Runs user code.
	 */
	int	(*open)(struct host_app **, const struct conf_app *,
		    struct err *);
	/* Append the topology (topo.h's wire form). */
	int	(*describe)(struct host_app *, struct buf *, struct err *);

	/* Payload length for FRAMING_CUSTOM from header bytes. */
	int	(*frame_len)(struct host_app *, int fn, struct slice header,
		    uint64_t *len, struct err *);
	/* *out NULL = dropped. */
	int	(*decode)(struct host_app *, int fn, struct slice,
		    host_val *out, struct err *);
	/*
	 * Source `fn`: the next value, *out NULL = ended.  A host keeps one
	 * cursor per source; generate_seek(n) makes the next call yield value
	 * number n (from 0): fresh start, then n are generated and dropped.
	 */
	int	(*generate)(struct host_app *, int fn, host_val *out,
		    struct err *);
	int	(*generate_seek)(struct host_app *, int fn, uint64_t n,
		    struct err *);
	/* Append the key's bytes. */
	int	(*key)(struct host_app *, int fn, host_val, struct buf *,
		    struct err *);
	/*
	 * One input through computation fn; state NULL for stateless ones.
	 * multi: the function returns a list, each element an output.
	 */
	int	(*step)(struct host_app *, int fn, bool multi, void *state,
		    host_val in, struct host_out *, struct err *);
	/*
	 * One input (NULL: a timeout) to the windows of a key, which are the
	 * state.  What user code raises concerns one window or input only:
	 * failed() takes it, and the rest goes on if it returns 0.
	 */
	int	(*window)(struct host_app *, int fn, void *state,
		    struct slice key, host_val in, uint64_t time_ns,
		    uint64_t watermark, struct host_out *,
		    struct host_window *, int (*failed)(void *, struct err *),
		    void *arg, struct err *);
	/* Append bytes for a sink; *none = nothing to write. */
	int	(*encode)(struct host_app *, int fn, host_val, struct buf *,
		    bool *none, struct err *);

	/* A message as bytes for another worker, and back. */
	int	(*pack)(struct host_app *, host_val, struct buf *,
		    struct err *);
	int	(*unpack)(struct host_app *, struct slice, host_val *,
		    struct err *);
	void	(*val_free)(struct host_app *, host_val);

	/* State objects. */
	int	(*state_new)(struct host_app *, int fn, void **obj,
		    struct err *);
	int	(*state_save)(struct host_app *, int fn, const void *obj,
		    struct buf *, struct err *);
	int	(*state_load)(struct host_app *, int fn, struct slice,
		    void **obj, struct err *);
	void	(*state_free)(struct host_app *, void *obj);
	/* For people: a short repr() of value or state as UTF-8, appended. */
	void	(*repr)(struct host_app *, const void *, struct buf *);

	/* Around the loop's waiting: threads that user code started run
	 * between these two, and no other call is made. */
	void	(*idle_enter)(struct host_app *);
	void	(*idle_leave)(struct host_app *);

	/* Were files changed that the application was imported from?  The
	 * first call notes which they are; *what gets the name of one.
	 * since_ns: when open was called. */
	bool	(*changed)(struct host_app *, uint64_t since_ns,
		    struct buf *what);

	void	(*close)(struct host_app *);
};

/*
 * What user code works on: the automaton says, a host's debugger asks.  The
 * key is borrowed for the call.
 */
struct host_where {
	uint64_t	 position;
	struct slice	 key;
};
extern struct host_where host_where;

/* Where the debugger is to stop; set before open.  See replay.c. */
struct host_replay {
	bool		 on;
	bool		 at_position;
	uint64_t	 position;
	const char	*key;		/* NULL: whatever key */
	bool		 exception;
};
extern struct host_replay host_replay;

/* Where a host writes its stack when the process dies by a fault, and when it
 * gets SIGUSR2; set before open. */
extern int host_stack_fd;

extern const struct host host_python;	/* py/host_python.c */

#endif
