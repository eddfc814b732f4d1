/*
 * Connectors that are started from cluster.conf: programs between a source or
 * a sink and another system, which know nothing of us but the environment.
 *
 *	          fork               waitpid
 *	NONE ──────────► RUNNING ──────────► DYING ──┬─► RUNNING, WAITING
 *	                    │ SIGTERM          ▲     ├─► ENDED    exit code 0
 *	                    └──► STOPPING ─────┘     ├─► FAILED   gave up
 *	                                             └─► STOPPED  with the rest
 *
 * What ends them never ends the application: while one is missing its source
 * gets nothing, or its sink waits.  DYING lasts until nothing of the process
 * group is left, as with workers.
 */
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "supervisor/supervisor.h"

#define DYING_S		0.002	/* between looks at what is left */
#define AGAIN_S		1.0	/* after a fork that failed */
#define FIRST_S		0.1	/* after a death by somebody else's doing */
#define GOOD_NS		60000000000ULL	/* a life that counts as progress */
#define READ_BYTES	16384	/* of its output, per wake-up */
#define LAST_READS	16	/* when it has ended */
#define LINE_MOST	2000	/* longer ones are cut in pieces */
#define LINES_MOST	200	/* per second, the rest is left out */
#define SAYS_NO		100	/* exit code: again would be the same */

#define B(state)	(1U << CONNECTOR_##state)
static const unsigned int next_state[] = {
	[CONNECTOR_NONE] =	B(RUNNING) | B(WAITING) | B(STOPPED),
	[CONNECTOR_RUNNING] =	B(STOPPING) | B(DYING),
	[CONNECTOR_STOPPING] =	B(DYING),
	[CONNECTOR_DYING] =	B(RUNNING) | B(WAITING) | B(ENDED) |
				    B(FAILED) | B(STOPPED),
	[CONNECTOR_WAITING] =	B(RUNNING) | B(STOPPED),
	[CONNECTOR_ENDED] =	B(RUNNING) | B(WAITING) | B(STOPPED),
	[CONNECTOR_FAILED] =	B(RUNNING) | B(WAITING) | B(STOPPED),
	[CONNECTOR_STOPPED] =	0
};
#undef B

static void start(struct connector *);

static const char *
state_name(enum connector_state state)
{
	static const char *const names[] = {
		[CONNECTOR_NONE] = "starting", [CONNECTOR_RUNNING] = "running",
		[CONNECTOR_STOPPING] = "stopping",
		[CONNECTOR_DYING] = "stopping",
		[CONNECTOR_WAITING] = "waiting", [CONNECTOR_ENDED] = "ended",
		[CONNECTOR_FAILED] = "failed", [CONNECTOR_STOPPED] = "stopped"
	};

	return (names[state]);
}

static void
move(struct connector *c, enum connector_state to)
{
	assert((next_state[c->state] & (1U << to)) != 0);
	c->state = to;
}

/* --- what it writes ------------------------------------------------------ */

static void
say_line(struct connector *c, const char *text, size_t n)
{
	uint64_t second = clock_mono_ns() / 1000000000;

	if (n == 0)
		return;
	free(c->last);
	c->last = xstrndup(text, n);
	if (second != c->second) {
		c->second = second;
		c->lines = 0;
	}
	if (c->lines > LINES_MOST)
		return;
	if (c->lines++ < LINES_MOST)
		log_info("connector %s: %s", c->conf->name, c->last);
	else
		log_warn("connector %s writes more than %d lines a second, "
		    "the others are left out", c->conf->name, LINES_MOST);
}

/* Lines that are complete, or too long to wait for. */
static void
say_lines(struct connector *c)
{
	const char *text, *end;
	size_t n;

	while (c->text.len > 0) {
		text = (const char *)c->text.data;
		end = memchr(text, '\n', c->text.len);
		n = end == NULL ? c->text.len : (size_t)(end - text);
		if (end == NULL && n < LINE_MOST)
			return;
		if (n > LINE_MOST) {
			n = LINE_MOST;
			end = NULL;
		}
		say_line(c, text, n);
		buf_consume(&c->text, n + (end != NULL));
	}
}

static void
close_output(struct connector *c)
{
	if (c->out == -1)
		return;
	ev_io_stop(c->s->loop, &c->io);
	close(c->out);
	c->out = -1;
	if (c->text.len > 0)
		say_line(c, (const char *)c->text.data, c->text.len);
	buf_fini(&c->text);
}

