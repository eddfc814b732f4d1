/*
 * The worker's SQLite file: state rows, the automaton, and after a clean stop
 * what the outboxes still held.  A writer thread commits; it sees only the
 * bytes of a job, never live state.  Every commit compares the owner's number
 * inside the transaction, so that a process that is no longer the owner can
 * not write.
 */
#ifndef WORKER_STORE_H
#define WORKER_STORE_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "worker/handoff.h"

struct store_meta {
	bool		exists;		/* a checkpoint is there */
	bool		clean;		/* nothing is in a journal */
	uint64_t	lineage;
	uint64_t	position;
	uint64_t	commits;	/* so many, over all lives */
	uint64_t	epoch;		/* last start that opened it, 0: none */
	struct buf	automaton;	/* checkpoint.h's bytes; owned */
	uint64_t	deltas;		/* rows of `delta` */
};

/* One transaction.  Rows are added by the owner thread before it is given. */
struct store_job {
	uint64_t	position;
	uint64_t	lineage;
	uint64_t	commits;
	uint64_t	epoch;		/* 0: as it is */
	uint64_t	request;	/* of the supervisor, 0 = none */
	bool		clean;		/* nothing is left in mapped files */
	bool		sync;		/* survives power loss at once */
	bool		remake;		/* outbox rows replace the old ones */
	struct buf	automaton;
	struct buf	rows;		/* packed by store_job_row */
	struct buf	boxes;		/* packed by store_job_box */
	size_t		nrows;
	/* Set by the writer. */
	bool		ok;
	struct err	err;
};

struct store {
	sqlite3		*db;
	char		*path;
	uint64_t	 owner;
	int64_t		*step_id;	/* of topology stage i, or -1 */
	size_t		 nsteps;
	uint32_t	 worker;
	uint64_t	 delta;		/* bytes of rows not yet merged */
	uint64_t	 ndelta;	/* rows of `delta` */
	sqlite3_stmt	*put_row, *del_row, *put_delta, *put_meta;
	struct handoff	 writer;
};

/* Checksums: of meta, and of a row of state or outbox, whose number is the
 * step's or the box's. */
int64_t	store_meta_sum(const struct store_meta *, uint32_t worker);
int64_t	store_item_sum(int64_t number, struct slice, struct slice);
int	store_damaged(const char *path, const char *what, struct err *);
/* What SQLite could not do, always -1. */
int	store_db_err(const struct store *, sqlite3 *, struct err *,
	    const char *doing);
/* Every row of one row of `delta`, by the number that the file gives its
 * step. */
int	store_delta_rows(const struct store *, uint64_t sum,
	    struct slice steps, struct slice rows, int (*row)(void *,
	    int64_t step, struct slice key, struct slice value), void *,
	    struct err *);

/* Open or make the file, take ownership, read the last checkpoint.
 * steps[i] is the name of stage i with state, NULL for other stages. */
int	store_open(struct store *, const char *path, uint32_t worker,
	    const char *const *steps, size_t nsteps, struct store_meta *,
	    struct err *);
/* All state rows of known steps.  A key may come more than once: the last
 * one counts, and if that has no bytes, there is no such key. */
int	store_rows(struct store *, int (*row)(void *, size_t step,
	    struct slice key, struct slice value), void *, struct err *);
/* What was saved of outbox `box`, frame by frame: header and body. */
int	store_boxes(struct store *, int (*frame)(void *, uint32_t box,
	    struct slice head, struct slice body), void *, struct err *);

/* storejob.c */
struct store_item {		/* of job->rows, job->boxes and delta.rows */
	uint32_t	number;
	uint32_t	first;		/* bytes of key or head */
	uint32_t	second;		/* bytes of value or body */
};
/* A value of no bytes says that the key has expired. */
void	store_job_row(struct store_job *, size_t step, struct slice key,
	    struct slice value);
void	store_job_box(struct store_job *, uint32_t box, struct slice head,
	    struct slice body);
/* The item at *p, moving *p behind it; false at the end or if it is torn. */
bool	store_item_next(const uint8_t **p, const uint8_t *end,
	    struct store_item *, struct slice *first, struct slice *second);
void	store_job_free(struct store_job *);

/* Commit now, on this thread (before the writer runs, or after store_stop). */
int	store_commit(struct store *, struct store_job *, struct err *);

/* Start `epoch` has opened the file; survives power loss. */
int	store_opened(struct store *, uint64_t epoch, struct err *);

/* The writer thread.  notify runs on it when a job is done. */
int	store_start(struct store *, void (*notify)(void *), void *,
	    struct err *);
void	store_give(struct store *, struct store_job *);	/* one at a time */
/* A finished job, back to its giver; NULL if none. */
struct store_job *store_take(struct store *);
void	store_stop(struct store *);	/* waits for the job at work */
void	store_close(struct store *);

#endif
