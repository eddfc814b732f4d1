/*
 * A worker as its files see it: no process, no loop, no Python.  Worker 0 of
 * two, whose application counts lines:
 *
 *	lines (TCP) → count (state) → late (windows) → tcp, dead letters
 *
 * The dead letters are worker 1's; exchange 0 is the way to them.
 */
#ifndef TESTS_UNIT_RIG_H
#define TESTS_UNIT_RIG_H

#include "worker/worker.h"

extern const struct topo rig_topo;
/* States are strings; tests replace what is to fail. */
extern struct host rig_host;

/* A new directory for the worker's files, unless there is one, and its end:
 * then dir is "" again. */
void	rig_dir_make(char *dir, size_t size);
void	rig_dir_remove(char *dir);

/* A worker as main.c leaves it to recover.c; dir is for state and runtime. */
void	rig_make(struct worker *, const char *dir);
void	rig_make_of(struct worker *, const char *dir, const struct topo *);
void	rig_machine(struct worker *);	/* its durability, right after */
/* As a kill leaves it. */
void	rig_free(struct worker *);

/* Bytes of connection 1 for the journal. */
void	rig_entry(struct journal *, const char *text);
void	rig_frame(struct outbox *, uint64_t pos, const char *text);
/* One entry comes in, is processed, and gives something to both boxes. */
void	rig_live(struct worker *, const char *text);
/* A checkpoint where it stands, with one key of `count`. */
struct store_job *rig_job(struct worker *, const char *value, bool clean);
void	rig_commit(struct worker *, struct store_job *);
void	rig_save(struct worker *, const char *value, bool clean);

/*
 * Run f in a process of its own, with a channel to a supervisor: returns its
 * exit code.  control: the messages that it sent, one after the other; text:
 * what it wrote to stderr.  Either may be NULL.
 */
int	rig_child(void (*f)(void), struct buf *control, char *text,
	    size_t size);

#endif
