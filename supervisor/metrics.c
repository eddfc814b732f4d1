/*
 * A stream of metrics to whoever listens at metrics-address: every two
 * seconds how long each worker's records took, from the counters that it
 * shares with us.  Nothing waits for the receiver: while it does not take
 * what it was sent, periods are left out.
 */
#include <sys/socket.h>

#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "supervisor/supervisor.h"

#define PERIOD_S	2.0
#define OUT_MARK	(256 * 1024)	/* unread: nothing more for now */

enum { FRAME_CONNECT = 1, FRAME_JOIN = 2, FRAME_PAYLOAD = 3 };

struct metrics {
	struct supervisor	*s;
	struct sockaddr_storage	 addr;
	socklen_t		 addr_len;
	int			 fd;		/* -1: not connected */
	bool			 connected;
	bool			 said;		/* that nobody is there */
	ev_io			 io;
	ev_timer		 timer;
	struct buf		 out;
	uint32_t		 n;		/* workers that were seen */
	uint64_t		*seen;		/* [n * STATS_BINS] */
	uint64_t		 seen_ns;
};

static void on_io(struct ev_loop *, ev_io *, int);

/* --- frames -------------------------------------------------------------- */

static void
put_number(struct buf *b, uint64_t v, int bytes)
{
	uint8_t at[8];
	int i;

	for (i = bytes; i-- > 0; v >>= 8)
		at[i] = (uint8_t)v;
	buf_add(b, at, (size_t)bytes);
}

static void
put_text(struct buf *b, const char *text)
{
	put_number(b, strlen(text), 4);
	buf_add(b, text, strlen(text));
}

static void
put_frame(struct buf *b, uint8_t type, const struct buf *body)
{
	put_number(b, body->len + 1, 4);
	put_number(b, type, 1);
	if (body->len > 0)
		buf_add(b, body->data, body->len);
}

static void
put_topic(struct buf *b, const char *application)
{
	char *topic = xasprintf("metrics:%s", application);

	put_text(b, topic);
	free(topic);
}

/* Ends of the first and the last bin that has something. */
static void
put_range(struct buf *b, const uint64_t *bin)
{
	int i, low = 0, high = 0;
	bool any = false;

	for (i = 0; i < STATS_BINS; i++)
		if (bin[i] != 0) {
			low = any ? low : i;
			high = i;
			any = true;
		}
	put_number(b, low == 0 ? 0 : 1ULL << (low - 1), 8);
	put_number(b, high > 63 ? UINT64_MAX : (1ULL << high) - 1, 8);
}

void
metrics_put(struct buf *b, const struct metrics_period *m)
{
	struct buf data = { 0 }, body = { 0 };
	int i;

	put_text(&data, m->pipeline);
	put_text(&data, m->category);
	put_text(&data, m->worker);
	put_text(&data, m->pipeline);
	put_number(&data, m->id, 2);
	for (i = 0; i < STATS_BINS; i++)
		put_number(&data, m->bin[i], 8);
	put_range(&data, m->bin);
	put_number(&data, m->period_ns, 8);
	put_number(&data, m->end_ns, 8);
	put_text(&body, "metrics");
	put_topic(&body, m->application);
	put_number(&body, data.len + 4, 4);
	put_number(&body, data.len, 4);
	buf_add(&body, data.data, data.len);
	put_frame(b, FRAME_PAYLOAD, &body);
	buf_fini(&body);
	buf_fini(&data);
}

/* --- what is sent -------------------------------------------------------- */

static void
greet(struct metrics *m)
{
	struct supervisor *s = m->s;
	struct buf body = { 0 };
	uint32_t i;
	char *name;

	put_frame(&m->out, FRAME_CONNECT, &body);
	for (i = 0; i < s->n; i++) {
		buf_clear(&body);
		name = machida_worker(s, i);
		put_topic(&body, s->topo.application);
		put_text(&body, name);
		free(name);
		put_frame(&m->out, FRAME_JOIN, &body);
	}
	buf_fini(&body);
}

/* What is new since the last look, of one worker. */
static void
take(struct metrics *m, uint32_t worker, uint64_t *bin)
{
	struct stats *stats = m->s->child[worker].stats;
	uint64_t *seen = &m->seen[worker * STATS_BINS], now;
	int i;

	for (i = 0; i < STATS_BINS; i++) {
		now = STAT_GET(stats, latency[i]);
		bin[i] = now - seen[i];
		seen[i] = now;
	}
}

static void
put_worker(struct metrics *m, uint32_t worker, uint64_t period_ns, bool send)
{
	struct supervisor *s = m->s;
	struct metrics_period p = { .period_ns = period_ns };
	char *name;

	take(m, worker, p.bin);
	if (!send)
		return;
	name = machida_worker(s, worker);
	p.application = s->topo.application;
	p.worker = name;
	p.pipeline = s->topo.nsources == 1 ? s->topo.sources[0].name :
	    s->topo.application;
	p.category = "node-ingress-egress";
	p.end_ns = clock_wall_ns();
	metrics_put(&m->out, &p);
	if (s->n == 1) {
		p.category = "start-to-end";
		p.id = 1;
		metrics_put(&m->out, &p);
	}
	free(name);
}

