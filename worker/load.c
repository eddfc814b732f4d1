/*
 * Saved keys after a start.  Recovery does not wait for all of them: how long
 * it takes would grow with their number.  Which keys there are says the file
 * alone; one that is needed and is not in memory is looked up there, and all
 * others come bit by bit between turns, when the replay is over.  Nothing but
 * absent keys is put in: what is in memory is as new, or newer.  After a clean
 * stop nobody waits for an output, and all is loaded, and checked, at once.
 *
 * Of windows all keys are loaded first, because any of them may be due.
 */
#include <inttypes.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/part.h"
#include "worker/sizes.h"
#include "worker/storeread.h"
#include "worker/worker.h"

struct row {
	struct worker	*w;
	struct err	 err;		/* of the row, not of the file */
};

static int
load_row(void *arg, size_t step, struct slice key, struct slice value)
{
	struct row *r = arg;

	return (automaton_load(&r->w->a, step, key, value, &r->err));
}

static int
load_absent(void *arg, size_t step, struct slice key, struct slice value)
{
	struct row *r = arg;

	if (keytab_find(&r->w->a.keys[step], key, part_hash(key)) != NULL)
		return (0);
	return (load_row(arg, step, key, value));
}

/* The row's error tells more than that there was one. */
static int
failed(const struct row *r, struct err *err)
{
	if (r->err.code != ERR_NONE)
		*err = r->err;
	return (-1);
}

/* A key that is needed now. */
static int
load_key(void *arg, size_t stage, struct slice key, struct err *err)
{
	struct worker *w = arg;
	struct slice value;
	int found;

	found = storeread_key(w->reading, stage, key, &value, err);
	if (found != 1)
		return (found);
	return (automaton_load(&w->a, stage, key, value, err));
}

/* Every key that was saved is in memory. */
static int
all_loaded(struct worker *w, struct err *err)
{
	uint64_t missing = 0;
	size_t i;

	load_end(w);
	for (i = 0; i < w->topo.nstages; i++) {
		missing += w->a.keys[i].left;
		w->a.keys[i].partial = false;
	}
	if (missing > 0)
		return (store_damaged(w->store.path, "keys are missing",
		    err));
	return (0);
}

/* 1: there are more. */
static int
load_some(struct worker *w, size_t most, struct err *err)
{
	struct row r = { .w = w };
	int more;

	FAULT_POINT(rows_load_before);
	more = storeread_next(w->reading, most, load_absent, &r, err);
	FAULT_POINT(rows_load_after);
	if (more == -1)
		return (failed(&r, err));
	return (more == 0 ? all_loaded(w, err) : 1);
}

/* Must all keys be there before the first event, because something may become
 * due, or go, that no event touches? */
static bool
is_whole(const struct topo_stage *st)
{
	return (stage_has_dues(st));
}

static int
load_whole(struct worker *w, struct err *err)
{
	struct row r = { .w = w };
	size_t i;

	for (i = 0; i < w->topo.nstages; i++) {
		if (!is_whole(&w->topo.stages[i]))
			continue;
		if (storeread_step(w->reading, i, load_row, &r, err) == -1)
			return (failed(&r, err));
		w->a.keys[i].partial = false;
		windows_loaded(&w->a.windows[i], w->saved_clock_ns);
	}
	return (0);
}

int
load_begin(struct worker *w, struct err *err)
{
	size_t i;

	w->a.nkeys = 0;
	for (i = 0; i < w->topo.nstages; i++) {
		if (!stage_has_state(&w->topo.stages[i]))
			continue;
		w->a.keys[i].partial = true;
		w->a.keys[i].left = w->saved_keys[i];
		w->a.nkeys += w->saved_keys[i];
		w->saved_keys[i] = 0;	/* the table counts from here on */
	}
	w->a.load_key = load_key;
	w->a.load_arg = w;
	if ((w->reading = storeread_new(&w->store, err)) == NULL ||
	    load_whole(w, err) == -1 ||
	    load_some(w, LOAD_FIRST, err) == -1)
		return (-1);
	return (0);
}

bool
load_slice(struct worker *w)
{
	uint64_t until;
	struct err err;
	int more;

	/* What is inside comes first. */
	if (w->reading == NULL || !w->ready)
		return (false);
	until = clock_mono_ns() + LOAD_NS;
	do
		more = load_some(w, LOAD_KEYS, &err);
	while (more == 1 && clock_mono_ns() < until);
	if (more == -1)
		worker_fatal_err(w, &err);
	if (more == 0)
		log_info("all keys are loaded keys=%" PRIu64, w->a.nkeys);
	return (more == 1);
}

int
load_all(struct worker *w, struct err *err)
{
	int more = w->reading != NULL;

	while (more == 1)
		more = load_some(w, SIZE_MAX, err);
	return (more);
}

void
load_end(struct worker *w)
{
	storeread_free(w->reading);
	w->reading = NULL;
}
