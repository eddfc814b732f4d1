/*
 * The life of the application.
 *
 *	DESCRIBE ──► SPREAD ──► STARTING ──► RECOVERING ──► RUNNING
 *	    │          ▲           ▲             │             │
 *	    └──────────┼───────────┘             └──► DRAINING ◄┘  stop
 *	               │ other number of workers        │
 *	               └──────────────────────── FINISHING ──► ENDED
 *
 * From each of them KILLING, when it has failed: every process is ended, the
 * state stays as it is, the exit code says why.
 */
#include <sys/prctl.h>

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "supervisor/supervisor.h"

#define ABORT_S		2.0	/* to settle, when one has failed */
#define DRAIN_S		0.05	/* between rounds */
#define WORKERS_MOST	256	/* that a configuration may ask for */
#define MESSAGE_SPARE	8192	/* of start, beside its large fields */
#define NONE_LIFE_NS	60000000000ULL	/* a life that counts as progress
					   when nothing is recovered */

#define B(state)	(1U << APP_##state)
static const unsigned int app_next[] = {
	[APP_DESCRIBE] =	B(SPREAD) | B(STARTING) | B(KILLING),
	[APP_SPREAD] =		B(STARTING) | B(KILLING),
	[APP_STARTING] =	B(RECOVERING) | B(KILLING),
	[APP_RECOVERING] =	B(RUNNING) | B(DRAINING) | B(KILLING),
	[APP_RUNNING] =		B(DRAINING) | B(KILLING),
	[APP_DRAINING] =	B(FINISHING) | B(KILLING),
	[APP_FINISHING] =	B(SPREAD) | B(ENDED) | B(KILLING),
	[APP_KILLING] =		B(ENDED),
	[APP_ENDED] =		0
};
#undef B

static void begin_drain(struct supervisor *);
static void begin_spread(struct supervisor *);

const char *
app_state_name(enum app_state state)
{
	static const char *const names[] = {
		[APP_DESCRIBE] = "starting", [APP_SPREAD] = "starting",
		[APP_STARTING] = "starting", [APP_RECOVERING] = "recovering",
		[APP_RUNNING] = "running", [APP_DRAINING] = "draining",
		[APP_FINISHING] = "stopping", [APP_KILLING] = "stopping",
		[APP_ENDED] = "stopping"
	};

	return (names[state]);
}

static void
app_move(struct supervisor *s, enum app_state to)
{
	assert((app_next[s->state] & (1U << to)) != 0);
	s->state = to;
	listen_update(s);
}

static bool
is_durable(const struct supervisor *s)
{
	return (s->conf.durability != CONF_NONE);
}

/* --- the end ------------------------------------------------------------- */

static void
app_ended(struct supervisor *s)
{
	app_move(s, APP_ENDED);
	ev_break(s->loop, EVBREAK_ALL);
}

static void
check_killed(struct supervisor *s)
{
	uint32_t i;

	if (s->state != APP_KILLING || s->tool.pid != 0)
		return;
	for (i = 0; i < s->n; i++)
		if (s->child[i].pid != 0)
			return;
	if (!spare_left(s) && !connectors_left(s))
		app_ended(s);
}

void
app_connectors_gone(struct supervisor *s)
{
	if (s->finished && s->state == APP_FINISHING)
		app_ended(s);
	else
		check_killed(s);
}

static void
kill_all(struct supervisor *s)
{
	uint32_t i;

	if (s->tool.s != NULL && s->tool.state == CHILD_WAITING)
		child_end(&s->tool, CHILD_NONE);
	child_kill(&s->tool);
	spare_kill(s);
	connectors_stop(s);
	for (i = 0; i < s->n; i++) {
		if (s->child[i].state == CHILD_WAITING)
			child_end(&s->child[i], CHILD_NONE);
		child_kill(&s->child[i]);
	}
	listen_cancel(s);
	ev_timer_stop(s->loop, &s->drain_timer);
	ev_timer_stop(s->loop, &s->abort);
	check_killed(s);
}

