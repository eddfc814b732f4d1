/*
 * Targets of the supervisor's sockets: wallarooctl's, the external channel's
 * and the workers'.  A supervisor of two workers that have no processes; the
 * input says what the other end sends, in which pieces, and what workers
 * answer meanwhile.  Whatever comes back must be what the protocol has, and
 * text in it that is said to be JSON must be JSON.
 */
#include <sys/socket.h>

#include <ev.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/mem.h"
#include "supervisor/supervisor.h"
#include "supervisor/wallarooctl.h"
#include "tests/fuzz/fuzz.h"

#define WORKERS	2

static struct topo_source sources[] = {
	{ .name = "lines", .kind = SOURCE_TCP, .host = "::1", .port = 7 },
	{ .name = "a \"file\"", .kind = SOURCE_FILE, .host = "",
	    .path = "/in" },
};
static struct topo_stage stages[] = {
	{ .name = "split", .kind = STAGE_STEP, .next = 1, .exchange = -1 },
	{ .name = "count", .kind = STAGE_STATE, .next = 2, .exchange = -1 },
	{ .name = "total", .kind = STAGE_STATE, .next = 3, .exchange = -1 },
	{ .name = "out", .kind = STAGE_SINKS, .next = -1, .exchange = -1 },
};
static struct topo_sink sinks[] = {
	{ .name = "tcp", .kind = SINK_TCP, .host = "127.0.0.1", .port = 9 },
	{ .name = "dead", .kind = SINK_DEAD, .host = "" },
};
static const struct topo topo = { .application = "fuzz", .version = "",
	.sources = sources, .nsources = 2, .stages = stages, .nstages = 4,
	.sinks = sinks, .nsinks = 2 };

/* --- the supervisor ------------------------------------------------------ */

static struct ev_loop *loop;
/* Of all runs, since they take long to make. */
static struct catalog catalog;
static struct conf_app conf;

static void
forget_catalog(void)
{
	catalog_close(&catalog);
	conf_fini(&conf);
	ev_loop_destroy(loop);
}

static void
once(void)
{
	static const char text[] = "application \"fuzz\" { module = \"m\" "
	    "workers = 2 state-directory = \"/nowhere\" partitions = 16 }";
	struct err err;

	if (loop != NULL)
		return;
	fuzz_db();
	loop = ev_loop_new(EVBACKEND_POLL);
	fuzz_check(conf_read(&conf, fuzz_file(text, sizeof(text) - 1), &err)
	    == 0);
	fuzz_check(catalog_open(&catalog, "/nowhere", "fuzz", &err) == 0 &&
	    dlq_open(&catalog, &err) == 0 &&
	    catalog_loss(&catalog, 1, "some \"text\"\n", &err) == 0 &&
	    sqlite3_exec(catalog.db, "PRAGMA synchronous = OFF; "
	    "PRAGMA journal_mode = MEMORY; PRAGMA locking_mode = EXCLUSIVE",
	    NULL, NULL, NULL) == SQLITE_OK);
	buf_addf(&catalog.topology, "topology");
	(void)atexit(forget_catalog);
}

static struct supervisor *
begin(uint64_t how)
{
	struct supervisor *s = xcalloc(1, sizeof(*s));
	uint32_t i;

	once();
	s->conf = conf;
	s->loop = loop;
	s->topo = topo;
	s->catalog = catalog;
	s->state = how & 1 ? APP_STARTING : APP_RUNNING;
	s->ran = s->described = !(how & 2);
	s->stopping = true;		/* a stop has no processes to end */
	s->ctl_fd = s->notify_fd = -1;
	s->run_dir = "/nowhere";
	s->n = WORKERS;
	s->child = xcalloc(WORKERS, sizeof(*s->child));
	TAILQ_INIT(&s->ctl_conns);
	STAILQ_INIT(&s->notices);
	for (i = 0; i < WORKERS; i++) {
		s->child[i].s = s;
		s->child[i].number = i;
		s->child[i].fd = -1;
		s->child[i].state = how & (4U << i) ? CHILD_WAITING :
		    CHILD_RUNNING;
		s->child[i].stats = xcalloc(1, sizeof(struct stats));
	}
	hold_init(s);
	return (s);
}

static void
end(struct supervisor *s)
{
	uint32_t i;

	hold_fini(s);
	for (i = 0; i < WORKERS; i++)
		free(s->child[i].stats);
	free(s->child);
	free(s);
}

/* --- the other end ------------------------------------------------------- */

struct client {
	int		 fd;
	struct buf	 in;		/* what came back */
};

/* Of both clients of an input; what came back stays where it is. */
static struct client clients[2];

