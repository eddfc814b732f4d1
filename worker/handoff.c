/* See handoff.h.  Used by store.c and sync.c. */
#include <errno.h>
#include <string.h>

#include "worker/handoff.h"

static void *
run(void *arg)
{
	struct handoff *h = arg;
	void *job;

	pthread_mutex_lock(&h->lock);
	for (;;) {
		while (!h->quit && !h->busy)
			pthread_cond_wait(&h->wake, &h->lock);
		if (!h->busy)
			break;
		job = h->job;
		pthread_mutex_unlock(&h->lock);
		h->work(h->owner, job);
		pthread_mutex_lock(&h->lock);
		h->busy = false;
		h->done = true;
		h->notify(h->arg);
	}
	pthread_mutex_unlock(&h->lock);
	return (NULL);
}

void
handoff_init(struct handoff *h)
{
	memset(h, 0, sizeof(*h));
	pthread_mutex_init(&h->lock, NULL);
	pthread_cond_init(&h->wake, NULL);
}

int
handoff_start(struct handoff *h, void (*work)(void *, void *), void *owner,
    void (*notify)(void *), void *arg, struct err *err)
{
	int r;

	h->work = work;
	h->owner = owner;
	h->notify = notify;
	h->arg = arg;
	if ((r = pthread_create(&h->thread, NULL, run, h)) != 0) {
		errno = r;
		return (err_sys(err, ERR_SYSTEM, "cannot start a thread"));
	}
	h->running = true;
	return (0);
}

void
handoff_give(struct handoff *h, void *job)
{
	pthread_mutex_lock(&h->lock);
	h->job = job;
	h->busy = true;
	h->done = false;
	pthread_cond_signal(&h->wake);
	pthread_mutex_unlock(&h->lock);
}

void *
handoff_take(struct handoff *h)
{
	void *job = NULL;

	pthread_mutex_lock(&h->lock);
	if (h->done) {
		job = h->job;
		h->job = NULL;
		h->done = false;
	}
	pthread_mutex_unlock(&h->lock);
	return (job);
}

void
handoff_stop(struct handoff *h)
{
	if (!h->running)
		return;
	pthread_mutex_lock(&h->lock);
	h->quit = true;
	pthread_cond_signal(&h->wake);
	pthread_mutex_unlock(&h->lock);
	pthread_join(h->thread, NULL);
	h->running = false;
}

void
handoff_fini(struct handoff *h)
{
	pthread_mutex_destroy(&h->lock);
	pthread_cond_destroy(&h->wake);
}