static void
on_abort_time(struct ev_loop *loop, ev_timer *t, int events)
{
	(void)loop;
	(void)events;
	kill_all(t->data);
}

/* Those that work may settle with their receivers first, so that the next
 * start goes on exactly; they have two seconds. */
static void
abort_all(struct supervisor *s)
{
	bool any = false;
	uint32_t i;

	for (i = 0; i < s->n; i++)
		if (s->child[i].state == CHILD_RUNNING) {
			child_abort(&s->child[i]);
			any = true;
		}
	if (!any) {
		kill_all(s);
		return;
	}
	for (i = 0; i < s->n; i++)
		if (s->child[i].state == CHILD_WAITING)
			child_end(&s->child[i], CHILD_NONE);
	listen_cancel(s);
	ev_timer_stop(s->loop, &s->drain_timer);
	ev_timer_init(&s->abort, on_abort_time, ABORT_S, 0);
	s->abort.data = s;
	ev_timer_start(s->loop, &s->abort);
}

void
app_fail(struct supervisor *s, int code, const char *fmt, ...)
{
	va_list ap;

	if (s->state == APP_KILLING || s->state == APP_ENDED)
		return;			/* the first reason is the reason */
	va_start(ap, fmt);
	if (vasprintf(&s->why, fmt, ap) == -1)
		s->why = NULL;
	va_end(ap);
	log_error("%s", s->why == NULL ? "out of memory" : s->why);
	machida_failed(s);
	s->exit_code = code;
	app_move(s, APP_KILLING);
	spare_kill(s);
	abort_all(s);
}

static int
code_of(const struct err *err)
{
	return (err->code == ERR_SYSTEM || err->code == ERR_STORAGE ?
	    EXIT_TEMPORARY : EXIT_PERMANENT);
}

static void
fail_err(struct supervisor *s, const struct err *err)
{
	app_fail(s, code_of(err), "%s", err->text);
}

/* --- workers start ------------------------------------------------------- */

static int
check_start_fits(struct supervisor *s, struct err *err)
{
	if (s->conf_bytes.len + s->topo_bytes.len + strlen(s->run_dir) +
	    MESSAGE_SPARE > MSG_MAX_CONTROL)
		return (err_set(err, ERR_CONFIG, "the pipeline and the "
		    "configuration together are too large: %zu bytes, %d are "
		    "allowed", s->conf_bytes.len + s->topo_bytes.len,
		    MSG_MAX_CONTROL - MESSAGE_SPARE));
	return (0);
}

/* What cannot get better by itself is no reason to try again and again. */
static int
check_cgroup(struct supervisor *s, struct err *err)
{
	struct child c = { .s = s, .role = CHILD_WORKER };
	int fd;

	if (s->conf.worker_memory != 0 && s->conf.cgroup[0] == '\0')
		return (err_set(err, ERR_CONFIG, "worker-memory needs cgroup, "
		    "a directory for the workers' cgroups"));
	if ((fd = cgroup_open(&c, err)) != -1) {
		close(fd);
		cgroup_check(&c);
	}
	return (fd == -1 && err->code != ERR_NONE ? -1 : 0);
}

static int
make_workers(struct supervisor *s, uint32_t n, struct err *err)
{
	uint32_t i;

	s->child = xcalloc(n, sizeof(*s->child));
	s->n = n;
	for (i = 0; i < n; i++)
		child_init(&s->child[i], s, CHILD_WORKER, i, n);
	free(s->turn);
	s->turn = xcalloc(s->topo.nsources + 1, sizeof(*s->turn));
	hold_init(s);
	if (check_start_fits(s, err) == -1 || place_check_fds(s, err) == -1)
		return (-1);
	for (i = 0; i < n; i++)
		if (spawn_stats(&s->child[i], err) == -1)
			return (-1);
	if (spare_init(s, err) == -1)
		return (-1);
	notify_adopt(s);
	notify_close_rest(s);
	return (0);
}