static bool
read_output(struct connector *c)
{
	ssize_t n;

	errno = 0;			/* as it stays at the end */
	n = read(c->out, buf_reserve(&c->text, READ_BYTES), READ_BYTES);
	if (n <= 0)
		return (n == -1 && errno == EINTR);
	c->text.len += (size_t)n;
	say_lines(c);
	return (true);
}

static void
on_output(struct ev_loop *loop, ev_io *io, int events)
{
	struct connector *c = io->data;

	(void)loop;
	(void)events;
	if (!read_output(c) && errno != EAGAIN)
		close_output(c);
}

/* --- fork and exec ------------------------------------------------------- */

/* "host:port" to connect to, or to listen at. */
static char *
address_of(const char *host, uint32_t port, bool listens)
{
	if (!listens && (host[0] == '\0' || strcmp(host, "0.0.0.0") == 0))
		host = "127.0.0.1";
	else if (!listens && strcmp(host, "::") == 0)
		host = "::1";
	return (xasprintf(strchr(host, ':') != NULL ? "[%s]:%u" : "%s:%u",
	    host, port));
}

/* The interpreter, if it has one of its own; owned by the caller. */
static char *
interpreter(const struct conf_connector *conf)
{
	struct stat st;

	if (conf->python[0] == '\0')
		return (NULL);
	if (stat(conf->python, &st) == 0 && S_ISDIR(st.st_mode))
		return (xasprintf("%s/bin/python", conf->python));
	return (xstrdup(conf->python));
}

/* The strings stay where they are. */
static char **
make_arguments(const struct connector *c)
{
	const struct conf_list *l = &c->conf->command;
	char **argv = xcalloc(l->n + 2, sizeof(*argv));
	size_t i, n = 0;

	if (c->python != NULL)
		argv[n++] = c->python;
	for (i = 0; i < l->n; i++)
		argv[n++] = l->item[i];
	return (argv);
}

/* What is meant for others in our own environment. */
static void
drop_others(char **env, size_t n)
{
	static const char prefix[] = "WALLAROO_CONNECTOR_";
	size_t i, k = 0;

	for (i = 0; env[i] != NULL; i++)
		if (i >= n || strncmp(env[i], prefix, sizeof(prefix) - 1) != 0)
			env[k++] = env[i];
	env[k] = NULL;
}

static void
make_process(struct connector *c, struct process *p)
{
	struct supervisor *s = c->s;
	size_t inherited, n;

	free(c->mark);
	c->mark = spawn_mark(s, ++s->serial);
	c->variable[0] = c->mark;
	p->argv = make_arguments(c);
	n = CONNECTOR_VARIABLES + (c->user.name == NULL ? 0 : USER_VARIABLES);
	p->env = spawn_environment(c->variable, n);
	for (inherited = 0; p->env[inherited] != c->variable[0]; inherited++)
		;
	drop_others(p->env, inherited);
	p->user = c->user.name == NULL ? NULL : &c->user;
}

static int
spawn(struct connector *c, struct err *err)
{
	struct process p = { .cgroup = -1 };
	int fd[2];

	p.cgroup = cgroup_connector(c->s, c->conf, err);
	if (p.cgroup == -1 && err->code != ERR_NONE)
		return (-1);
	if (pipe2(fd, O_CLOEXEC) == -1) {
		(void)err_sys(err, ERR_SYSTEM, "pipe");
		if (p.cgroup != -1)
			close(p.cgroup);
		return (-1);
	}
	p.output = fd[1];
	make_process(c, &p);
	c->pid = spawn_process(&p, err);
	free(p.argv);
	free(p.env);
	close(fd[1]);
	if (p.cgroup != -1)
		close(p.cgroup);
	if (c->pid == -1) {
		c->pid = 0;
		close(fd[0]);
		return (-1);
	}
	(void)fcntl(fd[0], F_SETFL, O_NONBLOCK);
	c->out = fd[0];
	ev_io_set(&c->io, c->out, EV_READ);
	ev_io_start(c->s->loop, &c->io);
	return (0);
}

/* --- life ---------------------------------------------------------------- */

static void
set_timer(struct connector *c, double seconds)
{
	ev_timer_stop(c->s->loop, &c->timer);
	ev_timer_set(&c->timer, seconds, 0);
	ev_timer_start(c->s->loop, &c->timer);
}

static void
wait_then_start(struct connector *c, double seconds)
{
	move(c, CONNECTOR_WAITING);
	set_timer(c, seconds);
}

