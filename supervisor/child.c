/*
 * The life of a worker.
 *
 *	          fork                opened           run
 *	NONE ──────────► STARTING ──────────► OPENED ──────► RECOVERING
 *	                   ▲                                    │ ready
 *	        time is up │                                    ▼
 *	    WAITING ───────┘                                 RUNNING
 *	       ▲
 *	       │ by its own doing,     waitpid, from any state with a process
 *	       │ no progress         ┌──────────────────────────────────────
 *	       └──────────────── DYING ──► STARTING   anything else: at once
 *	                             └───► FINISHED   it was told to end
 *
 * DYING lasts until nothing of the process group is left: two owners of one
 * worker's files must not be.
 */
#include <sys/mman.h>
#include <sys/wait.h>

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "supervisor/supervisor.h"

#define DYING_S		0.002	/* between looks at what is left */
#define DYING_SAY	2500	/* looks until it is said, 5 s */
#define SPAWN_AGAIN_S	1.0	/* after a fork that failed */
#define HANG_DUMP	1	/* checks between dump and kill */
#define HANG_START	10	/* hang-timeouts that a start may take */
#define STACK_KEPT	1400	/* bytes in a dead letter, below ERR_TEXT */
#define STACKS_MOST	65536	/* bytes of stacks until they are removed */
/* What Python's faulthandler writes. */
#define FATAL_DUMP	"Fatal Python error"
#define THREAD_DUMP	"Current thread"
#define CHARGED_MOST	8	/* deaths in a row that records explain */
#define BACKOFF_FIRST	100	/* ms */
#define BACKOFF_MOST	10000

#define B(state)	(1U << CHILD_##state)
static const unsigned int child_next[] = {
	[CHILD_NONE] =		B(STARTING) | B(WAITING),
	[CHILD_STARTING] =	B(PREPARED) | B(OPENED) | B(DYING),
	[CHILD_PREPARED] =	B(NONE) | B(DYING),
	[CHILD_OPENED] =	B(RECOVERING) | B(DYING),
	[CHILD_RECOVERING] =	B(RUNNING) | B(DYING),
	[CHILD_RUNNING] =	B(DYING),
	[CHILD_DYING] =		B(STARTING) | B(WAITING) | B(FINISHED) |
				    B(NONE),
	[CHILD_WAITING] =	B(STARTING) | B(NONE),
	[CHILD_FINISHED] =	0
};
#undef B

const char *
child_state_name(enum child_state state)
{
	static const char *const names[] = {
		[CHILD_NONE] = "starting", [CHILD_STARTING] = "starting",
		[CHILD_PREPARED] = "waiting", [CHILD_OPENED] = "starting",
		[CHILD_RECOVERING] = "recovering",
		[CHILD_RUNNING] = "running", [CHILD_DYING] = "starting",
		[CHILD_WAITING] = "waiting", [CHILD_FINISHED] = "finished"
	};

	return (names[state]);
}

const char *
child_name(const struct child *c, char *buf, size_t len)
{
	if (c->role == CHILD_WORKER)
		(void)snprintf(buf, len, "worker %u", c->number);
	else if (c->role == CHILD_SPARE)
		(void)snprintf(buf, len, "spare %u", c->number);
	else
		(void)snprintf(buf, len, "%s", c->role == CHILD_DESCRIBE ?
		    "the process that imports the application" :
		    "the process that spreads keys");
	return (buf);
}

static void
child_move(struct child *c, enum child_state to)
{
	assert((child_next[c->state] & (1U << to)) != 0);
	c->state = to;
}

/* --- crash loop ---------------------------------------------------------- */

bool
crash_own_doing(int status)
{
	if (WIFEXITED(status))
		return (true);
	switch (WTERMSIG(status)) {
	case SIGSEGV:
	case SIGABRT:
	case SIGBUS:
	case SIGILL:
	case SIGFPE:
	case SIGSYS:
		return (true);
	default:
		return (false);		/* somebody else's decision */
	}
}

