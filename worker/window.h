/*
 * What the automaton knows of a stage of windows, or one of timers: how far
 * event time has come, when its timeouts are, and which keys have something
 * to fire, in the order in which they do.  The windows and timers themselves
 * are the host's.
 *
 * All of it is a function of the journal, so that a replay fires the same
 * windows at the same entries.  Times are nanoseconds of the journal's clock.
 */
#ifndef WORKER_WINDOW_H
#define WORKER_WINDOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/mp.h"
#include "common/topo.h"
#include "worker/keytab.h"
#include "worker/progress.h"

/* The watermark when nobody speaks any more. */
#define WINDOW_ENDLESS	UINT64_MAX
/* In front of a key's saved windows: due, open. */
#define WINDOW_HEAD	9
/* TIMED: due when all sources have ended, and not before. */
#define WINDOW_AT_END	(UINT64_MAX - 1)
/* In a checkpoint, of a stage. */
#define WINDOWS_FIELDS	12

/* What a key waits for, and so the heap in which it is. */
enum window_wait {
	WAIT_IDLE,		/* nothing that a timeout would find; TIMED:
				   a timer */
	WAIT_OPEN,		/* a timeout may fire it; TIMED: messages wait
				   for the watermark */
	WAIT_REST		/* TIMED: only to expire, which is not at the
				   end of the sources */
};

/* A key's place in one of the heaps. */
struct wkey {
	struct kent	*e;
	uint64_t	 due;	/* RANGE: the watermark that fires it; COUNT:
				   when it began; TIMED: when it is so late */
	size_t		 i;	/* in its heap */
	enum window_wait wait;
};

struct wheap {
	struct wkey	**at;
	size_t		  n, cap;
};

/* One way on which messages come to the stage: an exchange from a worker, or
 * another stage of windows in front. */
struct wway {
	uint32_t	via;
	uint64_t	watermark;
	uint64_t	heard_ns;
};

struct windows {
	const struct topo_stage	*stage;
	struct wway	*way;
	size_t		 nways;
	uint64_t	 watermark;	/* of the stage; never goes back */
	uint64_t	 forwarded;	/* what its outputs have carried */
	uint64_t	 timer_ns;	/* next timeout, 0 = none is needed */
	bool		 firing;	/* a timeout is being worked off */
	uint64_t	 limit;		/* COUNT: keys begun up to here */
	struct wheap	 open, idle, rest;
	struct buf	 done;		/* STATE: keys up to here have had
					   their end; empty: none has */
	struct reach	 in;		/* what comes to the stage */
	struct reach	 out;		/* what leaves it: held back until
					   the windows have fired */
};

void	 windows_init(struct windows *, const struct topo_stage *);
void	 windows_fini(struct windows *);

/* A message came by `via` at now_ns; the stage's watermark with it. */
uint64_t windows_hear(struct windows *, uint32_t via, uint64_t watermark,
	    uint64_t now_ns);
/* The lowest watermark of the ways that are not silent, or ENDLESS. */
uint64_t windows_watermark(struct windows *, uint64_t now_ns);
/* What the host says of a key after a call. */
void	 windows_note(struct windows *, struct kent *, uint64_t due,
	    enum window_wait, uint64_t now_ns);
/* Nothing is known of the key any more. */
void	 windows_forget(struct windows *, struct kent *);
/* It is open, and due when it was. */
void	 windows_open(struct windows *, struct kent *, uint64_t now_ns);
/* When the first timer of a stage by processing time is due, UINT64_MAX: there
 * is none; its key. */
uint64_t windows_timer(const struct windows *, struct kent **);
/* Is a timeout due, or being worked off? */
bool	 windows_ring(struct windows *, uint64_t now_ns);
/* The next key of the timeout at work; NULL: it is done with. */
struct kent *windows_next(struct windows *, uint64_t now_ns);

/* This comes to the stage now; what leaves it. */
struct reach windows_reach(struct windows *, struct reach in);
/* The next key that fires because of what comes; NULL: there is none. */
struct kent *windows_ripe(const struct windows *);
/* Such a key of windows of event times is fired: at this watermark, which is
 * that of one window, however many are ripe. */
uint64_t windows_event(struct windows *, const struct kent *);

/* A key of a stage with a function for the end: it has a state; it has had
 * its end. */
void	 windows_state(struct windows *, struct kent *);
void	 windows_had_end(struct windows *, struct kent *);

/* In front of a saved key, and back, the newest last.  take: -1 if it cannot
 * be. */
void	 windows_put_head(const struct kent *, struct buf *);
int	 windows_take_head(struct windows *, struct kent *, struct slice *);
void	 windows_free_key(struct kent *);

/* As part of the automaton's checkpoint.  ways: whether their numbers still
 * mean the same. */
void	 windows_pack(const struct windows *, struct buf *);
void	 windows_unpack(struct windows *, struct mp *, bool ways);
/* After all keys have come: keys that wait have a timeout. */
void	 windows_loaded(struct windows *, uint64_t now_ns);

#endif
