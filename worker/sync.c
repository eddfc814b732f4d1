/* See sync.h.  Takes rounds from durable.c. */
#include <errno.h>
#include <string.h>
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

static void *
syncer(void *arg)
{
	struct sync *s = arg;
	struct sync_round *r;

	pthread_mutex_lock(&s->lock);
	for (;;) {
		while (!s->quit && !s->busy)
			pthread_cond_wait(&s->wake, &s->lock);
		if (!s->busy)
			break;
		r = s->round;
		pthread_mutex_unlock(&s->lock);
		sync_now(r);
		pthread_mutex_lock(&s->lock);
		s->busy = false;
		s->done = true;
		s->notify(s->arg);
	}
	pthread_mutex_unlock(&s->lock);
	return (NULL);
}

int
sync_start(struct sync *s, void (*notify)(void *), void *arg,
    struct err *err)
{
	int r;

	memset(s, 0, sizeof(*s));
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->wake, NULL);
	s->notify = notify;
	s->arg = arg;
	if ((r = pthread_create(&s->thread, NULL, syncer, s)) != 0) {
		errno = r;
		return (err_sys(err, ERR_SYSTEM, "cannot start a thread"));
	}
	s->running = true;
	return (0);
}

void
sync_give(struct sync *s, struct sync_round *r)
{
	pthread_mutex_lock(&s->lock);
	s->round = r;
	s->busy = true;
	s->done = false;
	pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->lock);
}

struct sync_round *
sync_take(struct sync *s)
{
	struct sync_round *r = NULL;

	pthread_mutex_lock(&s->lock);
	if (s->done) {
		r = s->round;
		s->round = NULL;
		s->done = false;
	}
	pthread_mutex_unlock(&s->lock);
	return (r);
}

void
sync_stop(struct sync *s)
{
	if (!s->running)
		return;
	pthread_mutex_lock(&s->lock);
	s->quit = true;
	pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->lock);
	pthread_join(s->thread, NULL);
	s->running = false;
}
