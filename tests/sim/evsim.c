/*
 * libev over the simulated kernel: the functions that the programs use, with
 * the real header's structs.  What libev leaves open (the order of events of
 * one priority) comes from the seed.
 */
#include <ev.h>

#include <assert.h>
#include <math.h>
#include <string.h>

#include "tests/sim/plan.h"
#include "tests/sim/sim.h"

#define WATCHERS	128
#define PRIORITIES	(EV_MAXPRI - EV_MINPRI + 1)
#define DEAD		32

struct pending {
	ev_watcher	*w;
	int		 events;
};
struct ev_loop {
	struct proc	*p;
	double		 now;
	bool		 broken;
	ev_io		*io[WATCHERS];
	int		 nio;
	ev_timer	*timer[WATCHERS];
	int		 ntimer;
	ev_prepare	*prepare[4];
	int		 nprepare;
	ev_check	*check[4];
	int		 ncheck;
	ev_idle		*idle[4];
	int		 nidle;
	ev_async	*async[4];
	int		 nasync;
	bool		 async_sent;
	ev_signal	*sig[8];
	int		 nsig;
	uint32_t	 raised;	/* by number of signal */
	ev_child	*child[WORKERS + 4];
	int		 nchild;
	struct {
		int	 pid;
		int	 status;
	}		 dead[DEAD];
	int		 ndead;
	struct pending	 pending[PRIORITIES][WATCHERS * 2];
	int		 npending[PRIORITIES];
};

static struct ev_loop loops[PROCS];

struct ev_loop *
ev_default_loop(unsigned int flags)
{
	struct ev_loop *l = &loops[current->slot];

	(void)flags;
	if (current->loop == NULL) {
		memset(l, 0, sizeof(*l));
		l->p = current;
		current->loop = (struct simloop *)l;
	}
	l->now = (double)now_ns / 1e9;
	return (l);
}

static struct ev_loop *
loop_of_proc(struct proc *p)
{
	return ((struct ev_loop *)p->loop);
}

void
loop_free(struct proc *p)
{
	p->loop = NULL;
}

/* --- pending ------------------------------------------------------------- */

static void
feed(struct ev_loop *l, void *watcher, int events)
{
	ev_watcher *w = watcher;
	int pri = w->priority - EV_MINPRI;

	if (w->pending != 0) {
		l->pending[pri][w->pending - 1].events |= events;
		return;
	}
	assert(l->npending[pri] < WATCHERS * 2);
	w->pending = ++l->npending[pri];
	l->pending[pri][w->pending - 1].w = w;
	l->pending[pri][w->pending - 1].events = events;
}

static void
clear_pending(struct ev_loop *l, void *watcher)
{
	ev_watcher *w = watcher;

	if (w->pending != 0)
		l->pending[w->priority - EV_MINPRI][w->pending - 1].w = NULL;
	w->pending = 0;
}

/* The last of a priority is taken, or any other of it. */
static void
invoke(struct ev_loop *l)
{
	struct pending *q, swap;
	int pri, n, other;

	for (pri = PRIORITIES - 1; pri >= 0; pri--) {
		while ((n = l->npending[pri]) > 0) {
			q = l->pending[pri];
			if (n > 1) {
				other = (int)rng_below(&plan.sched,
				    (uint64_t)n);
				swap = q[n - 1];
				q[n - 1] = q[other];
				q[other] = swap;
				if (q[other].w != NULL)
					q[other].w->pending = other + 1;
			}
			l->npending[pri]--;
			swap = q[n - 1];
			if (swap.w == NULL)
				continue;
			swap.w->pending = 0;
			swap.w->cb(l, swap.w, swap.events);
			if (l->broken)
				return;
			/* One of a higher priority may have become ready. */
			if (pri < PRIORITIES - 1 && l->npending[PRIORITIES -
			    1] > 0) {
				pri = PRIORITIES;
				break;
			}
		}
	}
}

/* --- watchers ------------------------------------------------------------ */

