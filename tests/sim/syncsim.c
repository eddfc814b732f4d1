/*
 * The thread that syncs files, with sync.h's interface.  A round takes its
 * time: some files are on the disk as they are when it begins, what is written
 * meanwhile is not; the others are when it ends, nothing of them before.
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

/* As sync_now, but no point is passed: the thread is not the process's own. */
static void
sync_files(struct sync_round *r, size_t from, size_t to)
{
	static const uint64_t yes = 1;
	struct inode *i;
	size_t k;

	for (k = from; k < to && r->ok; k++) {
		i = fd_get(r->file[k].fd)->inode;
		if (!sometimes(plan.sync_errors)) {
			disk_sync(i);
			continue;
		}
		r->ok = false;
		(void)err_set(&r->err, ERR_STORAGE, "cannot sync %s: EIO",
		    r->file[k].path);
		disk_sync_failed(i);
		if (r->file[k].mapped)
			inode_write(i, &yes, sizeof(yes), MAPPED_RETIRED);
	}
}

/* By process; what h points to is there only while that runs. */
struct under_way {
	struct handoff	*h;
	size_t		 late;		/* files from here on */
	int		 pid;
	bool		 ended;
};
static struct under_way under_way[PROCS];

static void
end_round(void *arg)
{
	struct under_way *u = arg;
	struct sync_round *r = u->h->job;

	if (!u->h->busy)
		return;			/* sync_stop has done it */
	u->ended = true;
	sync_files(r, u->late, r->nfiles);
	u->h->busy = false;
	u->h->done = true;
}

static void
tell(void *arg)
{
	struct under_way *u = arg;

	u->h->notify(u->h->arg);
}

static void
round_event(void *arg, uint64_t pid)
{
	struct under_way *u = arg;
	struct proc *p = proc_find((int)pid);

	if (p == NULL || p->life != PROC_LIVE || u->pid != (int)pid ||
	    point_of(p, PT_sync_round, false))
		return;
	proc_call(p, end_round, u);
	if (u->ended && !point_of(p, PT_sync_round, true))
		proc_call(p, tell, u);
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
	struct under_way *u = &under_way[current->slot];
	uint64_t most = plan.sync_ns;

	s->syncer.job = r;
	s->syncer.busy = true;
	s->syncer.done = false;
	r->ok = true;
	*u = (struct under_way){ &s->syncer, sometimes(2) ? r->nfiles :
	    rng_below(&plan.sched, r->nfiles + 1), current->pid, false };
	sync_files(r, 0, u->late);
	if (current->number == plan.lagging)
		most = 20 * MS;
	sched_at(now_ns + rng_range(&plan.sched, 20 * US, most), round_event,
	    u, (uint64_t)current->pid);
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
		/* What has failed already stays so. */
		if (((struct sync_round *)h->job)->ok)
			sync_now(h->job);
		h->busy = false;
		h->done = true;
	}
	h->running = false;
}