static void
look(struct metrics *m)
{
	struct supervisor *s = m->s;
	uint64_t now = clock_mono_ns();
	bool fresh = m->n != s->n, send;
	uint32_t i;

	if (fresh) {
		free(m->seen);
		m->seen = xcalloc((size_t)s->n * STATS_BINS + 1,
		    sizeof(*m->seen));
		m->n = s->n;
	}
	/* The first look says where a period begins. */
	send = m->connected && !fresh && m->out.len < OUT_MARK;
	for (i = 0; i < s->n; i++)
		if (s->child[i].stats != NULL)
			put_worker(m, i, now - m->seen_ns, send);
	m->seen_ns = now;
}

/* --- the connection ------------------------------------------------------ */

static void
disconnect(struct metrics *m, const char *why)
{
	if (!m->said || m->connected)
		log_at(machida_is(m->s) && !m->connected ? LOG_DEBUG :
		    LOG_WARNING, "metrics: no connection, trying again every "
		    "%.0f seconds address=%s: %s", PERIOD_S,
		    m->s->conf.metrics_address, why);
	m->said = true;
	ev_io_stop(m->s->loop, &m->io);
	close(m->fd);
	m->fd = -1;
	m->connected = false;
	buf_clear(&m->out);
}

static void
watch(struct metrics *m)
{
	ev_io_stop(m->s->loop, &m->io);
	ev_io_set(&m->io, m->fd, m->out.len > 0 || !m->connected ?
	    EV_READ | EV_WRITE : EV_READ);
	ev_io_start(m->s->loop, &m->io);
}

static void
flush(struct metrics *m)
{
	if (stream_flush(m->fd, &m->out) == -1)
		disconnect(m, strerror(errno));
	else
		watch(m);
}

static void
begin_connect(struct metrics *m)
{
	m->fd = socket(m->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK |
	    SOCK_CLOEXEC, 0);
	if (m->fd == -1)
		return;				/* the next time, maybe */
	ev_io_init(&m->io, on_io, m->fd, EV_WRITE);
	m->io.data = m;
	if (connect(m->fd, (struct sockaddr *)&m->addr, m->addr_len) == -1 &&
	    errno != EINPROGRESS)
		disconnect(m, strerror(errno));
	else
		ev_io_start(m->s->loop, &m->io);
}

static void
connected(struct metrics *m)
{
	int error = 0;
	socklen_t len = sizeof(error);

	if (getsockopt(m->fd, SOL_SOCKET, SO_ERROR, &error, &len) == -1)
		error = errno;
	if (error == 0 && address_is_self(m->fd))
		error = ECONNREFUSED;
	if (error != 0) {
		disconnect(m, strerror(error));
		return;
	}
	log_info("metrics: connected address=%s",
	    m->s->conf.metrics_address);
	m->connected = true;
	m->said = false;
	greet(m);
	look(m);
	flush(m);
}

static void
on_io(struct ev_loop *loop, ev_io *io, int events)
{
	struct metrics *m = io->data;
	char ignored[4096];
	ssize_t n;

	(void)loop;
	if (!m->connected) {
		connected(m);
		return;
	}
	if (events & EV_READ) {
		n = recv(m->fd, ignored, sizeof(ignored), MSG_DONTWAIT);
		if (n == 0 || (n == -1 && errno != EAGAIN &&
		    errno != EINTR)) {
			disconnect(m, n == 0 ? "it was closed" :
			    strerror(errno));
			return;
		}
	}
	flush(m);
}

static void
on_time(struct ev_loop *loop, ev_timer *t, int events)
{
	struct metrics *m = t->data;

	(void)loop;
	(void)events;
	if (m->s->state != APP_RUNNING || m->s->transit)
		return;				/* names are not known yet */
	if (m->fd == -1) {
		begin_connect(m);
		return;
	}
	if (!m->connected)
		return;
	look(m);
	flush(m);
}

void
metrics_open(struct supervisor *s)
{
	struct addrinfo *res;
	struct metrics *m;
	struct err err;
	uint32_t port;
	char *host;
	int r;

	if (s->conf.metrics_address[0] == '\0')
		return;
	if (address_parse(s->conf.metrics_address, &host, &port, &err) == -1) {
		log_warn("no metrics are sent: metrics-address: %s",
		    err.text);
		return;
	}
	r = address_look_up(host, port, 0, &res);
	if (r != 0)
		log_warn("no metrics are sent: cannot resolve \"%s\": %s",
		    host, gai_strerror(r));
	free(host);
	if (r != 0)
		return;
	m = s->metrics = xcalloc(1, sizeof(*m));
	m->s = s;
	m->fd = -1;
	m->addr_len = res->ai_addrlen;
	memcpy(&m->addr, res->ai_addr, res->ai_addrlen);
	freeaddrinfo(res);
	ev_timer_init(&m->timer, on_time, 0.1, PERIOD_S);
	m->timer.data = m;
	ev_timer_start(s->loop, &m->timer);
}

void
metrics_close(struct supervisor *s)
{
	struct metrics *m = s->metrics;

	if (m == NULL)
		return;
	ev_timer_stop(s->loop, &m->timer);
	if (m->fd != -1) {
		ev_io_stop(s->loop, &m->io);
		close(m->fd);
	}
	buf_fini(&m->out);
	free(m->seen);
	free(m);
	s->metrics = NULL;
}