static void
free_workers(struct supervisor *s)
{
	uint32_t i;

	hold_fini(s);
	spare_fini(s);
	for (i = 0; i < s->n; i++)
		child_fini(&s->child[i]);
	free(s->child);
	s->child = NULL;
	s->n = 0;
}

static void
begin_workers(struct supervisor *s, uint32_t n)
{
	struct err err;
	uint32_t i;

	if (check_cgroup(s, &err) == -1 || make_workers(s, n, &err) == -1 ||
	    (is_durable(s) && catalog_begin(&s->catalog, n,
	    (uint32_t)s->conf.partitions, &err) == -1)) {
		fail_err(s, &err);
		return;
	}
	app_move(s, APP_STARTING);
	for (i = 0; i < n && s->state == APP_STARTING; i++)
		child_start(&s->child[i]);
}

/* --- one process that only spreads keys or describes --------------------- */

static void
begin_tool(struct supervisor *s, enum child_role role)
{
	struct err err;

	child_fini(&s->tool);
	child_init(&s->tool, s, role, 0, 0);
	if (spawn_stats(&s->tool, &err) == -1) {
		fail_err(s, &err);
		return;
	}
	child_start(&s->tool);
}

static void
begin_spread(struct supervisor *s)
{
	log_info("keys are spread anew workers=%" PRId64 " before=%u",
	    s->conf.workers, s->catalog.workers);
	app_move(s, APP_SPREAD);
	begin_tool(s, CHILD_SPREAD);
}

static void
spread_done(struct supervisor *s)
{
	uint32_t before = s->catalog.workers;
	uint64_t generation = s->catalog.generation;
	struct err err;

	if (catalog_spread(&s->catalog, (uint32_t)s->conf.workers, &err) ==
	    -1) {
		fail_err(s, &err);
		return;
	}
	catalog_remove_old(&s->catalog, s->conf.state_directory, before,
	    generation);
	begin_workers(s, (uint32_t)s->conf.workers);
}

void
app_topology(struct child *c, struct slice bytes)
{
	struct supervisor *s = c->s;
	struct err err;

	if (s->described)
		return;
	if (topo_parse(&s->topo, bytes, &err) == -1) {
		app_fail(s, EXIT_PERMANENT, "the description of the pipeline "
		    "is wrong: %s", err.text);
		return;
	}
	buf_add(&s->topo_bytes, bytes.data, bytes.len);
	s->described = true;
}

/* --- is this the application whose state is here? ------------------------ */

static int
check_catalog(struct supervisor *s, struct err *err)
{
	struct catalog *c = &s->catalog;
	struct topo old;
	int r;

	if (c->workers == 0)
		return (0);			/* there is no state yet */
	if (c->partitions != (uint32_t)s->conf.partitions)
		return (err_set(err, ERR_REFUSED, "partitions = %" PRId64
		    ", but the state was written with partitions = %u; this "
		    "number cannot be changed", s->conf.partitions,
		    c->partitions));
	if (catalog_finish_rename(c, s->conf.state_directory, err) == -1)
		return (-1);
	if (c->topology.len == 0)
		return (0);
	if (topo_parse(&old, buf_slice(&c->topology), err) == -1)
		return (err_wrap(err, "%s", c->path));
	r = catalog_compatible(&old, &s->topo, &s->opt, err);
	topo_fini(&old);
	if (r == -1 || s->opt.nrenames == 0)
		return (r);
	if (!c->clean)
		return (err_set(err, ERR_REFUSED, "--rename-state and "
		    "--drop-state need a clean stop before: start the old "
		    "version, stop it, then start this one"));
	return (catalog_rename(c, s->conf.state_directory, &s->opt,
	    buf_slice(&s->topo_bytes), err));
}

