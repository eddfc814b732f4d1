/*
 * The thread that syncs files, with sync.h's interface: a round takes its
 * time, and is done in one moment.
 */
#include <string.h>

#define SIM_KERNEL
#include "tests/sim/plan.h"
#include "tests/sim/sim.h"
#include "tests/sim/sim_sys.h"
#include "worker/mapped.h"
#include "worker/sync.h"

void
sync_now(struct sync_round *r)
{
	size_t i;

	r->ok = true;
	for (i = 0; i < r->nfiles && r->ok; i++)
		r->ok = r->file[i].mapped ? mapped_sync(r->file[i].fd,
		    r->file[i].path, &r->err) == 0 :
		    sim_fdatasync(r->file[i].fd) == 0;
}

static void
do_round(void *arg)
{
	struct handoff *h = arg;
	struct sync_round *r = h->job;
	size_t i;

	if (!h->busy)
		return;
	/* No point is passed here: the thread is not the process's own. */
	for (i = 0; i < r->nfiles; i++)
		inode_sync(fd_get(r->file[i].fd)->inode);
	r->ok = true;
	h->busy = false;
	h->done = true;
	h->notify(h->arg);
}

static void
round_event(void *arg, uint64_t pid)
{
	struct proc *p = proc_find((int)pid);

	if (p != NULL && p->life == PROC_LIVE)
		proc_call(p, do_round, arg);
}

int
sync_start(struct sync *s, void (*notify)(void *), void *arg,
    struct err *err)
{
	(void)err;
	memset(s, 0, sizeof(*s));
	s->syncer.notify = notify;
	s->syncer.arg = arg;
	s->syncer.running = true;
	return (0);
}

void
sync_give(struct sync *s, struct sync_round *r)
{
	s->syncer.job = r;
	s->syncer.busy = true;
	s->syncer.done = false;
	sched_at(now_ns + rng_range(&plan.sched, 20 * US, 3 * MS),
	    round_event, &s->syncer, (uint64_t)current->pid);
}

struct sync_round *
sync_take(struct sync *s)
{
	struct handoff *h = &s->syncer;
	struct sync_round *r = h->done ? h->job : NULL;

	if (r != NULL)
		h->job = NULL;
	h->done = false;
	return (r);
}

void
sync_stop(struct sync *s)
{
	struct handoff *h = &s->syncer;

	if (h->running && h->busy) {
		sync_now(h->job);
		h->busy = false;
		h->done = true;
	}
	h->running = false;
}