int64_t
crash_count(struct crash_loop *l, bool own_doing, bool charged,
    uint64_t done, uint32_t limit)
{
	int64_t delay = BACKOFF_FIRST;
	uint32_t i;

	/* A replay goes back, so progress is beyond all lives before. */
	if (done > l->best) {
		l->best = done;
		l->deaths = l->charged = 0;
		return (0);
	}
	if (!own_doing || (charged && ++l->charged <= CHARGED_MOST))
		return (0);
	if (++l->deaths >= limit)
		return (-1);
	for (i = 1; i < l->deaths && delay < BACKOFF_MOST; i++)
		delay *= 2;
	return (delay < BACKOFF_MOST ? delay : BACKOFF_MOST);
}

/* --- start --------------------------------------------------------------- */

/* What every process of this application is told. */
static void
send_prepare(struct child *c)
{
	struct supervisor *s = c->s;
	struct msg_prepare m = { 0 };
	struct buf b = { 0 };

	m.start_time_ns = s->catalog.start_time_ns;
	m.conf = buf_slice(&s->conf_bytes);
	m.topology = c->role == CHILD_DESCRIBE ? slice_of("", 0) :
	    buf_slice(&s->topo_bytes);
	if (c->role != CHILD_SPREAD)
		m.flags |= PREPARE_IMPORT;
	if (c->role == CHILD_SPARE)
		m.flags |= PREPARE_SPARE;
	msg_put_prepare(&b, &m);
	channel_send(c, &b, c->stats_fd);
	buf_fini(&b);
}

/* Who it is. */
static void
send_adopt(struct child *c)
{
	struct supervisor *s = c->s;
	struct msg_adopt m = { 0 };
	struct buf b = { 0 };

	if (c->role != CHILD_DESCRIBE)
		s->used = true;
	m.worker = c->number;
	m.workers = s->n;
	m.epoch = s->catalog.epoch;
	m.generation = s->catalog.generation;
	m.run_dir = msg_cstr(s->run_dir);
	m.death = msg_cstr(c->death == NULL ? "" : c->death);
	m.opened = s->catalog.opened;
	if (c->lives > 1)
		m.flags |= START_AGAIN;
	if (s->opt.accept_loss && !s->ran)
		m.flags |= START_ACCEPT_LOSS;
	if (s->state == APP_DRAINING || s->state == APP_FINISHING)
		m.flags |= START_DRAINING;
	if (c->role == CHILD_DESCRIBE)
		m.flags = START_DESCRIBE;
	else if (c->role == CHILD_SPREAD) {
		m.flags = START_RESPREAD;
		m.worker = s->catalog.workers;
		m.workers = (uint32_t)s->conf.workers;
	}
	msg_put_adopt(&b, &m);
	channel_send(c, &b, c->stats_fd);
	buf_fini(&b);
}

/* Sources and sinks that exist once read and write our own 0 and 1. */
static void
send_stdio(struct child *c)
{
	const struct topo *t = &c->s->topo;
	struct msg_stdio m;
	struct buf b = { 0 };
	uint32_t i;

	for (i = 0; i < t->nsources; i++)
		if (t->sources[i].kind == SOURCE_STDIN &&
		    i % c->s->n == c->number) {
			m.is_sink = 0;
			m.index = i;
			buf_clear(&b);
			msg_put_stdio(&b, &m);
			channel_send(c, &b, STDIN_FILENO);
		}
	for (i = 0; i < t->nsinks; i++)
		if (t->sinks[i].kind == SINK_STDOUT &&
		    i % c->s->n == c->number) {
			m.is_sink = 1;
			m.index = i;
			buf_clear(&b);
			msg_put_stdio(&b, &m);
			channel_send(c, &b, STDOUT_FILENO);
		}
	buf_fini(&b);
}

