/*
 * Determinism inside user code.  The worker's executable defines
 * clock_gettime, gettimeofday, time and getrandom ahead of libc (libpython
 * calls those); between determ_enter and determ_leave they answer from the
 * record's origin, elsewhere they are real.  Waits with a deadline are
 * translated, so that they last as long as was asked.  One thread at a time:
 * other threads of the process always get real values.
 */
#ifndef WORKER_DETERM_H
#define WORKER_DETERM_H

#include <stdbool.h>
#include <stdint.h>

/* What a record inherits from where it came in: the same on every worker
 * count and in every replay. */
struct origin {
	uint64_t	time_ns;	/* when its source journaled it */
	uint64_t	id;		/* hash of source, position, path */
	/* Not for user code, but for windows: see window.h. */
	uint64_t	watermark;	/* what comes with it is not older */
	uint32_t	via;		/* the way on which it comes */
	uint64_t	event_ns;	/* the time in its data, 0: none yet */
};

/* What user code of this thread sees; inside: it runs. */
struct determ {
	int		inside;
	int		fn;
	uint64_t	time_ns;
	uint64_t	id;
	uint64_t	drawn;		/* random words given so far */
	uint64_t	serial;
};
extern __thread struct determ determ
    __attribute__((visibility("hidden")));	/* no detour to it */

/* fn separates the randomness of two steps of one record. */
static inline void
determ_enter(const struct origin *o, int fn)
{
	determ.time_ns = o->time_ns;
	determ.id = o->id;
	determ.fn = fn;
	determ.drawn = 0;
	determ.inside = 1;
	determ.serial++;
}

static inline void
determ_leave(void)
{
	determ.inside = 0;
}

/* While a debugger reads the real clock; false: back to the record. */
void	determ_pause(bool);
/* The id of child n of a record, which step fn made. */
uint64_t determ_child(const struct origin *, int fn, uint64_t n);
/* For the host's random module: a number that changes with every
 * determ_enter (0 outside), and the 64-bit seed that belongs to it. */
uint64_t determ_serial(void);
uint64_t determ_seed(void);

#endif
