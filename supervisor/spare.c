/*
 * Spares: processes that have imported the application and wait to be told
 * which worker they are.  A worker that dies is then replaced without waiting
 * for Python to start, nor for imports.
 *
 *	         delay          fork            prepared
 *	NONE ──────────► WAITING ──► STARTING ────────────► PREPARED ──┐
 *	 ▲                  ▲            │                     │       │
 *	 │                  └─ DYING ◄───┴─────────────────────┘       │
 *	 └─────────────────────────────────────────────────────────────┘
 *	                     a worker takes its process
 *
 * They are prepared while all workers run, so that none takes time from one
 * that recovers.  What a spare does wrong is never a worker's fault: where
 * there is none, a worker is started from the beginning, as without spares.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>

#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "supervisor/supervisor.h"

#ifdef WALLAROO_FAULTS
#define AFTER_S		0.05
#else
#define AFTER_S		0.5	/* that all workers have run */
#endif
#define AGAIN_S		1.0	/* after one that died, then twice that */
#define AGAIN_MOST_S	60.0

static bool
all_run(const struct supervisor *s)
{
	uint32_t i;

	if (s->state != APP_RUNNING || s->stopping || s->transit)
		return (false);
	for (i = 0; i < s->n; i++)
		if (s->child[i].state != CHILD_RUNNING)
			return (false);
	return (true);
}

int
spare_init(struct supervisor *s, struct err *err)
{
	uint32_t i, n = (uint32_t)s->conf.spares;

	/* What an import prints goes to machida3's standard output. */
	if (s->transit || machida_is(s))
		n = 0;
	s->spare = xcalloc(n + 1, sizeof(*s->spare));
	for (i = 0; i < n; i++) {
		child_init(&s->spare[i], s, CHILD_SPARE, i, 0);
		s->nspares = i + 1;
		if (spawn_stats(&s->spare[i], err) == -1)
			return (-1);
	}
	return (0);
}

void
spare_fini(struct supervisor *s)
{
	uint32_t i;

	for (i = 0; i < s->nspares; i++)
		child_fini(&s->spare[i]);
	free(s->spare);
	s->spare = NULL;
	s->nspares = 0;
}

void
spare_check(struct supervisor *s)
{
	uint32_t i;

	for (i = 0; i < s->nspares; i++)
		if (s->spare[i].stats != NULL)
			child_check(&s->spare[i]);
}

void
spare_update(struct supervisor *s)
{
	uint32_t i;

	if (!all_run(s))
		return;
	for (i = 0; i < s->nspares; i++)
		if (s->spare[i].state == CHILD_NONE)
			child_wait(&s->spare[i], AFTER_S);
}

void
spare_time(struct child *c)
{
	if (all_run(c->s)) {
		c->cold = false;
		child_start(c);
	} else
		child_end(c, CHILD_NONE);
}

void
spare_kill(struct supervisor *s)
{
	uint32_t i;

	for (i = 0; i < s->nspares; i++) {
		if (s->spare[i].state == CHILD_WAITING)
			child_end(&s->spare[i], CHILD_NONE);
		s->spare[i].finished = true;
		child_kill(&s->spare[i]);
	}
}

bool
spare_left(const struct supervisor *s)
{
	uint32_t i;

	for (i = 0; i < s->nspares; i++)
		if (s->spare[i].pid != 0)
			return (true);
	return (false);
}

uint32_t
spare_prepared(const struct supervisor *s)
{
	uint32_t i, n = 0;

	for (i = 0; i < s->nspares; i++)
		n += s->spare[i].state == CHILD_PREPARED;
	return (n);
}

void
spare_ready(struct child *c, uint64_t import_ns)
{
	c->crash.deaths = 0;
	log_info("a spare is prepared pid=%d import_ms=%" PRIu64, (int)c->pid,
	    import_ns / 1000000);
}

void
spare_died(struct child *c)
{
	double delay = AGAIN_S;
	uint32_t i;

	if (!all_run(c->s)) {
		child_end(c, CHILD_NONE);
		return;
	}
	for (i = 0; i < c->crash.deaths && delay < AGAIN_MOST_S; i++)
		delay *= 2;
	c->crash.deaths++;
	if (delay > AGAIN_MOST_S)
		delay = AGAIN_MOST_S;
	log_warn("there is no spare, another one is tried in %.0f seconds%s%s",
	    delay, c->fatal_text == NULL ? "" : ": ",
	    c->fatal_text == NULL ? "" : c->fatal_text);
	child_wait(c, delay);
}

/* Its process is another's now. */
static void
give(struct child *c, struct child *spare)
{
	ev_child_stop(c->s->loop, &spare->reaper);
	c->pid = spare->pid;
	c->serial = spare->serial;
	free(c->mark);
	c->mark = spare->mark;
	spare->pid = 0;
	spare->mark = NULL;
	channel_take(c, spare);
	child_end(spare, CHILD_NONE);
}

/* One that has died already waits for its own reaper. */
static struct child *
find(struct supervisor *s)
{
	uint32_t i;

	for (i = 0; i < s->nspares; i++)
		if (s->spare[i].state == CHILD_PREPARED &&
		    !s->spare[i].cold && !ev_is_pending(&s->spare[i].reaper) &&
		    ev_is_active(&s->spare[i].io))
			return (&s->spare[i]);
	return (NULL);
}

bool
spare_adopt(struct child *c)
{
	struct child *spare;
	struct err err;

	if (c->cold || (spare = find(c->s)) == NULL)
		return (false);
	if (cgroup_join(c, spare->pid, &err) == -1) {
		log_error("%s", err.text);
		spare->cold = true;		/* nor by anybody else */
		child_kill(spare);
		return (false);
	}
	FAULT_POINT(adopt_before);
	give(c, spare);
	FAULT_POINT(adopt_after);
	return (true);
}