static void
begin_life(struct child *c)
{
	spawn_stack_forget(c);
	c->shown = c->dump = 0;
	c->started_ns = clock_mono_ns();
	c->turns = STAT_GET(c->stats, turns);
	c->still = 0;
	c->guilty = c->hung = c->charged = false;
	c->refused = c->finished = c->told_finish = false;
	c->dying_checks = 0;
	c->oom_kills[0] = c->oom_kills[1] = cgroup_oom_kills(c);
	c->conns = 0;
	c->lost = false;
	c->lineage = c->proven = 0;
	c->fatal_code = 0;
	free(c->fatal_text);
	free(c->open_text);
	c->fatal_text = c->open_text = NULL;
	STAT_SET(c->stats, in_user, 0);
	if (c->wired != NULL)
		memset(c->wired, 0, c->s->n * sizeof(*c->wired));
	c->lives++;
}

void
child_wait(struct child *c, double seconds)
{
	if (c->state != CHILD_WAITING)
		child_move(c, CHILD_WAITING);
	ev_timer_stop(c->s->loop, &c->timer);
	ev_timer_set(&c->timer, seconds, 0);
	ev_timer_start(c->s->loop, &c->timer);
}

void
child_end(struct child *c, enum child_state state)
{
	ev_timer_stop(c->s->loop, &c->timer);
	if (c->state != state)
		child_move(c, state);
}

/* A process for it: a spare, or a new one. */
static int
find_process(struct child *c)
{
	char name[48];
	struct err err;

	c->adopted = c->role == CHILD_WORKER && spare_adopt(c);
	if (c->adopted)
		return (0);
	if (spawn_worker(c, &err) == -1) {
		log_error("cannot start %s, trying again: %s",
		    child_name(c, name, sizeof(name)), err.text);
		return (-1);
	}
	send_prepare(c);
	return (0);
}

void
child_start(struct child *c)
{
	begin_life(c);
	if (find_process(c) == -1) {
		child_wait(c, SPAWN_AGAIN_S);
		return;
	}
	child_move(c, CHILD_STARTING);
	ev_child_set(&c->reaper, c->pid, 0);
	ev_child_start(c->s->loop, &c->reaper);
	if (c->role == CHILD_SPARE) {
		spawn_record(c->s);
		return;
	}
	send_adopt(c);
	if (c->role != CHILD_WORKER)
		return;
	log_info("worker starts worker=%u pid=%d life=%u%s", c->number,
	    (int)c->pid, c->lives, c->adopted ? " spare=1" : "");
	spawn_record(c->s);
	wire_child(c);
	hold_resend(c);
	send_stdio(c);
}

void
child_run(struct child *c)
{
	struct msg_run m = { c->conns };
	struct buf b = { 0 };

	child_move(c, CHILD_RECOVERING);
	msg_put_run(&b, &m);
	FAULT_POINT(child_run_before);
	channel_send(c, &b, -1);
	FAULT_POINT(child_run_after);
	buf_fini(&b);
}

static void
say_finish(struct child *c, uint32_t why)
{
	struct msg_finish m = { why };
	struct buf b = { 0 };

	c->told_finish = true;
	msg_put_finish(&b, &m);
	FAULT_POINT(child_finish_before);
	channel_send(c, &b, -1);
	FAULT_POINT(child_finish_after);
	buf_fini(&b);
}

void
child_finish(struct child *c)
{
	say_finish(c, FINISH_STOP);
}

void
child_abort(struct child *c)
{
	say_finish(c, FINISH_ABORT);
}

void
child_kill(struct child *c)
{
	if (c->pid == 0)
		return;
	(void)kill(-c->pid, SIGKILL);
	(void)kill(c->pid, SIGKILL);
}

/* --- what it says -------------------------------------------------------- */

static char *
text_of(struct slice s)
{
	return (xstrndup((const char *)s.data, s.len));
}

static int
unexpected(const struct child *c, const char *what, struct err *err)
{
	return (err_set(err, ERR_CORRUPT, "\"%s\" does not fit its state %s",
	    what, child_state_name(c->state)));
}