static int
connect_client(struct client *c)
{
	int fd[2];

	buf_clear(&c->in);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0,
	    fd) == -1)
		fuzz_check(!"there are sockets");
	c->fd = fd[1];
	return (fd[0]);
}

static void
give(const struct client *c, struct slice s)
{
	(void)!send(c->fd, s.data, s.len, MSG_NOSIGNAL);
	ev_run(loop, EVRUN_NOWAIT);
}

static void
take(struct client *c)
{
	ssize_t n;

	ev_run(loop, EVRUN_NOWAIT);
	while ((n = recv(c->fd, buf_reserve(&c->in, 65536), 65536, 0)) > 0) {
		c->in.len += (size_t)n;
		ev_run(loop, EVRUN_NOWAIT);
	}
}

static void
check_json(struct slice s)
{
	struct json *j = json_read(s);

	fuzz_check(j != NULL);
	json_free(j);
}

/* --- ctl ----------------------------------------------------------------- */

static int
on_reply(void *arg, const struct msg_ctl_reply *m, struct err *err)
{
	(void)arg;
	(void)err;
	if (m->code == 0)
		check_json(m->text);
	return (0);
}

static const struct msg_handlers ctl_handlers = { .ctl_reply = on_reply };

static void
take_replies(struct client *c)
{
	struct err err;
	long n;

	take(c);
	while ((n = msg_frame(buf_slice(&c->in), UINT32_MAX)) > 0) {
		fuzz_check(msg_dispatch(&ctl_handlers, NULL, FROM_SUP,
		    slice_of(c->in.data + MSG_HEADER, (size_t)n - MSG_HEADER),
		    &err) == 0);
		buf_consume(&c->in, (size_t)n);
	}
	fuzz_check(n == 0);
}

static void
request(const struct client *c, struct fuzz_in *in)
{
	static const char *const verbs[] = { "status", "stop", "checkpoint",
	    "restart", "state-get", "dlq", "dlq-replay", "version" };
	struct msg_ctl m = { .verb = msg_cstr(verbs[fuzz_number(in, 1) %
	    (sizeof(verbs) / sizeof(verbs[0]))]) };
	struct buf b = { 0 };

	m.a = fuzz_piece(in, 256);
	m.b = fuzz_piece(in, 256);
	msg_put_ctl(&b, &m);
	give(c, buf_slice(&b));
	buf_fini(&b);
}

/* What a worker says; its answers to a query are JSON. */
static void
answer(struct supervisor *s, struct fuzz_in *in)
{
	uint64_t bits = fuzz_number(in, 1);
	struct child *c = &s->child[bits & 1];
	struct msg_checkpointed checkpointed = { s->checkpoint_id,
	    bits >> 1 & 1, fuzz_piece(in, 256) };
	struct msg_answer known = { s->ctl_serial, bits >> 1 & 1,
	    bits & 2 ? msg_cstr("{\"found\": true}") : checkpointed.text };
	struct msg_putback_done done = { bits >> 4, bits >> 1 & 1,
	    checkpointed.text };

	switch (bits >> 2 & 3) {
	case 0:
		ctl_checkpointed(c, &checkpointed);
		break;
	case 1:
		ctl_answer(c, &known);
		break;
	case 2:
		dlq_done(c, &done);
		break;
	default:
		if (bits & 2)
			ctl_child_died(c);
		else
			ctl_child_ready(c);
		dlq_resend(c);
	}
}

void
fuzz_ctl(const uint8_t *data, size_t n)
{
	struct fuzz_in in = { data, n };
	struct supervisor *s = begin(fuzz_number(&in, 1));
	int changes = sqlite3_total_changes(catalog.db), i;
	struct client *c = clients;
	uint64_t op;

	for (i = 0; i < 2; i++)
		ctl_take(s, connect_client(&c[i]));
	while (in.n > 0) {
		op = fuzz_number(&in, 1);
		i = op >> 2 & 1;
		switch (op & 3) {
		case 0:
			request(&c[i], &in);
			break;
		case 1:
			give(&c[i], fuzz_piece(&in, 256));
			break;
		case 2:
			answer(s, &in);
			break;
		default:
			take_replies(&c[i]);
			if (!(op & 8))
				break;
			close(c[i].fd);
			ctl_take(s, connect_client(&c[i]));
		}
	}
	s->ctl_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	s->ctl_path = xstrdup("");
	ctl_close(s);
	for (i = 0; i < 2; i++) {
		take_replies(&c[i]);
		close(c[i].fd);
	}
	if (sqlite3_total_changes(catalog.db) != changes)
		(void)sqlite3_exec(catalog.db, "DELETE FROM replays; "
		    "DELETE FROM sqlite_sequence", NULL, NULL, NULL);
	end(s);
}