static void
described(struct supervisor *s)
{
	const struct catalog *c = &s->catalog;
	uint32_t wanted = (uint32_t)s->conf.workers;
	struct err err;

	if (is_durable(s) && check_catalog(s, &err) == -1) {
		fail_err(s, &err);
		return;
	}
	s->recovered = is_durable(s) && c->workers != 0;
	if (s->recovered)
		machida_say(s, "Recovering from recovery files!\n"
		    "Attempting to recover...");
	if (connectors_init(s, &err) == -1 || listen_open(s, &err) == -1) {
		fail_err(s, &err);
		return;
	}
	machida_listening(s);
	/* A kill right after keys were spread may have left the old files. */
	if (is_durable(s) && c->generation > 0)
		catalog_remove_old(c, s->conf.state_directory, WORKERS_MOST,
		    c->generation - 1);
	if (!is_durable(s) && c->workers != 0)
		log_warn("durability is none: the state in %s is neither "
		    "read nor changed", s->conf.state_directory);
	if (!is_durable(s) || c->workers == 0 || c->workers == wanted)
		begin_workers(s, wanted);
	else if (c->clean && !dlq_pending(c))
		begin_spread(s);
	else {
		log_info("the last run was not stopped cleanly: recovering "
		    "with its number of workers first workers=%u wanted=%u",
		    c->workers, wanted);
		s->transit = true;
		begin_workers(s, c->workers);
	}
}

/* Killed from outside it is started again, a few times. */
static bool
tool_again(struct child *c)
{
	if (c->guilty || crash_own_doing(c->status) ||
	    c->lives >= (uint64_t)c->s->conf.restart_limit)
		return (false);
	child_start(c);
	return (true);
}

static void
tool_died(struct child *c)
{
	struct supervisor *s = c->s;
	bool good = WIFEXITED(c->status) && WEXITSTATUS(c->status) == 0;
	char name[64];

	if (s->state == APP_KILLING) {
		child_end(c, CHILD_NONE);
		check_killed(s);
		return;
	}
	if (c->role == CHILD_DESCRIBE ? s->described : good) {
		child_end(c, CHILD_FINISHED);
		if (c->role == CHILD_DESCRIBE)
			described(s);
		else
			spread_done(s);
		return;
	}
	if (c->fatal_code != 0) {
		child_end(c, CHILD_NONE);
		app_fail(s, (int)c->fatal_code, "%s", c->fatal_text);
		return;
	}
	if (tool_again(c))
		return;
	child_end(c, CHILD_NONE);
	child_name(c, name, sizeof(name));
	if (WIFEXITED(c->status))
		app_fail(s, EXIT_PERMANENT, "%s ended with exit code %d "
		    "before it was done", name, WEXITSTATUS(c->status));
	else
		app_fail(s, c->guilty || crash_own_doing(c->status) ?
		    EXIT_PERMANENT : EXIT_TEMPORARY, "%s died of signal %d "
		    "(%s)", name, WTERMSIG(c->status),
		    strsignal(WTERMSIG(c->status)));
}

/* --- workers have opened their files ------------------------------------- */

static void
log_lines(uint32_t worker, const char *text, int priority)
{
	size_t n;

	for (; *text != '\0'; text += n + (text[n] == '\n')) {
		n = strcspn(text, "\n");
		log_at(priority, "worker %u: %.*s", worker, (int)n, text);
	}
}

static void
refuse_start(struct supervisor *s)
{
	uint32_t i;

	for (i = 0; i < s->n; i++) {
		if (s->child[i].refused && s->child[i].open_text != NULL)
			log_lines(i, s->child[i].open_text, LOG_ERR);
		if (s->child[i].older)
			s->used = false;
	}
	app_fail(s, EXIT_PERMANENT, "the start is refused, nothing has been "
	    "changed; the lines above say why, for each worker. Where input "
	    "is lost for good, --accept-loss goes on without it");
}

static int
record_losses(struct supervisor *s, struct err *err)
{
	const char *text;
	uint32_t i;

	if (!s->opt.accept_loss)
		return (0);
	for (i = 0; i < s->n; i++) {
		text = s->child[i].open_text;
		if (text == NULL || text[0] == '\0')
			continue;
		log_lines(i, text, LOG_WARNING);
		if (catalog_loss(&s->catalog, i, text, err) == -1)
			return (-1);
	}
	return (0);
}

