/* See sync.h.  Takes rounds from durable.c. */
#include <unistd.h>

#include "worker/mapped.h"
#include "worker/sync.h"

void
sync_now(struct sync_round *r)
{
	struct sync_file *f;
	size_t i;

	r->ok = true;
	for (i = 0; i < r->nfiles; i++) {
		f = &r->file[i];
		if (f->mapped) {
			if (mapped_sync(f->fd, f->path, &r->err) == 0)
				continue;
		} else if (fdatasync(f->fd) == 0)
			continue;
		else
			(void)err_sys(&r->err, ERR_STORAGE, "cannot sync %s",
			    f->path);
		/* The others are not tried: nobody goes on from here. */
		r->ok = false;
		return;
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