/* --- external ------------------------------------------------------------ */

static void
take_answers(struct client *c)
{
	struct slice payload;
	unsigned int id;
	long n;

	take(c);
	while ((n = external_frame(buf_slice(&c->in), &id, &payload)) > 0) {
		if (payload.len > 0 && payload.data[0] == '{')
			check_json(payload);
		buf_consume(&c->in, (size_t)n);
	}
	fuzz_check(n == 0);
}

/* One of the requests that there are. */
static void
ask_external(const struct client *c, struct fuzz_in *in)
{
	uint64_t id = 1 + fuzz_number(in, 1) % EXT_CLUSTER_COUNT;
	struct slice payload = fuzz_piece(in, 256);
	uint8_t head[EXTERNAL_HEAD] = { 0, 0, 0, (uint8_t)(payload.len + 2),
	    0, (uint8_t)id };
	struct buf b = { 0 };

	head[2] = (uint8_t)((payload.len + 2) >> 8);
	buf_add(&b, head, sizeof(head));
	buf_add(&b, payload.data, payload.len);
	give(c, buf_slice(&b));
	buf_fini(&b);
}

/* The workers' ends of their channels, and what was asked there last. */
static int worker_fd[WORKERS];
static struct msg_list asked[WORKERS];
static struct buf keys[WORKERS];	/* that are given in pieces */

static int
on_list(void *arg, const struct msg_list *m, struct err *err)
{
	(void)err;
	*(struct msg_list *)arg = *m;
	return (0);
}

static const struct msg_handlers worker_handlers = { .list = on_list };

static void
open_channels(struct supervisor *s)
{
	int fd[2], i;

	for (i = 0; i < WORKERS; i++) {
		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK |
		    SOCK_CLOEXEC, 0, fd) == -1)
			fuzz_check(!"there are sockets");
		STAILQ_INIT(&s->child[i].queue);
		channel_open(&s->child[i], fd[0]);
		worker_fd[i] = fd[1];
		memset(&asked[i], 0, sizeof(asked[i]));
		buf_clear(&keys[i]);
	}
}

static void
close_channels(struct supervisor *s)
{
	int i;

	for (i = 0; i < WORKERS; i++) {
		channel_close(&s->child[i]);
		close(worker_fd[i]);
		buf_fini(&keys[i]);
	}
}

static void
read_channel(int i)
{
	struct buf b = { 0 };
	struct err err;

	while (channel_receive(worker_fd[i], &b) == 1)
		(void)msg_dispatch(&worker_handlers, &asked[i], FROM_SUP,
		    slice_of(b.data + MSG_HEADER, b.len - MSG_HEADER), &err);
	buf_fini(&b);
}

/* A worker answers what it was asked for: a number of keys, and if they are
 * wanted one of them, in one or two pieces. */
static void
list(struct supervisor *s, struct fuzz_in *in)
{
	uint64_t bits = fuzz_number(in, 1);
	struct slice text = fuzz_piece(in, 256);
	int i = bits & 1;
	struct msg_listed m = { .ok = !(bits & 2), .keys = bits >> 4 };

	read_channel(i);
	m.id = asked[i].id;
	if (!m.ok)
		m.part = text;
	else if (asked[i].names && (bits & 4 || asked[i].from > 0)) {
		if (asked[i].from == 0 || asked[i].from > keys[i].len) {
			buf_clear(&keys[i]);
			ctl_json_str(&keys[i], text);
			asked[i].from = 0;
		}
		m.size = keys[i].len;
		m.part = slice_of(keys[i].data + asked[i].from,
		    keys[i].len - asked[i].from);
		if (bits & 8 && m.part.len > 1)
			m.part.len /= 2;
	}
	external_listed(&s->child[i], &m);
}

static void
event(struct supervisor *s, struct fuzz_in *in)
{
	uint64_t bits = fuzz_number(in, 1);
	struct child *c = &s->child[bits & 1];

	if (bits & 2) {
		c->state = CHILD_WAITING;
		external_child_died(c);
	} else {
		c->state = CHILD_RUNNING;
		external_child_ready(c);
	}
}

