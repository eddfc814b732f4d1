/*
 * Group commit: a thread that syncs files, one round at a time.  It sees
 * descriptors and numbers, never live state.  A round is given with what was
 * written at that moment; when it comes back, that much survives a power loss.
 *
 * After a failure nobody knows which pages reached the disk, and the kernel
 * may say of the rest that they are clean: a mapped file is retired at once
 * (mapped.h) and the process ends.
 */
#ifndef WORKER_SYNC_H
#define WORKER_SYNC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "worker/handoff.h"

struct sync_file {
	int		 fd;		/* stays open until the round is back */
	bool		 mapped;	/* retire it when it fails */
	const char	*path;		/* borrowed, for the message */
	size_t		 sink;		/* files of sinks: its index ... */
	uint64_t	 written;	/* ... and what was written */
};

/* One round. */
struct sync_round {
	uint64_t	 tail;		/* of the journal when it began */
	bool		 boxes;		/* the outboxes are among the files */
	struct sync_file *file;		/* owned by the giver */
	size_t		 nfiles;
	/* Set by the thread. */
	bool		 ok;
	struct err	 err;
};

struct sync {
	struct handoff	 syncer;
};

int	sync_start(struct sync *, void (*notify)(void *), void *,
	    struct err *);
void	sync_give(struct sync *, struct sync_round *);	/* one at a time */
/* A finished round, back to its giver; NULL if none. */
struct sync_round *sync_take(struct sync *);
void	sync_stop(struct sync *);	/* waits for the round at work */
/* A round on this thread. */
void	sync_now(struct sync_round *);

#endif
