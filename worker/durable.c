/*
 * durability = machine, and outputs = after-checkpoint: what may leave when.
 *
 *	turn ─► round (sync.c) ─► synced ─► stable (stable.c) ─► sinks, acks
 *	                             │         │
 *	  checkpoint (made at P) ────┴─ boxes ─┴─► commit (store.c)
 *
 * A round begins as soon as the one before has come back and there is
 * something new, so an output waits for one or two of them.  Frames to workers
 * of the same machine do not wait: what may be lost is the machine.
 *
 * Outboxes are synced before a checkpoint commits and not in every round: after
 * a power loss a worker goes back to its checkpoint, outputs up to there must
 * be on the disk, and later ones are made again by the replay.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "worker/mapped.h"
#include "worker/planted.h"
#include "worker/worker.h"

/* --- rounds -------------------------------------------------------------- */

static void
add_file(struct sync_round *r, int fd, bool mapped, const char *path)
{
	r->file[r->nfiles++] = (struct sync_file){ fd, mapped, path, 0, 0 };
}

static struct sync_round *
new_round(const struct worker *w)
{
	struct sync_round *r = xcalloc(1, sizeof(*r));

	r->file = xcalloc(1 + worker_nboxes(w) + w->topo.nsinks,
	    sizeof(*r->file));
	r->tail = journal_tail(&w->journal);
	add_file(r, w->journal.fd, true, w->journal_path);
	return (r);
}

static void
add_boxes(struct worker *w, struct sync_round *r)
{
	struct outbox *o;
	size_t i;

	r->boxes = true;
	for (i = 0; i < worker_nboxes(w); i++)
		if ((o = worker_box(w, i)) != NULL)
			add_file(r, o->fd, true, o->path);
}

static void
free_round(struct sync_round *r)
{
	size_t i;

	for (i = 0; i < r->nfiles; i++)
		if (!r->file[i].mapped)
			close(r->file[i].fd);
	free(r->file);
	free(r);
}

/* Journal and outboxes as they are, and that they exist. */
int
durable_sync_all(struct worker *w, struct err *err)
{
	struct sync_round *r = new_round(w);
	int ret;

	add_boxes(w, r);
	sync_now(r);
	ret = r->ok ? mapped_sync_entry(w->journal_path, err) : -1;
	if (!r->ok)
		*err = r->err;
	free_round(r);
	return (ret);
}

/* The word by which the next life knows it, also where the thread could not
 * write to the file any more. */
static void
retire(void *head)
{
	memcpy((uint8_t *)head + MAPPED_RETIRED, &(uint64_t){ 1 },
	    sizeof(uint64_t));
}

/* Something that nobody may believe in has happened to a file. */
static void
failed(struct worker *w, const struct sync_round *r)
{
	struct outbox *o;
	size_t i;

	FAULT_POINT(files_retire_before);
	retire(w->journal.h);
	for (i = 0; i < worker_nboxes(w); i++)
		if ((o = worker_box(w, i)) != NULL)
			retire(o->h);
	sink_distrust(w);
	FAULT_POINT(files_retire_after);
	worker_fatal(w, EXIT_TEMPORARY, "%s; it is not known what reached "
	    "the disk, the next life goes on with a copy", r->err.text);
}

static void
finish_round(struct worker *w, struct sync_round *r)
{
	size_t i;

	if (!r->ok && !planted("STABLE10"))	/* tried again */
		failed(w, r);
	if (planted("STABLE1"))		/* of its end, not its beginning */
		r->tail = journal_tail(&w->journal);
	FAULT_POINT(round_end_before);
	stable_synced(&w->stable, r->tail);
	if (r->boxes)
		w->held_synced = true;
	for (i = 0; i < r->nfiles; i++)
		if (!r->file[i].mapped)
			sink_synced(w, r->file[i].sink, r->file[i].written);
	FAULT_POINT(round_end_after);
	free_round(r);
}

/* Is a checkpoint waiting for the outboxes?  Each waits for a round of its own
 * even if nothing is new in them: that also puts the number of the commit
 * before on the disk, by which an older copy is recognised. */
