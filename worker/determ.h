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
#include <stddef.h>
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

/* What user code of this thread sees.  A call costs three words; the rest is
 * made when somebody looks at the first clock of a call. */
struct determ {
	const struct origin *of;	/* NULL: no user code runs */
	uint64_t	serial;		/* of the call */
	int		fn;
	bool		paused;
	uint64_t	begun;		/* serial to which these belong: */
	uint64_t	time_ns;
	uint64_t	drawn;		/* random words given so far */
};
extern __thread struct determ determ
    __attribute__((visibility("hidden")));	/* no detour to it */

/* fn separates the randomness of two steps of one record; the origin stays
 * where it is until determ_leave. */
static inline void
determ_enter(const struct origin *o, int fn)
{
	determ.of = o;
	determ.fn = fn;
	determ.serial++;
}

static inline void
determ_leave(void)
{
	determ.of = NULL;
}

/* splitmix64's finalizer: every input bit reaches every output bit. */
static inline uint64_t
determ_mix(uint64_t x)
{
	x ^= x >> 30;
	x *= UINT64_C(0xbf58476d1ce4e5b9);
	x ^= x >> 27;
	x *= UINT64_C(0x94d049bb133111eb);
	return (x ^ x >> 31);
}

/* The id of child n of a record, which step fn made. */
static inline uint64_t
determ_child(const struct origin *o, int fn, uint64_t n)
{
	return (determ_mix(o->id + UINT64_C(0x9e3779b97f4a7c15) *
	    ((uint64_t)(fn + 1) << 32 ^ (n + 1))));
}

/* Whose call runs in this thread, -1: none. */
static inline int
determ_fn(void)
{
	return (determ.of == NULL ? -1 : determ.fn);
}

/* While a debugger reads the real clock; false: back to the record. */
void	determ_pause(bool);
/* For the host's random module: a number that changes with every
 * determ_enter (0 outside), and the 64-bit seed that belongs to it. */
uint64_t determ_serial(void);
uint64_t determ_seed(void);

#endif
