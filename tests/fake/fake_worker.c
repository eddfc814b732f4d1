/*
 * A worker without Python, journal or state: it speaks the supervisor's
 * protocol and does what a test tells it.
 *
 * The directory FAKE_DIR holds its orders and its diary:
 *	describe	first word: fatal CODE TEXT, exit CODE, segv, hang,
 *			garbage; else the description comes from the
 *			configuration's args: source=HOST:PORT, sink=HOST:PORT,
 *			state=NAME, stdin, stdout
 *	open-N		of worker N, at its opening: refuse TEXT, text TEXT,
 *			fatal CODE TEXT, exit CODE, segv, hang
 *	respread	as describe
 *	spare		of a spare before it is prepared, as describe
 *	adopted		of one that is told its number
 *	busy-N		while it exists worker N is not idle
 *	full-N		while it exists its sinks are not empty
 *	slow-N		while it exists it is not ready
 *	stuck-N		while it exists it does not finish
 *	unclean-N	while it exists it finishes with a rest in its journal
 *	lost-N		POSITION: its journal is whole up to there since a
 *			power loss
 *	closed-N	while it exists it does not open its files
 *	mute-N		while it exists it answers no cut and no settle
 *	diary-N		what happened, one line each
 * A client's line that begins with ! is an order, too (unread ORDER: with
 * something unread on the channel to the supervisor); any other line goes to
 * the first sink, or back to the client when there is none.
 */
#include <sys/mman.h>
#include <sys/socket.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/conf.h"
#include "common/mem.h"
#include "common/mp.h"
#include "common/msg.h"
#include "common/stats.h"

#define CHANNEL		3
#define CONNS_MAX	256
#define PEERS_MAX	64
#define TURN_MS		20
#define SPARE		99		/* number of one that has none yet */

struct conn {
	uint64_t	 id;
	int		 fd;		/* -1: free */
	struct buf	 in;
};

static struct {
	const char	*dir;
	uint32_t	 me;
	uint32_t	 n;
	uint32_t	 flags;
	uint64_t	 generation;
	struct conf_app	 conf;
	struct stats	*stats;
	struct conn	 conn[CONNS_MAX];
	int		 peer[PEERS_MAX];
	int		 sink;		/* descriptor, -1 */
	uint64_t	 sink_id;
	bool		 has_sink;
	bool		 spare;
	bool		 prepared;
	bool		 started;
	bool		 running;
	bool		 ready;
	bool		 finishing;
	int		 passed;	/* descriptor of the message at work */
	uint64_t	 tail;
	struct msg_cutoff cutoff;	/* to be said, round 0: nothing */
} w = { .sink = -1, .passed = -1 };

/* --- diary and orders ---------------------------------------------------- */

static void __attribute__((format(printf, 1, 2)))
note(const char *fmt, ...)
{
	char *path = xasprintf("%s/diary-%u", w.dir, w.me), text[1024];
	va_list ap;
	FILE *f;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if ((f = fopen(path, "ae")) != NULL) {
		(void)fprintf(f, "%d %s\n", (int)getpid(), text);
		(void)fclose(f);
	}
	free(path);
}

static bool
has_order(const char *name)
{
	char *path = xasprintf("%s/%s-%u", w.dir, name, w.me);
	bool yes = access(path, F_OK) == 0;

	free(path);
	return (yes);
}

static char *
read_order(const char *name, char *line, size_t room)
{
	char *path = xasprintf("%s/%s", w.dir, name);
	FILE *f = fopen(path, "re");
	size_t n;

	free(path);
	if (f == NULL)
		return (NULL);
	n = fread(line, 1, room - 1, f);
	(void)fclose(f);
	line[n] = '\0';
	return (line);
}

static void
say(struct buf *b)
{
	struct pollfd p = { CHANNEL, POLLOUT, 0 };

	while (send(CHANNEL, b->data, b->len, MSG_NOSIGNAL) == -1 &&
	    errno == EAGAIN)
		(void)poll(&p, 1, 100);
	buf_fini(b);
}

static bool
word_is(const char **p, const char *word)
{
	size_t n = strlen(word);

	if (strncmp(*p, word, n) != 0 || ((*p)[n] != '\0' && (*p)[n] != ' ' &&
	    (*p)[n] != '\n'))
		return (false);
	*p += n + ((*p)[n] != '\0');
	return (true);
}