static void
all_opened(struct supervisor *s)
{
	struct err err;
	uint32_t i;

	if (record_losses(s, &err) == -1 || (is_durable(s) &&
	    (catalog_topology(&s->catalog, buf_slice(&s->topo_bytes), &err) ==
	    -1 || catalog_opened(&s->catalog, &err) == -1))) {
		fail_err(s, &err);
		return;
	}
	app_move(s, APP_RECOVERING);
	for (i = 0; i < s->n; i++)
		child_run(&s->child[i]);
	connectors_start(s);
	if (s->stopping)
		begin_drain(s);
}

static void
check_started(struct supervisor *s)
{
	bool refused = false;
	uint32_t i;

	for (i = 0; i < s->n; i++) {
		if (s->child[i].refused)
			refused = true;
		else if (s->child[i].state != CHILD_OPENED)
			return;
	}
	if (refused)
		refuse_start(s);
	else if (cut_needed(s))
		cut_begin(s);
	else
		all_opened(s);
}

void
app_child_cut(struct child *c, const struct msg_cutoff *m)
{
	struct supervisor *s = c->s;

	if (s->state != APP_STARTING)
		return;
	switch (cut_answer(c, m)) {
	case CUT_WAIT:
		break;
	case CUT_DONE:
		all_opened(s);
		break;
	case CUT_REFUSED:
		refuse_start(s);
		break;
	}
}

static void
send_round(struct supervisor *s, struct child *c)
{
	struct msg_drain m = { s->drain.round };
	struct buf b = { 0 };

	if (c->state != CHILD_RECOVERING && c->state != CHILD_RUNNING)
		return;
	msg_put_drain(&b, &m);
	channel_send(c, &b, -1);
	buf_fini(&b);
}

void
app_child_opened(struct child *c)
{
	struct supervisor *s = c->s;

	if (s->state == APP_KILLING)
		return;
	if (s->state == APP_STARTING) {
		check_started(s);
		return;
	}
	if (c->refused) {
		app_fail(s, EXIT_PERMANENT, "worker %u cannot go on: %s",
		    c->number, c->open_text);
		return;
	}
	if (c->lost) {
		app_fail(s, EXIT_TEMPORARY, "worker %u has lost the end of "
		    "its journal: all workers must go back together, at the "
		    "next start", c->number);
		return;
	}
	child_run(c);
	if (s->state == APP_DRAINING && s->drain.round > 0)
		send_round(s, c);
	else if (s->state == APP_FINISHING)
		child_finish(c);
}

static void
running(struct supervisor *s)
{
	char *text;

	app_move(s, APP_RUNNING);
	if (s->transit) {
		begin_drain(s);
		return;
	}
	s->ran = true;
	if (s->topo.version[0] == '\0')
		log_info("application is running app=%s workers=%u",
		    s->conf.name, s->n);
	else
		log_info("application is running app=%s workers=%u "
		    "version=\"%s\"", s->conf.name, s->n, s->topo.version);
	machida_running(s);
	text = xasprintf("READY=1\nSTATUS=%u workers", s->n);
	notify_send(s, text);
	free(text);
	spare_update(s);
	listen_update(s);
	finite_start(s);
}

void
app_child_ready(struct child *c)
{
	struct supervisor *s = c->s;
	uint32_t i;

	ctl_child_ready(c);
	dlq_resend(c);
	external_child_ready(c);
	finite_child_ready(c);
	listen_update(s);
	spare_update(s);
	if (s->state != APP_RECOVERING)
		return;
	for (i = 0; i < s->n; i++)
		if (s->child[i].state != CHILD_RUNNING)
			return;
	running(s);
}

/* --- the stop ------------------------------------------------------------ */

static void
begin_finish(struct supervisor *s)
{
	uint32_t i;

	s->was_quiet = s->drain.quiet;
	if (!s->was_quiet)
		log_warn("not everything inside could be processed in time, "
		    "the next start goes on with it");
	else if (!s->drain.empty)
		log_warn("sinks have not taken everything in time, the rest "
		    "is saved");
	ev_timer_stop(s->loop, &s->drain_timer);
	app_move(s, APP_FINISHING);
	for (i = 0; i < s->n; i++)
		if (s->child[i].state == CHILD_RECOVERING ||
		    s->child[i].state == CHILD_RUNNING)
			child_finish(&s->child[i]);
}