#define ADD(l, kind, w, most)						\
	do {								\
		assert((l)->n##kind < (int)(most));			\
		(l)->kind[(l)->n##kind++] = (w);			\
		(w)->active = 1;					\
	} while (0)
#define REMOVE(l, kind, w)						\
	do {								\
		int i_;							\
									\
		for (i_ = 0; (l)->kind[i_] != (w); i_++)		\
			;						\
		(l)->kind[i_] = (l)->kind[--(l)->n##kind];		\
		(w)->active = 0;					\
	} while (0)

void
ev_io_start(struct ev_loop *l, ev_io *w)
{
	if (w->active)
		return;
	assert(w->fd >= 0);
	w->events &= EV_READ | EV_WRITE;
	ADD(l, io, w, WATCHERS);
}

void
ev_io_stop(struct ev_loop *l, ev_io *w)
{
	clear_pending(l, w);
	if (w->active)
		REMOVE(l, io, w);
}

void
ev_timer_start(struct ev_loop *l, ev_timer *w)
{
	if (w->active)
		return;
	w->at += l->now;
	assert(w->repeat >= 0.);
	ADD(l, timer, w, WATCHERS);
}

void
ev_timer_stop(struct ev_loop *l, ev_timer *w)
{
	clear_pending(l, w);
	if (!w->active)
		return;
	REMOVE(l, timer, w);
	w->at -= l->now;
}

void
ev_timer_again(struct ev_loop *l, ev_timer *w)
{
	clear_pending(l, w);
	if (w->active) {
		if (w->repeat > 0.)
			w->at = l->now + w->repeat;
		else
			ev_timer_stop(l, w);
	} else if (w->repeat > 0.) {
		w->at = w->repeat;
		ev_timer_start(l, w);
	}
}

void
ev_prepare_start(struct ev_loop *l, ev_prepare *w)
{
	if (!w->active)
		ADD(l, prepare, w, 4);
}

void
ev_check_start(struct ev_loop *l, ev_check *w)
{
	if (!w->active)
		ADD(l, check, w, 4);
}

void
ev_idle_start(struct ev_loop *l, ev_idle *w)
{
	if (!w->active)
		ADD(l, idle, w, 4);
}

void
ev_idle_stop(struct ev_loop *l, ev_idle *w)
{
	clear_pending(l, w);
	if (w->active)
		REMOVE(l, idle, w);
}

void
ev_async_start(struct ev_loop *l, ev_async *w)
{
	if (w->active)
		return;
	w->sent = 0;
	ADD(l, async, w, 4);
}

void
ev_async_send(struct ev_loop *l, ev_async *w)
{
	w->sent = 1;
	l->async_sent = true;
	proc_wake(l->p, rng_range(&plan.sched, 1, plan.latency));
}

void
ev_signal_start(struct ev_loop *l, ev_signal *w)
{
	if (!w->active)
		ADD(l, sig, w, 8);
}

void
ev_child_start(struct ev_loop *l, ev_child *w)
{
	if (!w->active)
		ADD(l, child, w, WORKERS + 2);
}

void
ev_child_stop(struct ev_loop *l, ev_child *w)
{
	clear_pending(l, w);
	if (w->active)
		REMOVE(l, child, w);
}

void
ev_break(struct ev_loop *l, int how)
{
	(void)how;
	l->broken = true;
}

/* --- from the kernel ----------------------------------------------------- */

void
loop_child(struct proc *parent, int pid, int status)
{
	struct ev_loop *l = loop_of_proc(parent);

	if (l == NULL || l->ndead == DEAD)
		return;
	l->dead[l->ndead].pid = pid;
	l->dead[l->ndead++].status = status;
	proc_wake(parent, rng_range(&plan.sched, 1, plan.latency));
}

void
loop_signal(struct proc *p, int sig)
{
	struct ev_loop *l = loop_of_proc(p);

	if (l == NULL || l->nsig == 0) {
		proc_kill(p, sig);		/* no handler yet */
		return;
	}
	l->raised |= 1U << sig;
	proc_wake(p, rng_range(&plan.sched, 1, plan.latency));
}

/* --- a turn -------------------------------------------------------------- */

static int
ready_events(struct ev_loop *l, const ev_io *w)
{
	struct file *f = l->p->fd[w->fd];

	if (f == NULL) {
		fail("libev watches descriptor %d, which is closed", w->fd);
		return (0);
	}
	return (file_events(f) & w->events);
}

static bool
anything(struct ev_loop *l)
{
	int i;

	if (l->nidle > 0 || l->async_sent || l->ndead > 0 || l->raised != 0)
		return (true);
	for (i = 0; i < l->nio; i++)
		if (ready_events(l, l->io[i]) != 0)
			return (true);
	return (false);
}

static void
wait_for_something(struct ev_loop *l)
{
	double next = INFINITY, left;
	int i;

	for (i = 0; i < l->ntimer; i++)
		if (l->timer[i]->at < next)
			next = l->timer[i]->at;
	left = next - (double)now_ns / 1e9;
	if (left <= 0 || anything(l)) {
		proc_yield(rng_range(&plan.sched, 1, plan.latency));
		return;
	}
	for (i = 0; i < l->nio; i++)
		l->p->fd[l->io[i]->fd]->waiters |= 1U << l->p->slot;
	if (left == (double)INFINITY)
		proc_block();
	else
		proc_wait((uint64_t)(left * 1e9) + 1);
}

static void
feed_timers(struct ev_loop *l)
{
	ev_timer *w;
	int i;

	for (i = 0; i < l->ntimer; ) {
		w = l->timer[i];
		if (w->at > l->now) {
			i++;
			continue;
		}
		if (w->repeat > 0.) {
			w->at += w->repeat;
			if (w->at <= l->now)
				w->at = l->now + 1e-9;
			i++;
		} else {
			REMOVE(l, timer, w);
			w->at -= l->now;
		}
		feed(l, w, EV_TIMER);
	}
}

static void
feed_children(struct ev_loop *l)
{
	struct proc *p;
	int i, k;

	for (i = 0; i < l->ndead; i++) {
		for (k = 0; k < l->nchild; k++)
			if (l->child[k]->pid == l->dead[i].pid ||
			    l->child[k]->pid == 0) {
				l->child[k]->rpid = l->dead[i].pid;
				l->child[k]->rstatus = l->dead[i].status;
				feed(l, l->child[k], EV_CHILD);
			}
		if ((p = proc_find(l->dead[i].pid)) != NULL)
			proc_free(p);
	}
	l->ndead = 0;
}

static void
feed_all(struct ev_loop *l)
{
	int i, e;

	for (i = 0; i < l->nio; i++)
		if ((e = ready_events(l, l->io[i])) != 0)
			feed(l, l->io[i], e);
	feed_timers(l);
	feed_children(l);
	for (i = 0; i < l->nsig; i++)
		if (l->raised & 1U << l->sig[i]->signum)
			feed(l, l->sig[i], EV_SIGNAL);
	l->raised = 0;
	l->async_sent = false;
	for (i = 0; i < l->nasync; i++)
		if (l->async[i]->sent) {
			l->async[i]->sent = 0;
			feed(l, l->async[i], EV_ASYNC);
		}
	for (i = 0; i < PRIORITIES; i++)
		if (l->npending[i] > 0)
			break;
	if (i == PRIORITIES)
		for (i = 0; i < l->nidle; i++)
			feed(l, l->idle[i], EV_IDLE);
	for (i = 0; i < l->ncheck; i++)
		feed(l, l->check[i], EV_CHECK);
}

int
ev_run(struct ev_loop *l, int flags)
{
	int i;

	(void)flags;
	l->broken = false;
	for (;;) {
		for (i = 0; i < l->nprepare; i++)
			feed(l, l->prepare[i], EV_PREPARE);
		invoke(l);
		if (l->broken)
			break;
		wait_for_something(l);
		l->now = (double)now_ns / 1e9;
		feed_all(l);
		invoke(l);
		if (l->broken)
			break;
	}
	return (1);
}