/* Ways to end.  Returns if the order is none of them. */
static void
obey(const char *order)
{
	struct msg_fatal m;
	struct buf b = { 0 };
	struct pollfd p = { CHANNEL, POLLIN, 0 };
	char *end;

	if (word_is(&order, "unread")) {	/* then as it says */
		note("unread");
		(void)poll(&p, 1, -1);
	}
	if (word_is(&order, "segv")) {
		/* A sanitizer would make an exit of it. */
		(void)signal(SIGSEGV, SIG_DFL);
		(void)raise(SIGSEGV);
	}
	if (word_is(&order, "abort"))
		abort();
	if (word_is(&order, "exit"))
		_exit(atoi(order));
	if (word_is(&order, "hang"))
		for (;;)
			(void)pause();
	else if (word_is(&order, "fatal")) {
		m.code = (uint32_t)strtoul(order, &end, 10);
		m.text = msg_cstr(end + (*end == ' '));
		msg_put_fatal(&b, &m);
		say(&b);
		_exit((int)m.code);
	}
}

/* --- the description ----------------------------------------------------- */

static void
put_source(struct buf *b, const char *name, const char *kind, const char *at)
{
	const char *colon = strrchr(at, ':');

	mp_put_array(b, 13);
	mp_put_str(b, name);
	mp_put_str(b, kind);
	mp_put_int(b, 0);
	mp_put_int(b, 0);
	mp_put_str(b, "lines");
	mp_put_int(b, 1);
	mp_put_str(b, "B");
	mp_put_int(b, 1000);
	mp_put_strn(b, at, colon == NULL ? 0 : (size_t)(colon - at));
	mp_put_int(b, colon == NULL ? 0 : atoi(colon + 1));
	mp_put_str(b, strcmp(kind, "file") == 0 ? "/dev/null" : "");
	mp_put_bin(b, "", 0);
	mp_put_int(b, 64);
}

static void
put_stage(struct buf *b, const char *name, const char *kind, int next)
{
	mp_put_array(b, 8);
	mp_put_str(b, name);
	mp_put_str(b, kind);
	mp_put_int(b, next);
	mp_put_int(b, strcmp(kind, "sinks") == 0 ? -1 : 0);
	mp_put_int(b, strcmp(kind, "exchange") == 0 ? 0 : -1);
	mp_put_bool(b, false);
	mp_put_str(b, "default");
	mp_put_int(b, 0);
}

static void
put_sink(struct buf *b, const char *name, const char *kind, const char *at,
    int exchange)
{
	const char *colon = strrchr(at, ':');

	mp_put_array(b, 8);
	mp_put_str(b, name);
	mp_put_str(b, kind);
	mp_put_int(b, strcmp(kind, "dead-letter") == 0 ? -1 : 0);
	mp_put_strn(b, at, colon == NULL ? 0 : (size_t)(colon - at));
	mp_put_int(b, colon == NULL ? 0 : atoi(colon + 1));
	mp_put_str(b, "");
	mp_put_int(b, exchange);
	mp_put_str(b, "fail");
}

static uint32_t
count_args(const char *prefix)
{
	uint32_t n = 0;
	size_t i;

	for (i = 0; i < w.conf.args.n; i++)
		n += strncmp(w.conf.args.item[i], prefix, strlen(prefix)) == 0;
	return (n);
}