static void
start(struct connector *c)
{
	struct err err;

	ev_timer_stop(c->s->loop, &c->timer);
	c->again = false;
	c->lives++;
	c->started_ns = clock_mono_ns();
	c->oom_kills = cgroup_connector_kills(c->s, c->conf);
	free(c->last);
	c->last = NULL;
	free(c->why);
	c->why = NULL;
	if (spawn(c, &err) == -1) {
		log_error("cannot start connector %s, trying again: %s",
		    c->conf->name, err.text);
		if (c->state == CONNECTOR_WAITING)
			set_timer(c, AGAIN_S);
		else
			wait_then_start(c, AGAIN_S);
		return;
	}
	move(c, CONNECTOR_RUNNING);
	ev_child_set(&c->reaper, c->pid, 0);
	ev_child_start(c->s->loop, &c->reaper);
	spawn_record(c->s);
	log_info("connector starts connector=%s pid=%d life=%u",
	    c->conf->name, (int)c->pid, c->lives);
}

static void
end_it(struct connector *c)
{
	move(c, CONNECTOR_STOPPING);
	(void)kill(c->pid, SIGTERM);
	set_timer(c, (double)c->conf->stop_timeout / 1000);
}

static void
give_up(struct connector *c, const char *text)
{
	move(c, CONNECTOR_FAILED);
	c->why = xasprintf("%s%s%s", text, c->last == NULL ? "" :
	    "; what it wrote last: ", c->last == NULL ? "" : c->last);
	log_error("connector %s %s; the %s waits for it, wallarooctl restart "
	    "%s starts it again", c->conf->name, c->why,
	    c->conf->source[0] != '\0' ? "source" : "sink", c->conf->name);
}

static char *
how_it_ended(const struct connector *c)
{
	if (WIFEXITED(c->status))
		return (xasprintf("exit code %d", WEXITSTATUS(c->status)));
	return (xasprintf("signal %d (%s)", WTERMSIG(c->status),
	    strsignal(WTERMSIG(c->status))));
}

/* It has died, and was not told to. */
static void
died(struct connector *c)
{
	struct supervisor *s = c->s;
	bool oom = cgroup_connector_kills(s, c->conf) > c->oom_kills;
	bool good = clock_mono_ns() - c->started_ns > GOOD_NS;
	char *how = how_it_ended(c), *text = NULL;
	int64_t delay;

	delay = crash_count(&c->crash, oom || crash_own_doing(c->status),
	    false, good ? c->crash.best + 1 : 0,
	    (uint32_t)s->conf.restart_limit);
	if (WIFEXITED(c->status) && WEXITSTATUS(c->status) == SAYS_NO)
		text = xasprintf("says that another start would be of no use "
		    "(exit code %d)", SAYS_NO);
	else if (delay < 0)
		text = xasprintf("died %u times in a row (restart-limit), "
		    "the last time by %s%s", c->crash.deaths, how,
		    oom ? " for want of memory" : "");
	if (text != NULL)
		give_up(c, text);
	else {
		log_warn("connector has died, starting it again connector=%s "
		    "by=\"%s\"%s deaths=%u", c->conf->name, how,
		    oom ? " for want of memory" : "", c->crash.deaths);
		wait_then_start(c, delay == 0 ? FIRST_S :
		    (double)delay / 1000);
	}
	free(text);
	free(how);
}

static bool
is_ending(const struct supervisor *s)
{
	return (s->connectors_end);
}

/* Nothing of it is left. */
static void
gone(struct connector *c)
{
	struct supervisor *s = c->s;

	c->pid = 0;
	spawn_record(s);
	if (is_ending(s)) {
		move(c, CONNECTOR_STOPPED);
		cgroup_connector_close(s, c->conf);
		if (!connectors_left(s))
			app_connectors_gone(s);
	} else if (c->again) {
		memset(&c->crash, 0, sizeof(c->crash));
		start(c);
	} else if (WIFEXITED(c->status) && WEXITSTATUS(c->status) == 0) {
		move(c, CONNECTOR_ENDED);
		log_info("connector has ended connector=%s", c->conf->name);
	} else
		died(c);
}

static void
look_what_is_left(struct connector *c)
{
	if (spawn_group_gone(c->s, c->pid, c->mark))
		gone(c);
	else
		set_timer(c, DYING_S);
}

static void
on_reaped(struct ev_loop *loop, ev_child *w, int events)
{
	struct connector *c = w->data;
	int i;

	(void)events;
	ev_child_stop(loop, w);
	c->status = w->rstatus;
	for (i = 0; i < LAST_READS && c->out != -1 && read_output(c); i++)
		;
	close_output(c);
	move(c, CONNECTOR_DYING);
	look_what_is_left(c);
}

