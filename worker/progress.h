/*
 * How far event time has come, place by place, and which sources have ended.
 *
 * A source says what it still may give; an exchange passes that on between
 * workers, as a mark behind the records that it is true for; a stage that
 * holds something back, a window, says it when what it held is out.  The end
 * of a source is a mark like others, and is the only one where no source has
 * event times.
 *
 * Marks are compared and said in ticks only, so they are a function of the
 * journal.  One thread.
 */
#ifndef WORKER_PROGRESS_H
#define WORKER_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/mp.h"

struct automaton;

/* The watermark of what has ended. */
#define REACH_ENDLESS	UINT64_MAX
/* In a checkpoint. */
#define PROGRESS_FIELDS	7

enum reach_status {
	REACH_LIVE,		/* nothing older than the watermark comes */
	REACH_AWAY,		/* nobody is there: do not wait for it */
	REACH_IDLE,		/* the same, and what waits may go on */
	REACH_ENDED,		/* nothing comes any more */
	REACH_STATUSES
};

struct reach {
	enum reach_status	 status;
	uint64_t		 watermark;
};

/* One ordered stream of a source: a client connection, or all of a file. */
struct part {
	uint64_t	 watermark;	/* by which its records are late */
	uint64_t	 heard_ns;	/* when its last one came, or it did */
};

struct progress {
	struct reach	*heard;		/* [exchange * workers + w] */
	struct reach	*said;		/* [exchange]: by this worker */
	struct reach	*at;		/* [nstages]: what comes to a stage */
	uint32_t	*order;		/* [nstages]: each before its next */
	bool		 dirty;		/* a tick may find something */
	bool		 urgent;	/* ... and is wanted at once */
	bool		 ended;		/* nothing more comes to the sinks */
	uint64_t	 said_ns;	/* when all had been said */
	uint64_t	 idle_ns;	/* when a source may fall idle next,
					   UINT64_MAX: none does */
};

void	 progress_init(struct automaton *);
void	 progress_fini(struct progress *);

/* What several ways to one place have in common. */
struct reach reach_join(struct reach, struct reach);
/* A mark never takes back what it said, but that something has ended: what is
 * at its end may be given a new beginning. */
void	 reach_raise(struct reach *, struct reach);

/* When a tick is wanted, 0: at once, UINT64_MAX: for nothing. */
uint64_t progress_tick(const struct automaton *);
/* A record with this time came to part p of the source whose event times are
 * given by `stage`.  Returns the watermark that it came too late for, if it
 * did. */
uint64_t progress_event(struct automaton *, int stage, struct part *,
	    uint64_t time_ns, uint64_t now_ns);
/* Nothing comes to `part` any more, which was one of source s. */
void	 progress_part_over(struct automaton *, size_t s,
	    const struct part *part);
/* See how far everything has come at now_ns. */
void	 progress_pass(struct automaton *, uint64_t now_ns);
/* Is there something to say to the other workers?  The next exchange that
 * has, or -1. */
int	 progress_unsaid(const struct automaton *);

/* As part of the automaton's checkpoint.  whole: the numbers of exchanges and
 * workers still mean the same. */
void	 progress_pack(const struct automaton *, struct buf *);
void	 progress_unpack(struct automaton *, struct mp *, bool whole);

/* Two numbers. */
void	 part_pack(const struct part *, struct buf *);
struct part part_unpack(struct mp *);
void	 reach_pack(const struct reach *, struct buf *);
struct reach reach_unpack(struct mp *);

#endif