static int
on_opened(void *arg, const struct msg_opened *m, struct err *err)
{
	struct child *c = arg;

	if (c->role != CHILD_WORKER || c->state != CHILD_STARTING)
		return (unexpected(c, "opened", err));
	c->adopted = c->cold = false;
	free(c->open_text);
	c->open_text = text_of(m->text);
	free(c->death);			/* it knows, and has noted it */
	c->death = NULL;
	if (m->ok)
		child_move(c, CHILD_OPENED);
	else {
		c->refused = true;
		c->older = m->older != 0;
	}
	app_child_opened(c);
	return (0);
}

static int
on_proven(void *arg, const struct msg_proven *m, struct err *err)
{
	struct child *c = arg;

	if (c->role != CHILD_WORKER || c->state != CHILD_STARTING)
		return (unexpected(c, "proven", err));
	c->lost = m->lost != 0;
	c->lineage = m->lineage;
	c->proven = m->position;
	return (0);
}

static int
on_cutoff(void *arg, const struct msg_cutoff *m, struct err *err)
{
	struct child *c = arg;

	if (c->state != CHILD_OPENED)
		return (unexpected(c, "cutoff", err));
	app_child_cut(c, m);
	return (0);
}

static int
on_ready(void *arg, const struct msg_ready *m, struct err *err)
{
	struct child *c = arg;

	if (c->state != CHILD_RECOVERING)
		return (unexpected(c, "ready", err));
	child_move(c, CHILD_RUNNING);
	log_info("worker is running worker=%u position=%" PRIu64, c->number,
	    m->position);
	app_child_ready(c);
	return (0);
}

static int
on_connect(void *arg, const struct msg_connect *m, struct err *err)
{
	struct child *c = arg;

	if (c->role != CHILD_WORKER)
		return (unexpected(c, "connect", err));
	listen_connect(c, m->sink);
	return (0);
}

static int
on_close(void *arg, const struct msg_close *m, struct err *err)
{
	struct child *c = arg;
	struct msg_dropped r = { m->id };
	struct buf b = { 0 };
	struct held *h;
	char why[64];

	(void)err;
	h = hold_find(c->s, m->id);
	if (h != NULL && h->worker == c->number) {
		(void)snprintf(why, sizeof(why), "%.*s", (int)(m->reason.len <
		    sizeof(why) ? m->reason.len : sizeof(why) - 1),
		    (const char *)m->reason.data);
		FAULT_POINT(conn_drop_before);
		hold_drop(c->s, h, why);
		FAULT_POINT(conn_drop_after);
		listen_update(c->s);
	}
	msg_put_dropped(&b, &r);
	channel_send(c, &b, -1);
	buf_fini(&b);
	return (0);
}

static int
on_drained(void *arg, const struct msg_drained *m, struct err *err)
{
	(void)err;
	app_child_drained(arg, m);
	return (0);
}

static int
on_settled(void *arg, const struct msg_settled *m, struct err *err)
{
	(void)err;
	finite_answer(arg, m);
	return (0);
}

static int
on_finished(void *arg, const struct msg_finished *m, struct err *err)
{
	struct child *c = arg;

	if (!c->told_finish)
		return (unexpected(c, "finished", err));
	c->finished = true;
	if (!m->clean)
		c->s->was_quiet = false;
	log_info("worker has finished worker=%u position=%" PRIu64, c->number,
	    m->position);
	return (0);
}

static int
on_checkpointed(void *arg, const struct msg_checkpointed *m, struct err *err)
{
	(void)err;
	ctl_checkpointed(arg, m);
	return (0);
}

static int
on_answer(void *arg, const struct msg_answer *m, struct err *err)
{
	(void)err;
	ctl_answer(arg, m);
	return (0);
}

static int
on_listed(void *arg, const struct msg_listed *m, struct err *err)
{
	(void)err;
	external_listed(arg, m);
	return (0);
}

static int
on_putback_done(void *arg, const struct msg_putback_done *m, struct err *err)
{
	(void)err;
	dlq_done(arg, m);
	return (0);
}

static int
on_lag(void *arg, const struct msg_lag *m, struct err *err)
{
	return (report_lag(arg, m) ? 0 : unexpected(arg, "lag", err));
}