static void
on_time(struct ev_loop *loop, ev_timer *t, int events)
{
	struct connector *c = t->data;

	(void)loop;
	(void)events;
	if (c->state == CONNECTOR_DYING)
		look_what_is_left(c);
	else if (c->state == CONNECTOR_STOPPING) {
		log_warn("connector has not ended in time (stop-timeout), "
		    "killing it connector=%s", c->conf->name);
		(void)kill(-c->pid, SIGKILL);
	} else if (c->state == CONNECTOR_WAITING)
		start(c);
}

/* --- what it serves ------------------------------------------------------ */

static int
no_such(const struct connector *c, const char *what, const char *name,
    const struct buf *names, struct err *err)
{
	return (err_set(err, ERR_CONFIG, "connector \"%s\": the application "
	    "has no %s \"%s\" for connectors; it has: %s", c->conf->name, what,
	    name, names->len == 0 ? "none" : (const char *)names->data));
}

static void
add_name(struct buf *names, const char *name)
{
	buf_addf(names, "%s\"%s\"", names->len == 0 ? "" : ", ", name);
	(void)buf_str(names);
}

static int
find_source(struct connector *c, const struct topo *t, struct err *err)
{
	const struct topo_source *src, *found = NULL;
	struct buf names = { 0 };
	int r = 0;

	for (src = t->sources; src < t->sources + t->nsources; src++) {
		if (src->kind != SOURCE_CONNECTOR)
			continue;
		add_name(&names, src->name);
		if (strcmp(src->name, c->conf->source) == 0)
			found = src;
	}
	if (found == NULL)
		r = no_such(c, "source", c->conf->source, &names, err);
	else {
		c->address = address_of(found->host, found->port, false);
		c->cookie = found->cookie;
	}
	buf_fini(&names);
	return (r);
}

static int
find_sink(struct connector *c, const struct topo *t, struct err *err)
{
	const struct topo_sink *k, *found = NULL;
	struct buf names = { 0 };
	int r = 0;

	for (k = t->sinks; k < t->sinks + t->nsinks; k++) {
		if (k->kind != SINK_CONNECTOR)
			continue;
		add_name(&names, k->name);
		if (strcmp(k->name, c->conf->sink) == 0)
			found = k;
	}
	if (found == NULL)
		r = no_such(c, "sink", c->conf->sink, &names, err);
	else {
		c->address = address_of(found->host, found->port, true);
		c->cookie = found->cookie;
	}
	buf_fini(&names);
	return (r);
}

static int
find_all(struct connector *c, struct err *err)
{
	const struct conf_connector *conf = c->conf;
	const struct topo *t = &c->s->topo;

	if (conf->memory_limit != 0 && c->s->conf.cgroup[0] == '\0')
		return (err_set(err, ERR_CONFIG, "connector \"%s\": "
		    "memory-limit needs cgroup, a directory for cgroups",
		    conf->name));
	if (conf->source[0] != '\0' ? find_source(c, t, err) == -1 :
	    find_sink(c, t, err) == -1)
		return (-1);
	if (conf->user[0] != '\0' && place_user(c->s, conf,
	    &c->user, err) == -1)
		return (-1);
	c->python = interpreter(conf);
	c->variable[1] = xasprintf("WALLAROO_CONNECTOR_NAME=%s", conf->name);
	c->variable[2] = xasprintf("WALLAROO_CONNECTOR_ADDRESS=%s",
	    c->address);
	c->variable[3] = xasprintf("WALLAROO_CONNECTOR_COOKIE=%s", c->cookie);
	if (c->user.name == NULL)
		return (0);
	c->variable[4] = xasprintf("HOME=%s", c->user.home);
	c->variable[5] = xasprintf("USER=%s", c->user.name);
	c->variable[6] = xasprintf("LOGNAME=%s", c->user.name);
	return (0);
}

/* --- all of them --------------------------------------------------------- */

int
connectors_init(struct supervisor *s, struct err *err)
{
	struct connector *c;
	size_t i;

	s->nconnectors = s->conf.nconnectors;
	s->connector = xcalloc(s->nconnectors + 1, sizeof(*s->connector));
	for (i = 0; i < s->nconnectors; i++) {
		c = &s->connector[i];
		c->s = s;
		c->conf = &s->conf.connectors[i];
		c->out = -1;
		ev_init(&c->io, on_output);
		ev_init(&c->timer, on_time);
		ev_child_init(&c->reaper, on_reaped, 0, 0);
		c->io.data = c->timer.data = c->reaper.data = c;
	}
	for (i = 0; i < s->nconnectors; i++)
		if (find_all(&s->connector[i], err) == -1)
			return (-1);
	return (0);
}

