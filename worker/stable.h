/*
 * The stable position of a worker: everything before it survives the loss of
 * its machine's power, wherever it came from.
 *
 *	stable = the end of the last entry such that it and all before it are
 *	synced here, and each frame among them is stable at its sender.
 *
 * Senders announce their positions.  A cursor goes through the journal and
 * stops at the first frame that has to wait, so the memory is one number and
 * one mark for each channel, whatever is under way.  Positions of senders
 * only grow and a frame was made before it was journaled, so two workers
 * never wait for each other: the oldest entry that waits has what it waits
 * for before it.
 *
 * No I/O; reads entries of journal.h.
 */
#ifndef WORKER_STABLE_H
#define WORKER_STABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "worker/automaton.h"
#include "worker/journal.h"

struct stable {
	uint32_t	 workers;
	uint32_t	 exchanges;
	uint64_t	 pos;		/* the stable position */
	uint64_t	 synced;	/* of the journal, here */
	struct sender {
		uint64_t lineage;	/* 0: has not said hello */
		uint64_t pos;		/* what it announced */
	} *sender;			/* [workers] */
	struct mark	*safe;		/* [exchange * workers + worker]: what
					   may be acknowledged */
};

/* From a checkpoint: the entry it is in, and its marks. */
void	stable_init(struct stable *, uint32_t workers, uint32_t exchanges,
	    uint64_t entry, const struct mark *marks);
void	stable_fini(struct stable *);
/* Sender w is of this lineage. */
void	stable_hello(struct stable *, uint32_t w, uint64_t lineage);
/* It announces; positions that go back are not believed. */
void	stable_heard(struct stable *, uint32_t w, uint64_t pos);
/* What was journaled up to pos is synced. */
void	stable_synced(struct stable *, uint64_t pos);
/* Go on as far as it goes; passed() is called for each frame that became
 * stable.  True: the position has moved. */
bool	stable_scan(struct stable *, const struct journal *,
	    void (*passed)(void *, uint32_t exchange, uint32_t worker),
	    void *arg);
/*
 * Where a journal ends if those of others do at the given positions: before
 * the first frame, from `from` on, whose stamp lies above its sender's.
 */
struct cut {
	uint64_t	lineage;
	uint64_t	pos;
};
uint64_t stable_cutoff(const struct journal *, uint64_t from,
	    const struct cut *cuts, uint32_t workers);

#endif