void
fuzz_external(const uint8_t *data, size_t n)
{
	struct fuzz_in in = { data, n };
	struct supervisor *s = begin(fuzz_number(&in, 1));
	struct external *x = external_begin(s);
	struct client *c = clients;
	uint64_t op;
	int i;

	open_channels(s);
	for (i = 0; i < 2; i++)
		external_take(x, connect_client(&c[i]));
	while (in.n > 0) {
		op = fuzz_number(&in, 1);
		i = op >> 3 & 1;
		switch (op & 7) {
		case 0:
		case 1:
			ask_external(&c[i], &in);
			break;
		case 2:
			give(&c[i], fuzz_piece(&in, 256));
			break;
		case 3:
		case 4:
			list(s, &in);
			break;
		case 5:
			event(s, &in);
			break;
		case 6:
			(void)shutdown(c[i].fd, SHUT_WR);
			break;
		default:
			take_answers(&c[i]);
			close(c[i].fd);
			external_take(x, connect_client(&c[i]));
		}
	}
	external_close(s);
	for (i = 0; i < 2; i++) {
		take_answers(&c[i]);
		close(c[i].fd);
	}
	close_channels(s);
	end(s);
}

/* --- worker -------------------------------------------------------------- */

static void
on_time(struct ev_loop *l, ev_timer *t, int events)
{
	(void)l;
	(void)t;
	(void)events;
}

/* A file's sink: nothing here connects to anybody. */
static struct topo_sink file_sinks[] = {
	{ .name = "file", .kind = SINK_FILE, .host = "", .path = "/out" },
};

static void
begin_life(struct supervisor *s, uint64_t how)
{
	static const enum app_state states[] = { APP_STARTING, APP_RECOVERING,
	    APP_RUNNING, APP_DRAINING, APP_FINISHING };
	static const enum child_state child_states[] = { CHILD_STARTING,
	    CHILD_RECOVERING, CHILD_RUNNING, CHILD_RUNNING, CHILD_RUNNING };
	int i, fd;

	s->topo.sinks = file_sinks;
	s->topo.nsinks = 1;
	s->topo_bytes = s->catalog.topology;	/* the same */
	s->stopping = false;
	s->ran = how % 5 > 1;
	s->state = states[how % 5];
	s->opt.accept_loss = how >> 3 & 1;
	TAILQ_INIT(&s->listeners);
	TAILQ_INIT(&s->attempts);
	ev_init(&s->drain_timer, on_time);
	ev_init(&s->abort, on_time);
	if (s->state == APP_DRAINING) {
		drain_init(&s->drain, WORKERS);
		(void)drain_next(&s->drain);
	}
	for (i = 0; i < WORKERS; i++) {
		s->child[i].state = child_states[how % 5];
		s->child[i].told_finish = s->state == APP_FINISHING;
		s->child[i].wired = xcalloc(WORKERS, sizeof(uint64_t));
		fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
		(void)hold_take(s, false, 1 + (uint64_t)i, (uint32_t)i, 0, 0,
		    &fd, "");
	}
}

static void
end_life(struct supervisor *s)
{
	int i;

	ev_timer_stop(loop, &s->drain_timer);
	ev_timer_stop(loop, &s->abort);
	drain_fini(&s->drain);
	for (i = 0; i < WORKERS; i++) {
		free(s->child[i].open_text);
		free(s->child[i].fatal_text);
		free(s->child[i].wired);
	}
	free(s->why);
}

#define TAKE_u32(f)	m.f = (uint32_t)fuzz_number(in, 1);
#define TAKE_u64(f)	m.f = fuzz_number(in, 1);
#define TAKE_str(f)	m.f = fuzz_piece(in, 256);
#define TAKE_bin(f)	m.f = fuzz_piece(in, 256);
#define TAKE(type, field)	TAKE_##type(field)
#define SAY(name, code, from)						\
	case code: {							\
		struct msg_##name m = { 0 };				\
									\
		MSG_FIELDS_##name(TAKE)					\
		msg_put_##name(b, &m);					\
		break;							\
	}

/* One of the messages that there are; numbers are small ones. */
static void
say(struct buf *b, struct fuzz_in *in)
{
	switch (fuzz_number(in, 1)) {
	MSG_TABLE(SAY)
	default:
		break;
	}
}

/* What is not expected kills the worker, never the supervisor. */
void
fuzz_worker(const uint8_t *data, size_t n)
{
	struct fuzz_in in = { data, n };
	uint64_t how = fuzz_number(&in, 1), op;
	struct supervisor *s = begin(0);
	struct buf b = { 0 };
	struct slice raw;
	int i;

	open_channels(s);
	begin_life(s, how);
	while (in.n > 0) {
		op = fuzz_number(&in, 1);
		i = op & 1;
		buf_clear(&b);
		if (op & 2) {
			raw = fuzz_piece(&in, 256);
			buf_add(&b, raw.data, raw.len);
		} else
			say(&b, &in);
		if (b.len > 0)
			(void)!send(worker_fd[i], b.data, b.len, MSG_NOSIGNAL);
		ev_run(loop, EVRUN_NOWAIT);
		if (op & 4)
			read_channel(i);
	}
	buf_fini(&b);
	close_channels(s);
	end_life(s);
	end(s);
}
