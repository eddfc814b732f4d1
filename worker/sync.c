/* See sync.h.  Takes rounds from durable.c. */
#include <unistd.h>

#include "common/fault.h"
#include "worker/mapped.h"
#include "worker/sync.h"

static int
sync_one(const struct sync_file *f, struct err *err)
{
	if (f->mapped)
		return (mapped_sync(f->fd, f->path, err));
	if (fdatasync(f->fd) == 0)
		return (0);
	return (err_sys(err, ERR_STORAGE, "cannot sync %s", f->path));
}

void
sync_now(struct sync_round *r)
{
	size_t i;

	/* After one that failed no other is tried: nobody goes on from
	 * there. */
	r->ok = true;
	for (i = 0; i < r->nfiles && r->ok; i++) {
		FAULT_POINT(sync_file_before);
		r->ok = sync_one(&r->file[i], &r->err) == 0;
		FAULT_POINT(sync_file_after);
	}
}

static void
sync_job(void *owner, void *job)
{
	(void)owner;
	sync_now(job);
}

int
sync_start(struct sync *s, void (*notify)(void *), void *arg,
    struct err *err)
{
	handoff_init(&s->syncer);
	return (handoff_start(&s->syncer, sync_job, s, notify, arg, err));
}

void
sync_give(struct sync *s, struct sync_round *r)
{
	handoff_give(&s->syncer, r);
}

struct sync_round *
sync_take(struct sync *s)
{
	return (handoff_take(&s->syncer));
}

void
sync_stop(struct sync *s)
{
	handoff_stop(&s->syncer);
}