static int
on_waits(void *arg, const struct msg_waits *m, struct err *err)
{
	return (report_waits(arg, m) ? 0 : unexpected(arg, "waits", err));
}

static int
on_fatal(void *arg, const struct msg_fatal *m, struct err *err)
{
	struct child *c = arg;

	(void)err;
	c->fatal_code = m->code == EXIT_PERMANENT ? EXIT_PERMANENT :
	    EXIT_TEMPORARY;
	free(c->fatal_text);
	c->fatal_text = text_of(m->text);
	return (0);
}

static int
on_topology(void *arg, const struct msg_topology *m, struct err *err)
{
	struct child *c = arg;

	if (c->role != CHILD_DESCRIBE)
		return (unexpected(c, "topology", err));
	app_topology(c, m->topology);
	return (0);
}

static int
on_prepared(void *arg, const struct msg_prepared *m, struct err *err)
{
	struct child *c = arg;

	if (c->state != CHILD_STARTING)
		return (unexpected(c, "prepared", err));
	if (c->role == CHILD_SPARE) {
		child_move(c, CHILD_PREPARED);
		spare_ready(c, m->import_ns);
	}
	return (0);
}

static const struct msg_handlers handlers = {
	.prepared = on_prepared,
	.opened = on_opened,
	.ready = on_ready,
	.connect = on_connect,
	.close = on_close,
	.drained = on_drained,
	.settled = on_settled,
	.lag = on_lag,
	.waits = on_waits,
	.finished = on_finished,
	.checkpointed = on_checkpointed,
	.answer = on_answer,
	.listed = on_listed,
	.putback_done = on_putback_done,
	.fatal = on_fatal,
	.topology = on_topology,
	.proven = on_proven,
	.cutoff = on_cutoff,
};

void
child_read(struct child *c, int most)
{
	static struct buf b;
	char name[48];
	struct err err;
	int r;

	while (c->fd != -1 && most-- > 0) {
		FAULT_POINT(child_receive_before);
		r = channel_receive(c->fd, &b);
		/* It died with something unread: that is said once, before
		 * what it has sent. */
		if (r == -1 && errno == ECONNRESET)
			continue;
		if (r == -1)
			return;
		if (r == 0) {			/* the end; waitpid follows */
			ev_io_stop(c->s->loop, &c->io);
			return;
		}
		FAULT_POINT(child_receive_after);
		if (b.len >= MSG_HEADER && msg_dispatch(&handlers, c,
		    FROM_WORKER, slice_of(b.data + MSG_HEADER, b.len -
		    MSG_HEADER), &err) == 0)
			continue;
		if (b.len < MSG_HEADER)
			(void)err_set(&err, ERR_CORRUPT, "short message");
		log_error("%s sent nonsense, killing it: %s",
		    child_name(c, name, sizeof(name)), err.text);
		c->guilty = true;
		ev_io_stop(c->s->loop, &c->io);
		child_kill(c);
		return;
	}
}

/* --- how it ends --------------------------------------------------------- */

static void
log_death(const struct child *c)
{
	char name[64], how[64];

	if (WIFEXITED(c->status))
		(void)snprintf(how, sizeof(how), "exit code %d",
		    WEXITSTATUS(c->status));
	else
		(void)snprintf(how, sizeof(how), "signal %d (%s)",
		    WTERMSIG(c->status), strsignal(WTERMSIG(c->status)));
	if (c->role == CHILD_SPARE && !c->finished)
		log_warn("a spare died pid=%d how=\"%s\"%s", (int)c->pid,
		    how, c->guilty ? " killed_by=supervisor" : "");
	else if (c->role != CHILD_WORKER)
		log_debug("%s ended: %s", child_name(c, name, sizeof(name)),
		    how);
	else if (c->finished || c->s->state == APP_KILLING)
		log_debug("worker ended worker=%u pid=%d how=\"%s\"",
		    c->number, (int)c->pid, how);
	else
		log_warn("worker died worker=%u pid=%d how=\"%s\"%s",
		    c->number, (int)c->pid, how, c->guilty ?
		    " killed_by=supervisor" : "");
}