static void
describe(void)
{
	uint32_t nstates = count_args("state="), nsources, nsinks;
	uint32_t stage = 0;
	struct buf t = { 0 }, b = { 0 };
	struct msg_topology m;
	char name[32];
	size_t i, k;
	int x = 0;

	mp_put_array(&t, 6);
	mp_put_str(&t, "wallaroo-topology");
	mp_put_int(&t, 1);
	mp_put_str(&t, "fake");
	nsources = count_args("source=") + count_args("stdin");
	mp_put_array(&t, nsources == 0 ? 1 : nsources);
	if (nsources == 0)
		put_source(&t, "none", "file", "");
	for (i = 0, k = 0; i < w.conf.args.n; i++) {
		const char *arg = w.conf.args.item[i];

		(void)snprintf(name, sizeof(name), "source%zu", k);
		if (strncmp(arg, "source=", 7) == 0)
			put_source(&t, name, "tcp", arg + 7);
		else if (strcmp(arg, "stdin") == 0)
			put_source(&t, name, "stdin", "");
		else
			continue;
		k++;
	}
	mp_put_array(&t, nstates * 2 + 1);
	for (i = 0; i < w.conf.args.n; i++)
		if (strncmp(w.conf.args.item[i], "state=", 6) == 0) {
			mp_put_array(&t, 8);
			mp_put_str(&t, "exchange");
			mp_put_str(&t, "exchange");
			mp_put_int(&t, (int)stage + 1);
			mp_put_int(&t, -1);
			mp_put_int(&t, x++);
			mp_put_bool(&t, false);
			mp_put_str(&t, "default");
			mp_put_int(&t, 0);
			put_stage(&t, w.conf.args.item[i] + 6, "state",
			    (int)stage + 2);
			stage += 2;
		}
	put_stage(&t, "sinks", "sinks", -1);
	nsinks = count_args("sink=") + count_args("stdout");
	mp_put_array(&t, nsinks + 1);
	for (i = 0, k = 0; i < w.conf.args.n; i++) {
		const char *arg = w.conf.args.item[i];

		(void)snprintf(name, sizeof(name), "sink%zu", k);
		if (strncmp(arg, "sink=", 5) == 0)
			put_sink(&t, name, "tcp", arg + 5, -1);
		else if (strcmp(arg, "stdout") == 0)
			put_sink(&t, name, "stdout", "", x++);
		else
			continue;
		k++;
	}
	put_sink(&t, "dead-letters", "dead-letter", "", x);
	m.topology = buf_slice(&t);
	msg_put_topology(&b, &m);
	say(&b);
	exit(0);
}

/* --- messages from the supervisor ---------------------------------------- */

static int
take_fd(void)
{
	int fd = w.passed;

	w.passed = -1;
	return (fd);
}

static int
on_prepare(void *arg, const struct msg_prepare *m, struct err *err)
{
	(void)arg;
	close(take_fd());
	w.me = SPARE;
	w.spare = (m->flags & PREPARE_SPARE) != 0;
	w.prepared = true;
	return (conf_unpack(&w.conf, m->conf, err));
}