static bool
boxes_wanted(const struct worker *w)
{
	return (w->held != NULL && !w->held_synced);
}

static void
begin_round(struct worker *w)
{
	struct sync_round *r;

	if (w->syncing)
		return;
	if (w->stable.synced >= journal_tail(&w->journal) &&
	    !boxes_wanted(w) && !sink_unsynced(w))
		return;
	r = new_round(w);
	if (boxes_wanted(w) && planted("STABLE2"))
		r->boxes = true;		/* unsynced */
	else if (boxes_wanted(w))
		add_boxes(w, r);
	sink_sync(w, r);
	FAULT_POINT(round_give_before);
	w->syncing = true;
	sync_give(&w->sync, r);
	FAULT_POINT(round_give_after);
}

/* --- the stable position ------------------------------------------------- */

static void
passed(void *arg, uint32_t x, uint32_t from)
{
	struct worker *w = arg;

	w->peers[from].x[x].ack = true;
}

/* A checkpoint commits when it is stable, and its outboxes are synced. */
static void
give_held(struct worker *w)
{
	struct store_job *j = w->held;

	if (j == NULL || !w->held_synced)
		return;
	if (j->position > w->stable.pos && !planted("STABLE5"))
		return;
	FAULT_POINT(held_give_before);
	w->held = NULL;
	store_give(&w->store, j);
	FAULT_POINT(held_give_after);
}

/* Once per turn, before anything is sent. */
void
durable_turn(struct worker *w)
{
	struct sync_round *r;

	if (!w->machine)
		return;
	if ((r = sync_take(&w->sync)) != NULL) {
		w->syncing = false;
		finish_round(w, r);
	}
	(void)stable_scan(&w->stable, &w->journal, passed, w);
	STAT_SET(w->stats, journal_stable, w->stable.pos);
	putback_stable(w);
	give_held(w);
}

/* Once per turn, behind everything that writes. */
void
durable_round(struct worker *w)
{
	if (w->machine)
		begin_round(w);
}

/*
 * That a call is not made any more stands behind the records that it changes.
 * Before they are processed it must be as safe as they are: or a power loss
 * could take it, and a replay would make the call whose skipping was seen.
 */
bool
durable_holds(const struct worker *w)
{
	size_t i;

	if (w->committed < w->settle_at)
		return (true);
	for (i = 0; w->machine && i < w->a.naside; i++)
		if (w->a.aside[i].at >= w->stable.pos)
			return (true);
	return (false);
}

uint64_t
durable_sink_limit(const struct worker *w)
{
	if (w->after_checkpoint && !planted("AFTER1"))
		return (w->committed);
	if (w->machine && planted("STABLE3"))	/* synced is not enough */
		return (w->stable.synced);
	return (w->machine ? w->stable.pos : UINT64_MAX);
}

uint64_t
durable_peer_limit(const struct worker *w)
{
	return (w->after_checkpoint && !planted("AFTER2") ? w->committed :
	    UINT64_MAX);
}

/* Is everything that was journaled safe at this level? */
bool
durable_quiet(const struct worker *w)
{
	return (!w->machine || w->stable.pos >= journal_tail(&w->journal));
}

static void
wake(void *arg)
{
	struct worker *w = arg;

	ev_async_send(w->loop, &w->synced);
}

static void
on_synced(struct ev_loop *loop, ev_async *a, int events)
{
	(void)loop;
	(void)a;
	(void)events;			/* a turn follows, which takes it */
}

int
durable_start(struct worker *w, struct err *err)
{
	ev_async_init(&w->synced, on_synced);
	if (!w->machine)
		return (0);
	ev_async_start(w->loop, &w->synced);
	return (sync_start(&w->sync, wake, w, err));
}

/* For the last checkpoint: nothing is under way any more. */
void
durable_stop(struct worker *w)
{
	if (!w->machine)
		return;
	sync_stop(&w->sync);
	w->syncing = false;
	durable_turn(w);
	if (w->held == NULL)
		return;
	/* What it took from the keys is in no other: it is committed first. */
	w->retry = w->held;
	w->held = NULL;
	w->checkpointing = false;
}