/* What is new of its stacks goes to the log. */
static void
show_stack(struct child *c)
{
	char *text = spawn_stack(c, c->shown), name[48];

	if (text == NULL)
		return;
	log_error("Python's stack of %s\n%s", child_name(c, name,
	    sizeof(name)), text);
	c->shown += strlen(text);
	free(text);
}

/* As much of it as a dead letter can keep. */
static size_t
stack_len(const char *p)
{
	const char *end = strstr(p, "\n\n");	/* more threads */
	size_t n = end == NULL ? strlen(p) : (size_t)(end - p);

	if (n > STACK_KEPT)
		for (n = STACK_KEPT; n > 0 && p[n] != '\n'; n--)
			;
	while (n > 0 && p[n - 1] == '\n')
		n--;
	return (n);
}

/* Behind how it died: where it was, the innermost call first.  Takes how. */
static char *
add_stack(const struct child *c, char *how)
{
	char *all = spawn_stack(c, c->hung ? c->dump : 0), *p = all, *r;
	const char *last = NULL;

	if (c->hung)
		last = all;
	else
		while (p != NULL && (p = strstr(p, FATAL_DUMP)) != NULL)
			last = p++;
	if (last != NULL && (last = strstr(last, THREAD_DUMP)) != NULL) {
		r = xasprintf("%s\n%.*s", how, (int)stack_len(last), last);
		free(how);
		how = r;
	}
	free(all);
	return (how);
}

/*
 * By its own doing?  Then its replacement is told how, to compare with what
 * the journal says about the record at work.  Death by a signal that anybody
 * may send is somebody else's, unless it was ours for a hang.
 */
static char *
own_death(const struct child *c)
{
	int status = c->status;

	if (c->fatal_code != 0 || c->finished)
		return (NULL);		/* it has said why */
	if (c->hung && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
		return (add_stack(c, xasprintf("no turn of its loop for %"
		    PRId64 " seconds (hang-timeout)",
		    (c->s->conf.hang_timeout + 999) / 1000)));
	/* It takes a moment to die, in which a check may come.  A child of it
	 * may have been the victim, but hardly just now. */
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL &&
	    cgroup_oom_kills(c) > c->oom_kills[1])
		return (xstrdup("signal 9 for want of memory (its cgroup "
		    "counted it)"));
	if (!crash_own_doing(status))
		return (NULL);
	if (WIFEXITED(status))
		return (xasprintf("exit code %d", WEXITSTATUS(status)));
	return (add_stack(c, xasprintf("signal %d (%s)", WTERMSIG(status),
	    strsignal(WTERMSIG(status)))));
}

static void
note_death(struct child *c)
{
	char *death = own_death(c);

	if (c->role == CHILD_SPARE) {	/* it was at work on nothing */
		free(death);
		return;
	}
	c->own = death != NULL || crash_own_doing(c->status);
	/* One that never opened its files was at work on no record, and has
	 * not noted the death before. */
	if (c->state == CHILD_STARTING) {
		free(death);
		return;
	}
	free(c->death);
	c->death = death;
	c->charged = death != NULL && STAT_GET(c->stats, in_user) == 1;
}

/* Nothing of it is left: what now? */
static void
gone(struct child *c)
{
	ev_timer_stop(c->s->loop, &c->timer);
	c->pid = 0;
	spawn_record(c->s);
	app_child_died(c);
}

static void
look_what_is_left(struct child *c)
{
	char name[48];

	if (spawn_gone(c)) {
		gone(c);
		return;
	}
	if (++c->dying_checks % DYING_SAY == 0)
		log_warn("processes of %s do not die, it is replaced when "
		    "they have", child_name(c, name, sizeof(name)));
	ev_timer_stop(c->s->loop, &c->timer);
	ev_timer_set(&c->timer, DYING_S, 0);
	ev_timer_start(c->s->loop, &c->timer);
}