/* Only at the end, when none is left. */
void
connectors_fini(struct supervisor *s)
{
	struct connector *c;
	size_t i, k;

	for (i = 0; i < s->nconnectors; i++) {
		c = &s->connector[i];
		ev_timer_stop(s->loop, &c->timer);
		for (k = 1; k < CONNECTOR_VARIABLES + USER_VARIABLES; k++)
			free(c->variable[k]);
		free(c->mark);
		free(c->address);
		free(c->python);
		free(c->last);
		free(c->why);
		place_user_free(&c->user);
	}
	free(s->connector);
	s->connector = NULL;
	s->nconnectors = 0;
}

void
connectors_start(struct supervisor *s)
{
	size_t i;

	for (i = 0; i < s->nconnectors; i++)
		if (s->connector[i].state == CONNECTOR_NONE)
			start(&s->connector[i]);
}

void
connectors_stop(struct supervisor *s)
{
	struct connector *c;
	size_t i;

	s->connectors_end = true;
	for (i = 0; i < s->nconnectors; i++) {
		c = &s->connector[i];
		if (c->state == CONNECTOR_RUNNING)
			end_it(c);
		else if (c->pid == 0 && c->state != CONNECTOR_STOPPED) {
			ev_timer_stop(s->loop, &c->timer);
			move(c, CONNECTOR_STOPPED);
		}
	}
}

bool
connectors_left(const struct supervisor *s)
{
	size_t i;

	for (i = 0; i < s->nconnectors; i++)
		if (s->connector[i].pid != 0)
			return (true);
	return (false);
}

void
connectors_status(const struct supervisor *s, struct buf *b)
{
	const struct connector *c;
	bool alive;
	size_t i;

	for (i = 0; i < s->nconnectors; i++) {
		c = &s->connector[i];
		alive = c->state == CONNECTOR_RUNNING ||
		    c->state == CONNECTOR_STOPPING;
		buf_addf(b, "%s{\"name\": ", i == 0 ? "" : ", ");
		ctl_json_str(b, msg_cstr(c->conf->name));
		buf_addf(b, ", \"pid\": %d, \"state\": \"%s\", \"restarts\": "
		    "%u, \"uptime_s\": %.1f, \"kind\": \"%s\", \"serves\": ",
		    alive ? (int)c->pid : 0, state_name(c->state),
		    c->lives == 0 ? 0 : c->lives - 1, alive ?
		    (double)(clock_mono_ns() - c->started_ns) / 1e9 : 0.0,
		    c->conf->source[0] != '\0' ? "source" : "sink");
		ctl_json_str(b, msg_cstr(c->conf->source[0] != '\0' ?
		    c->conf->source : c->conf->sink));
		buf_addf(b, ", \"text\": ");
		ctl_json_str(b, msg_cstr(c->why == NULL ? "" : c->why));
		buf_addf(b, "}");
	}
}

int
connector_restart(struct supervisor *s, struct slice name, pid_t *pid,
    struct err *err)
{
	struct connector *c = NULL;
	size_t i;

	for (i = 0; i < s->nconnectors; i++)
		if (strlen(s->conf.connectors[i].name) == name.len &&
		    memcmp(s->conf.connectors[i].name, name.data, name.len) ==
		    0)
			c = &s->connector[i];
	if (c == NULL)
		return (err_set(err, ERR_REFUSED, "there is no such worker or "
		    "connector"));
	if (is_ending(s) || c->state == CONNECTOR_NONE || c->state ==
	    CONNECTOR_STOPPING || c->state == CONNECTOR_DYING)
		return (err_set(err, ERR_REFUSED, "connector %s is %s",
		    c->conf->name, state_name(c->state)));
	log_info("restart requested by wallarooctl connector=%s",
	    c->conf->name);
	*pid = c->pid;
	if (c->state == CONNECTOR_RUNNING) {
		c->again = true;
		end_it(c);
	} else {
		memset(&c->crash, 0, sizeof(c->crash));
		start(c);
	}
	return (0);
}

bool
connector_is(const struct supervisor *s, pid_t pid)
{
	size_t i;

	for (i = 0; i < s->nconnectors; i++)
		if (s->connector[i].pid == pid)
			return (true);
	return (false);
}