static void
on_drain_time(struct ev_loop *loop, ev_timer *t, int events)
{
	struct supervisor *s = t->data;
	int64_t ms = (int64_t)((clock_mono_ns() - s->drain_ns) / 1000000);
	uint32_t i;

	(void)loop;
	(void)events;
	if (drain_decide(&s->drain, ms, s->conf.stop_timeout, s->transit &&
	    !s->stopping) == DRAIN_FINISH) {
		begin_finish(s);
		return;
	}
	if (s->drain.round > 0 && !drain_complete(&s->drain))
		return;
	(void)drain_next(&s->drain);
	for (i = 0; i < s->n; i++)
		send_round(s, &s->child[i]);
}

static void
begin_drain(struct supervisor *s)
{
	s->drain_ns = clock_mono_ns();
	drain_init(&s->drain, s->n);
	app_move(s, APP_DRAINING);
	spare_kill(s);
	ev_timer_stop(s->loop, &s->drain_timer);
	ev_timer_set(&s->drain_timer, 0, DRAIN_S);
	ev_timer_start(s->loop, &s->drain_timer);
}

void
app_child_drained(struct child *c, const struct msg_drained *m)
{
	if (c->s->state == APP_DRAINING)
		drain_answer(&c->s->drain, c->number, m);
}

void
app_stop(struct supervisor *s)
{
	if (s->stopping || s->state == APP_KILLING)
		return;
	log_info("application is stopping app=%s", s->conf.name);
	notify_send(s, "STOPPING=1");
	s->stopping = true;
	switch (s->state) {
	case APP_DESCRIBE:
	case APP_SPREAD:
		/* Nothing has begun; what was spread does not count. */
		app_move(s, APP_KILLING);
		kill_all(s);
		break;
	case APP_RECOVERING:
	case APP_RUNNING:
		begin_drain(s);
		break;
	case APP_DRAINING:			/* for other workers */
		s->drain_ns = clock_mono_ns();
		break;
	default:
		break;				/* is on its way */
	}
}

static void
all_finished(struct supervisor *s)
{
	struct err err;

	if (is_durable(s) && s->was_quiet &&
	    catalog_clean(&s->catalog, &err) == -1) {
		fail_err(s, &err);
		return;
	}
	listen_cancel(s);
	finite_stop(s);
	drain_fini(&s->drain);
	free_workers(s);
	if (s->transit && !s->stopping && s->was_quiet) {
		s->transit = false;
		begin_spread(s);
		return;
	}
	if (is_durable(s) && !s->was_quiet) {
		log_warn("stopped, but not everything inside was processed: "
		    "start it again with workers = %u, and stop it, before "
		    "this machine is restarted app=%s", s->catalog.workers,
		    s->conf.name);
		s->exit_code = EXIT_TEMPORARY;
	} else
		log_info("application has stopped app=%s", s->conf.name);
	/* Sinks have needed theirs up to here. */
	connectors_stop(s);
	s->finished = true;
	if (!connectors_left(s))
		app_ended(s);
}

static void
check_finished(struct supervisor *s)
{
	uint32_t i;

	for (i = 0; i < s->n; i++)
		if (s->child[i].state != CHILD_FINISHED)
			return;
	if (!spare_left(s))
		all_finished(s);
}

/* --- a worker has died, nothing of it is left ---------------------------- */

static void
give_up(struct child *c)
{
	struct supervisor *s = c->s;
	bool temporary = c->fatal_code == EXIT_TEMPORARY;

	app_fail(s, temporary ? EXIT_TEMPORARY : EXIT_PERMANENT,
	    "worker %u died %u times without progress (restart-limit), the "
	    "application stops, its state is kept%s%s", c->number,
	    c->crash.deaths, c->fatal_text == NULL ?
	    "; what it said is above" : "; the last time: ",
	    c->fatal_text == NULL ? "" : c->fatal_text);
}