static void
on_reaped(struct ev_loop *loop, ev_child *w, int events)
{
	struct child *c = w->data;

	(void)events;
	if (!WIFEXITED(w->rstatus) && !WIFSIGNALED(w->rstatus))
		return;				/* stopped or continued */
	ev_child_stop(loop, w);
	c->status = w->rstatus;
	FAULT_POINT(reap_before);
	/* Its last words. */
	child_read(c, INT32_MAX);
	show_stack(c);
	log_death(c);
	note_death(c);
	channel_close(c);
	child_move(c, CHILD_DYING);
	if (c->role == CHILD_WORKER)
		cut_forget(c->s);
	FAULT_POINT(reap_after);
	look_what_is_left(c);
}

static void
on_time(struct ev_loop *loop, ev_timer *t, int events)
{
	struct child *c = t->data;

	(void)loop;
	(void)events;
	if (c->state == CHILD_DYING)
		look_what_is_left(c);
	else if (c->state == CHILD_WAITING && c->role == CHILD_SPARE)
		spare_time(c);
	else if (c->state == CHILD_WAITING)
		child_start(c);
}

/*
 * A turn of the loop is counted in shared memory.  Time is measured by our
 * own checks, so that nobody is accused after this process was stopped.
 */
void
child_check(struct child *c)
{
	uint64_t turns = STAT_GET(c->stats, turns), limit;
	char name[48];

	if (!child_alive(c))
		return;
	show_stack(c);
	c->oom_kills[1] = c->oom_kills[0];
	c->oom_kills[0] = cgroup_oom_kills(c);
	if (!ev_is_active(&c->io)) {
		/* It closed the channel and lives on. */
		c->guilty = true;
		child_kill(c);
		return;
	}
	/* One that waits has no turns. */
	if (turns != c->turns || c->state == CHILD_PREPARED) {
		c->turns = turns;
		c->still = 0;
		c->guilty = false;
		if (c->shown > STACKS_MOST) {
			spawn_stack_forget(c);
			c->shown = c->dump = 0;
		}
		return;
	}
	limit = ((uint64_t)c->s->conf.hang_timeout + 999) / 1000;
	/* Imports, large states and last checkpoints take their time. */
	if (c->state == CHILD_STARTING || c->told_finish)
		limit *= HANG_START;
	if (++c->still == limit) {
		log_error("%s has not turned its loop for %" PRIu64
		    " seconds", child_name(c, name, sizeof(name)), limit);
		c->guilty = true;
		c->dump = c->shown;
		(void)kill(c->pid, SIGUSR2);
	} else if (c->still >= limit + HANG_DUMP) {
		log_error("killing %s", child_name(c, name, sizeof(name)));
		c->still = 0;
		c->hung = !spawn_stopped(c->pid);
		child_kill(c);
	}
}

/* --- memory -------------------------------------------------------------- */

void
child_init(struct child *c, struct supervisor *s, enum child_role role,
    uint32_t number, uint32_t n)
{
	memset(c, 0, sizeof(*c));
	c->s = s;
	c->role = role;
	c->number = number;
	c->fd = c->stats_fd = -1;
	if (n > 0)
		c->wired = xcalloc(n, sizeof(*c->wired));
	STAILQ_INIT(&c->queue);
	ev_init(&c->io, NULL);
	ev_init(&c->resend, NULL);
	ev_init(&c->timer, on_time);
	c->timer.data = c;
	ev_child_init(&c->reaper, on_reaped, 0, 0);
	c->reaper.data = c;
}

void
child_fini(struct child *c)
{
	if (c->s == NULL)
		return;
	ev_timer_stop(c->s->loop, &c->timer);
	ev_child_stop(c->s->loop, &c->reaper);
	channel_close(c);
	cgroup_close(c);
	if (c->stats != NULL)
		(void)munmap(c->stats, STATS_SIZE);
	if (c->stats_fd != -1)
		close(c->stats_fd);
	free(c->mark);
	free(c->death);
	free(c->wired);
	free(c->fatal_text);
	free(c->open_text);
	reports_fini(c);
	memset(c, 0, sizeof(*c));
}