static int
on_adopt(void *arg, const struct msg_adopt *m, struct err *err)
{
	void *p;
	int fd = take_fd();

	(void)arg;
	w.me = m->worker;
	w.n = m->workers;
	w.flags = m->flags;
	w.generation = m->generation;
	w.started = true;
	p = mmap(NULL, STATS_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return (err_sys(err, ERR_SYSTEM, "mmap"));
	close(fd);
	w.stats = p;
	STAT_SET(w.stats, pid, (uint64_t)getpid());
	return (0);
}

static int
on_peer(void *arg, const struct msg_peer *m, struct err *err)
{
	char hello[64];

	(void)arg;
	(void)err;
	if (m->worker >= PEERS_MAX)
		return (0);
	if (w.peer[m->worker] != -1)
		close(w.peer[m->worker]);
	w.peer[m->worker] = take_fd();
	(void)snprintf(hello, sizeof(hello), "%u:%d", w.me, (int)getpid());
	(void)!write(w.peer[m->worker], hello, strlen(hello));
	note("peer %u", m->worker);
	return (0);
}

static int
on_conn(void *arg, const struct msg_conn *m, struct err *err)
{
	size_t i;

	(void)arg;
	(void)err;
	for (i = 0; i < CONNS_MAX; i++)
		if (w.conn[i].fd == -1)
			break;
	if (i == CONNS_MAX)
		abort();
	w.conn[i].id = m->id;
	w.conn[i].fd = take_fd();
	note("conn %" PRIu64 " source %u", m->id, m->source);
	return (0);
}

static int
on_sinkconn(void *arg, const struct msg_sinkconn *m, struct err *err)
{
	(void)arg;
	(void)err;
	if (w.sink != -1)
		close(w.sink);
	w.sink = take_fd();
	w.sink_id = m->id;
	note("sinkconn %" PRIu64 " sink %u baseline %" PRIu64, m->id, m->sink,
	    m->baseline);
	return (0);
}

static int
on_dropped(void *arg, const struct msg_dropped *m, struct err *err)
{
	(void)arg;
	(void)err;
	note("dropped %" PRIu64, m->id);
	return (0);
}

static int
on_run(void *arg, const struct msg_run *m, struct err *err)
{
	struct msg_connect ask = { 0 };
	struct buf b = { 0 };

	(void)arg;
	(void)err;
	note("run %u", m->conns);
	w.running = true;
	if (w.has_sink && w.sink == -1) {
		msg_put_connect(&b, &ask);
		say(&b);
	}
	return (0);
}

#define LINEAGE	7000		/* of worker 0, and so on */

static int
on_cut(void *arg, const struct msg_cut *m, struct err *err)
{
	uint64_t mine[2];

	(void)arg;
	if (m->cuts.len != w.n * sizeof(mine))
		return (err_set(err, ERR_CORRUPT, "a cut of %zu bytes",
		    m->cuts.len));
	memcpy(mine, m->cuts.data + w.me * sizeof(mine), sizeof(mine));
	note("cut last %u lineage %" PRIu64 " position %" PRIu64, m->last,
	    mine[0], mine[1]);
	w.cutoff.round = m->round;
	w.cutoff.position = mine[1];
	return (0);
}

static int
on_drain(void *arg, const struct msg_drain *m, struct err *err)
{
	struct msg_drained r = { 0 };
	struct buf b = { 0 };

	(void)arg;
	(void)err;
	r.round = m->round;
	r.idle = w.ready && !has_order("busy");
	r.sinks_empty = !has_order("full");
	r.tail = w.tail;
	msg_put_drained(&b, &r);
	say(&b);
	return (0);
}

static int
on_settle(void *arg, const struct msg_settle *m, struct err *err)
{
	struct msg_settled r = { 0 };
	struct buf b = { 0 };

	(void)arg;
	(void)err;
	if (has_order("mute"))
		return (0);
	note("settle");
	r.round = m->round;
	r.idle = w.ready && !has_order("busy");
	r.sinks_empty = !has_order("full");
	r.tail = w.tail;
	msg_put_settled(&b, &r);
	say(&b);
	return (0);
}

static int
on_finish(void *arg, const struct msg_finish *m, struct err *err)
{
	(void)arg;
	(void)m;
	(void)err;
	w.finishing = true;
	return (0);
}

static int
on_checkpoint(void *arg, const struct msg_checkpoint *m, struct err *err)
{
	struct msg_checkpointed r = { m->id, 1, msg_cstr("") };
	struct buf b = { 0 };

	(void)arg;
	(void)err;
	note("checkpoint %" PRIu64, m->id);
	msg_put_checkpointed(&b, &r);
	say(&b);
	return (0);
}

static int
on_query(void *arg, const struct msg_query *m, struct err *err)
{
	struct msg_answer r = { .id = m->id, .ok = 1 };
	struct buf b = { 0 }, json = { 0 };
	bool known = m->step.len == 5 && memcmp(m->step.data, "Count", 5) == 0;

	(void)arg;
	(void)err;
	r.ok = known;
	if (known && m->key.len == 4)
		buf_addf(&json, "{\"worker\": %u, \"found\": true, "
		    "\"value\": \"42\"}", w.me);
	else
		buf_addf(&json, known ? "{\"found\": false}" : "no such step");
	r.json = buf_slice(&json);
	msg_put_answer(&b, &r);
	say(&b);
	buf_fini(&json);
	return (0);
}

static int
on_stdio(void *arg, const struct msg_stdio *m, struct err *err)
{
	char text[64] = "";
	int fd = take_fd();

	(void)arg;
	(void)err;
	if (m->is_sink)
		(void)!write(fd, "to stdout\n", 10);
	else
		(void)!read(fd, text, sizeof(text) - 1);
	note("stdio %s %u %s", m->is_sink ? "sink" : "source", m->index, text);
	close(fd);
	return (0);
}

static const struct msg_handlers handlers = {
	.prepare = on_prepare, .adopt = on_adopt,
	.peer = on_peer, .conn = on_conn,
	.sinkconn = on_sinkconn, .dropped = on_dropped, .run = on_run,
	.drain = on_drain, .settle = on_settle, .finish = on_finish,
	.checkpoint = on_checkpoint,
	.query = on_query, .stdio = on_stdio, .cut = on_cut,
};

static bool
receive(int flags)
{
	static uint8_t data[MSG_MAX_CONTROL];
	union {
		struct cmsghdr	h;
		char		space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { data, sizeof(data) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1,
	    .msg_control = &control, .msg_controllen = sizeof(control) };
	struct cmsghdr *c;
	struct err err;
	ssize_t n;

	n = recvmsg(CHANNEL, &m, flags | MSG_CMSG_CLOEXEC);
	if (n == -1)
		return (false);
	if (n == 0)
		_exit(EXIT_TEMPORARY);
	w.passed = -1;
	if ((c = CMSG_FIRSTHDR(&m)) != NULL && c->cmsg_type == SCM_RIGHTS)
		memcpy(&w.passed, CMSG_DATA(c), sizeof(w.passed));
	if (msg_dispatch(&handlers, NULL, FROM_SUP, slice_of(data +
	    MSG_HEADER, (size_t)n - MSG_HEADER), &err) == -1) {
		note("error %s", err.text);
		abort();
	}
	if (w.passed != -1)
		close(w.passed);
	return (true);
}

/* --- clients and peers --------------------------------------------------- */

static void
close_conn(struct conn *c)
{
	struct msg_close m = { c->id, msg_cstr("end") };
	struct buf b = { 0 };

	(void)shutdown(c->fd, SHUT_RDWR);
	close(c->fd);
	c->fd = -1;
	buf_clear(&c->in);
	msg_put_close(&b, &m);
	say(&b);
}

/* A grandchild in a session of its own that stays. */
static void
orphan(void)
{
	if (fork() != 0)
		return;
	if (fork() != 0)
		_exit(0);
	(void)setsid();
	note("orphan %d", (int)getpid());
	for (;;)
		(void)pause();
}

static void
order(struct conn *c, const char *text)
{
	const char *p = text;
	struct buf b = { 0 };

	note("order %s", text);
	if (word_is(&p, "progress"))
		STAT_ADD(w.stats, journal_done, (uint64_t)atoi(p));
	else if (word_is(&p, "orphan"))
		orphan();
	else if (word_is(&p, "child")) {
		if (fork() == 0)
			for (;;)
				(void)pause();
	} else if (word_is(&p, "nonsense"))
		(void)send(CHANNEL, "nonsense", 8, 0);
	else if (word_is(&p, "channel"))
		close(CHANNEL);
	else if (word_is(&p, "lost")) {
		struct msg_close m = { w.sink_id, msg_cstr("lost") };
		struct msg_connect ask = { 0 };

		close(w.sink);
		w.sink = -1;
		msg_put_close(&b, &m);
		say(&b);
		msg_put_connect(&b, &ask);
		say(&b);
	} else if (word_is(&p, "tail"))
		w.tail++;
	else
		obey(p);
	if (c->fd != -1)
		(void)!write(c->fd, "done\n", 5);
}

static void
read_conn(struct conn *c)
{
	char data[4096], *nl, *line;
	ssize_t n = read(c->fd, data, sizeof(data));
	int to;

	if (n == -1 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		close_conn(c);
		return;
	}
	buf_add(&c->in, data, (size_t)n);
	while (c->fd != -1 && c->in.len > 0 &&
	    (nl = memchr(c->in.data, '\n', c->in.len)) != NULL) {
		n = nl - (char *)c->in.data;
		line = xstrndup((char *)c->in.data, (size_t)n);
		to = w.sink != -1 ? w.sink : c->fd;
		if (line[0] != '!')
			(void)!write(to, c->in.data, (size_t)n + 1);
		buf_consume(&c->in, (size_t)n + 1);
		if (line[0] == '!')
			order(c, line + 1);
		free(line);
	}
}

static void
read_peer(uint32_t i)
{
	char text[64];
	ssize_t n = recv(w.peer[i], text, sizeof(text) - 1, MSG_DONTWAIT);

	if (n == -1)
		return;
	if (n == 0) {
		note("peer %u closed", i);
		close(w.peer[i]);
		w.peer[i] = -1;
		return;
	}
	text[n] = '\0';
	note("hello %s", text);
}

/* --- life ---------------------------------------------------------------- */

static void
turn(void)
{
	struct pollfd p[1 + CONNS_MAX + PEERS_MAX];
	size_t i, n = 1;
	uint32_t k;

	p[0].fd = CHANNEL;
	p[0].events = POLLIN;
	for (i = 0; w.running && i < CONNS_MAX; i++, n++) {
		p[n].fd = w.conn[i].fd;
		p[n].events = POLLIN;
	}
	for (k = 0; w.running && k < PEERS_MAX; k++, n++) {
		p[n].fd = w.peer[k];
		p[n].events = POLLIN;
	}
	(void)poll(p, n, TURN_MS);
	STAT_ADD(w.stats, turns, 1);
	while (receive(MSG_DONTWAIT))
		;
	if (!w.running)
		return;
	for (i = 0; i < CONNS_MAX; i++)
		if (w.conn[i].fd != -1)
			read_conn(&w.conn[i]);
	for (k = 0; k < PEERS_MAX; k++)
		if (w.peer[k] != -1)
			read_peer(k);
}

static void
say_proven(void)
{
	struct msg_proven m = { 1, LINEAGE + w.me, 0 };
	char name[32], line[64];
	struct buf b = { 0 };

	(void)snprintf(name, sizeof(name), "lost-%u", w.me);
	if (read_order(name, line, sizeof(line)) == NULL)
		return;
	m.position = strtoull(line, NULL, 10);
	msg_put_proven(&b, &m);
	say(&b);
}

static void
say_cutoff(void)
{
	struct buf b = { 0 };

	if (w.cutoff.round == 0 || has_order("mute"))
		return;
	msg_put_cutoff(&b, &w.cutoff);
	say(&b);
	note("cutoff");
	w.cutoff.round = 0;
}

static void
say_opened(void)
{
	char name[32], line[1024];
	const char *p;
	struct msg_opened m = { 1, 0, msg_cstr(""), 0 };
	struct buf b = { 0 };

	(void)snprintf(name, sizeof(name), "open-%u", w.me);
	p = read_order(name, line, sizeof(line));
	if (p != NULL && word_is(&p, "refuse")) {
		if (w.flags & START_ACCEPT_LOSS)
			m.ok = 1;
		else
			m.ok = 0;
		m.text = msg_cstr(p);
	} else if (p != NULL && word_is(&p, "text"))
		m.text = msg_cstr(p);
	else if (p != NULL)
		obey(p);
	msg_put_opened(&b, &m);
	say(&b);
	if (!m.ok)
		exit(EXIT_PERMANENT);
}

static void
live(void)
{
	struct msg_ready ready = { 0 };
	struct msg_finished finished = { 0, 1 };
	struct buf b = { 0 };

	for (;;) {
		turn();
		say_cutoff();
		if (w.running && !w.ready && !has_order("slow")) {
			w.ready = true;
			msg_put_ready(&b, &ready);
			say(&b);
		}
		if (w.finishing && w.running && !has_order("stuck")) {
			note("finish");
			finished.clean = !has_order("unclean");
			msg_put_finished(&b, &finished);
			say(&b);
			exit(0);
		}
	}
}

/* A spare notes what happens in diary-99. */
static void
prepare(void)
{
	struct msg_prepared m = { 1000000 };
	struct buf b = { 0 };
	char line[1024], *p = NULL;

	if (w.spare) {
		note("prepare");
		p = read_order("spare", line, sizeof(line));
	}
	if (p != NULL)
		obey(p);
	if (w.spare)
		note("prepared");
	msg_put_prepared(&b, &m);
	say(&b);
}

static void
take_over(void)
{
	char line[1024], *p;

	if (!w.spare)
		return;
	note("adopted");
	if ((p = read_order("adopted", line, sizeof(line))) != NULL)
		obey(p);
}

int
main(void)
{
	char line[1024], *p;
	uint32_t i;

	w.dir = getenv("FAKE_DIR");
	if (w.dir == NULL)
		return (EXIT_PERMANENT);
	for (i = 0; i < CONNS_MAX; i++)
		w.conn[i].fd = -1;
	for (i = 0; i < PEERS_MAX; i++)
		w.peer[i] = -1;
	(void)signal(SIGPIPE, SIG_IGN);
	(void)fcntl(CHANNEL, F_SETFD, FD_CLOEXEC);
	if (!receive(0) || !w.prepared)
		return (EXIT_PERMANENT);
	prepare();
	if (!receive(0) || !w.started)
		return (EXIT_PERMANENT);
	take_over();
	w.has_sink = count_args("sink=") > 0;
	if (w.flags & (START_DESCRIBE | START_RESPREAD)) {
		p = read_order(w.flags & START_DESCRIBE ? "describe" :
		    "respread", line, sizeof(line));
		if (p != NULL)
			obey(p);
		if (w.flags & START_DESCRIBE)
			describe();
		note("respread old=%u new=%u generation=%" PRIu64, w.me, w.n,
		    w.generation);
		return (0);
	}
	note("start flags %u generation %" PRIu64, w.flags, w.generation);
	while (has_order("closed"))
		(void)usleep(TURN_MS * 1000);
	say_proven();
	say_opened();
	live();
}