static void
replace(struct child *c)
{
	struct supervisor *s = c->s;
	bool own = c->guilty || c->own;
	uint64_t done = STAT_GET(c->stats, journal_done);
	int64_t delay;

	/* Whatever a spare did, and whoever killed it, while it waited. */
	if (c->adopted) {
		c->cold = true;
		child_start(c);
		return;
	}
	/* Without recovery positions begin anew with each life. */
	if (!is_durable(s)) {
		hold_drop_sinks(c);
		done = clock_mono_ns() - c->started_ns > NONE_LIFE_NS ?
		    c->crash.best + 1 : 0;
	}
	delay = crash_count(&c->crash, own, c->charged && is_durable(s), done,
	    (uint32_t)s->conf.restart_limit);
	if (delay < 0) {
		child_end(c, CHILD_NONE);
		give_up(c);
	} else if (delay > 0) {
		log_warn("worker made no progress, starting it again later "
		    "worker=%u deaths=%u delay_ms=%" PRId64, c->number,
		    c->crash.deaths, delay);
		child_wait(c, (double)delay / 1000);
	} else
		child_start(c);
}

void
app_child_died(struct child *c)
{
	struct supervisor *s = c->s;

	if (c->role == CHILD_SPARE) {
		spare_died(c);
		check_killed(s);
		if (s->state == APP_FINISHING)
			check_finished(s);
		return;
	}
	if (c->role != CHILD_WORKER) {
		tool_died(c);
		return;
	}
	ctl_child_died(c);
	external_child_died(c);
	finite_child_died(c);
	if (s->state == APP_KILLING) {
		child_end(c, CHILD_NONE);
		check_killed(s);
	} else if (c->finished && WIFEXITED(c->status) &&
	    WEXITSTATUS(c->status) == 0) {
		child_end(c, CHILD_FINISHED);
		check_finished(s);
	} else if (c->refused) {
		child_end(c, CHILD_NONE);
		check_started(s);
	} else if (c->fatal_code == EXIT_PERMANENT) {
		child_end(c, CHILD_NONE);
		app_fail(s, EXIT_PERMANENT, "worker %u: %s", c->number,
		    c->fatal_text);
	} else {
		if (s->state == APP_DRAINING)
			drain_forget(&s->drain, c->number);
		replace(c);
	}
}

/* --- the process --------------------------------------------------------- */

static void
on_signal(struct ev_loop *loop, ev_signal *w, int events)
{
	struct supervisor *s = w->data;

	(void)loop;
	(void)events;
	if (w->signum == SIGHUP) {
		log_info("SIGHUP: there is nothing to read again; a changed "
		    "configuration takes effect at the next start");
		return;
	}
	app_stop(s);
}

static void
on_check(struct ev_loop *loop, ev_timer *t, int events)
{
	struct supervisor *s = t->data;
	uint32_t i;

	(void)events;
	/* From now: a timer that is late would come twice. */
	ev_timer_again(loop, t);
	if (s->tool.stats != NULL)
		child_check(&s->tool);
	for (i = 0; i < s->n; i++)
		if (s->child[i].stats != NULL)
			child_check(&s->child[i]);
	spare_check(s);
}

static void
on_wire(struct ev_loop *loop, ev_timer *t, int events)
{
	(void)loop;
	(void)events;
	wire_retry(t->data);
}

static void
open_standard(void)
{
	int fd;

	/* Nobody else's descriptor may become 0, 1 or 2. */
	do
		fd = open("/dev/null", O_RDWR);
	while (fd != -1 && fd <= STDERR_FILENO);
	if (fd != -1)
		close(fd);
}

