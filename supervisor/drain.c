/*
 * The stop, decided from what workers answer.  Each round asks all of them;
 * nothing is under way when two rounds in a row found every worker idle and
 * no journal longer than before: what one round misses, because it was in a
 * socket between two workers, has made some journal longer by the next.
 */
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "supervisor/supervisor.h"

#define DRAIN_GRACE_MS	10000	/* for what is inside, after stop-timeout */

void
drain_init(struct drain *d, uint32_t n)
{
	memset(d, 0, sizeof(*d));
	d->n = n;
	d->now = xcalloc(n, sizeof(*d->now));
	d->before = xcalloc(n, sizeof(*d->before));
}

void
drain_fini(struct drain *d)
{
	free(d->now);
	free(d->before);
	memset(d, 0, sizeof(*d));
}

static bool
same_and_idle(const struct drain *d)
{
	uint32_t i;

	if (!d->have_before)
		return (false);
	for (i = 0; i < d->n; i++)
		if (!d->now[i].idle || !d->before[i].idle ||
		    d->now[i].tail != d->before[i].tail)
			return (false);
	return (true);
}

bool
drain_complete(const struct drain *d)
{
	uint32_t i;

	if (d->round == 0)
		return (false);
	for (i = 0; i < d->n; i++)
		if (!d->now[i].answered)
			return (false);
	return (true);
}

uint32_t
drain_next(struct drain *d)
{
	struct drain_answer *spare = d->before;

	d->have_before = drain_complete(d);
	d->before = d->now;
	d->now = spare;
	memset(d->now, 0, d->n * sizeof(*d->now));
	return (++d->round);
}

void
drain_answer(struct drain *d, uint32_t worker, const struct msg_drained *m)
{
	struct drain_answer *a;
	uint32_t i;

	if (worker >= d->n || m->round != d->round || d->round == 0)
		return;				/* of an older round */
	a = &d->now[worker];
	a->answered = true;
	a->idle = m->idle != 0;
	a->sinks_empty = m->sinks_empty != 0;
	a->tail = m->tail;
	if (!drain_complete(d))
		return;
	d->quiet = same_and_idle(d);
	d->empty = d->quiet;
	for (i = 0; i < d->n; i++)
		if (!d->now[i].sinks_empty)
			d->empty = false;
}

void
drain_forget(struct drain *d, uint32_t worker)
{
	if (worker >= d->n)
		return;
	memset(&d->now[worker], 0, sizeof(d->now[worker]));
	d->have_before = false;
	d->quiet = d->empty = false;
}

enum drain_do
drain_decide(const struct drain *d, int64_t stopped_ms,
    int64_t stop_timeout_ms, bool must_be_quiet)
{
	if (d->empty)
		return (DRAIN_FINISH);
	if (d->quiet)
		return (stopped_ms >= stop_timeout_ms ? DRAIN_FINISH :
		    DRAIN_WAIT);
	if (must_be_quiet)
		return (DRAIN_WAIT);
	return (stopped_ms >= stop_timeout_ms + DRAIN_GRACE_MS ?
	    DRAIN_FINISH : DRAIN_WAIT);
}
