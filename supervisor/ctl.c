/*
 * The operator's socket: requests of wallarooctl, one reply each.  A request
 * that takes time (stop, checkpoint, state-get) is remembered in its
 * connection, which gets no further ones until it is answered.
 */
#include <sys/socket.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/part.h"
#include "supervisor/supervisor.h"

#define CONNS_MAX	32
#define REPLY_MAX	(64 * 1024 * 1024)	/* unread by a client */
#define READ_BYTES	16384
#define CODE_FAILED	1

enum ctl_wait { WAIT_NONE, WAIT_STOP, WAIT_CHECKPOINT, WAIT_ANSWER,
	WAIT_PUT_BACK };

struct ctl_conn {
	TAILQ_ENTRY(ctl_conn)	 link;
	struct supervisor	*s;
	int			 fd;
	ev_io			 io;
	struct buf		 in;
	struct buf		 out;
	enum ctl_wait		 wait;
	uint64_t		 id;	/* of checkpoint, query, letter */
	uint32_t		 worker; /* that is asked */
	bool			*done;	/* [n] workers, of a checkpoint */
	bool			 closing;
};

/* --- JSON ---------------------------------------------------------------- */

/* Length of the UTF-8 character at p, 0 if it is none. */
static size_t
utf8_len(const uint8_t *p, size_t n)
{
	size_t len, i;

	if (p[0] < 0x80)
		return (1);
	len = p[0] >= 0xf0 && p[0] <= 0xf4 ? 4 : p[0] >= 0xe0 && p[0] < 0xf0 ?
	    3 : p[0] >= 0xc2 && p[0] < 0xe0 ? 2 : 0;
	if (len == 0 || len > n)
		return (0);
	for (i = 1; i < len; i++)
		if ((p[i] & 0xc0) != 0x80)
			return (0);
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
	    (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
		return (0);
	return (len);
}

void
ctl_json_str(struct buf *b, struct slice s)
{
	size_t i, len;

	buf_addf(b, "\"");
	for (i = 0; i < s.len; i += len) {
		if ((len = utf8_len(s.data + i, s.len - i)) == 0) {
			buf_addf(b, "\\ufffd");
			len = 1;
		} else if (s.data[i] == '"' || s.data[i] == '\\')
			buf_addf(b, "\\%c", s.data[i]);
		else if (s.data[i] < 0x20 || s.data[i] == 0x7f)
			buf_addf(b, "\\u%04x", s.data[i]);
		else
			buf_add(b, s.data + i, len);
	}
	buf_addf(b, "\"");
}

static void
json_cstr(struct buf *b, const char *key, const char *value)
{
	ctl_json_str(b, msg_cstr(key));
	buf_addf(b, ": ");
	ctl_json_str(b, msg_cstr(value));
}

/* --- status -------------------------------------------------------------- */

static void
status_worker(struct buf *b, const struct child *c)
{
	uint64_t up = clock_mono_ns() - c->started_ns;
	bool alive = child_alive(c);

	buf_addf(b, "{\"worker\": %u, \"pid\": %d, ", c->number,
	    alive ? (int)c->pid : 0);
	json_cstr(b, "state", child_state_name(c->state));
	buf_addf(b, ", \"restarts\": %u, \"uptime_s\": %.1f",
	    c->lives == 0 ? 0 : c->lives - 1, alive ? (double)up / 1e9 : 0.0);
#define STATUS_STAT(name, text)						\
	if (strcmp(#name, "pid") != 0)					\
		buf_addf(b, ", \"" #name "\": %" PRIu64,		\
		    STAT_GET(c->stats, name));
	STATS_TABLE(STATUS_STAT)
#undef STATUS_STAT
	buf_addf(b, "}");
}

static void
json_address(struct buf *b, const char *host, uint32_t port, const char *path)
{
	char *text;

	if (host[0] != '\0' || port != 0)
		text = xasprintf(strchr(host, ':') != NULL ? "[%s]:%u" :
		    "%s:%u", host, port);
	else
		text = xstrdup(path);
	json_cstr(b, "address", text);
	free(text);
}

static void
status_sources(struct buf *b, const struct supervisor *s)
{
	static const char *const kinds[] = { [SOURCE_TCP] = "tcp",
	    [SOURCE_GEN] = "gen", [SOURCE_FILE] = "file",
	    [SOURCE_STDIN] = "stdin", [SOURCE_CONNECTOR] = "connector",
	    [SOURCE_KAFKA] = "kafka" };
	uint32_t i;

	for (i = 0; i < s->topo.nsources; i++) {
		const struct topo_source *src = &s->topo.sources[i];

		buf_addf(b, i == 0 ? "{" : ", {");
		json_cstr(b, "name", src->name);
		buf_addf(b, ", ");
		json_cstr(b, "kind", kinds[src->kind]);
		buf_addf(b, ", ");
		json_address(b, src->host, src->port, src->path);
		buf_addf(b, ", \"connections\": %u}", hold_count_all(s, i));
	}
}

static void
status_sinks(struct buf *b, const struct supervisor *s)
{
	static const char *const kinds[] = { [SINK_TCP] = "tcp",
	    [SINK_FILE] = "file", [SINK_STDOUT] = "stdout",
	    [SINK_CONNECTOR] = "connector", [SINK_KAFKA] = "kafka",
	    [SINK_DEAD] = "dead-letter" };
	const char *why;
	uint32_t i;

	for (i = 0; i < s->topo.nsinks; i++) {
		const struct topo_sink *k = &s->topo.sinks[i];

		buf_addf(b, i == 0 ? "{" : ", {");
		json_cstr(b, "name", k->name);
		buf_addf(b, ", ");
		json_cstr(b, "kind", kinds[k->kind]);
		buf_addf(b, ", ");
		json_address(b, k->host, k->port, k->kind == SINK_DEAD ?
		    s->conf.dead_letter_file : k->path);
		buf_addf(b, ", \"connected\": %u, ", hold_count_sinks(s, i));
		why = reports_wait(s, i);
		json_cstr(b, "waits", why == NULL ? "" : why);
		buf_addf(b, "}");
	}
}

static void
status_loss(const struct loss *l, void *arg)
{
	time_t when = (time_t)(l->time_ns / 1000000000);
	struct buf *b = arg;
	char text[32] = "";
	struct tm tm;

	if (gmtime_r(&when, &tm) != NULL)
		(void)strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
	buf_addf(b, b->len > 0 && b->data[b->len - 1] == '}' ? ", {" : "{");
	json_cstr(b, "time", text);
	buf_addf(b, ", \"worker\": %u, ", l->worker);
	json_cstr(b, "text", l->text);
	buf_addf(b, "}");
}

void
ctl_status(struct supervisor *s, struct buf *b)
{
	struct err err;
	uint32_t i;

	buf_addf(b, "{");
	json_cstr(b, "application", s->conf.name);
	buf_addf(b, ", ");
	json_cstr(b, "version", s->topo.version == NULL ? "" :
	    s->topo.version);
	buf_addf(b, ", ");
	json_cstr(b, "state", app_state_name(s->state));
	buf_addf(b, ", \"pid\": %d, \"epoch\": %" PRIu64
	    ", \"generation\": %" PRIu64 ", ", (int)getpid(),
	    s->catalog.epoch, s->catalog.generation);
	json_cstr(b, "durability", conf_durability[s->conf.durability]);
	buf_addf(b, ", ");
	json_cstr(b, "state_directory", s->conf.state_directory);
	buf_addf(b, ", ");
	json_cstr(b, "runtime_directory", s->run_dir);
	buf_addf(b, ", \"workers\": [");
	for (i = 0; i < s->n; i++) {
		if (i > 0)
			buf_addf(b, ", ");
		status_worker(b, &s->child[i]);
	}
	buf_addf(b, "], \"spares\": %u, \"sources\": [",
	    spare_prepared(s));
	status_sources(b, s);
	buf_addf(b, "], \"sinks\": [");
	status_sinks(b, s);
	buf_addf(b, "], \"partitions\": ");
	reports_partitions(b, s);
	buf_addf(b, ", \"connectors\": [");
	connectors_status(s, b);
	buf_addf(b, "], \"losses\": [");
	if (catalog_losses(&s->catalog, status_loss, b, &err) == -1)
		log_warn("%s", err.text);
	buf_addf(b, "]}");
}

/* --- connections --------------------------------------------------------- */

static void
conn_free(struct ctl_conn *c)
{
	TAILQ_REMOVE(&c->s->ctl_conns, c, link);
	c->s->nctl--;
	ev_io_stop(c->s->loop, &c->io);
	close(c->fd);
	buf_fini(&c->in);
	buf_fini(&c->out);
	free(c->done);
	free(c);
}

static void
watch(struct ctl_conn *c)
{
	int events = (c->closing ? 0 : EV_READ) |
	    (c->out.len > 0 ? EV_WRITE : 0);

	ev_io_stop(c->s->loop, &c->io);
	ev_io_set(&c->io, c->fd, events);
	if (events != 0)
		ev_io_start(c->s->loop, &c->io);
}

/* false: the connection is of no more use. */
static bool
flush(struct ctl_conn *c)
{
	if (stream_flush(c->fd, &c->out) == -1)
		return (false);
	watch(c);
	return (true);
}

/* Queues only: whoever calls may be using the connection. */
static void
reply(struct ctl_conn *c, int code, struct slice text)
{
	struct msg_ctl_reply m = { (uint32_t)code, text };

	c->wait = WAIT_NONE;
	if (c->out.len > REPLY_MAX)
		c->closing = true;
	else
		msg_put_ctl_reply(&c->out, &m);
	watch(c);
}

static void __attribute__((format(printf, 3, 4)))
replyf(struct ctl_conn *c, int code, const char *fmt, ...)
{
	struct buf b = { 0 };
	char text[ERR_TEXT];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	buf_addf(&b, "%s", text);
	reply(c, code, buf_slice(&b));
	buf_fini(&b);
}

/* --- checkpoint: one at a time, those who ask meanwhile share the next --- */

static void
send_checkpoint(struct supervisor *s, struct child *c)
{
	struct msg_checkpoint m = { s->checkpoint_id };
	struct buf b = { 0 };

	msg_put_checkpoint(&b, &m);
	channel_send(c, &b, -1);
	buf_fini(&b);
}

static void
checkpoint_next(struct supervisor *s)
{
	struct ctl_conn *c;
	bool any = false;
	uint32_t i;

	if (s->checkpoint_id != 0)
		return;
	TAILQ_FOREACH(c, &s->ctl_conns, link)
		if (c->wait == WAIT_CHECKPOINT && c->id == 0) {
			if (!any)
				s->checkpoint_id = ++s->ctl_serial;
			any = true;
			c->id = s->checkpoint_id;
			c->done = xcalloc(s->n, sizeof(*c->done));
		}
	for (i = 0; any && i < s->n; i++)
		if (s->child[i].state == CHILD_RUNNING)
			send_checkpoint(s, &s->child[i]);
}

static void
checkpoint_settle(struct supervisor *s, uint32_t worker, bool ok,
    const char *text)
{
	struct ctl_conn *c;
	bool waiting = false;
	uint32_t i;

	TAILQ_FOREACH(c, &s->ctl_conns, link) {
		if (c->wait != WAIT_CHECKPOINT || c->id == 0)
			continue;
		if (!ok) {
			replyf(c, CODE_FAILED, "worker %u: %s", worker, text);
			free(c->done);
			c->done = NULL;
			continue;
		}
		c->done[worker] = true;
		for (i = 0; i < s->n && c->done[i]; i++)
			;
		if (i < s->n) {
			waiting = true;
			continue;
		}
		free(c->done);
		c->done = NULL;
		replyf(c, 0, "{\"workers\": %u}", s->n);
	}
	if (waiting)
		return;
	s->checkpoint_id = 0;
	checkpoint_next(s);
}

void
ctl_checkpointed(struct child *c, const struct msg_checkpointed *m)
{
	struct supervisor *s = c->s;
	char *text;

	if (m->id == 0 || m->id != s->checkpoint_id)
		return;
	text = xstrndup((const char *)m->text.data, m->text.len);
	checkpoint_settle(s, c->number, m->ok != 0, text);
	free(text);
}

void
ctl_child_ready(struct child *c)
{
	/* Its predecessor may have died before it answered. */
	if (c->s->checkpoint_id != 0)
		send_checkpoint(c->s, c);
}

/* --- state-get ----------------------------------------------------------- */

static void
state_get(struct ctl_conn *c, const struct msg_ctl *m)
{
	struct supervisor *s = c->s;
	uint32_t parts = (uint32_t)s->conf.partitions;
	struct msg_query q;
	struct buf b = { 0 };
	uint16_t *table;
	uint32_t w;

	table = xcalloc(parts, sizeof(*table));
	part_assign(table, parts, s->n);
	w = table[part_of(part_hash(m->b), part_bits(parts))];
	free(table);
	if (s->child[w].state != CHILD_RUNNING) {
		replyf(c, CODE_FAILED, "worker %u, which has this key, is %s",
		    w, child_state_name(s->child[w].state));
		return;
	}
	c->wait = WAIT_ANSWER;
	c->worker = w;
	c->id = ++s->ctl_serial;
	q.id = c->id;
	q.step = m->a;
	q.key = m->b;
	msg_put_query(&b, &q);
	channel_send(&s->child[w], &b, -1);
	buf_fini(&b);
}

/* Quotes inside strings are escaped, so this is the member itself. */
static bool
says_not_found(struct slice json)
{
	static const char text[] = "\"found\": false";

	return (memmem(json.data, json.len, text, sizeof(text) - 1) != NULL);
}

void
ctl_answer(struct child *child, const struct msg_answer *m)
{
	struct ctl_conn *c;

	TAILQ_FOREACH(c, &child->s->ctl_conns, link) {
		if (c->wait != WAIT_ANSWER || c->id != m->id)
			continue;
		if (m->ok && says_not_found(m->json))
			replyf(c, CODE_FAILED, "there is no state for this "
			    "key");
		else
			reply(c, m->ok ? 0 : CODE_FAILED, m->json);
		return;
	}
}

void
ctl_child_died(struct child *child)
{
	struct ctl_conn *c;

	TAILQ_FOREACH(c, &child->s->ctl_conns, link)
		if (c->wait == WAIT_ANSWER && c->worker == child->number)
			replyf(c, CODE_FAILED, "worker %u, which has this "
			    "key, has died", child->number);
}

/* --- dead letters -------------------------------------------------------- */

void
ctl_put_back(struct supervisor *s, const struct msg_putback_done *m)
{
	struct ctl_conn *c;

	TAILQ_FOREACH(c, &s->ctl_conns, link)
		if (c->wait == WAIT_PUT_BACK && c->id == m->seq) {
			if (m->ok)
				replyf(c, 0, "{\"replayed\": true}");
			else
				reply(c, CODE_FAILED, m->text);
		}
}

/* --- requests ------------------------------------------------------------ */

static bool
is_verb(const struct msg_ctl *m, const char *verb)
{
	return (m->verb.len == strlen(verb) && memcmp(m->verb.data, verb,
	    m->verb.len) == 0);
}

static void
do_status(struct ctl_conn *c, const struct msg_ctl *m)
{
	struct buf b = { 0 };

	(void)m;
	ctl_status(c->s, &b);
	reply(c, 0, buf_slice(&b));
	buf_fini(&b);
}

static void
do_version(struct ctl_conn *c, const struct msg_ctl *m)
{
	(void)m;
	replyf(c, 0, "{\"version\": \"%s\", \"protocol\": %d}",
	    PACKAGE_VERSION, MSG_PROTOCOL);
}

static void
do_stop(struct ctl_conn *c, const struct msg_ctl *m)
{
	(void)m;
	log_info("stop requested by wallarooctl");
	c->wait = WAIT_STOP;
	app_stop(c->s);
}

static bool
is_running(struct ctl_conn *c)
{
	if (c->s->state == APP_RUNNING && !c->s->transit)
		return (true);
	replyf(c, CODE_FAILED, "the application is %s",
	    app_state_name(c->s->state));
	return (false);
}

static void
do_checkpoint(struct ctl_conn *c, const struct msg_ctl *m)
{
	(void)m;
	if (!is_running(c))
		return;
	c->wait = WAIT_CHECKPOINT;
	c->id = 0;
	checkpoint_next(c->s);
}

static void
restart_connector(struct ctl_conn *c, const struct msg_ctl *m)
{
	struct buf b = { 0 };
	struct err err;
	pid_t pid;

	if (connector_restart(c->s, m->a, &pid, &err) == -1) {
		replyf(c, CODE_FAILED, "%s", err.text);
		return;
	}
	buf_addf(&b, "{\"connector\": ");
	ctl_json_str(&b, m->a);
	buf_addf(&b, ", \"pid\": %d}", (int)pid);
	reply(c, 0, buf_slice(&b));
	buf_fini(&b);
}

static void
do_restart(struct ctl_conn *c, const struct msg_ctl *m)
{
	struct supervisor *s = c->s;
	uint64_t w = 0;
	size_t i;

	for (i = 0; i < m->a.len && i < 6; i++) {
		if (m->a.data[i] < '0' || m->a.data[i] > '9')
			break;
		w = w * 10 + (uint64_t)(m->a.data[i] - '0');
	}
	if (m->a.len == 0 || i < m->a.len || w >= s->n) {
		restart_connector(c, m);
		return;
	}
	if (!child_alive(&s->child[w])) {
		replyf(c, CODE_FAILED, "worker %" PRIu64 " is %s", w,
		    child_state_name(s->child[w].state));
		return;
	}
	log_info("restart requested by wallarooctl worker=%" PRIu64, w);
	replyf(c, 0, "{\"worker\": %" PRIu64 ", \"pid\": %d}", w,
	    (int)s->child[w].pid);
	/* Who asks for a new process does not mean one from before. */
	s->child[w].cold = true;
	child_kill(&s->child[w]);
}

static void
do_state_get(struct ctl_conn *c, const struct msg_ctl *m)
{
	if (is_running(c))
		state_get(c, m);
}

static void
do_dlq(struct ctl_conn *c, const struct msg_ctl *m)
{
	struct buf b = { 0 };
	struct err err;

	(void)m;
	buf_addf(&b, "{");
	json_cstr(&b, "file", c->s->conf.dead_letter_file);
	buf_addf(&b, ", \"replayed\": ");
	if (dlq_list(&c->s->catalog, &b, &err) == -1)
		replyf(c, CODE_FAILED, "%s", err.text);
	else {
		buf_addf(&b, "}");
		reply(c, 0, buf_slice(&b));
	}
	buf_fini(&b);
}

static void
do_dlq_replay(struct ctl_conn *c, const struct msg_ctl *m)
{
	enum dlq_state state;
	struct err err;

	if (!is_running(c))
		return;
	if (dlq_put_back(c->s, m->a, m->b, &state, &c->id, &err) == -1)
		replyf(c, CODE_FAILED, "%s", err.text);
	else if (state == DLQ_DONE)
		replyf(c, 0, "{\"replayed\": false}");
	else
		c->wait = WAIT_PUT_BACK;
}

static const struct verb {
	const char	*name;
	void		(*act)(struct ctl_conn *, const struct msg_ctl *);
} verbs[] = {
	{ "status", do_status },
	{ "stop", do_stop },
	{ "checkpoint", do_checkpoint },
	{ "restart", do_restart },
	{ "state-get", do_state_get },
	{ "dlq", do_dlq },
	{ "dlq-replay", do_dlq_replay },
	{ "version", do_version },
};

static int
on_ctl(void *arg, const struct msg_ctl *m, struct err *err)
{
	struct ctl_conn *c = arg;
	size_t i;

	(void)err;
	for (i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
		if (is_verb(m, verbs[i].name)) {
			verbs[i].act(c, m);
			return (0);
		}
	replyf(c, CODE_FAILED, "unknown request");
	return (0);
}

static const struct msg_handlers handlers = { .ctl = on_ctl };

/* Requests that are complete; one that waits holds up those behind it. */
static bool
take_requests(struct ctl_conn *c)
{
	struct slice frame;
	struct err err;
	long n;

	while (c->wait == WAIT_NONE && !c->closing) {
		n = msg_frame(buf_slice(&c->in), MSG_MAX_CONTROL);
		if (n == 0)
			break;
		if (n == -1)
			return (false);
		frame = slice_of(c->in.data + MSG_HEADER, (size_t)n -
		    MSG_HEADER);
		if (msg_dispatch(&handlers, c, FROM_CTL, frame, &err) == -1) {
			log_warn("control socket: %s", err.text);
			return (false);
		}
		buf_consume(&c->in, (size_t)n);
	}
	return (true);
}

static bool
read_some(struct ctl_conn *c)
{
	ssize_t n;

	if (c->in.len > MSG_MAX_CONTROL)
		return (false);
	FAULT_POINT(control_read_before);
	n = recv(c->fd, buf_reserve(&c->in, READ_BYTES), READ_BYTES,
	    MSG_DONTWAIT);
	FAULT_POINT(control_read_after);
	if (n == -1)
		return (errno == EAGAIN || errno == EINTR);
	if (n == 0)
		return (false);
	c->in.len += (size_t)n;
	return (true);
}

static void
on_conn(struct ev_loop *loop, ev_io *io, int events)
{
	struct ctl_conn *c = io->data;

	(void)loop;
	if ((events & EV_READ) && !read_some(c)) {
		conn_free(c);
		return;
	}
	if (!take_requests(c) || !flush(c))
		conn_free(c);
}

/* --- the socket ---------------------------------------------------------- */

static bool
may_talk(int fd)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	return (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 &&
	    (cred.uid == 0 || cred.uid == geteuid()));
}

/* The oldest that waits for nothing makes room. */
static void
make_room(struct supervisor *s)
{
	struct ctl_conn *c;

	if (s->nctl < CONNS_MAX)
		return;
	TAILQ_FOREACH(c, &s->ctl_conns, link)
		if (c->wait == WAIT_NONE)
			break;
	conn_free(c != NULL ? c : TAILQ_FIRST(&s->ctl_conns));
}

void
ctl_take(struct supervisor *s, int fd)
{
	struct ctl_conn *c;

	make_room(s);
	c = xcalloc(1, sizeof(*c));
	c->s = s;
	c->fd = fd;
	ev_io_init(&c->io, on_conn, fd, EV_READ);
	c->io.data = c;
	ev_io_start(s->loop, &c->io);
	TAILQ_INSERT_TAIL(&s->ctl_conns, c, link);
	s->nctl++;
}

static void
on_accept(struct ev_loop *loop, ev_io *io, int events)
{
	struct supervisor *s = io->data;
	int fd;

	(void)loop;
	(void)events;
	fd = accept4(s->ctl_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd == -1)
		return;
	if (may_talk(fd))
		ctl_take(s, fd);
	else
		close(fd);
}

int
ctl_open(struct supervisor *s, struct err *err)
{
	TAILQ_INIT(&s->ctl_conns);
	s->ctl_path = usock_path(&s->conf);
	if ((s->ctl_fd = usock_listen(s->ctl_path, err)) == -1)
		return (-1);
	ev_io_init(&s->ctl_io, on_accept, s->ctl_fd, EV_READ);
	s->ctl_io.data = s;
	ev_io_start(s->loop, &s->ctl_io);
	return (0);
}

void
ctl_close(struct supervisor *s)
{
	struct ctl_conn *c;

	if (s->ctl_fd == -1)
		return;
	while ((c = TAILQ_FIRST(&s->ctl_conns)) != NULL) {
		if (c->wait == WAIT_STOP && s->exit_code == 0)
			replyf(c, 0, "{\"state\": \"stopped\"}");
		else if (c->wait != WAIT_NONE)
			replyf(c, CODE_FAILED, "the application has stopped "
			    "with exit code %d%s%s", s->exit_code,
			    s->why == NULL ? "" : ": ",
			    s->why == NULL ? "" : s->why);
		(void)flush(c);
		conn_free(c);
	}
	ev_io_stop(s->loop, &s->ctl_io);
	close(s->ctl_fd);
	s->ctl_fd = -1;
	(void)unlink(s->ctl_path);
	free(s->ctl_path);
}