/* What can be refused before anything has begun. */
static int
prepare(struct supervisor *s, struct err *err)
{
	if (place_limits(&s->conf, err) == -1 || place_state(s, err) == -1 ||
	    place_lock(s, err) == -1 || catalog_open(&s->catalog,
	    s->conf.state_directory, s->conf.name, err) == -1 ||
	    dlq_open(&s->catalog, err) == -1 ||
	    place_runtime(s, err) == -1)
		return (-1);
	s->program = spawn_program(!s->dropped_root);
	if (access(s->program, X_OK) == -1)
		return (err_sys(err, ERR_CONFIG, "cannot execute %s",
		    s->program));
	return (spawn_leftovers(s, err));
}

static int
make_loop(struct supervisor *s, struct err *err)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP };
	size_t i;

	if ((s->loop = ev_default_loop(EVFLAG_AUTO | EVFLAG_NOENV)) == NULL)
		return (err_set(err, ERR_SYSTEM, "no event loop"));
	for (i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		ev_signal_init(&s->sig[i], on_signal, signals[i]);
		s->sig[i].data = s;
		ev_signal_start(s->loop, &s->sig[i]);
	}
	ev_timer_init(&s->check, on_check, SUP_CHECK_S, SUP_CHECK_S);
	s->check.data = s;
	ev_timer_start(s->loop, &s->check);
	ev_init(&s->wire, on_wire);
	s->wire.repeat = SUP_RETRY_S;
	s->wire.data = s;
	ev_init(&s->drain_timer, on_drain_time);
	ev_init(&s->look, NULL);
	s->drain_timer.data = s;
	listen_init(s);
	notify_start(s);
	if (ctl_open(s, err) == -1)
		return (-1);
	metrics_open(s);
	return (external_open(s, err));
}

/*
 * The number of a start that has left no trace is given back.  Else an older
 * copy of the catalog would count itself up to the number that the workers'
 * files have, and no longer be seen to be one.
 */
static void
give_back(struct supervisor *s)
{
	struct err err;

	if (!s->used && is_durable(s) && s->catalog.path != NULL &&
	    catalog_unused(&s->catalog, &err) == -1)
		log_error("%s", err.text);
}

/* Who stopped it wanted no state to be kept: then it was a clean stop, too,
 * if not everything inside was processed. */
static void
discard(struct supervisor *s)
{
	struct err err;

	if (is_durable(s) && catalog_discard(&s->catalog, &err) == -1) {
		log_error("%s", err.text);
		s->exit_code = code_of(&err);
		return;
	}
	place_discard(s);
	s->discarded = true;
	s->exit_code = 0;
	log_info("the state is removed app=%s state-directory=%s",
	    s->conf.name, s->conf.state_directory);
}

int
supervisor_run(struct supervisor *s)
{
	struct err err;

	s->ctl_fd = s->lock_fd = s->notify_fd = -1;
	s->state = APP_DESCRIBE;
	(void)signal(SIGPIPE, SIG_IGN);
	open_standard();
	(void)prctl(PR_SET_CHILD_SUBREAPER, 1);
	notify_init(s);
	if (prepare(s, &err) == -1 || make_loop(s, &err) == -1) {
		log_error("%s", err.text);
		give_back(s);
		metrics_close(s);
		ctl_close(s);
		s->exit_code = code_of(&err);
		return (machida_code(s));
	}
	log_info("application is starting app=%s epoch=%" PRIu64
	    " state-directory=%s runtime-directory=%s", s->conf.name,
	    s->catalog.epoch, s->conf.state_directory, s->run_dir);
	conf_pack(&s->conf, &s->conf_bytes);
	begin_tool(s, CHILD_DESCRIBE);
	if (s->state != APP_ENDED)
		ev_run(s->loop, 0);
	/* Also after a failure: clients must not wait for nobody. */
	listen_cancel(s);
	if (s->discard && s->why == NULL)
		discard(s);
	give_back(s);
	external_close(s);
	metrics_close(s);
	ctl_close(s);
	connectors_fini(s);
	notify_flush(s);
	catalog_close(&s->catalog);
	if (machida_is(s) && (s->discarded || !is_durable(s)))
		place_forget(s);
	return (machida_code(s));
}
